"""The leaderboard's rows, and its tables as text, Markdown, LaTeX and CSV. Imports no torch."""
from dataclasses import fields
from pathlib import Path

import pandas as pd

from benchmarks.accuracy import unusual
from benchmarks.comparison import markup
from benchmarks.method_files import path_of
from benchmarks.recipes import Task
from benchmarks.stats import LEVEL, MOST_SEEDS, POWER, compare
from benchmarks.suites import SIZES
from benchmarks.tasks import REDUCED, TASKS

NUMBERS = "sparsity seed epochs top1 top1_best_val achieved_sparsity macs dense_macs train_flops_fraction cycles seconds".split()
RECIPE = {field.name for field in fields(Task)}
LEGEND = ("Accuracy: on the test set at the best validation epoch where there is validation; mean over seeds ± half its 95 % interval "
          "(Student t), on one test set, whose own sampling error is not in it. Rank: the range that the data allow. To the best: ± half its 95 % "
          "interval, which is of this pair alone; = where tests do not separate them (one seed: no test). p: moderated t-tests (Smyth 2004: the spread of all methods' seeds "
          f"supports that of each; of two methods alone Welch's) of all pairs, Holm (level {LEVEL:g}). Seeds needed: of both methods, to tell one "
          f"from the best among as many pairs in {100 * POWER:g} % of all cases, if they differ as much as these do. Training FLOPs and inference "
          "MACs: multiples of dense. Front *: no other method is as accurate and as cheap to train. Time: of a run, if of one kind of machine, "
          "which other work may have shared, but no other run its GPU.")
BOLD = " Bold: the best, and what tests do not set apart from any better one."
COLUMNS = ["Rank", "Method", "Accuracy (%)", "Seeds", "To the best", "p", "Seeds needed", "Training", "Inference", "Time (s)", "Front", "Remarks"]


def select(rows, suite, profile, epochs=None, variants=(), precision=None, others=lambda method: True):
    """The rows that may be compared, with a column `label`: those trained by their task's own recipe in this profile.

    rows: DataFrame with the columns of runs.csv. epochs, precision: instead of the profile's and the task's own. Methods of the suite are included
    with default options, methods from files ("mine.py:Mine") with any options of their own. variants: {(task, method, options as text)} that are
    always included. others: function of a method's name; false excludes its rows, except for variants.
    """
    rows = rows.copy()
    rows[NUMBERS] = rows[NUMBERS].apply(pd.to_numeric)
    rows["options"] = rows.options.astype(object).fillna("")  # pandas reads a column of empty cells as numbers
    rows = rows.drop(renamed(rows))

    def counts(row):
        names = {pair.partition("=")[0] for pair in row.options.split()}
        usual = not row.options or (":" in row.method and not names & RECIPE)
        return (row.task, row.method, row.options) in variants or (usual and others(row.method))

    counted = pd.Series([counts(row) for row in rows.itertuples()], rows.index, dtype=bool)
    rows = rows[counted & (rows.suite == suite) & of_profile(rows, suite, profile, epochs, precision)]
    short = {name: Path(name).name if ":" in name else name for name in rows.method.unique()}
    same = [name for name in short.values() if list(short.values()).count(name) > 1]  # the same name in two files
    label = rows.method.map(lambda name: name if short[name] in same else short[name])
    return rows.assign(label=(label + " " + rows.options).str.strip())


def of_profile(rows, suite, profile, epochs=None, precision=None):
    """For each row, whether it has the profile's length (or `epochs`) and its task's own precision (or `precision`)."""
    epochs = epochs or SIZES[suite, profile][1]
    return (rows.epochs == (epochs or rows.task.map(of_tasks("epochs")))) & of_precision(rows, precision)


def of_precision(rows, precision=None):
    """For each row, whether it has its task's own precision (or `precision`)."""
    return rows.precision == (precision or rows.task.map(of_tasks("precision")))


def of_tasks(field):
    """{task: its recipe's value of a field}."""
    return {name: getattr(task, field) for name, task in TASKS.items()}


def renamed(rows):
    """Gives each method's own file one name, whichever folder its runs were launched from. Returns the index labels of rows that are then duplicates,
    except for the last of each."""
    files = rows.method.str.contains(":")
    rows.loc[files, "method"] = rows.method[files].map(path_of)
    names = ["task", "method", "options", "sparsity", "seed", "epochs", "precision"]
    older = rows[files].sort_values("finished_at", kind="stable").duplicated(names, keep="last")
    return older.index[older]


def board(rows, sparsities, sort="accuracy", reference=None):
    """`stats.compare` of selected rows (with `reference`, if given), only at these sparsities; each cell is sorted by "accuracy" or training "cost".
    The table's `attrs["note"]` says which runs are smaller or shorter than the papers'.

    Raises ValueError if there is nothing to compare.
    """
    there = sorted({*rows.sparsity[(rows.method != "dense") & (rows.status != "failed") & (rows.cycles == 1)]}) if len(rows) else []
    if len(rows):
        rows = rows[rows.sparsity.isin(sparsities) | (rows.method == "dense")]
    if not len(rows) or (rows.method == "dense").all():
        wanted, others = (", ".join(f"{s:g}" for s in some) for some in (sparsities, there))
        raise ValueError(f"there are no finished runs at sparsity {wanted}" + f", but at {others}" * bool(there))
    table = compare(rows, reference)
    if sort == "cost":
        table = table.sort_values(["task", "sparsity", "train_flops"], kind="stable")
    table = table.reset_index(drop=True)
    table.attrs["note"] = reduced(rows)
    return table


def reduced(rows):
    """Sentences on rows of smaller networks, of other numbers of epochs than the papers', and of another precision than the task's; "" if there are
    none."""
    runs = rows.groupby("task", sort=False).epochs.min()
    short = [f"{epochs:g} of {TASKS[task].epochs}" for task, epochs in runs.items() if epochs < TASKS[task].epochs]
    longer = [f"{epochs:g} instead of {TASKS[task].epochs} epochs." for task, epochs in runs.items() if epochs > TASKS[task].epochs]
    return " ".join([REDUCED[task] for task in runs.index if task in REDUCED]
                    + [f"Reduced runs: {', '.join(dict.fromkeys(short))} epochs."] * bool(short) + [*dict.fromkeys(longer)] + unusual(rows))


def cells(table):
    """[(task, sparsity, its lines)] in order."""
    return [(task, sparsity, cell) for (task, sparsity), cell in table.groupby(["task", "sparsity"], sort=False)]


def remarks(line):
    """The remarks on a line, which a reader must know besides its numbers."""
    text = [f"{name}: seed{'s' * (' ' in line[name])} {line[name]}" for name in ("diverged", "collapsed", "failed") if line[name]]
    if line.chosen:
        text.append(f"of seed{'s' * (' ' in line.chosen)} {line.chosen}")
    if line.contents > 1:
        text.append(f"made with {line.contents} contents of its file")
    if line.cycles > 1:
        text.insert(0, f"{line.cycles:.0f} cycles")
    if line.method == "dense":
        text.insert(0, "reference")
    elif not line.on_target:
        text.insert(0, f"sparsity {line.achieved:.4g}, not ranked")
    return "; ".join(text)


def shown(line):
    """The texts of a line, in the order of COLUMNS. The ranked line without a difference is the best, or the reference if there is one."""
    ranked, number = pd.notna(line.rank_low), "{:.{}f}".format
    rank = "" if not ranked else f"{line.rank_low:.0f}" + (f"-{line.rank_high:.0f}" if line.rank_high > line.rank_low else "")
    accuracy = "" if not line.seeds else number(line["mean"], 2) + ("" if pd.isna(line.half) else f" ± {line.half:.2f}")
    if pd.notna(line.difference):
        spread = "" if pd.isna(line.difference_half) else f" ± {line.difference_half:.2f}"
        apart = f"{round(line.difference, 9) + 0.0:+.2f}{spread}" + (" =" if pd.notna(line.p) and not line.separable else "")
    else:
        apart = {None: "best", line.label: "reference"}.get(line.get("reference"), "") if ranked else ""
    p = "" if pd.isna(line.p) else "<0.001" if line.p < 0.001 else number(line.p, 3)
    costs = ["" if pd.isna(value) else text.format(value) for text, value in
             (("{:.3f}", line.train_flops), ("{:.3f}", line.macs), ("{:.0f}", line.seconds))]
    needed = "" if pd.isna(line.seeds_needed) else f">{MOST_SEEDS}" if line.seeds_needed > MOST_SEEDS else f"{line.seeds_needed:.0f}"
    return [rank, line.label, accuracy, str(line.seeds), apart, p, needed, *costs, "*" if line.front else "", remarks(line)]


def power(cell):
    """The sentence on how many pairs of methods the seeds of a cell can tell apart."""
    ranked = cell[cell.rank_low.notna()]
    tested = ranked[ranked.seeds > 1]
    pairs = len(tested) * (len(tested) - 1) // 2
    if not pairs:
        return "One seed allows no test." if len(ranked) > 1 else "One method is ranked: there is none to compare it with." * len(ranked)
    found = int((tested.rank_low - 1).sum())  # counts each pair once, at the worse method
    return (f"{len(tested)} methods are {pairs} pair{'s' * (pairs > 1)}, of which the seeds (mostly {tested.seeds.mode().iloc[0]}) tell {found} "
            "apart; more seeds tell more.")


def reference_of(table):
    """The labels of the reference of a table or a cell, as one text; "the best" if none was chosen."""
    return " or ".join(dict.fromkeys(filter(None, table.get("reference", ())))) or "the best"


def columns_of(table):
    """COLUMNS, with the reference of a table or a cell in the title of the difference."""
    return [f"To {reference_of(table)}" if name == "To the best" else name for name in COLUMNS]


def lines_of(cell):
    """The names of the columns that are not empty, then the texts of each line in these columns."""
    lines = [shown(line) for _, line in cell.iterrows()]
    used = [i for i in range(len(COLUMNS)) if any(line[i] for line in lines)]
    return [[line[i] for i in used] for line in [columns_of(cell), *lines]]


def text(table):
    """Plain tables for a terminal."""
    parts = []
    for task, sparsity, cell in cells(table):
        lines = lines_of(cell)
        widths = [max(map(len, column)) for column in zip(*lines)]
        body = ["  ".join(t.ljust(width) for t, width in zip(line, widths)).rstrip() for line in lines]
        parts.append("\n".join([f"{task}, sparsity {sparsity:g}", body[0], "-" * max(map(len, body)), *body[1:], power(cell)]))
    return "\n\n".join(parts) + "\n\n" + legend(table)


def legend(table):
    """The text below a whole table."""
    return f"{table.attrs['note']} {meaning(table)}".strip()


def meaning(table):
    """LEGEND, with the name of the reference."""
    return LEGEND.replace("To the best:", f"To {reference_of(table)}:").replace("from the best", f"from {reference_of(table)}")


def markdown(table):
    """Markdown tables, for GitHub and other renderers."""
    parts = [f"### {task}, sparsity {sparsity:g}\n\n{markup.markdown(lines_of(cell))}\n\n{power(cell)}" for task, sparsity, cell in cells(table)]
    return "\n\n".join(parts) + "\n\n" + markup.escaped(legend(table), markup.MARKDOWN) + "\n"


def latex(table):
    """A LaTeX `table` environment over both columns of a paper for each task and sparsity; needs booktabs and graphicx. The note below the
    first one explains the columns."""
    parts, first = [markup.PREAMBLE], ""
    for task, sparsity, cell in cells(table):
        columns, *lines = lines_of(cell)
        minus = {"Rank": "--", f"To {reference_of(cell)}": "$-$"}
        body = [[markup.escaped(t, markup.LATEX).replace("-", minus.get(name, "-")) for name, t in zip(columns, line)] for line in lines]
        best = best_of(cell)
        for line, (_, each) in zip(body, cell.iterrows()):
            if each.rank_low == 1 and (each.label == best.label or min(each.seeds, best.seeds) > 1):  # the best, and those tested against it
                at = columns.index("Accuracy (%)")
                line[at] = rf"\textbf{{{line[at]}}}"
        head = [markup.escaped(name, markup.LATEX) for name in columns]
        form = "".join("l" if name in ("Rank", "Method", "Remarks") else "r" for name in columns)
        about = rf"Columns as in Table~\ref{{{first}}}." if first else markup.escaped(meaning(table) + BOLD, markup.LATEX)
        caption = markup.escaped(f"{task}, sparsity {sparsity:g}. {table.attrs['note']}", markup.LATEX)
        label = f"tab:{task}-{100 * sparsity:g}"
        first = first or label
        parts.append(markup.latex([head, *body], form, caption, " ".join([markup.escaped(power(cell), markup.LATEX), about]).strip(), label))
    return "\n\n".join(parts) + "\n"


def best_of(cell):
    """The best line by `stats.rank`; None if no method is ranked."""
    ranked = cell[cell.rank_low.notna()].sort_values("label")
    return ranked.loc[ranked["mean"].round(9).idxmax()] if len(ranked) else None


def csv(table):
    """All numbers of the table, rounded to 10 digits."""
    return table.to_csv(index=False, float_format="%.10g", lineterminator="\n")


FORMATS = {"text": text, "markdown": markdown, "latex": latex, "csv": csv}

"""The pages' tables of accuracies (`readme.py` writes them)."""
from beyond import METHODS
from length import LENGTHS
from measured import markdown, number, step_times
from published import PUBLISHED_AS, published, title, without_storage
from rows import POINT, read_rows

from benchmarks.accuracy import off_target, trained_by
from benchmarks.suites import SIZES, suite_grid
from benchmarks.tasks import TASKS

DENSE = "dense"
CITED = {"st3": "ST-3", "gse": "GSE"}
SHORT = {"CIFAR-10": ("cifar10", "quick"), "Digits": ("digits", "paper")}
MULTIPLES = (1, 4, 16)


def accuracy(results, suite, profile, beyond=False, costs=()):
    """Test accuracy (`benchmarks.accuracy`), mean ± standard deviation over seeds, of every method at the paper's sparsities that have rows.

    beyond: the methods beyond the two papers, instead of the papers' own. costs: additional last columns, each "step" (`step_times`) or a
    sparsity, whose training FLOPs it shows.
    """
    from benchmarks.comparison.tables import select

    task, = suite_grid(suite, profile, ()).tasks  # rows of the same length on other tasks are not to be averaged with these
    rows = select(read_rows(results / suite / "runs.csv"), suite, profile)
    rows = rows[(rows.task == task) & rows.accuracy.notna() & ~rows.label.str.contains(":") & (rows.label.isin(METHODS) == beyond)]
    if not len(rows):
        return "No rows yet."
    whole, last = rows[rows.status == "ok"], {}  # a diverged run has an accuracy, but its costs and sparsity are not those of a whole training
    for cost in costs:
        if cost == "step":
            last["Step time / dense"] = step_times(results)
        else:
            flops = whole[(whole.sparsity == cost) | (whole.label == DENSE)].groupby("label").train_flops_fraction.mean()
            last[f"Training FLOPs / dense, {100 * cost:g} %"] = {label: f"{mean:.2f}" for label, mean in flops.items()}
    sparsities = [sparsity for sparsity in SIZES[suite, "paper"][0] if sparsity in set(rows.sparsity)]
    seeds = rows.groupby(["label", "sparsity"]).seed.nunique()
    points = rows.groupby(["label", "sparsity"]).accuracy.agg(["mean", "std"])
    shown = [*(0.0,) * (DENSE in set(rows.label)), *sparsities]
    rows = rows[rows.sparsity.isin(shown)]
    lines = [["Method", *(f"{100 * s:g} %" for s in shown), *last]]
    for label in sorted(rows.label.unique(), key=lambda label: (label != DENSE, label)):
        accuracies = points.loc[label]
        own = whole[whole.label == label]
        missed = off_target(own.achieved_sparsity, own.sparsity).any()
        cells = [number(accuracies.loc[s] if s in accuracies.index else None) for s in shown]
        lines.append([f"`{label}`" + (" ¹" if missed else ""), *cells, *(cost.get(label, "") for cost in last.values())])
    count = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    spread = f"mean ± standard deviation over {count} seeds" if seeds.max() > 1 else "one seed"
    spread += " (one where no deviation is given)" if seeds.min() == 1 < seeds.max() else ""
    text = f"Test accuracy (%) at the best validation epoch, at each sparsity; {spread}, {rows.epochs.iloc[0]:g} epochs"
    cycles = rows.groupby("label").cycles.max()
    many = [f"`{label}` {count:g}" for label, count in cycles[cycles > 1].items()]
    text += f" a cycle (cycles up to the highest sparsity: {', '.join(many)})" if many else ""
    return markdown(lines) + f"\n\n{text}." + (" ¹ ends at another sparsity than was asked for." if "¹" in str(lines) else "")


def papers(results):
    """Runs on CIFAR-10 of a paper's length: accuracy at the last and at the best validation epoch, beside the paper's published values."""
    rows = read_rows(results / "cifar10" / "runs.csv")
    lengths = {task: epochs for task, (*_, epochs) in PUBLISHED_AS.items()}
    rows = rows[(rows.epochs == rows.task.map(lengths)) & rows.accuracy.notna()]
    rows = rows.assign(sparsity=rows.sparsity.round(4))
    theirs = {tuple(point): f"{mean:.2f} ({CITED.get(source, source)}, {where})"
              for *point, mean, source, where in published()[[*POINT, "mean", "source", "where"]].itertuples(index=False)}
    lines = [["Network", "Method", "Sparsity", "Epochs", "Precision", "Seeds", "Last epoch", "Best validation epoch", "Published"]]
    for (*point, precision), own in rows.groupby([*POINT, "precision"]):
        task, method, options, sparsity = point
        as_published = task, method, without_storage(options), sparsity
        lost = own.status == "diverged"  # counts as chance accuracy in both columns, where others have a value
        own = own.assign(**{column: own[column].mask(lost & own[column].notna().any(), own.accuracy) for column in ("top1", "top1_best_val")})
        spread = own[["top1", "top1_best_val"]].agg(["mean", "std"])
        cells = [number(spread[column]) if own[column].notna().all() else "" for column in spread]
        lines.append([title(task), f"`{f'{method} {options}'.strip()}`", f"{100 * sparsity:g} %", f"{lengths[task]}", precision,
                      f"{own.seed.nunique()}", *cells, theirs.get(as_published, "")])
    return markdown(lines)


def all_rows(results, suite, profile):
    """Finished rows of the suite's own task in its own precision, with the columns of `rows.read_rows`; without methods from files."""
    task, = suite_grid(suite, profile, ()).tasks
    rows = read_rows(results / suite / "runs.csv")
    rows = rows[(rows.task == task) & (rows.precision == TASKS[task].precision) & ~rows.method.str.contains(":")]
    rows = rows.assign(options=trained_by(rows.options), sparsity=rows.sparsity.round(4))[rows.accuracy.notna()]
    return rows.drop_duplicates(["method", "options", "sparsity", "seed", "epochs"])


def cells(rows, name, values):
    """Mean ± standard deviation over seeds for each value of column `name`, with the number of seeds if it is not 3."""
    points = rows.groupby(name).accuracy.agg(["mean", "std", "count"])
    found = [points.loc[value] if value in points.index else None for value in values]
    return [number(point) + (f" ({point['count']:.0f})" if point is not None and point["count"] != 3 else "") for point in found]


def variants(results):
    """Methods with options set, beside the same methods with the suite's options: CIFAR-10 in short runs, and digits."""
    from benchmarks.comparison.tables import of_profile

    found = {name: all_rows(results, suite, profile) for name, (suite, profile) in SHORT.items()}
    sparsities = {name: SIZES[of][0] for name, of in SHORT.items()}
    found = {name: rows[of_profile(rows, *SHORT[name]) & rows.sparsity.isin(sparsities[name])] for name, rows in found.items()}
    labels = {label for rows in found.values() for label in zip(rows.method, rows.options)}
    lines = [["Method", *(f"{name}: {100 * s:g} %" for name in SHORT for s in sparsities[name])]]
    for method, options in sorted(labels):
        if any(other == method and changed for other, changed in labels):
            own = {name: rows[(rows.method == method) & (rows.options == options)] for name, rows in found.items()}
            lines.append([f"`{f'{method} {options}'.strip()}`", *(cell for name in SHORT for cell in cells(own[name], "sparsity", sparsities[name]))])
    return markdown(lines)


def lengths(results):
    """Methods that were also trained for longer, at each multiple (MULTIPLES) of the suite's length: CIFAR-10 in short runs, and digits."""
    lines = [["Data", "Sparsity", "Method", *(f"{multiple} ×" for multiple in MULTIPLES)]]
    for name, (suite, profile) in SHORT.items():
        groups = [({f"{option}={value}" for option, value in options.items()}, methods) for *_, methods, _, options in LENGTHS[suite, profile]]
        shared, rows = groups[0][0], all_rows(results, suite, profile)
        rows = rows[[shared <= set(words) or any(set(words) == options and method in methods for options, methods in groups)
                     for method, words in zip(rows.method, rows.options.str.split())]]
        base = suite_grid(suite, profile, ())
        usual = base.epochs or TASKS[base.tasks[0]].epochs
        for (sparsity, method, options), own in rows.groupby(["sparsity", "method", "options"]):
            if own.epochs.isin([usual * multiple for multiple in MULTIPLES[1:]]).any():
                label = " ".join([method, *(word for word in options.split() if word not in shared)])
                lines.append([name, f"{100 * sparsity:g} %", f"`{label}`", *cells(own, "epochs", [usual * multiple for multiple in MULTIPLES])])
    return markdown(lines)

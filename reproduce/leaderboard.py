"""The leaderboard: every method of a suite at every task and sparsity, as a picture, as tables and as one HTML page.

Picture: test accuracy against training FLOPs (multiples of dense), a panel for each sparsity of the suite's own task (the page and the
tables have all tasks). The methods on the Pareto front are joined by a line and named; apart from them, only the papers' three methods and methods
from a file have colours of their own.
Needs pandas, seaborn and scipy only. Statistics: benchmarks/stats.py; `python -m benchmarks leaderboard` adds your own methods.
"""
import math
import textwrap
from pathlib import Path

from drawing import WIDTH, Parser, first_with_rows, refusing, styled, write_figure
from marks import BELOW, DENSE_LINE, looks, number_decades
from published import tell_absent, title
from rows import Trained, make, none_finished, read_rows

from benchmarks.command import command
from benchmarks.files import write_whole
from benchmarks.suites import PROFILES, SIZES, SUITES, suite_grid, usual

NAMED = ("st3", "rigl", "gse_uniform")
EDGE = dict(markeredgecolor="white", markeredgewidth=0.25)
HOLLOW = dict(markerfacecolor="white", markeredgewidth=0.6)  # a method with one seed
FILES = {"csv": "csv", "markdown": "md", "latex": "tex"}


def grid(suite, profile):
    """The runs of the suite's methods, which `suites.grid` has already. Needs torch."""
    return suite_grid(suite, profile, usual(suite))


def board_of(suite, results, profile=None, precision=None, epochs=None):
    """Returns (table of benchmarks.stats.compare at the paper's sparsities that have rows, profile).

    Without a profile: the one with more rows of its own task, in a tie with more rows of all tasks, then paper. Raises NoRows, and ValueError (one
    line) if the file is not a table of runs.
    """
    from benchmarks.comparison import tables

    path = Path(results) / suite / "runs.csv"
    if path.exists():
        rows = read_rows(path)
        chosen = {name: tables.select(rows, suite, name, epochs, precision=precision) for name in ([profile] if profile else PROFILES)}
        counted = {name: table[table.sparsity.isin(SIZES[suite, name][0])] for name, table in chosen.items()}
        counts = {name: (table.task.isin(suite_grid(suite, name, ()).tasks).sum(), len(table)) for name, table in counted.items()}
        name = max(counts, key=counts.get)
        if any(counts[name]):
            return tables.board(chosen[name], SIZES[suite, PROFILES[0]][0]), name  # includes sparsities beyond the profile's, such as 99 %
    raise none_finished(suite, results, profile, precision, epochs)


def pictured(table, suite, profile):
    """The lines of the suite's own task (all tasks would not fit on a page); if it has none, those of all tasks."""
    own = table[table.task.isin(suite_grid(suite, profile, ()).tasks)]
    return own if len(own) else table


def draw(table, figure):
    """Draws the ranked methods of a table of `board_of` into the empty figure: for each cell a panel, and the names of its Pareto front."""
    from matplotlib.ticker import MaxNLocator

    from benchmarks.comparison.tables import cells

    panels = cells(table)
    shown = table[table.rank_low.notna() & table.train_flops.notna()]
    own = sorted(label for label in shown.label.unique() if ":" in label)  # methods from a file
    style = {label: look | dict(linestyle="", markersize=4.5, zorder=3, **EDGE)
             for label, look in looks((*NAMED, *own)).items() if label in set(shown.label)}
    other = dict(color="0.72", marker="o", linestyle="", markersize=2.5, markeredgewidth=0)
    front = other | dict(color="0.3", zorder=4, **EDGE)  # drawn above the larger marks of named methods, which would hide it
    legend = {label: textwrap.fill(label, 60, break_on_hyphens=False) for label in style}
    letters = max(len(line) for text in ("other methods", *legend.values()) for line in text.splitlines())
    columns = max(1, min(3, int(WIDTH / (0.5 + 0.046 * letters))))  # inches: the legend's line and gaps, plus its letters of 6 points
    lines = sum(text.count("\n") for text in legend.values()) + -(-len(style) // columns)
    figure.set_size_inches(WIDTH, 1.6 * len(panels) + 0.1 * lines + 0.6)
    pairs = figure.subplots(len(panels), 2, squeeze=False, width_ratios=(2.6, 1))
    for (axis, names), (task, sparsity, cell) in zip(pairs, panels):
        points = cell.loc[cell.index.intersection(shown.index)]
        axis.set_title(f"{title(task)}, {100 * sparsity:g} %", loc="left")
        names.set_axis_off()
        if points.empty:
            axis.text(0.5, 0.5, "no method is ranked", transform=axis.transAxes, ha="center", color="0.5")
            continue
        floor, ends = bottom(points["mean"]), []
        for line in points.to_dict("records"):
            look = style.get(line["label"], front if line["front"] else other)
            look = look | BELOW if line["mean"] < floor else look
            look = look | HOLLOW | dict(markeredgecolor=look["color"]) if line["seeds"] == 1 else look
            axis.plot(line["train_flops"], max(line["mean"], floor), **look)
            if (line["front"] or line["label"] in style) and line["mean"] >= floor and line["half"] > 0:
                ends.append(line["mean"] + line["half"])
                axis.vlines(line["train_flops"], max(line["mean"] - line["half"], floor), ends[-1], color=look["color"], linewidth=0.5, zorder=2)
        below = points[points["mean"] < floor]
        if len(below):
            names.text(-0.1, 0, f"↓ {len(below)} below", fontsize=5, transform=names.transAxes)
        best = points[points.front].sort_values("train_flops")
        axis.plot(best.train_flops, best["mean"], color="0.3", linewidth=0.7, zorder=1)
        dense = cell["mean"][cell.method == "dense"]
        for mean in dense:
            axis.axhline(mean, **DENSE_LINE, zorder=0)
        axis.set_xscale("log")
        number_decades(axis.xaxis, 1, 3)
        axis.minorticks_off()
        axis.yaxis.set_major_locator(MaxNLocator(4))
        height = max([points["mean"].max(), *dense]) - floor
        top = max(floor + 1.16 * height, min(max(ends, default=0), 100) + 0.02 * height)  # intervals may go beyond 100 %, the axis does not
        axis.set(ylim=(floor - 0.05 * height, top),
                 xlim=(points.train_flops.min() / 1.9, points.train_flops.max() * 1.3))
        axis.set_ylabel("Test accuracy (%)")
        lines = [f"{place} {line.label}" for place, line in enumerate(best.itertuples(), 1)]
        names.text(-0.1, 1, "\n".join(["Pareto front", *lines]), va="top", fontsize=5, transform=names.transAxes)
        number(axis, best.train_flops.tolist(), best["mean"].clip(lower=floor).tolist())
    pairs[-1, 0].set_xlabel("Training FLOPs / dense")
    first = pairs[0, 0]
    handles = [first.plot([], [], label=legend[label], **look)[0] for label, look in style.items()]
    handles += [first.plot([], [], label="other methods", **other)[0],
                first.plot([], [], color="0.3", linewidth=0.7, label="Pareto front")[0]]
    if (table.method == "dense").any():
        handles.append(first.plot([], [], **DENSE_LINE, label="dense")[0])
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=6)


def number(axis, x, y):
    """Writes 1, 2, ... to the left of the points and a little higher; a number that would hide the one before goes above it."""
    height, column = 0.076, 0.055  # size of a number, as shares of the panel
    (low, high), (left, right) = axis.get_ylim(), axis.get_xlim()
    place, before = -1.0, None
    for index, (across, up) in enumerate(zip(x, y), 1):
        share = (up - low) / (high - low) + 0.055
        where = math.log(across / left) / math.log(right / left)
        if before is not None and where - before < column:
            share = max(share, place + height)
        place, before = share, where
        axis.annotate(str(index), (across, up), xytext=(across / 1.12, low + share * (high - low)), ha="right", va="center", fontsize=5,
                      bbox=dict(pad=0.3, fc="white", ec="none", alpha=0.85),
                      arrowprops=dict(arrowstyle="-", color="0.5", linewidth=0.3, shrinkA=0, shrinkB=1))


def bottom(means):
    """The lower end of an accuracy axis: below the last method, unless a few are so far down that the others could not be told apart."""
    top, middle = means.max(), means.median()
    floor = max(means.min(), top - max(4 * (top - middle), 2.0))
    return floor - 0.05 * max(top - floor, 1.0)


def note(table, profile):
    """The text under the picture."""
    seeds = sorted(set(table.seeds[table.rank_low.notna()].astype(int)))
    several = "One seed." if seeds else "No method is ranked."
    if seeds[-1:] > [1]:
        several = f"Mean over {'' if seeds[0] == seeds[-1] else f'{seeds[0]} to '}{seeds[-1]} seeds."
    text = f"Profile {profile}. {several} Test accuracy at the best validation epoch, where there is validation."
    text += f" {table.attrs['note']}" * bool(table.attrs["note"])
    text += " Numbers: the Pareto front of the means, by training cost."
    text += " Bars: 95 % intervals of its methods and of the named ones; what they tell apart is in the table." * bool((table.half > 0).any())
    alone = table.seeds[table.rank_low.notna()] == 1
    text += " Hollow: one seed." * bool(alone.any() and not alone.all())
    counts = table[table.method != "dense"].groupby(["task", "sparsity"]).label.nunique()
    if table.task.nunique() == 1 and counts.nunique() > 1:
        text += f" Methods with runs: {', '.join(f'{count} at {100 * sparsity:g} %' for (_, sparsity), count in counts.items())}."
    left = table.label[(table.method != "dense") & ~table.on_target].unique()
    return text + (f" Left out, as other sparsities than asked for: {', '.join(left)}." if len(left) else "")


def write(suite, results, profile, out, precision=None, epochs=None):
    """Writes OUT/SUITE/leaderboard.pdf .png .csv .md .tex .html, the same bytes for the same rows, except that another
    processor's picture may have pixels a shade lighter or darker. Returns (stem, profile, table)."""
    from matplotlib.figure import Figure

    from benchmarks.comparison import tables
    from benchmarks.comparison.page import page

    table, profile = board_of(suite, results, profile, precision, epochs)
    stem = Path(out) / suite / "leaderboard"
    with styled():
        figure = Figure(layout="constrained")
        shown = pictured(table, suite, profile)
        draw(shown, figure)
        write_figure(figure, stem, note(shown, profile) + " Other tasks: leaderboard.html." * (len(shown) < len(table)))
    for name, ending in FILES.items():
        write_whole(f"{stem}.{ending}", tables.FORMATS[name](table))
    write_whole(f"{stem}.html", page(table, suite, profile, Path(f"{stem}.png").read_bytes()))
    return stem, profile, table


@command
def main(argv=None):
    """The command line; returns 0. Bad arguments or nothing to compare: one line on stderr, exit status 2."""
    parser = Parser(prog="leaderboard.py", description="The leaderboard of a suite from stored rows.")
    parser.add_argument("--suite", choices=SUITES, help="default: the first with rows")
    args = parser.standard().running().read(argv)
    try:
        import scipy  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"the leaderboard needs scipy too ({error}): pip install scipy") from None
    suites = [args.suite] if args.suite else SUITES[1:] + SUITES[:1]
    if args.run:
        suites = suites[-1:]
        # unlike a figure of cifar10, its leaderboard has no runs of cifar100 (rows.SHOWN)
        alone = Trained(lambda suite, profile: grid(suite, profile) if suite == suites[0] else (), args.precision, args.epochs)
        make(alone, suites[0], args, None)
    with refusing(args):
        suite, (stem, profile, table) = first_with_rows(
            suites, lambda suite: write(suite, args.results, args.profile, args.out, args.precision, args.epochs))
    from benchmarks.comparison.tables import text
    print(f"suite {suite}, profile {profile}\n\n{text(table)}\nwrote {stem}.pdf .png .csv .md .tex .html")
    tell_absent()


if __name__ == "__main__":
    raise SystemExit(main())

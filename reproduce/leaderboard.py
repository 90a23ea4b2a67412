"""The leaderboard: every method of a suite at every task and sparsity, as picture, tables and one HTML page.

Picture: test accuracy against training FLOPs (multiples of dense), one panel for each task and sparsity, the Pareto front joined.
Needs pandas, seaborn and scipy only. Statistics: benchmarks/stats.py; `python -m benchmarks leaderboard` adds your own methods.
"""
import textwrap
from pathlib import Path

from drawing import COLOURS, MARKERS, PROFILES, STYLE, SUITES, WIDTH, NoRows, Parser, suite_grid
from rows import make

from benchmarks.suites import SIZES

EDGE = dict(markeredgecolor="white", markeredgewidth=0.25)
FILES = {"csv": "csv", "markdown": "md", "latex": "tex"}


def grid(suite, profile):
    """The runs of every method, which a suite has already (suites.grid). Needs torch."""
    from methods import available
    return suite_grid(suite, profile, available())


def board_of(suite, results, profile=None):
    """(table of benchmarks.stats.compare at the suite's sparsities, profile). No profile: paper where it has rows, else quick.

    Raises NoRows, and ValueError (one line) for a file that is not a table of runs.
    """
    import pandas as pd

    from benchmarks import tables

    path = Path(results) / suite / "runs.csv"
    if path.exists():
        try:
            rows = pd.read_csv(path, dtype={"key": str})
            for name in [profile] if profile else PROFILES:
                chosen, sparsities = tables.select(rows, suite, name), SIZES[suite, name][0]
                if chosen.sparsity.isin(sparsities).any():
                    return tables.board(chosen, sparsities), name
        except (KeyError, AttributeError) as error:
            raise ValueError(f"{path} is not a table of runs ({str(error).splitlines()[0]})") from None
    option = f" --profile {profile}" if profile else ""
    raise NoRows(f"no finished runs in {path}; make them with: bash run_all.sh {suite}{option}")


def draw(table, figure):
    """Draws the ranked methods of the table of `board_of` into the empty figure."""
    import seaborn as sns
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    from benchmarks.tables import cells

    palette, panels = sns.color_palette("colorblind"), cells(table)
    shown = table[table.rank_low.notna() & table.train_flops.notna()]
    labels = sorted(shown.label.unique())
    # colour and marker go on at different lengths, so that a pair comes back after 90 methods
    style = {label: dict(color=palette[COLOURS[i % len(COLOURS)]], marker=MARKERS[i % len(MARKERS)], linestyle="",
                         markersize=4.5 if MARKERS[i % len(MARKERS)] in "*PX" else 3.5) for i, label in enumerate(labels)}
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure.set_size_inches(WIDTH, 1.5 * lines + 0.1 * -(-len(labels) // 4) + 0.7)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True)
    for axis in axes.flat[len(panels):]:
        axis.set_axis_off()
    for axis, (task, sparsity, cell) in zip(axes.flat, panels):
        points = cell.loc[cell.index.intersection(shown.index)]
        floor = lowest(points["mean"])
        for line in points.to_dict("records"):
            edge = dict(markeredgecolor="black", markeredgewidth=0.7) if line["front"] else EDGE
            axis.plot(line["train_flops"], max(line["mean"], floor), clip_on=False, **edge, **style[line["label"]])
        below = points[points["mean"] < floor]
        if len(below):
            axis.text(0.98, 0.03, f"↓ {len(below)} below", transform=axis.transAxes, ha="right", fontsize=5)
        best = points[points.front].sort_values("train_flops")
        axis.plot(best.train_flops, best["mean"], color="0.4", linewidth=0.8, zorder=1)
        for mean in cell["mean"][cell.method == "dense"]:
            axis.axhline(mean, color=palette[1], linestyle=(0, (4, 2)), zorder=0)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator([digit * 10.0 ** power for power in range(-4, 3) for digit in (1, 3)]))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_locator(MaxNLocator(4))
        axis.set_ylim(bottom=floor)
        axis.set_title(f"{task}, {100 * sparsity:g} %")
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("Test accuracy (%)")
    for axis in axes.flat[max(0, len(panels) - columns):len(panels)]:
        axis.set_xlabel("Training FLOPs / dense")
    first = axes.flat[0]
    handles = [first.plot([], [], label=label, **EDGE, **style[label])[0] for label in labels]
    handles += [first.plot([], [], color="0.4", linewidth=0.8, marker="o", markerfacecolor="white", markeredgecolor="black",
                           markersize=3.5, label="Pareto front")[0],
                first.plot([], [], color=palette[1], linestyle=(0, (4, 2)), label="dense")[0]]
    figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=5, handletextpad=0.3,
                  columnspacing=0.8, handlelength=1.6, labelspacing=0.25)


def lowest(means):
    """Where an accuracy axis begins: below the last method, unless a few lie so far down that they hide the others."""
    top, middle = means.max(), means.median()
    floor = max(means.min(), top - max(4 * (top - middle), 2.0))
    return floor - 0.05 * max(top - floor, 1.0)


def note(table, suite, profile):
    """What a reader of the picture must know."""
    seeds = sorted(set(table.seeds[table.rank_low.notna()].astype(int)))
    text = f"Profile {profile}. Mean over {' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds." if seeds else ""
    text += " Test accuracy at the best validation epoch, where there is validation. Black edge: on the Pareto front."
    left = table.label[(table.method != "dense") & ~table.on_target].unique()
    return text + (f" Left out, as other sparsities than asked for: {', '.join(left)}." if len(left) else "")


def write(suite, results, profile, out):
    """Writes OUT/SUITE/leaderboard.pdf .png .csv .md .tex .html, the same bytes for the same rows: (stem, profile, table)."""
    import matplotlib
    import seaborn as sns
    from matplotlib.figure import Figure

    from benchmarks import tables
    from benchmarks.page import page

    table, profile = board_of(suite, results, profile)
    stem = Path(out) / suite / "leaderboard"
    stem.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({**sns.axes_style("ticks"), **sns.plotting_context("paper"), **STYLE}):
        figure = Figure(layout="constrained")
        draw(table, figure)
        sns.despine(figure)
        figure.supxlabel(textwrap.fill(note(table, suite, profile), int(24 * WIDTH)), fontsize=5.5, x=0.01, ha="left")
        figure.savefig(f"{stem}.pdf", metadata={"CreationDate": None})
        figure.savefig(f"{stem}.png", dpi=300)
    for name, ending in FILES.items():
        Path(f"{stem}.{ending}").write_text(tables.FORMATS[name](table), encoding="utf-8")
    Path(f"{stem}.html").write_text(page(table, suite, profile, Path(f"{stem}.png").read_bytes()), encoding="utf-8")
    return stem, profile, table


def main(argv=None):
    """The command line; returns 0. Bad arguments or nothing to compare: one line on stderr, exit status 2."""
    parser = Parser(prog="leaderboard.py", description="The leaderboard of a suite from stored rows.")
    parser.add_argument("--suite", choices=SUITES, help="default: the first with rows")
    args = parser.standard().running().read(argv)
    try:
        import scipy  # noqa: F401
    except ModuleNotFoundError as error:
        parser.error(f"the leaderboard needs scipy too ({error}): pip install scipy")
    suites = [args.suite] if args.suite else SUITES[1:] + SUITES[:1]
    if args.run:
        suites = suites[-1:]
        try:
            make(lambda suite, profile: grid(suite, profile) if suite == suites[0] else (), suites[0], args, None)
        except ValueError as error:
            parser.error(str(error))
    for suite in suites:
        try:
            stem, profile, table = write(suite, args.results, args.profile, args.out)
            break
        except NoRows as nothing:
            message = str(nothing)
        except ValueError as error:
            parser.error(str(error))
    else:
        parser.error(message)
    from benchmarks.tables import text
    print(f"suite {suite}, profile {profile}\n\n{text(table)}\nwrote {stem}.pdf .png .csv .md .tex .html")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

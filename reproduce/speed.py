"""The suite's own speed: the step time of every method, images per second against a plain loop, and how costs grow.

Drawn from what `benchmarks.overhead`, `benchmarks.throughput` and `benchmarks.scaling` measured; a panel without rows says so.
"""
import math

from drawing import main
from packs import images
from rows import measured, no_runs as grid, of_one_machine, stored

from benchmarks.tasks import TASKS

TABLES = ("overhead", "throughput", "scaling")
DRAWN = ("cores", "width", "selection")  # parts of scaling
TASK = "cifar10-resnet20"


def text(table):
    devices, torch = (", ".join(sorted(map(str, table[column].unique()))) for column in ("device", "torch_version"))
    steps = drawn_steps(table)
    st3 = steps.query("method == 'st3'")
    where = ", ".join(f"{100 * sparsity:g} % sparsity in {precision}" for sparsity, precision in
                      steps.loc[steps.sparsity > 0, ["sparsity", "precision"]].drop_duplicates().values)
    known = "".join(f" (those of the {row.ratio:.3f} at the left are {row.ratio_low:.3f} and {row.ratio_high:.3f})" for row in st3.itertuples())
    return (f"Measured: {devices}; torch {torch}; ResNet-20 on CIFAR-10. Step times: at {where}; bars: quartiles of the rounds. Against a plain loop: "
            "the suite trains ST-3, the plain loop a fixed mask for each layer. Cores: dense training, a process each, evaluations not counted. "
            f"Over the width: steps in turns, medians of the rounds, whose quartiles are not stored{known}. Threshold: ST-3's. Each panel was "
            "measured by itself, where one name stands for processors of several generations.")


def drawn_steps(rows):
    """The step times that are drawn; rows: of the table "overhead", or of all three tables."""
    steps = rows[rows.task == TASK]
    steps = steps[steps.table == "overhead"] if "table" in steps else steps
    return steps[steps.runs == steps.runs.max()]


overhead = stored("performance/overhead.csv", "benchmarks.overhead", text)


def source(grid, suite, results, profile=None):
    """All three tables as one, with their names in the column `table`. All are of the first one's machine, if it has measured them."""
    import pandas as pd

    rows, profile = overhead(grid, suite, results, profile)
    device = rows.device.iloc[0]
    tables = {name: measured(results, name, "part device") for name in TABLES}
    tables["scaling"] = tables["scaling"].query("part in @DRAWN")  # the others are not drawn, and must not influence the choice of the machine
    parts = [(own if len(own := table[table.device == device]) else of_one_machine(table)).assign(table=name)
             for name, table in tables.items() if len(table)]
    both = pd.concat(parts, ignore_index=True)
    both = both.reindex(columns=[*both.columns, *({"loop", "images_per_second", "part", "x", "value"} - set(both.columns))])
    both.attrs["note"] = text(both)
    return both, profile


source.module, source.suite = overhead.module, overhead.suite


def draw(rows, figure):
    """Draws the tables into the empty figure and returns them as one."""
    import seaborn as sns

    palette = sns.color_palette("colorblind")
    figure.set_size_inches(7, 4.6)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.1))
    ratios(left.subplots(), drawn_steps(rows), palette)
    (loops, cores), (width, selection) = right.subplots(2, 2)
    bars(loops, rows[(rows.table == "throughput") & (rows.task == TASK)], palette)
    scaling = rows[rows.table == "scaling"]
    line(cores, runs_per_hour(scaling[scaling.part == "cores"]), palette, "Processes", f"Runs of {TASKS[TASK].epochs} epochs per hour", "Cores")
    over_width(width, scaling[scaling.part == "width"], palette)
    line(selection, scaling[scaling.part == "selection"], palette, "Weights", "Selection (ms)", "Threshold", log=True)
    return rows.dropna(axis=1, how="all")


def runs_per_hour(rows):
    """These rows, with `value` converted from images per second to runs per hour."""
    return rows.assign(value=rows.value * 3600 / images(TASK))


def ratios(axes, rows, palette):
    """Draws the step time of each method as a multiple of a dense one, with quartiles."""
    rows = rows[rows.method != "dense"].assign(each=rows.ratio / rows.passes).sort_values("each", ascending=False)
    each = rows.each
    axes.errorbar(each, rows.method, xerr=[each - rows.ratio_low / rows.passes, rows.ratio_high / rows.passes - each], fmt="o",
                  color=palette[0], markersize=3, elinewidth=0.8)
    axes.axvline(1, color=palette[1], linestyle=(0, (4, 2)), linewidth=0.8)
    axes.tick_params(axis="y", labelsize=5)
    axes.set(title="Step time of every method", xlabel="Multiple of a dense step (each of ProbMask's two passes)")


def bars(axes, rows, palette):
    """Draws images per second of each loop, with the ratio to the plain one."""
    rows = rows.sort_values("images_per_second")
    names = [f"{row.loop}, {row.precision}" + f", {row.runs:g} runs" * (row.runs > 1) for row in rows.itertuples()]
    axes.barh(names, rows.images_per_second, color=[palette[7 if loop == "plain" else 0] for loop in rows.loop])
    for place, row in enumerate(rows.itertuples()):
        axes.text(row.images_per_second, place, f" {row.ratio:.1f} ×", va="center", fontsize=6)
    axes.margins(x=0.2)
    axes.set(title="Against a plain loop", xlabel="Images per second")


def over_width(axes, rows, palette):
    """Draws ST-3's step as a multiple of the dense one: times themselves, which span orders of magnitude, would hide it. The axis begins at 0.95 or
    below, so that noise does not look large."""
    if {"dense", "st3"} <= set(rows.method):
        times = rows.pivot_table("value", "x", "method")
        ratios = times.st3 / times.dense
        axes.plot(ratios.index, ratios, marker="o", color=palette[0])
        axes.axhline(1, color=palette[1], linestyle=(0, (4, 2)), linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xticks(ratios.index, [f"{width:g} ×" for width in ratios.index])
        axes.set_ylim(min(0.95, ratios.min()), max(1.1, 1.02 * ratios.max()))
        axes.minorticks_off()
    axes.set(title="Width of the network", xlabel="Width", ylabel="ST-3's step / dense one")


def line(axes, rows, palette, x, y, title, log=False):
    if len(rows):
        axes.plot(rows.x, rows.value, marker="o", color=palette[0])
    if log:
        axes.set(xscale="log", yscale="log")
        if len(rows):
            axes.set_ylim(10.0 ** math.floor(math.log10(rows.value.min())))
    else:
        axes.set(ylim=(0, None), xticks=sorted(rows.x.unique()))
    axes.set(title=title, xlabel=x, ylabel=y)


if __name__ == "__main__":
    raise SystemExit(main("speed", grid, draw, source=source))

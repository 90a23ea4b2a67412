"""Always-sparse training: how much faster a step is, and how much smaller what it keeps, than with masks over dense weights.

Measured on this machine (benchmarks/sparse_speed.py; `--run` measures anew).
"""
from drawing import COLOURS, MARKERS, main, number_decades
from rows import no_runs as grid, stored

STYLES = {("sparse", "fp32"): "-", ("auto", "fp32"): "--", ("sparse", "bf16"): ":"}
TITLES = {"cifar10-mlp": "MLP", "cifar10-vit": "ViT", "cifar10-vgg16": "VGG-16 (small)", "cifar10-resnet56": "ResNet-56"}


def shown(table):
    """The method whose measurements are drawn; the README's table has all."""
    return "gse_uniform" if "gse_uniform" in set(table.method) else table.method.iloc[0]


def text(table):
    machines = ", ".join(table.device.unique())
    usual = table.batch_size.max()
    others = table[table.batch_size != usual].groupby(["task", "batch_size"]).width.agg(["min", "max"])
    batches = "".join(f" ({TITLES.get(task, task)} of width {line['min']:g} to {line['max']:g}: {size})" for (task, size), line in others.iterrows())
    return (f"{shown(table)}, measured in turns with one thread: {machines}; torch {', '.join(map(str, table.torch_version.unique()))}, median, "
            f"batches of {usual}{batches}. "
            "Solid: sparse, in fp32; " + "dotted: both in bf16; " * ("bf16" in set(table.precision)) +
            "dashed: auto, which computes a layer dense where that is faster. Memory: weights, gradients, momentum, masks or indices. "
            "Above 1 sparse wins.")


source = stored("performance/sparse_speed.csv", "benchmarks.sparse_speed", text)


def draw(table, figure):
    """Draws the table into the empty figure and returns it."""
    table = table[table.method == shown(table)]
    key = ["task", "width", "batch_size", "sparsity", "precision", "device"]
    masked = table[table.storage == "masked"].set_index(key).state_mb.rename("masked_mb")
    table = table.join(masked, on=key)
    table["memory_ratio"] = table.masked_mb / table.state_mb
    compared = table[table.ratio.notna() & (table.storage != "masked")]
    tasks, widths = list(compared.task.unique()), sorted(compared.width.unique())
    sparsities = sorted(compared.sparsity.unique())
    figure.set_size_inches(1.8 * len(tasks) + 0.4, 3.8)
    panels = figure.subplots(2, len(tasks), squeeze=False, sharex=True, sharey="row")
    look = {width: dict(marker=MARKERS[i % len(MARKERS)], ms=2.5, color=COLOURS[i % len(COLOURS)]) for i, width in enumerate(widths)}
    for width in widths:
        panels[0, 0].plot([], [], label=f"width × {width:g}", **look[width])
    for column, task in zip(panels.T, tasks):
        for axes, measure in zip(column, ("ratio", "memory_ratio")):
            axes.set(xscale="log", yscale="log", xlim=(1.2 * (1 - sparsities[0]), (1 - sparsities[-1]) / 1.2))
            for (width, *kind), lines in compared[compared.task == task].groupby(["width", "storage", "precision"]):
                style = STYLES.get(tuple(kind))
                if style and (style == "-" or measure == "ratio"):
                    points = lines.sort_values("sparsity")
                    axes.plot(1 - points.sparsity, points[measure], style, **look[width])
            axes.axhline(1, color="0.6", lw=0.6, zorder=0)
        column[0].set_title(TITLES.get(task, task))
        column[1].set_xlabel("Sparsity (%)")
        column[1].set_xticks([1 - s for s in sparsities], [f"{100 * s:g}" for s in sparsities], rotation=60)
        column[1].minorticks_off()
    number_decades(panels[0, 0].yaxis, 1, 2, 5)
    number_decades(panels[1, 0].yaxis, 1)
    panels[0, 0].set_ylabel("Step: masked / sparse")
    panels[1, 0].set_ylabel("Memory: masked / sparse")
    return table


if __name__ == "__main__":
    raise SystemExit(main("sparse_figure1", grid, draw, source=source))

"""Always-sparse training: how much faster a step is, and how much less it stores between steps, than with masks over dense weights.

Measured on this machine (benchmarks/sparse_speed.py; `--run` measures anew).
"""
from drawing import main
from marks import COLOURS, MARKERS, number_decades, sparsity_axis
from published import network
from rows import no_runs as grid, of_one_machine, stored

STYLES = {("sparse", "fp32"): ("-", "sparse, fp32"), ("auto", "fp32"): ("--", "auto, fp32"), ("sparse", "bf16"): (":", "sparse, bf16")}


def shown(table):
    """The method whose measurements are drawn; the README's table has all."""
    return "gse_uniform" if "gse_uniform" in set(table.method) else table.method.iloc[0]


def of_its_machine(table):
    """The rows of the machine that has measured most of the method that is drawn: other methods' must not choose another machine."""
    return table[table.device.isin(of_one_machine(table[table.method == shown(table)]).device)].copy()


def text(table):
    machines, drawn = ", ".join(table.device.unique()), compared(table[table.method == shown(table)])
    most = drawn.torch_version.mode()[0]
    torch = f"torch {most}" + "".join(f" (width × {width:g}: {version})" for width, version in
                                      drawn[drawn.torch_version != most].groupby("width").torch_version.first().items())
    usual = table.batch_size.max()
    others = table[table.batch_size != usual].groupby(["task", "batch_size"]).width.agg(["min", "max"])
    batches = "".join(f" ({network(task)} of width {line['min']:g} to {line['max']:g}: {size})" for (task, size), line in others.iterrows())
    return (f"{shown(table)}, measured in turns with one thread: {machines}; {torch}; median, "
            f"batches of {usual}{batches}. Masked in the same precision; auto computes a layer dense where that is faster. Memory, in fp32: weights, "
            "gradients, momentum, masks or indices. Above 1 sparse wins.")


def compared(table):
    """The lines that are drawn: those measured together with masked storage, of each network and width in its largest batches."""
    largest = table.groupby(["task", "width"]).batch_size.transform("max")
    return table[table.ratio.notna() & (table.storage != "masked") & (table.batch_size == largest)]


source = stored("performance/sparse_speed.csv", "benchmarks.sparse_speed", text, of_its_machine)


def draw(table, figure):
    """Draws the table into the empty figure and returns it."""
    table = table[table.method == shown(table)]
    key = ["task", "width", "batch_size", "sparsity", "precision", "device"]
    masked = table[table.storage == "masked"].set_index(key).state_mb.rename("masked_mb")
    table = table.join(masked, on=key)
    table["memory_ratio"] = table.masked_mb / table.state_mb
    rows = compared(table)
    tasks, widths, sparsities = list(rows.task.unique()), sorted(rows.width.unique()), sorted(rows.sparsity.unique())
    figure.set_size_inches(min(1.8 * len(tasks) + 0.4, 7), 3.8)
    panels = figure.subplots(2, len(tasks), squeeze=False, sharex=True)
    look = {width: dict(marker=MARKERS[i % len(MARKERS)], ms=2.5, color=COLOURS[i % len(COLOURS)]) for i, width in enumerate(widths)}
    for width in widths:
        panels[0, 0].plot([], [], label=f"width × {width:g}", **look[width])
    for kind, (style, name) in STYLES.items():
        if kind in {*zip(rows.storage, rows.precision)}:
            panels[0, 0].plot([], [], style, color="0.4", label=name)
    for column, task in zip(panels.T, tasks):
        for axes, measure in zip(column, ("ratio", "memory_ratio")):
            axes.set(xscale="log", yscale="log", xlim=(1.2 * (1 - sparsities[0]), (1 - sparsities[-1]) / 1.2))
            for (width, *kind), lines in rows[rows.task == task].groupby(["width", "storage", "precision"]):
                style, _ = STYLES.get(tuple(kind), (None, None))
                if style and (style == "-" or measure == "ratio"):
                    points = lines.sort_values("sparsity")
                    axes.plot(1 - points.sparsity, points[measure], style, **look[width])
            axes.axhline(1, color="0.6", lw=0.6, zorder=0)
        column[0].set_title(network(task))
        sparsity_axis(column[1], [1 - s for s in sparsities], rotation=60)
    for above, below in panels.T:
        low, high = above.get_ylim()
        number_decades(above.yaxis, *((1, 2, 5) if high > 20 * low else (1, 1.5, 2, 3, 5)))
        number_decades(below.yaxis, 1)
        below.sharey(panels[1, 0])  # in the upper row, each network has an axis of its own
        below.tick_params(labelleft=below is panels[1, 0])
    panels[0, 0].set_ylabel("Step: masked / sparse")
    panels[1, 0].set_ylabel("Memory: masked / sparse")
    return table


if __name__ == "__main__":
    raise SystemExit(main("sparse_figure1", grid, draw, source=source))

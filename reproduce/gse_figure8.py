"""GSE, supplement, Figure 8: time of the product of a sparse (n, n) and a dense (n, 128) matrix against sparsity, by format.

Measured on this machine (benchmarks/products.py; `--run` measures anew); the paper has an Intel Xeon 6148 and a V100.
"""
from drawing import main
from marks import LINES, sparsity_axis
from rows import no_runs as grid, stored

FORMATS = ("dense", "coo", "csr")


def text(table):
    machines = table[["device", "threads"]].drop_duplicates().values
    named = "; ".join(f"{device}, {threads} thread{'s' * (threads > 1)}" for device, threads in machines)
    return (f"Measured: {named}; torch {', '.join(map(str, table.torch_version.unique()))}, float32. Timed: the product alone of an n × n matrix, n "
            f"units, with a dense n × {table.batch.min()} one, the mean of {table.repeats.min()} after one that is not counted; no conversion, no "
            "gradient. The dense product does not depend on the sparsity and is timed once for each n. The paper: an Intel Xeon 6148 and a V100.")


source = stored("performance/products.csv", "benchmarks.products", text)


def draw(table, figure):
    """Draws the table into the empty figure and returns it."""
    import seaborn as sns

    devices = list(table.groupby(["device", "threads"], sort=False))
    palette = sns.color_palette("viridis", table.units.nunique())  # lighter for wider, which does not need colour vision
    figure.set_size_inches(3.4 * len(devices), 3.6)
    for axes, ((device, _), lines) in zip(figure.subplots(1, len(devices), squeeze=False)[0], devices):
        low, high = (1 - lines.sparsity[lines.format != "dense"]).agg(["min", "max"])
        for index, units in enumerate(sorted(lines.units.unique())):
            for form, line in zip(FORMATS, LINES):
                points = lines[(lines.units == units) & (lines.format == form)].sort_values("sparsity")
                x, y = (1 - points.sparsity, points.seconds) if form != "dense" else ([high, low], list(points.seconds) * 2)
                axes.plot(x, [1e3 * seconds for seconds in y], linestyle=line, color=palette[index])
            axes.plot([], [], color=palette[index], label=f"{units} units")
        for form, line in zip(FORMATS, LINES):
            axes.plot([], [], color="0.3", linestyle=line, label=form if form == "dense" else form.upper())
        axes.set(xscale="log", yscale="log", ylabel="Milliseconds", title=short(device))
        ticks = [t for t in (20, 10, 5, 2, 1, 0.5, 0.2, 0.1) if 100 * low <= t * 1.01 and t <= 101 * high]
        sparsity_axis(axes, [t / 100 for t in ticks])
        axes.invert_xaxis()
    return table


def short(device):
    return device if len(device) < 40 else device[:37] + "..."


if __name__ == "__main__":
    raise SystemExit(main("gse_figure8", grid, draw, source=source))

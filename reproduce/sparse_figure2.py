"""What growing connections costs at a constant number of weights, against the width: GSE's updates are linear, RigL's quadratic.

Measured on this machine (benchmarks/sparse_growth.py; `--run` measures anew).
"""
from drawing import looks, main
from rows import no_runs as grid, stored

NAMES = {"gse_uniform": "GSE uniform", "gse_grabo": "GSE GraBo", "gse_graest": "GSE GraEst", "rigl": "RigL"}
LAST = 3  # widths of a fit: the largest, where what does not depend on the width counts least


def text(table):
    return (f"Measured with one thread: {', '.join(table.device.unique())}; torch {', '.join(map(str, table.torch_version.unique()))}. An MLP "
            f"with two hidden layers and {table.nnz.min():,} weights, one batch of {table.batch_size.min()} digits. Slopes: least squares over "
            f"the {LAST} largest widths.")


source = stored("performance/sparse_growth.csv", "benchmarks.sparse_growth", text)


def slope(points, measure):
    """Slope of log measure against log width over the LAST largest widths, in as many digits as all machines agree on."""
    import numpy as np

    points = points.sort_values("width")[-LAST:]
    return round(np.polyfit(np.log(points.width), np.log(points[measure]), 1)[0], 6) if len(points) > 1 else float("nan")


def draw(table, figure):
    """Draws the table into the empty figure and returns it, with the fitted slopes."""
    table = table.copy()
    figure.set_size_inches(5.6, 3)
    for axes, measure, label in zip(figure.subplots(1, 2), ("update_ms", "peak_mb"), ("One update of the connections (ms)", "Its peak memory (MB)")):
        for index, (method, name) in enumerate(NAMES.items()):
            points = table[table.method == method].sort_values("width")
            if len(points):
                table.loc[points.index, f"{measure}_slope"] = fitted = slope(points, measure)
                axes.plot(points.width, points[measure], ms=6 - 1.2 * index, mfc="none", **looks(NAMES)[method],
                          label=name if measure == "update_ms" else None)
                axes.text(0.98, 0.17 - 0.045 * index, f"{name}: slope {fitted:.2f}", fontsize=5.5, ha="right", transform=axes.transAxes)
        axes.set(xscale="log", yscale="log", xlabel="Width", ylabel=label)
    return table


if __name__ == "__main__":
    raise SystemExit(main("sparse_figure2", grid, draw, source=source))

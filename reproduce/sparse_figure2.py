"""What growing connections costs: GSE's updates are linear in the width and in the number of weights, RigL's quadratic in the width.

Measured on this machine (benchmarks/sparse_growth.py; `--run` measures anew).
"""
import math

from drawing import main
from marks import looks, number_decades
from rows import no_runs as grid, stored

NAMES = {"gse_uniform": "GSE uniform", "gse_grabo": "GSE GraBo", "gse_graest": "GSE GraEst", "rigl": "RigL"}
LAST = 3  # number of largest points that a fit uses, where constant costs matter least
FAR = 4  # of them those that cost at least so many times what the smallest point does: below, costs that do not depend on the size count
AGAINST = {"width": "Width", "nnz": "Active weights"}


def text(table):
    rigl = " RigL was measured against the width alone." * (set(table.method[table.nnz > table.nnz.min()]) == {*table.method} - {"rigl"})
    return (f"Measured with one thread: {', '.join(table.device.unique())}; torch {', '.join(map(str, table.torch_version.unique()))}. An MLP "
            f"with two hidden layers, one batch of {table.batch_size.min()} digits; top: {table.nnz.min():,} active weights"
            + "".join(f", bottom: width {own.width.min():,}" for own in (against(table, "nnz"),) if len(own))
            + f".{rigl} Slopes: least squares over the {LAST} largest that cost at least {FAR} times what the smallest does.")


source = stored("performance/sparse_growth.csv", "benchmarks.sparse_growth", text)


def against(table, size):
    """The lines for one axis: of all widths at the smallest number of weights (size "width"), or of all numbers of weights at the width that has most
    of them (size "nnz"; none if there is only one)."""
    if size == "width":
        return table[table.nnz == table.nnz.min()]
    numbers = table.groupby("width").nnz.nunique()
    return table[table.width == numbers.idxmax()] if numbers.max() > 1 else table[:0]


def slope(points, measure, size):
    """(slope of log measure against log size, rounded to 6 decimals, on which all machines agree; number of points) over the LAST largest points
    of those that cost at least FAR times what the smallest one does. The slope is NaN if there are fewer than two."""
    import numpy as np

    points = points.sort_values(size)
    far = points[points[measure] >= FAR * points[measure].iloc[0]][-LAST:]
    if len(far) < 2:
        return np.nan, len(far)
    return round(np.polyfit(np.log(far[size]), np.log(far[measure]), 1)[0], 6), len(far)


def draw(table, figure):
    """Draws the table into the empty figure and returns it, with the fitted slopes."""
    table, shown = table.copy(), {size: own for size in AGAINST if len(own := against(table, size))}
    figure.set_size_inches(5.6, 0.4 + 2.6 * len(shown))
    for row, (size, own) in zip(figure.subplots(len(shown), 2, squeeze=False), shown.items()):
        for axes, measure, label in zip(row, ("update_ms", "peak_mb"), ("One update of the connections (ms)", "Peak memory of an update (MB)")):
            for index, (method, name) in enumerate(NAMES.items()):
                points = own[own.method == method].sort_values(size)
                if len(points) > 1:
                    axes.plot(points[size], points[measure], ms=6 - 1.2 * index, mfc="none", **looks(NAMES)[method],
                              label=name if (size, measure) == ("width", "update_ms") else None)
                    fitted, _ = slope(points, measure, size)
                    table.loc[points.index, f"{measure}_slope_{size}"] = fitted
                    x, y, side = (0.98, 0.17, "right") if size == "width" else (0.02, 0.96, "left")
                    if math.isfinite(fitted):
                        axes.text(x, y - 0.045 * index, f"{name}: slope {fitted:.2f}", fontsize=5.5, ha=side, transform=axes.transAxes)
            axes.set(xscale="log", yscale="log", xlabel=AGAINST[size], ylabel=label)
            if size == "nnz":  # the axis spans less than two decades
                number_decades(axes.yaxis, 1, 2, 4, 6, 8)
    return table


if __name__ == "__main__":
    raise SystemExit(main("sparse_figure2", grid, draw, source=source))

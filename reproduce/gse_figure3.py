"""GSE, Figure 3: test accuracy against the width of the network, with as many active connections at every width.

CIFAR-100, widths 1 to 4; 98 % at width 1 (assumed from the supplement's figure 7; the paper's text was not available). Wider CNNs
gain, the ViT loses. Suite digits, and cifar10 in profile quick: the same in miniature.
"""
from drawing import main, mean_line, union
from gse import gse_grid, same_active, style, wider, width_of, widths
from published import title
from rows import summary

METHODS = {"gse_uniform": "GSE (uniform)"}
SPARSITY = 0.98  # of width 1


def grid(suite, profile):
    """The runs that the figure needs."""
    narrow = gse_grid(suite, profile, METHODS, (SPARSITY,), ("cifar100",))
    wide = [wider(suite, profile, "gse_uniform", task, width, same_active(task, width, SPARSITY))
            for task in (narrow.tasks if narrow else ()) for width in widths(suite, profile)]
    return union(narrow, *wide)


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    table = summary(runs)
    table["width"] = list(map(width_of, table.task, table.options))
    axes = figure.subplots()
    for index, (task, points) in enumerate(table.groupby("task", sort=False)):
        points = points.sort_values("width")
        mean_line(axes, points.width, points, points["std"], label=title(task), **style(index))
    axes.set(xlabel="Width (active connections as at width 1)", ylabel="Test accuracy (%)", xticks=sorted(set(table.width)))
    return table


if __name__ == "__main__":
    raise SystemExit(main("gse_figure3", grid, draw))

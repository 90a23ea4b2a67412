"""GSE, Figure 3: test accuracy against the width of the network, with as many active connections at every width.

CIFAR-100, widths 1 to 4; 98 % at width 1 (assumed from the supplement's figure 7; the paper's text was not available). Wider CNNs
gain, the ViT loses. Suite digits, and cifar10 in profile quick: the same in miniature, and, if stored, runs with more
connections, because a miniature has few of them at 98 %.
"""
from drawing import main
from gse import WEIGHTS, gse_grid, miniature, not_the_papers, same_active, wider, width_of, widths
from marks import look, mean_line
from published import title
from rows import runs_of, summary

from benchmarks.grid import union

METHODS = {"gse_uniform": "GSE (uniform)"}
SPARSITY, DENSER = 0.98, 0.92015  # at width 1. With DENSER, 4 times the width is as sparse as twice the width is with SPARSITY


def grid(suite, profile):
    """The runs that the figure needs."""
    return at_widths(suite, profile, SPARSITY, widths(suite, profile))


def at_widths(suite, profile, sparsity, wide):
    """Width 1 at this sparsity, and the widths `wide` with the same number of active connections."""
    narrow = gse_grid(suite, profile, METHODS, (sparsity,), ("cifar100",))
    return union(narrow, *(wider(suite, profile, "gse_uniform", task, width, same_active(task, width, sparsity))
                           for task in (narrow.tasks if narrow else ()) for width in wide))


def source(grid, suite, results, profile=None):
    """As `runs_of`, plus stored runs of a miniature with more connections."""
    return runs_of(grid, suite, results, profile,
                   lambda suite, profile: at_widths(suite, profile, DENSER, (2, 4)) if miniature(suite, profile) else ())


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    not_the_papers(runs, "ResNet-56, VGG-16, ViT on CIFAR-100, 200 epochs")
    table = summary(runs)
    table["width"] = list(map(width_of, table.task, table.options))
    weights = [WEIGHTS[task][int(width) - 1] / WEIGHTS[task][0] for task, width in zip(table.task, table.width)]
    table["at_width_1"] = (1 - (1 - table.sparsity) * weights).round(3)
    axes, several = figure.subplots(), table.task.nunique() > 1
    for index, ((task, sparsity), points) in enumerate(table.groupby(["task", "at_width_1"], sort=False)):
        points = points.sort_values("width")
        label = title(task) if several else f"{100 * sparsity:g} % at width 1"
        mean_line(axes, points.width, points, points["std"], label=label, **look(index))
    if not several:
        axes.set_title(title(task))
    axes.set(xlabel="Width (active connections as at width 1)", ylabel="Test accuracy (%)", xticks=sorted(set(table.width)))
    return table


draw.lead = "GSE (uniform): mean ± s.d. over {seeds}; test accuracy at the {epoch}."

if __name__ == "__main__":
    raise SystemExit(main("gse_figure3", grid, draw, source=source))

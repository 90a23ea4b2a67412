"""GSE, supplement, Figure 5: SET and RigL with uniform and Erdos-Renyi densities beside GSE (uniform sampling, Erdos-Renyi).

CIFAR-10 and CIFAR-100, three networks, 90, 95 and 98 %. The published bars are drawn as hollow points.
Suite digits, and cifar10 in profile quick: in miniature.
"""
from drawing import main
from gse import gse_grid, not_the_papers, panels
from marks import accuracy_lines
from published import hollow

from benchmarks.grid import union

METHODS = {"set allocation=uniform": "SET, uniform", "set": "SET, ER", "rigl allocation=uniform": "RigL, uniform", "rigl": "RigL, ER",
           "gse_uniform": "GSE uniform, ER"}


def grid(suite, profile):
    """The runs that the figure needs; Erdos-Renyi is the recipe's allocation."""
    return union(gse_grid(suite, profile, ("set", "rigl", "gse_uniform")),
                 gse_grid(suite, profile, ("set", "rigl"), extra=True, options={"allocation": "uniform"}))


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    import pandas as pd

    not_the_papers(runs)
    tables = [accuracy_lines(axes, part := runs[runs.task == task], METHODS, hollow(part, METHODS))
              for task, axes in panels(figure, runs).items()]
    return pd.concat(tables, ignore_index=True)


draw.labels = METHODS

if __name__ == "__main__":
    raise SystemExit(main("gse_figure5", grid, draw))

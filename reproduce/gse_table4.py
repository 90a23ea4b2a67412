"""GSE, supplement, Table 4: dense networks of width 1 to 4.

The paper: the ViT on CIFAR-100, which does not gain from width even when it is dense (its program for dense networks starts from
PyTorch's weights and warms up for 5 epochs; ours starts as all other methods do, without warm-up). Suite digits, and cifar10 in profile quick:
its own network.
"""
from drawing import main
from gse import gse_grid, not_the_papers, text_table, wider, width_of, widths
from published import hollow, title
from rows import series_of, summary

from benchmarks.grid import union


def grid(suite, profile):
    """The runs that the table needs."""
    narrow = gse_grid(suite, profile, ("dense",), (0.0,), ("cifar100",), ("vit",))
    return union(narrow, *(wider(suite, profile, "dense", task, width, 0.0)
                           for task in (narrow.tasks if narrow else ()) for width in widths(suite, profile)))


def draw(runs, figure):
    """Draws the table into the empty figure and returns it."""
    import pandas as pd

    not_the_papers(runs, "ViT on CIFAR-100, 200 epochs")
    table = pd.concat([summary(runs), hollow(runs, {*series_of(runs)})], ignore_index=True)
    rows = {f"dense {options}".strip(): f"width {width_of(task, options):.0f}×" for task, options in zip(runs.task, runs.options)}
    columns = [(title(task), lambda t, task=task: t.task == task) for task in runs.task.unique()]
    return text_table(figure, table, rows, [columns], "Dense test accuracy (%)")


if __name__ == "__main__":
    raise SystemExit(main("gse_table4", grid, draw))

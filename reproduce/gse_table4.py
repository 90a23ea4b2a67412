"""GSE, supplement, Table 4: dense networks of width 1 to 4.

The paper: the ViT on CIFAR-100, which does not gain from width even when it is dense. Suite digits: its own network.
"""
from drawing import main, union
from gse import WIDTHS, gse_grid, text_table
from published import published, title
from rows import summary, value_of


def grid(suite, profile):
    """The runs that the table needs."""
    which = (suite, profile, ("dense",), (0.0,), ("cifar100",), ("vit",))
    wide = (gse_grid(*which, extra=True, options={"width": float(width)}) for width in WIDTHS.get(suite, (2, 3, 4)))
    return union(gse_grid(*which), *wide)


def draw(runs, figure):
    """Draws the table into the empty figure and returns it."""
    import pandas as pd

    other = published()
    table = pd.concat([summary(runs), other[other.task.isin(runs.task) & (other.method == "dense")]], ignore_index=True)
    rows = {f"dense {options}".strip(): f"width {value_of(options, 'width', 1):.0f}×" for options in runs.options.unique()}
    columns = [(title(task), lambda t, task=task: t.task == task) for task in runs.task.unique()]
    return text_table(figure, table, rows, [columns], "Dense test accuracy (%): measured [published]")


if __name__ == "__main__":
    raise SystemExit(main("gse_table4", grid, draw))

"""GSE, supplement, Table 3: longer training (200, 300 and 400 epochs) at 98 %.

CIFAR-100, three networks; milestones and mask updates stretch with the epochs. Suite digits, and cifar10 in profile
quick: 1, 1.5 and 2 times its epochs, and 4 times if stored.
"""
from drawing import main
from gse import gse_grid, not_the_papers, text_table
from published import hollow, title
from rows import runs_of, series_of, summary, value_of

from benchmarks.grid import union

METHODS = {"gse_uniform": "GSE (uniform)"}
STRETCH, LONGEST = (1, 1.5, 2), 4


def grid(suite, profile):
    """The runs that the table needs."""
    return union(*(stretched(suite, profile, stretch) for stretch in STRETCH))


def stretched(suite, profile, stretch):
    return gse_grid(suite, profile, METHODS, (0.98,), ("cifar100",), extra=stretch > 1, stretch=stretch)


def source(grid, suite, results, profile=None):
    """As `runs_of`, plus stored runs of a still longer training."""
    return runs_of(grid, suite, results, profile, lambda suite, profile: stretched(suite, profile, LONGEST))


def draw(runs, figure):
    """Draws the table into the empty figure and returns it."""
    import pandas as pd

    not_the_papers(runs, "ResNet-56, VGG-16, ViT on CIFAR-100, 200, 300 and 400 epochs")
    series = series_of(runs)
    table = pd.concat([summary(runs), hollow(runs, set(series))], ignore_index=True)
    table = table[(table.source == "measured") | (table["where"] == "Table 3")]
    usual = runs[runs.options == ""].epochs.min()
    lengths = {name: value_of(name.partition(" ")[2], "epochs", usual) for name in series.unique()}
    rows = {name: f"{epochs:.0f} epochs" if epochs == epochs else "usual length" for name, epochs in lengths.items()}  # NaN: no run is of that length
    columns = [(title(task), lambda t, task=task: t.task == task) for task in runs.task.unique()]
    return text_table(figure, table, rows, [columns], "Test accuracy (%)")


draw.lead = "GSE (uniform): mean ± s.d. over {seeds}; test accuracy at the {epoch}."

if __name__ == "__main__":
    raise SystemExit(main("gse_table3", grid, draw, source=source))

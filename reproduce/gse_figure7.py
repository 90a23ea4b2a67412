"""GSE, supplement, Figure 7: training and test accuracy at every epoch for widths 1 to 4, with as many active connections at each.

CIFAR-100; the runs of Figure 3. Suite digits, and cifar10 in profile quick: the same in miniature, with the validation
accuracy.
"""
from drawing import main, tasks_of
from gse import epoch_lines, not_the_papers, width_of
from gse_figure3 import grid
from marks import look
from published import title
from rows import lines_of


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    import pandas as pd

    not_the_papers(runs, "ResNet-56, VGG-16, ViT on CIFAR-100, 200 epochs")
    lines, tables, tasks = lines_of(runs, "curves"), [], tasks_of(runs)
    figure.set_size_inches(7 if len(tasks) > 1 else 3.4, 4.2)
    for column_of_axes, task in zip(figure.subplots(2, len(tasks), squeeze=False, sharex="col").T, tasks):
        here = lines[lines.task == task]
        tested = "test_top1" if here.test_top1.notna().all() else "val_top1"
        for axes, column in zip(column_of_axes, ("train_top1", tested)):
            for options in sorted(here.options.unique()):
                width = int(width_of(task, options))
                part = here[here.options == options]
                table = epoch_lines(axes, part, column, label=f"width {width}×", **look(width - 1) | dict(marker=None))
                tables.append(table.assign(task=task, method=part.method.iloc[0], width=width, sparsity=part.sparsity.iloc[0]))
            name = {"train_top1": "Training", "test_top1": "Test", "val_top1": "Validation"}[column]
            axes.set(ylabel=f"{name} accuracy (%)")
        column_of_axes[0].set_title(title(task))
        column_of_axes[1].set_xlabel("Epoch")
    return pd.concat(tables, ignore_index=True)


draw.lead = "GSE (uniform): mean over {seeds} at every epoch, with their range."

if __name__ == "__main__":
    raise SystemExit(main("gse_figure7", grid, draw))

"""GSE, supplement, Figure 6: test accuracy at every epoch of nine methods at 98 % sparsity.

CIFAR-10 and CIFAR-100, three networks. Published: the last points of the curves, of GSE, RigL and SET those of figure 5 and table 3,
hollow, side by side. Suite digits, and cifar10 in profile quick, where the test set is not looked at in every epoch: the validation
accuracy, in miniature.
"""
from drawing import main
from gse import epoch_lines, gse_grid, not_the_papers, panels, sparse_too
from marks import looks, remark
from published import hollow, title
from rows import lines_of

from benchmarks.tasks import TASKS

METHODS = {"gse_uniform": "GSE (uniform)", "synflow": "SynFlow", "rigl": "RigL", "grasp": "GraSP", "snip": "SNIP", "static": "Static",
           "set": "SET", "imp": "Lottery", "gradual": "Gradual"}
SPARSITY = 0.98
BANDS = ("gse_uniform", "rigl")  # bands of all nine would hide one another


def grid(suite, profile):
    """The runs that the figure needs."""
    return gse_grid(suite, profile, METHODS, (SPARSITY,))


source = sparse_too(METHODS)


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    import pandas as pd

    not_the_papers(runs)
    lines, tables, styles = lines_of(runs, "curves"), [], looks(METHODS)
    for task, axes in panels(figure, runs).items():
        here = lines[lines.task == task]
        column = "test_top1" if here.test_top1.notna().all() else "val_top1"
        end = hollow(runs[runs.task == task], METHODS)
        for index, (method, label) in enumerate(METHODS.items()):
            own = here[here.method == method]
            if own.empty and method not in set(end.method):
                continue
            every = max(1, len(own.epoch.unique()) // 6)
            front = dict(lw=1.4, zorder=4) if method == "gse_uniform" else dict(lw=0.7, zorder=3 if method in BANDS else 2)
            measured = dict(label=label) if method in set(lines.method) else {}  # else its published points stand in the legend
            table = epoch_lines(axes, own, column, method in BANDS, **measured, ms=2.5, markevery=(index * every // len(METHODS), every),
                                **styles[method], **front)
            tables.append(table.assign(task=task, method=method, sparsity=SPARSITY, source="measured"))
            axes.plot([(1.03 + 0.015 * index) * TASKS[task].epochs] * (end.method == method).sum(), end[end.method == method]["mean"],
                      mfc="none", mew=0.7, ms=3, **styles[method] | {"linestyle": ""} | ({} if measured else dict(label=label)))
        above_chance(axes, title(task), {METHODS[table.method.iloc[0]]: table["mean"].iloc[-1] for table in tables
                                         if len(table) and table.task.iloc[0] == task})
        tables.append(end[["task", "method", "mean", "source"]].assign(epoch=TASKS[task].epochs, column="test_top1", sparsity=SPARSITY))
        axes.set(xlim=(0, None), xlabel="Epoch", ylabel=f"{'Test' if column == 'test_top1' else 'Validation'} accuracy (%)")
    return pd.concat(tables, ignore_index=True)


def above_chance(axes, name, ends):
    """If one or two methods learn nothing, so that the others' last means ({method: accuracy}) would take up a small part of the axis, begins it
    above them, where the others' last means take up a quarter; the note names who is below."""
    means = sorted(ends.values())
    low = means[len(means) // 5] if means else 0
    if means and means[-1] - low < (means[-1] - means[0]) / 4:
        axes.set_ylim(bottom=low - 3 * (means[-1] - low))
        below = [f"{method} ({mean:.1f} at the end)" for method, mean in ends.items() if mean < axes.get_ylim()[0]]
        remark(axes.figure, f"{name}: below the axis are first epochs and all of {', '.join(below)}.")


draw.labels = METHODS
draw.lead = "Mean over {seeds} at every epoch of the last cycle; of GSE and RigL with their range."

if __name__ == "__main__":
    raise SystemExit(main("gse_figure6", grid, draw, source=source))

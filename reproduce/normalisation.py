"""Not in the papers: accuracy at every epoch in training, with the statistics of the current batch, and in evaluation, with running statistics.

If masks change until the end, running statistics average over steps with other masks: a network that fails only in evaluation has not failed to learn
(results/FINDINGS.md, "Runs of the papers' own length").
"""
from dataclasses import replace

from drawing import WIDTH, main
from gse import epoch_lines
from marks import looks
from published import title
from rows import lines_of, with_sparser

from benchmarks.suites import suite_grid

METHODS = {"ste_hard": "STE-hard", "ste_soft": "STE-soft", "st3": "ST-3", "gmp": "GMP", "static": "Static"}
HIGH = 0.98  # the lowest sparsity that is drawn


def grid(suite, profile):
    """The runs that the figure needs, all of which other figures need, too; none in a suite that it does not belong to."""
    if suite not in ("cifar10", "digits"):
        return ()
    usual = suite_grid(suite, profile, METHODS)
    return replace(usual, sparsities=tuple(s for s in usual.sparsities if s >= HIGH))


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    import pandas as pd

    lines, tables, styles = lines_of(runs, "curves"), [], looks(METHODS)
    places = sorted(set(zip(lines.task, lines.sparsity)))
    panels = figure.subplots(1, len(places), squeeze=False, sharey=True)[0]
    figure.set_figwidth(WIDTH * (1 if len(places) < 2 else 2))
    for axes, (task, sparsity) in zip(panels, places):
        here = lines[(lines.task == task) & (lines.sparsity == sparsity)]
        for method, label in METHODS.items():
            own = here[here.method == method]
            if own.empty:
                continue
            every = max(1, len(own.epoch.unique()) // 8)
            for column, look in (("val_top1", styles[method] | dict(linestyle="-", markevery=every, ms=2.5, label=label)),
                                 ("train_top1", styles[method] | dict(linestyle=(0, (1, 1)), markevery=every, ms=1.8))):
                table = epoch_lines(axes, own, column, column == "val_top1", **look)
                tables.append(table.assign(task=task, method=method, sparsity=sparsity))
        axes.set(xlim=(0, None), xlabel="Epoch", title=f"{title(task)}, {100 * sparsity:g} %")
    panels[0].set_ylabel("Accuracy (%)")
    return pd.concat(tables, ignore_index=True)


source = with_sparser
draw.labels = METHODS
draw.lead = ("Solid, with the range of the seeds: validation images, with the running statistics of normalisation. Dotted: the training images "
             "(augmented), while they are learnt, with those of each batch. Mean over {seeds}.")

if __name__ == "__main__":
    raise SystemExit(main("normalisation", grid, draw, source=source))

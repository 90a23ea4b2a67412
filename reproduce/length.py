"""Not in the papers: test accuracy against the length of training, which shows what shorter runs tell about full ones.

Methods whose mask changes until the end lose more by short training than others. CIFAR-10 as in ST-3's released code, with the
normalisation statistics of the last batch (`bn_momentum=0.99`).
"""
from dataclasses import replace

from drawing import DENSE_LINE, WIDTH, apart, looks, main, mean_line, suite_grid, tasks_of, union
from published import title
from rows import runs_of, summary

METHODS = {"dense": "Dense", "st3": "ST-3", "gmp": "GMP", "str": "STR", "rigl": "RigL", "ste_hard": "STE-hard", "ste_soft": "STE-soft",
           "static": "Static"}
RELEASED = {"bn_momentum": 0.99}
# {(suite, profile): ((sparsities, epochs (the suite's own first; None: the recipe's), methods, number of seeds at the first, options), ...)}
LENGTHS = {
    ("digits", "paper"): (((0.98,), (None, 120), ("dense", "st3", "gmp", "str", "rigl", "static"), 3, {}),),
    ("cifar10", "paper"): (((0.98,), (None, 10, 40), ("st3", "gmp"), 3, RELEASED),),
    ("cifar10", "quick"): (((0.95, 0.98), (6, 24, 96), ("st3", "gmp", "str", "rigl"), 1, RELEASED),
                           ((0.99,), (6, 24, None), ("ste_hard", "ste_soft", "static"), 3, RELEASED))}


def lengths(suite, profile, every=True):
    """All runs that are drawn if they are stored, or without `every` only those of the suite's own length; none in other suites."""
    grids = []
    for sparsities, epochs, methods, seeds, options in LENGTHS.get((suite, profile), ()):
        usual = suite_grid(suite, profile, methods)
        usual = replace(usual, sparsities=sparsities, seeds=usual.seeds if every else usual.seeds[:seeds], options=options)
        grids += [replace(usual, epochs=length) for length in (epochs if every else epochs[:1])]
    return union(*grids)


def grid(suite, profile):
    """The runs of the suite's own length, the only ones that the suite makes; `launch --epochs` makes the others."""
    return lengths(suite, profile, every=False)


def source(grid, suite, results, profile=None):
    """As `runs_of`, plus stored runs of other lengths and seeds."""
    return runs_of(grid, suite, results, profile, lengths)


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    table = summary(runs)
    places = [(task, s) for task in tasks_of(runs) for s in sorted(set(table.sparsity[(table.task == task) & (table.sparsity > 0)]))]
    panels = figure.subplots(1, len(places) or 1, squeeze=False, sharex=True, sharey=True)[0]
    figure.set_figwidth(WIDTH * min(len(places) or 1, 2))
    ticks = sorted({int(epochs) for epochs in table.epochs})  # the same in all panels
    for axes, (task, sparsity) in zip(panels, places):
        shown = table[(table.task == task) & table.sparsity.isin((0, sparsity))].astype({"epochs": float})
        present = [method for method in METHODS if method in set(shown.method)]
        for index, method in enumerate(present):
            points = shown[shown.method == method].sort_values("epochs")
            dense = method == "dense"
            style = DENSE_LINE if dense else looks(METHODS)[method]
            mean_line(axes, points.epochs / apart(index, len(present), 1.015), points, None if dense else points["std"],
                      label=METHODS[method], **style)
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{epochs:g}" for epochs in ticks])
        axes.minorticks_off()
        axes.set(xlabel="Epochs", title=f"{title(task)}, {100 * sparsity:g} %")
    panels[0].set_ylabel("Test accuracy (%)")
    return table


draw.lead = "Mean ± s.d. over {seeds}; test accuracy at the best validation epoch; points of one length are drawn side by side."

if __name__ == "__main__":
    raise SystemExit(main("length", grid, draw, source=source))

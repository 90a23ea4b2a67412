"""Not in the papers: test accuracy against the length of training, which shows what shorter runs tell about full ones, and against its FLOPs,
which shows what each method makes of a given cost.

Methods whose mask changes until the end lose more by short training than others; those that are sparse from the first step train longer at equal
FLOPs. CIFAR-10 as in ST-3's released code, with the normalisation statistics of the last batch (`bn_momentum=0.99`), except for GSE.
"""
from dataclasses import replace

from costs import costed, flops_axis
from drawing import WIDTH, main, tasks_of
from marks import DENSE_LINE, apart, looks, mean_line, remark
from published import title
from rows import runs_of

from benchmarks.grid import union
from benchmarks.suites import suite_grid

METHODS = {"dense": "Dense", "st3": "ST-3", "gmp": "GMP", "str": "STR", "rigl": "RigL", "gse_uniform": "GSE", "ste_hard": "STE-hard",
           "ste_soft": "STE-soft", "static": "Static"}
RELEASED, SPARSE = {"bn_momentum": 0.99}, {"storage": "sparse"}
# {(suite, profile): ((sparsities, epochs (the suite's own first; None: the recipe's), methods, number of seeds that the suite makes of the first,
# options), ...)}
LENGTHS = {
    ("digits", "paper"): (((0.98,), (None, 120), ("dense", "st3", "gmp", "str", "rigl", "gse_uniform", "static"), 3, {}),
                          ((0.98,), (None, 480), ("rigl", "gse_uniform"), 0, {})),
    ("cifar10", "paper"): (((0.98,), (None, 10, 40), ("st3", "gmp"), 3, RELEASED),),
    ("cifar10", "quick"): (((0.95, 0.98), (6, 24, 96), ("st3", "gmp", "str", "rigl"), 1, RELEASED),
                           ((0.95, 0.98), (6, 12, 24), ("gse_uniform",), 3, {}),
                           ((0.98,), (6, 96), ("gse_uniform",), 0, SPARSE),
                           ((0.99,), (6, 24, None), ("ste_hard", "ste_soft", "static", "st3"), 3, RELEASED))}


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


def tell_options(figure, table):
    """Adds to the note which methods' points have other options than the rest: statistics of normalisation, storage."""
    released = table.options.str.contains("bn_momentum")
    if released.any() and not released.all():
        remark(figure, f"With bn_momentum=0.99, except for {', '.join(METHODS[method] for method in table.method[~released].unique())}.")
    for point in table[table.options.str.contains("storage=sparse")].itertuples():
        remark(figure, f"{METHODS[point.method]}'s {point.epochs} epochs with sparse storage.")


def draw(runs, figure):
    """Draws the runs into the empty figure, a column for each sparsity, against epochs above and against FLOPs below. Returns the table of what was
    drawn."""
    table = costed(runs)
    places = [(task, s) for task in tasks_of(runs) for s in sorted(set(table.sparsity[(table.task == task) & (table.sparsity > 0)]))]
    above, below = figure.subplots(2, len(places) or 1, squeeze=False, sharex="row", sharey=True)
    figure.set_size_inches(WIDTH * min(len(places) or 1, 2), 4.6)
    ticks = sorted({int(epochs) for epochs in table.epochs})  # the same in all panels
    for upper, lower, (task, sparsity) in zip(above, below, places):
        shown = table[(table.task == task) & table.sparsity.isin((0, sparsity))].astype({"epochs": float})
        present = [method for method in METHODS if method in set(shown.method)]
        if len(shown) < len(present) * len(ticks):
            remark(figure, "Not every method has runs of every length.")
        for index, method in enumerate(present):
            points = shown[shown.method == method].sort_values("epochs")
            dense = method == "dense"
            style = DENSE_LINE if dense else looks(METHODS)[method]
            counted = points[points.dense_epochs.notna()]
            for axes, each, x in ((upper, points, points.epochs / apart(index, len(present), 1.015)), (lower, counted, counted.dense_epochs)):
                mean_line(axes, x, each, None if dense else each["std"], label=METHODS[method], **style)
        upper.set_xscale("log")
        upper.set_xticks(ticks, [f"{epochs:g}" for epochs in ticks])
        upper.minorticks_off()
        upper.set(xlabel="Epochs", title=f"{title(task)}, {100 * sparsity:g} %")
        flops_axis(lower, table)
    for first in (above[0], below[0]):
        first.set_ylabel("Test accuracy (%)")
    tell_options(figure, table)
    return table


draw.lead = "Mean ± s.d. over {seeds}; test accuracy at the best validation epoch; points of one length are drawn side by side."

if __name__ == "__main__":
    raise SystemExit(main("length", grid, draw, source=source))

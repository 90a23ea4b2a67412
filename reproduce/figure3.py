"""ST-3, Figure 3: test accuracy against sparsity of all methods (top left), of LRR with fixed augmentation (top right), and of two
other networks (bottom).

Paper: ResNet-20 and VGG-11 on CIFAR-10, WRN-34x2 on CIFAR-100, 3 seeds; top right with ST-3 trained for four times the epochs at
67.23 %. All methods have ST-3's recipe here; the paper has DNW, RigL and GraNet "as recommended by their respective authors" (for GraNet:
`recipe=original`). LRR and its variants pass the sparsities 1 - 0.8^c in their cycles, which gives their points. Which VGG-11 the paper has is not
clear: the one it cites is drawn and, with thin lines and small marks if there are such runs, ST-3 and GMP on the smaller one that its code
builds. Suite digits: the upper panels in miniature.
"""
from dataclasses import replace

from drawing import main, tasks_of
from marks import accuracy_lines, looks, mean_line, remark
from published import hollow, title
from rows import series_of, summary, with_sparser

from benchmarks.grid import union
from benchmarks.suites import suite_grid

ONE_CYCLE = {"dense": "Dense", "st3": "ST-3", "gmp": "GMP", "str": "STR", "probmask": "ProbMask", "granet": "GraNet", "dnw": "DNW",
             "rigl": "RigL"}
CYCLES = {"lrr_st3": "LRR + ST-3", "lrr": "LRR"}
LONGER = {"paper": "st3 epochs=640", "quick": "st3 epochs=24"}
METHODS = {"dense": "Dense", "st3": "ST-3", **CYCLES, **ONE_CYCLE, **dict.fromkeys(LONGER.values(), "ST-3, 4× the epochs"),
           "lrr_aug_reset": "LRR, augmentation reset"}
CODED = {"st3": "ST-3, VGG-11 of its code", "gmp": "GMP, VGG-11 of its code"}
CODE = "model=vgg11_st3code"
AUGMENTATION = ("dense", "lrr", "lrr_aug_reset", "st3", *LONGER.values())


def grid(suite, profile):
    """The runs that the figure needs; none in a suite that it does not belong to."""
    if suite == "imagenet":
        return ()
    one, many = (suite_grid(suite, profile, methods) for methods in (ONE_CYCLE, CYCLES))
    if suite == "digits":
        return union(one, many, replace(one, methods=("lrr_aug_reset",)))
    most = one.sparsities[-1]
    many = replace(many, sparsities=tuple(s for s in (round(1 - 0.8**c, 6) for c in range(5, 30)) if s < most) + (most,))
    if suite != "cifar10":
        return union(one, many)
    reset = replace(many, methods=("lrr_aug_reset",))
    longer = replace(one, methods=("st3",), sparsities=many.sparsities[:1], epochs=int(LONGER[profile].partition("=")[2]))
    if profile == "quick":
        return union(one, many, reset, longer)
    vgg = ("cifar10-vgg11",)
    return union(one, many, reset, longer, replace(one, tasks=vgg), replace(many, tasks=vgg), replace(one, methods=many.methods, tasks=vgg),
                 replace(one, methods=tuple(CODED), tasks=vgg, options=[CODE.split("=")]))


def source(grid, suite, results, profile=None):
    """As `with_sparser`, but missing runs of the code's VGG-11 are left out, so that they do not count as a gap in the figure."""
    runs, profile = with_sparser(grid, suite, results, profile)
    if (suite, profile) == ("cifar10", "quick"):  # for digits, the note says so anyway (REDUCED)
        runs.attrs["out"] += " In miniature; the paper: ResNet-20 and VGG-11 on CIFAR-10, WRN-34x2 on CIFAR-100."
    return runs[(runs.options != CODE) | runs.accuracy.notna()], profile


def as_coded(axes, runs):
    """Draws the runs on the code's VGG-11, in the colours of their methods, and returns the table that was drawn."""
    table, styles = summary(runs), looks(CODED)
    for method, label in CODED.items():
        points = table[table.method == method].sort_values("sparsity")
        if len(points):
            mean_line(axes, 1 - points.sparsity, points, points["std"], **styles[method] | dict(linestyle="-"), ms=2.5, lw=0.5, label=label)
    return table


def lower_end(runs):
    """The lower end of the axis that shows the effect of the augmentation: below LRR with and without its reset; None without such runs."""
    means = summary(runs[runs.method.isin(("lrr", "lrr_aug_reset"))])["mean"]
    return means.min() - max(0.05 * (means.max() - means.min()), 0.5) if len(means) else None


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    import pandas as pd

    series = series_of(runs)
    other = LONGER["paper" if LONGER["quick"] in set(series) else "quick"]
    labels = {method: label for method, label in METHODS.items() if method != other}  # the same colours in both profiles
    usual = [*ONE_CYCLE, *CYCLES]
    tasks = tasks_of(runs, hollow(runs, usual).task)
    own = runs.task == tasks[0]
    longer = LONGER["paper"] in set(series_of(hollow(runs[own], AUGMENTATION)))
    augmented = longer or bool(runs.accuracy[own & series.isin(AUGMENTATION[1:3])].notna().any())
    small = tasks[0].startswith(("digits", "cifar10-resnet20")) and augmented
    shown = [(tasks[0], usual)] + [(tasks[0], AUGMENTATION)] * small + [(task, usual) for task in tasks[1:]]
    figure.set_size_inches(7 if len(shown) > 1 else 3.4, 2.9 if len(shown) < 3 else 5.0)
    grid, tables = figure.subplots((len(shown) + 1) // 2, min(len(shown), 2), squeeze=False).ravel(), []
    for axes, (task, methods) in zip(grid, shown):
        part = runs[(runs.task == task) & series.isin(methods)]
        tables.append(accuracy_lines(axes, part, labels, hollow(part, methods), lower_end(part) if methods is AUGMENTATION else None))
        if small and task == tasks[0]:
            axes.set_title(f"{title(task)}: {'the augmentation of LRR' if methods is AUGMENTATION else 'all methods'}")
        coded = runs[(runs.task == task) & (runs.options == CODE)]
        tables += [as_coded(axes, coded)] if len(coded) else []
    for axes in grid[len(shown):]:
        axes.set_visible(False)
    levels = [runs.sparsity[own & runs.accuracy.notna() & (series == method)].min() for method in ("lrr", "st3")]
    if small and levels[0] < levels[1]:
        remark(figure, f"Of ST-3 in the usual epochs there are no runs below {100 * levels[1]:g} %.")
    return pd.concat(tables).drop_duplicates()


draw.labels = METHODS

if __name__ == "__main__":
    raise SystemExit(main("figure3", grid, draw, source=source))

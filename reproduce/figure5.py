"""ST-3, Figure 5 (ablation): test accuracy against sparsity for hard and soft thresholding, without and with
rescaling, without and with a straight-through gradient.

Paper: ResNet-20 on CIFAR-10, 3 seeds; rescaling helps soft thresholding (which is then ST-3) and harms hard thresholding. Without
the straight-through gradient (no STE) only the weights that are kept learn. Suite digits: the same in miniature.
"""
from dataclasses import replace

from drawing import main
from marks import accuracy_lines
from rows import with_sparser

from benchmarks.grid import union
from benchmarks.suites import suite_grid

METHODS = {"dense": "Dense", "ste_hard": "STE-hard", "ste_soft": "STE-soft", "ste_hard_rescale": "STE-hard + rescale",
           "st3": "STE-soft + rescale (ST-3)"}
NO_STE = {f"{method} straight_through=False": label.replace("STE-", "").replace(" (ST-3)", "").capitalize() + ", no STE"
          for method, label in METHODS.items() if method != "dense"}


def grid(suite, profile):
    """The runs that the figure needs; none in a suite that it does not belong to."""
    if suite not in ("cifar10", "digits"):
        return ()
    base = suite_grid(suite, profile, METHODS)
    seeds = base.seeds if suite == "cifar10" else base.seeds[:1]
    return union(base, replace(base, methods=base.methods[1:], seeds=seeds, options={"straight_through": False}))


source = with_sparser


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    return accuracy_lines(figure.subplots(), runs, METHODS | NO_STE)


draw.labels = METHODS | NO_STE

if __name__ == "__main__":
    raise SystemExit(main("figure5", grid, draw, source=source))

"""ST-3, Figure 1: test accuracy against sparsity, hard against soft thresholding with a straight-through gradient (no rescaling).

Paper: ResNet-20 on CIFAR-10, 3 seeds; hard thresholding fails at 99 %. Suite digits: the same runs in miniature.
"""
from dataclasses import replace

from drawing import main
from marks import accuracy_lines
from published import hollow

from benchmarks.suites import suite_grid

METHODS = {"dense": "Dense", "ste_hard": "STE-hard", "ste_soft": "STE-soft"}


def grid(suite, profile):
    """The runs that the figure needs; none in a suite that it does not belong to."""
    if suite not in ("cifar10", "digits"):
        return ()
    usual = suite_grid(suite, profile, METHODS)
    return usual if suite == "digits" else replace(usual, sparsities=tuple(sorted({*usual.sparsities, 0.99})))


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    return accuracy_lines(figure.subplots(), runs, METHODS, hollow(runs, METHODS))


draw.labels = METHODS

if __name__ == "__main__":
    raise SystemExit(main("figure1", grid, draw))

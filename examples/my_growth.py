"""A method that drops and grows connections: python -m benchmarks leaderboard digits --method examples/my_growth.py:GrowByMomentum"""
from methods.base import through
from methods.dynamic import DropAndGrow


class GrowByMomentum(DropAndGrow):
    """Drops the smallest active weights, as RigL, and grows as many where the optimiser's momentum is largest."""

    gradient = "dense"                                      # of all weights at every step, which is what training FLOPs count

    def forward(self, theta):
        return through(theta * self.mask, theta)            # computes with the mask; the gradient goes to all weights

    def after_step(self, run):
        run.clear(~self.mask, state=False)                  # the step has moved inactive weights, too: back to zero, but with their momentum

    def growth_score(self, run):
        return run.momentum.abs()

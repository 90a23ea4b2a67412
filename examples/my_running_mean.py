"""A method with a state and a schedule of its own: python -m benchmarks leaderboard digits --method examples/my_running_mean.py:RunningMean"""
import torch

from methods.allocation import count
from methods.base import Sparsifier, option


class RunningMean(Sparsifier):
    """Prunes at the end of each epoch, more each time until `prune_end`, the weights that were smallest on average, not only now."""

    follow = option(0.1, least=0, most=1, help="how far the running mean of |weight| follows in each step")
    prune_end = option(0.5, least=0, most=1, help="share of training after which the sparsity is the final one")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)       # makes self.mask and self.budget
        self.register_buffer("mean", torch.zeros(layout.size))   # a buffer, so that checkpoints have it

    def forget(self, run):
        super().forget(run)                                 # before another training of the same model: all weights are active again
        self.mean.zero_()

    @torch.no_grad()
    def remember(self, theta):
        self.mean.lerp_(theta.abs(), self.follow)

    def after_step(self, run):
        self.repeated(self.remember, run.theta)             # what every step does: on a GPU recorded once and replayed
        if run.epoch_ends:
            share = min((run.epoch + 1) / max(self.prune_end * run.epochs, 1), 1)
            self.prune(run, count(self.layout.size, self.sparsity * share))  # of the active ones those with the largest saliency stay

    def saliency(self, run):
        return self.mean

    def logged(self):                                       # stored at the end of each epoch, in logged.csv
        return {"smallest active mean": self.mean[self.mask].min()}

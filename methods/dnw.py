"""Discovering neural wirings (Wortsman et al. 2019)."""
from functools import cached_property

import torch

from methods.allocation import whole
from methods.base import Sparsifier, through
from methods.ranking import keep_each


class DNW(Sparsifier):
    """Each layer's smallest weights are zero in the forward pass from the first step on; gradients go straight through (Wortsman et al. 2019)."""

    name = "dnw"
    original = {"imagenet": dict(epochs=100, batch_size=256, lr=0.256, momentum=0.875, weight_decay=3.0517578125e-5, schedule="cosine",
                                 label_smoothing=0.1, clip=0.0, bn_momentum=0.1)}
    gradient = "dense"

    @cached_property
    def counts(self):
        """Active weights of each layer."""
        return [n - whole(self.sparsity, n) for n in self.layout.sizes]

    def final_budget(self):
        return sum(self.counts)

    def forward(self, theta):
        return through(theta * self.mask, theta)

    def start(self, run, cycle):
        self.after_step(run)

    def after_step(self, run):
        self.repeated(self.rank, run.theta, *self.counts)

    @torch.no_grad()
    def rank(self, theta, *counts):
        self.set_mask(keep_each(theta.abs(), counts, self.layout.sizes))

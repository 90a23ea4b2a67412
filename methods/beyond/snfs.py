"""Sparse momentum, "sparse networks from scratch" (Dettmers & Zettlemoyer, 2019)."""
import math

import torch

from methods.allocation import round_counts
from methods.base import option, through
from methods.dynamic import Static
from methods.granet import GraNet
from methods.ranking import keep_each
from methods.warn import warn


class SNFS(Static):
    """Drops by magnitude, shares growth out over layers by mean momentum, and grows by momentum (Dettmers & Zettlemoyer 2019).

    Drops the same share of every layer, at the end of an epoch and so before its evaluation (in the released code after it). Needs an optimiser with
    momentum, and the dense gradient at every step.
    """

    name = "snfs"
    gradient = "dense"
    original = {"cifar": dict(epochs=100, batch_size=100, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_all=True,
                              milestones=(25_000 / 45_000,),  # steps, of 100 epochs of the 45,000 images that are not held out
                              augmentation="granet",  # which pads by reflection
                              validation=True, clip=0.0, bn_momentum=0.1)}
    allocation = option("uniform", "erk", "er", "er_gse")
    every = option(0, help="steps between two updates; 0: one at the end of each epoch but the last")
    fraction = GraNet.fraction  # share dropped, from .5 to .005 as a cosine over the whole of training

    def start(self, run, cycle):
        if (self.every or run.steps_per_epoch) >= run.total_steps:
            warn(f"{self.called} cannot change its mask in time: of {run.total_steps} steps, its first update at step "
                 f"{self.every or run.steps_per_epoch} comes too late")
        super().start(run, cycle)

    def forward(self, theta):
        return through(theta * self.mask, theta)

    def after_step(self, run):
        run.clear(~self.mask, state=False)
        done = run.step + 1
        if done % (self.every or run.steps_per_epoch) == 0 and done < run.total_steps:
            self.update(run, self.fraction(run))
            run.clear(~self.mask, state=False)

    @torch.no_grad()
    def update(self, run, fraction):
        """After the optimiser's step: drop `fraction` of each layer, grow as many; `after_step` clears the weights outside the mask."""
        sizes, momentum = self.layout.sizes, run.momentum.abs()
        active = [int(n) for n in self.layout.layer_sums(self.mask)]
        sums = self.layout.layer_sums(momentum * self.mask).tolist()
        means = [total / max(n, 1) for total, n in zip(sums, active)]
        shares = [mean / sum(means) for mean in means] if 0 < sum(means) < math.inf else [1 / len(sizes)] * len(sizes)
        dropped = []
        for n, size, share in zip(active, sizes, shares):
            # a nearly full layer with more than an equal share of the growth has too little room to regrow all that it would drop
            full = 1 - n / size < 0.2 and share > 1 / len(sizes)
            dropped.append(math.ceil((min(1 - n / size, fraction) if full else fraction) * n - 1e-9))
        kept = [n - d for n, d in zip(active, dropped)]
        grown = share_out(sum(dropped), shares, [size - k for size, k in zip(sizes, kept)])
        survivors = keep_each(run.theta.abs().masked_fill(~self.mask, -1), kept, sizes)
        self.set_mask(survivors | keep_each(momentum.masked_fill(survivors, -1), grown, sizes))


def share_out(total, shares, room):
    """`total` connections as one integer per layer, by these shares of it, none above its room."""
    real, most = [total * share for share in shares], [0.99 * r for r in room]
    for _ in shares:  # what a layer cannot take is spread evenly over those that can
        excess = sum(max(r - m, 0) for r, m in zip(real, most))
        real = [min(r, m) for r, m in zip(real, most)]
        free = [r < m for r, m in zip(real, most)]
        if not any(free):
            break
        real = [r + excess / sum(free) * f for r, f in zip(real, free)]
    return round_counts([min(r, m) for r, m in zip(real, most)], total, room, least=0)

"""GraNet: gradual pruning with zero-cost neuroregeneration (Liu et al. 2021)."""
import math
from functools import cached_property

from methods.allocation import count, whole
from methods.base import option, ramp
from methods.dynamic import RigL
from methods.ranking import keep_each


# Its released code pads CIFAR-10 by reflection and CIFAR-100 with zeros, with that data set's own normalisation. It chooses the epoch that
# counts by the test images; here held-out images choose it.
CIFAR = dict(epochs=160, batch_size=128, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, decay_all=True, milestones=(0.5, 0.75),
             clip=0.0, validation=True, bn_momentum=0.1, interval=1000, prune_end=0.5)
IMAGENET = dict(epochs=100, batch_size=2 * 64, lr=0.1, momentum=0.9, weight_decay=1e-4, schedule="steps", milestones=(0.3, 0.6, 0.9),
                warmup=5.0, label_smoothing=0.1, clip=0.0, bn_momentum=0.1, interval=4000, prune_end=0.3)


class GraNet(RigL):
    """Every `interval` steps prune globally along a cubic schedule, then drop and regrow by gradient in each layer (Liu et al. 2021)."""

    name = "granet"
    original = {"cifar10": dict(CIFAR, augmentation="granet"), "cifar100": dict(CIFAR, augmentation="gse"), "imagenet": IMAGENET}
    interval = option(1000, least=1)
    initial_sparsity = option(0.5, most=0.999, help="sparsity of the first, random mask; 0 starts dense")
    prune_start = option(0.0, most=1, help="share of training at which pruning starts")
    prune_end = option(0.5, most=1, help="share of training at which the target is reached")
    exact_k = option(True, help="false: the released code for CIFAR, which keeps one weight too few and stops one update before the target")
    regenerate = option(True, help="false: pruning alone, the released code's GMP")
    drop_rounding = option("ceil", "floor")
    noise = option(0.0)
    scope, regrow, score_batches = "layer", "keeps", "train_batch"
    drop_fraction = update_end = skip_step = None  # unused: `fraction` and the updates after the step replace them
    changes = "prune"

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.exact = self.exact_k

    @cached_property
    def counts(self):
        first = min(self.initial_sparsity, self.sparsity)
        counts = self.allocate(first)
        # er_gse may fall short even of the final budget, and what is missing would never be grown
        return counts if sum(counts) >= self.final_budget() else self.allocate(first, redistribute=True)

    def final_budget(self):
        return count(self.layout.size, self.sparsity)

    def first_mask(self, score):
        mask = super().first_mask(score)
        # if bernoulli sampling happens to leave fewer than the budget, the exact counts are drawn instead
        short = self.exact and int(mask.sum()) < self.budget
        return keep_each(score, self.counts, self.layout.sizes) if short else mask

    def fraction(self, run):
        """α_t, the drop fraction of the regeneration, from .5 to .005 over the whole of training (released code)."""
        return 0.005 + (0.5 - 0.005) * (1 + math.cos(math.pi * (run.step + 1) / run.total_steps)) / 2

    def idle(self, run):
        return whole(self.prune_end, run.total_steps) < self.interval

    def prune(self, run, kept):
        super().prune(run, min(kept, int(self.mask.sum())))  # er_gse's first mask may have fewer

    def before_step(self, run):
        """GraNet changes its mask after the step."""

    def after_step(self, run):
        run.clear(~self.mask)
        done = run.step + 1
        if done % self.interval == 0:
            update = done // self.interval
            first, last = (whole(share, run.total_steps) // self.interval for share in (self.prune_start, self.prune_end))
            if first <= update <= last - (not self.exact_k):
                initial = min(self.initial_sparsity, self.sparsity)
                sparsity = initial + (self.sparsity - initial) * ramp(update, first, last)
                size = self.layout.size
                self.prune(run, count(size, sparsity) if self.exact_k else int(size * (1 - sparsity)) - 1)
            if self.regenerate and update >= first:  # no connection moves before
                self.change_mask(run)
        if done == run.total_steps and self.exact_k:  # reaches the target if the ramp ended before its first update
            self.prune(run, self.budget)

"""The dense reference and gradual magnitude pruning."""
import math

import torch

from methods.allocation import count, share_counts, whole
from methods.base import Ramped, Sparsifier, option
from methods.dynamic import DynamicSparse
from methods.ranking import keep, keep_each


class Dense(Sparsifier):
    """Nothing pruned, whatever sparsity is asked for."""

    name = "dense"

    def final_budget(self):
        return self.layout.size

    def forward(self, theta):
        return theta


class GMP(Ramped):
    """Gradual magnitude pruning (Zhu & Gupta 2018), in ST-3's homogenised form: global ranking at every step."""

    name = "gmp"
    mask_form = option("sticky", "nonsticky", "literal", help="sticky: pruned weights stay zero; nonsticky: they keep their value and may return; "
                       "literal: they are zeroed, and may return by their momentum (ST-3's code)")
    scope = option("global", "layer", help="weights are ranked over all layers, or in each, of which the same share is kept")
    every = option(1, least=1, help="steps between two prunings, besides the one that ends the ramp")

    def refresh(self, theta, sparsity):
        kept, _ = self.kept(sparsity)
        if self.scope == "global" or kept == self.layout.size:
            super().refresh(theta, sparsity)
        else:
            self.repeated(self.rank_each, theta, *share_counts(self.layout.sizes, kept))

    @torch.no_grad()
    def rank_each(self, theta, *kept):
        self.set_mask(keep_each(theta.abs(), kept, self.layout.sizes))

    def after_step(self, run):
        sparsity = self.scheduled(run, run.step + 1)
        ends_ramp = self.scheduled(run, run.step) < self.sparsity == sparsity
        if (run.step + 1) % self.every and not ends_ramp:
            return
        before = run.step + 1 - self.every
        if self.mask_form == "sticky" and before > 0 and self.scheduled(run, before) == sparsity:
            return  # the pruning before left as many, and no other can be active
        kept, _ = self.kept(sparsity)
        counts = [kept] if self.scope == "global" else share_counts(self.layout.sizes, kept)
        self.repeated(self.cut, run, *counts) if kept < self.layout.size else self.keep_all()

    @torch.no_grad()
    def cut(self, run, *kept):
        """As `prune`, but without waiting for the device, as it may run at every step. kept: how many of all weights, or of each layer's."""
        sticky, score = self.mask_form == "sticky", self.saliency(run)
        score = score.masked_fill(~self.mask, -1) if sticky else score
        self.set_mask(keep(score, *kept) if self.scope == "global" else keep_each(score, kept, self.layout.sizes))
        if self.mask_form != "nonsticky":
            run.clear(~self.mask, state=sticky)


class Gradual(Sparsifier):
    """GSE's gradual magnitude pruning: sticky, cosine schedule, one pruning every `interval` steps."""

    name = "gradual"
    interval = option(1000, least=1, help="steps between two prunings")
    update_end = option(0.6, most=1, help="share of training at which the schedule ends")
    final_snap = option(True, help="prune to the exact target at the end; false: GSE's code, whose last update falls short of it")
    changes, warn_if_idle = "prune", DynamicSparse.warn_if_idle

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.exact = self.final_snap

    def start(self, run, cycle):
        self.warn_if_idle(run)

    def last(self, run):
        """The step that ends the schedule."""
        return min(whole(self.update_end, run.total_steps), run.total_steps - 1)

    def idle(self, run):
        """Whether the schedule ends before, or with, the first regular pruning: then nothing is gradual."""
        return self.interval > max(self.last(run), 1)

    def before_step(self, run):
        last = self.last(run)
        due = (run.step + 1) % self.interval == 0 and run.step <= last
        if due or (self.final_snap and run.step == last):
            share = 0.5 * (1 - math.cos(math.pi * run.step / last)) if last else 1.0
            self.prune(run, count(self.layout.size, self.sparsity * share))

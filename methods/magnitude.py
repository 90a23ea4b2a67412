"""The dense reference and gradual magnitude pruning."""
import math

import torch

from methods.allocation import count
from methods.base import Ramped, Sparsifier, option
from methods.ranking import keep


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
    mask_form = option("sticky", "nonsticky", "literal", help="pruned weights stay zero; may return; ST-3's code: momentum is left")

    def after_step(self, run):
        kept, _ = self.kept(self.scheduled(run, run.step + 1))
        self.repeated(self.cut, run, kept) if kept < self.layout.size else self.open()

    @torch.no_grad()
    def cut(self, run, kept):
        """As `prune` does, but at every step, so that the device is not waited for."""
        sticky, score = self.mask_form == "sticky", self.saliency(run)
        self.set_mask(keep(score.masked_fill(~self.mask, -1) if sticky else score, kept))
        if self.mask_form != "nonsticky":
            run.clear(~self.mask, state=sticky)


class Gradual(Sparsifier):
    """GSE's gradual magnitude pruning: sticky, cosine schedule, one pruning every `interval` steps."""

    name = "gradual"
    interval = option(1000, least=1, help="steps between two prunings")
    update_end = option(0.6, most=1, help="share of training at which the schedule ends")
    final_snap = option(True, help="prune to the exact target at the end; false: GSE's code, whose last update falls short of it")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.exact = self.final_snap

    def before_step(self, run):
        last = min(int(self.update_end * run.total_steps), run.total_steps - 1)
        due = (run.step + 1) % self.interval == 0 and run.step <= last
        if due or (self.final_snap and run.step == last):
            share = 0.5 * (1 - math.cos(math.pi * run.step / last)) if last else 1.0
            self.prune(run, count(self.layout.size, self.sparsity * share))

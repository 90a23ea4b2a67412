"""Repeated training of one mask, the control of learning-rate rewinding: cyclic static and SCULPT (Gadhikar et al., 2024)."""
from functools import cached_property

import torch

from methods.allocation import count, whole
from methods.at_init import SNIP, SynFlow
from methods.base import Cycle, option
from methods.cycles import Iterative
from methods.dynamic import Static

SPLITS = ("constant", "linear_down", "linear_up", "exponential_down", "exponential_up", "alternating", "plateau", "peak")


def cycle_lengths(split, total, cycles):
    """`total` epochs split over so many cycles, each at least 1; rounding down loses some epochs, as in the released code."""
    n, half = cycles, cycles // 2

    def triangle(length):
        return [(i + 1) / (length * (length + 1) / 2) for i in range(length)]

    kind, _, way = split.partition("_")
    if kind == "constant" or n == 1:
        shares = [1 / n] * n
    elif kind == "linear":
        shares = triangle(n)
    elif kind == "exponential":
        factor = 0.5 ** (1 / (n - 1))
        shares = [factor ** (n - 1 - i) * (1 - factor) / (1 - factor ** n) for i in range(n)]
    elif kind == "alternating":
        shares = [1 / (1 + i % 2) / (n - half) for i in range(n)]
    elif kind == "plateau":
        shares = triangle(half) + [1 / n] * (n - half)
    else:
        shares = triangle(half) + triangle(n - half)[::-1]
    if way == "down":
        shares.reverse()
    lengths = [whole(share, total) for share in shares]
    excess = max(sum(lengths) / total, 1)
    return [max(int(length / excess), 1) for length in lengths]


class CyclicStatic(Static):
    """Trains one fixed mask for several whole learning-rate schedules; the weights go on, the optimiser is fresh (Gadhikar et al. 2024)."""

    name = "cyclic_static"
    level_list = option("", help="sparsities, such as 0,0.5,0.9, that are only counted: as many cycles, where repeats=0; empty: those of LRR")
    repeats = option(0, help="cycles; 0: as many as LRR takes to this sparsity")
    split = option(*SPLITS, help="how the epochs of all cycles are split over them")
    graph = option("random", "snip", "synflow", help="the mask: random with the counts of `allocation`, or by that score")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.exact = self.exact or self.graph != "random"

    def graph_sparsity(self):
        """Sparsity of the mask before training."""
        return self.sparsity

    @cached_property
    def counts(self):
        return self.allocate(self.graph_sparsity())

    def final_budget(self):
        return sum(self.counts) if self.graph == "random" else count(self.layout.size, self.graph_sparsity())

    def cycles(self, epochs):
        number = self.repeats or len(Iterative.levels(self.sparsity, self.chosen))
        return [Cycle(length) for length in cycle_lengths(self.split, number * epochs, number)]

    def start(self, run, cycle):
        if cycle:
            run.optimizer.state.clear()
        elif self.graph == "random":
            super().start(run, cycle)
        else:
            scored = {"snip": SNIP, "synflow": SynFlow}[self.graph](self.layout, self.graph_sparsity()).to(run.theta.device)
            self.set_mask(scored.choose(run))
            if self.init == "sparse":
                self.initialise(run)
            run.clear(~self.mask)


class SCULPT(CyclicStatic):
    """Cycles with a mask of low sparsity, one global magnitude pruning to the target before the last cycle (Gadhikar et al. 2024)."""

    name = "sculpt"
    initial_sparsity = option(0.5, most=0.999, help="sparsity of the mask before training")

    def graph_sparsity(self):
        return min(self.initial_sparsity, self.sparsity)

    def final_budget(self):
        self.first_budget = super().final_budget()
        return min(count(self.layout.size, self.sparsity), self.first_budget)

    def budget_at(self, cycle):
        return self.budget if cycle == len(self.cycles(1)) - 1 else self.first_budget

    @torch.no_grad()
    def start(self, run, cycle):
        super().start(run, cycle)
        if cycle == len(run.cycles) - 1:
            self.prune(run, min(self.budget, int(self.mask.sum())))  # chance may have left fewer (bernoulli)

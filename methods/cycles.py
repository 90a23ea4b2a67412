"""Methods of several training cycles: learning-rate rewinding and lottery tickets."""
import math
from itertools import pairwise

from methods.allocation import count, count_above
from methods.base import Cycle, Sparsifier, option
from methods.st3 import ST3


class Iterative(Sparsifier):
    """Prune, rewind, train again: one cycle for each level of sparsity."""

    dense_first = True  # the first cycle prunes nothing
    level_list = option("", help="sparsities of the cycles, such as 0,0.5,0.9 (GSE); empty: 20 % of what is left at a time")

    @classmethod
    def levels(cls, sparsity, options):
        """Those of `level_list`, or of 20 % steps, up to `sparsity`. Raises ValueError for a list that does not rise or leaves [0, 1]."""
        text = options.get("level_list", cls.level_list.default)
        listed = [1 - 0.8**c for c in range(100)]
        if text:
            try:
                listed = [float(word) for word in text.split(",")]
                rising = all(b - a > 1e-6 for a, b in pairwise(listed))  # two cycles of one level would share a row
            except ValueError:
                rising = False
            if not rising or not all(0 <= level <= 1 for level in listed):
                raise ValueError(f"option level_list takes rising sparsities with commas between, not {text!r}")
        same = [level for level in listed if abs(level - sparsity) < 1e-6]
        return [level for level in listed if level < sparsity - 1e-6] + (same or [sparsity])

    def cycles(self, epochs):
        return [Cycle(epochs)] * len(self.levels(self.sparsity, self.chosen))

    def level(self, cycle):
        return self.levels(self.sparsity, self.chosen)[cycle]

    def budget_at(self, cycle):
        return count(self.layout.size, self.level(cycle))

    def final_budget(self):
        """Active weights at the end. Raises ValueError for a `level_list` that leaves out the dense first cycle."""
        if self.dense_first and self.level(0) > 0:
            raise ValueError(f"option level_list must begin with 0, for the first cycle of {self.called} is dense, not {self.level_list!r}")
        return self.budget_at(-1)


class LRR(Iterative):
    """Learning-rate rewinding: weights go on from the cycle before, the learning rate starts again (Renda et al. 2020)."""

    name = "lrr"
    source = option("best", "last", help="weights that the next cycle starts from: best on validation, or last (where nothing is held out, too)")
    momentum = option("reset", "keep", help="the optimiser's, at the start of a cycle")
    threshold = option("quantile_lerp", "topk_exact", help="how many weights a sparsity keeps")
    replay = option("none", "all", "crops", help="all: later cycles see the first cycle's batches; crops: each image as it was cropped and flipped "
                    "in the first cycle, in another order")

    @property
    def keeps_best(self):
        return self.source == "best"

    def budget_at(self, cycle):
        lerp = self.threshold == "quantile_lerp"
        return count_above(self.layout.size, self.level(cycle)) if lerp else super().budget_at(cycle)

    def start(self, run, cycle):
        if cycle:
            self.rewind(run)
            self.prune(run, self.budget_at(cycle))

    def rewind(self, run):
        """Between two cycles: back to the best weights, and without momentum, as the options say."""
        if self.source == "best":
            run.rewind("best")
        if self.momentum == "reset":
            run.optimizer.state.clear()


class LRRAugReset(LRR):
    """LRR whose cycles all see the same batches: ST-3's explanation of what LRR gains (figure 3, top right).

    The training loop repeats them, the suite's by itself; without, this is LRR.
    """

    name = "lrr_aug_reset"
    replay = option("all", "crops", "none")


class LRRST3(LRR, ST3):
    """LRR's levels with ST-3's forward pass; the dense weights survive, so that a zeroed weight may return."""

    name = "lrr_st3"
    dense_first = False
    ramp_start = ramp_end = ramp_power = ramp_granularity = ft_epochs = 0
    rewind_finetune = False
    mask_form = option("live", "frozen_in_cycle", help="threshold at every step, as the paper implies, or once a cycle, as coded")

    def start(self, run, cycle):
        if cycle:
            self.rewind(run)
        self.refresh(run.theta, self.level(cycle))

    def before_step(self, run):
        """Every cycle trains the dense weights, unlike ST-3's fine-tuning."""

    def after_step(self, run):
        if self.mask_form == "live":
            self.refresh(run.theta, self.level(run.cycle))


class IMP(Iterative):
    """Lottery tickets: weights rewind to an early step and train again from there (Frankle & Carbin 2019, Frankle et al. 2020)."""

    name = "imp"
    # open_lth's recipe for ResNet-20, except its normalisation of the images
    original = {"cifar": dict(epochs=160, batch_size=128, lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True,
                              milestones=(80 / 160, 120 / 160), validation=False, augmentation="gse", clip=0.0, bn_momentum=0.1)}
    rewind_epoch = option(0, help="epoch of the first cycle that weights rewind to")
    rounding = option("exact", "open_lth", help="exact: each level prunes round(0.2 n) of n weights; open_lth: ceil(0.2 n) + 1, as in "
                      "its code; not with level_list")

    def cycles(self, epochs):
        """The levels' cycles, of which all but the first begin at `rewind_epoch`. Raises ValueError if that is beyond their end."""
        if self.rewind_epoch >= epochs:
            raise ValueError(f"option rewind_epoch must be less than the {epochs} epochs of a cycle, not {self.rewind_epoch}")
        first, *others = super().cycles(epochs)
        return [first, *(cycle._replace(first=self.rewind_epoch) for cycle in others)]

    def budget_at(self, cycle):
        if self.level_list:
            return super().budget_at(cycle)
        cycle %= len(self.levels(self.sparsity, self.chosen))
        last = abs(self.level(cycle) - (1 - 0.8**cycle)) > 1e-6  # not one of the 20 % steps
        kept = self.layout.size
        for _ in range(cycle - last):
            kept -= round(0.2 * kept) if self.rounding == "exact" else math.ceil(0.2 * kept) + 1
        return min(kept, super().budget_at(cycle)) if last else kept

    def start(self, run, cycle):
        if cycle == 0:
            run.snapshot("rewind")
        else:
            self.prune(run, self.budget_at(cycle))
            run.rewind("rewind")
            run.optimizer.state.clear()
            run.clear(~self.mask)

    def after_step(self, run):
        if run.step + 1 == self.rewind_epoch * run.steps_per_epoch:  # in the first cycle alone: the others begin here
            run.snapshot("rewind")

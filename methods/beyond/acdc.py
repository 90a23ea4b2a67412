"""AC/DC: alternating compressed and decompressed training (Peste et al., NeurIPS 2021)."""
import math

import torch

from methods.base import Sparsifier, option
from methods.ranking import keep

# epochs at which sparse and dense phases begin in turn, and the length of the training that they belong to
TABLES = {"scaled": (range(10, 171, 20), 200), "imagenet": ([*range(10, 76, 5), 85], 100)}
CIFAR = dict(epochs=200, weight_decay=5e-4, decay_all=True, clip=0.0, bn_momentum=0.1, validation=False)


class ACDC(Sparsifier):
    """Alternates dense phases with sparse ones, which keep the largest weights of all at the target sparsity; ends sparse (Peste et al. 2021)."""

    name = "acdc"
    # its recipes for ResNet-20 (CIFAR-10) and WRN-28-10 (CIFAR-100); all training images are trained on, as in its code,
    # whose rate falls after epochs 65, 125 and 185 (75, 115, 155), counted from 0
    original = {"cifar10": dict(CIFAR, lr=0.1, milestones=(66 / 200, 126 / 200, 186 / 200), augmentation="zero"),
                "cifar100": dict(CIFAR, lr=0.08, nesterov=True, milestones=(76 / 200, 116 / 200, 156 / 200), augmentation="gse"),
                "imagenet": dict(epochs=100, batch_size=256, lr=0.256, momentum=0.875, weight_decay=3.05e-5, decay_all=True, schedule="cosine",
                                 label_smoothing=0.0, clip=0.0, bn_momentum=0.1, table="imagenet")}
    table = option("scaled", "imagenet", help="where phases begin: scaled: as in its 200 epochs of CIFAR; imagenet: as in its 100 of ImageNet; "
                   "both stretched to the length of training")
    count = option("exact", "literal", help="literal: the weights above the K-th largest, one fewer")

    def final_budget(self):
        return super().final_budget() if self.count == "exact" else math.ceil(self.layout.size * (1 - self.sparsity)) - 1

    def phase_starts(self, epochs):
        """The first epochs of the phases, sparse and dense in turn; a training too short for them ends with a sparse epoch."""
        begins, length = TABLES[self.table]
        found = [-(-b * epochs // length) for b in begins]
        return found if found[-1] < epochs else [epochs - 1]

    def is_sparse(self, run, epoch):
        return sum(first <= epoch for first in self.phase_starts(run.epochs)) % 2 == 1

    def settled(self, run):
        return run.epoch > self.phase_starts(run.epochs)[-1]

    def start(self, run, cycle):
        self.enter(run, self.is_sparse(run, 0))

    @torch.no_grad()
    def after_step(self, run):
        run.clear(~self.mask, state=False)
        following = self.is_sparse(run, run.epoch + run.epoch_ends)
        if following != self.is_sparse(run, run.epoch):
            self.enter(run, following)

    @torch.no_grad()
    def enter(self, run, sparse):
        """Begin a phase. A dense one begins with zeros where weights were pruned, and without any momentum."""
        if sparse:
            self.set_mask(keep(run.theta.abs(), self.budget))
            run.clear(~self.mask, state=False)
        else:
            self.mask.fill_(True)
            run.optimizer.state.clear()

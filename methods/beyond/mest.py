"""MEST, memory-economic sparse training (Yuan et al., NeurIPS 2021)."""
import torch

from methods.allocation import whole
from methods.base import option
from methods.dynamic import Static
from methods.ranking import keep_each

STAGES = (90 / 160, 120 / 160)  # shares of training at which the extra drop or growth falls from 2 to 1 to 0 parts
# All training images, as in its code, which then chooses the epoch by the test images; here the last one counts.
CIFAR = dict(epochs=160, batch_size=64, lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True, schedule="cosine_epoch", clip=0.0,
             bn_momentum=0.1, validation=False)


class MEST(Static):
    """Elastic mutation: drops to a little below the budget in each layer, then grows at random to the budget (Yuan et al. 2021)."""

    name = "mest"
    original = {"cifar10": dict(CIFAR, augmentation="zero"), "cifar100": dict(CIFAR, augmentation="gse")}
    allocation = option("uniform", "erk", "er", "er_gse")
    every = option(5, least=1, help="epochs between two updates")
    lam = option(0.0, help="factor on |gradient| in the score |w| + λ|g| by which connections are dropped")

    def densities(self, parts):
        """(density dropped to, density grown to). The released code's offset of .02 is here, for densities below .1, a fifth of the density."""
        density = 1 - self.sparsity
        return density - parts * min(0.01, density / 10), density

    def before_step(self, run):
        begins = [whole(share, run.epochs) for share in STAGES]
        if run.step % run.steps_per_epoch == 0 and (run.epoch % self.every == 0 or run.epoch in begins):
            self.update(run, 2 - sum(run.epoch >= first for first in begins))
            run.theta.grad.mul_(self.mask)

    def kept_and_grown(self, active, parts):
        """(weights that stay, weights that grow) in each layer, lists, where `active` are active, with `parts` extra shares."""
        most_sparse = 1 - len(self.layout.sizes) / self.layout.size
        lower, upper = (self.allocate(min(1 - density, most_sparse)) for density in self.densities(parts))
        kept = [min(k, u, n) for k, u, n in zip(lower, upper, active)]
        return kept, [u - k for u, k in zip(upper, kept)]

    @torch.no_grad()
    def update(self, run, parts):
        """Before the optimiser's step: drop and grow with `parts` extra shares; clears the weights of all that did not stay. Gradients that are not
        finite, after an overflow, count as 0: the budget does not wait."""
        sizes = self.layout.sizes
        kept, grown = self.kept_and_grown(self.layout.layer_sums(self.mask).tolist(), parts)
        score = (run.theta.abs() + self.lam * run.theta.grad.abs().nan_to_num(0, 0, 0)).masked_fill(~self.mask, -1)
        survivors = keep_each(score, kept, sizes)
        self.set_mask(survivors | keep_each(run.random("grow").masked_fill(survivors, -1), grown, sizes))
        run.clear(~survivors, state=False)

    def after_step(self, run):
        run.clear(~self.mask, state=False)


class MESTS(MEST):
    """Soft memory bound: drops to the budget and grows beyond it, less in each stage; its memory is more than the budget's (Yuan et al. 2021)."""

    name = "mest_s"

    def densities(self, parts):
        density = 1 - self.sparsity
        return density, min(density + 0.025 * parts, 1)

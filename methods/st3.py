"""ST-3 and the arms of its ablation (Vanderschueren & De Vleeschouwer, WACV 2023)."""
import torch

from methods.base import Cycle, Ramped, option, through
from methods.ranking import between, keep


class ST3(Ramped):
    """Straight-through gradients, soft threshold, filters rescaled, global cubic schedule (Vanderschueren & De Vleeschouwer 2023)."""

    name, aliases = "st3", ("ste_soft_rescale",)
    soft = True
    rescale = option("smoothed", "paper", "off", help="scale of each filter: smoothed (released code), or as in the paper")
    straight_through = option(True, help="false: only the weights that are kept get gradients")
    ft_epochs = option(0, help="epochs of fine-tuning with the final mask at a hundredth of the learning rate (released code: 10)")
    rewind_finetune = option(False, help="a second full schedule from the best weights of the cycle before (the last where nothing is held "
                             "out) with their mask (released ImageNet configuration, after ft_epochs=10)")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("gain", torch.ones(layout.size))
        self.gradient = "dense" if self.straight_through else "masked"

    @property
    def keeps_best(self):
        return self.rewind_finetune

    def cycles(self, epochs):
        return [Cycle(epochs)] + [Cycle(self.ft_epochs, lr=0.01)] * (self.ft_epochs > 0) + [Cycle(epochs)] * self.rewind_finetune

    @torch.no_grad()
    def start(self, run, cycle):
        if self.rewind_finetune and cycle == len(run.cycles) - 1:
            run.rewind("best")
        if cycle < 2:
            self.refresh(run.theta, self.sparsity if cycle else self.scheduled(run, 0))
        if cycle == 1:  # the sparse weights become the stored ones, once, and the mask stays
            run.theta.copy_(self(run.theta))
            self.shift.zero_(), self.gain.copy_(self.mask)

    def before_step(self, run):
        if run.cycle:
            run.theta.grad.mul_(self.mask)

    def after_step(self, run):
        if not run.cycle:
            super().after_step(run)

    def forward(self, theta):
        weights = (theta - theta.sign() * self.shift if self.soft else theta) * self.gain
        return through(weights, theta) if self.straight_through else weights

    @torch.no_grad()
    def rank(self, theta, kept, share):
        """New mask, threshold (`shift`) and filter scales (`gain`) from the weights theta (N,)."""
        magnitude, importance = theta.abs(), self.importance()
        score = magnitude if importance is None else magnitude * importance
        mask = keep(score, kept)
        self.set_mask(mask)
        threshold = between(score, mask, share)
        self.shift.copy_(threshold if importance is None else threshold / importance)
        if self.rescale == "off":
            self.gain.copy_(mask)
        else:
            torch.mul(mask, self.layout.spread_filters(self.filter_scale(magnitude, mask)), out=self.gain)

    def keep_all(self):
        super().keep_all()
        self.shift.zero_(), self.gain.fill_(1)

    def importance(self):
        """Factor on |w| in the ranking, (N,); None for 1, which saves two passes over the weights."""
        return None

    def filter_scale(self, magnitude, mask):
        """Scale of each filter from |w| (N,) before the threshold (ST-3, §3, weight rescaling, and the smoothed form of its code)."""
        kept, whole = self.layout.filter_means(magnitude * mask), self.layout.filter_means(magnitude)
        if self.rescale == "smoothed":
            return 1.01 / ((kept + 1e-6) / (whole + 1e-6) + 0.01)
        return (whole / kept).masked_fill(~(kept > 0), 1.0)


class ST3Sigma(ST3):
    """ST-3 whose ranking weighs |w| by the layer's size: it prunes the high-resolution layers first, for fewer MACs."""

    name = "st3_sigma"
    norm = option("shape_sum", "fan_in", "numel", help="ranked is √m·|w|; m of a layer: shape_sum: the sum of its weight's shape (released "
                  "code); fan_in: its inputs (paper); numel: its number of weights")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        measure = {"shape_sum": lambda e: sum(e.shape), "fan_in": lambda e: e.fan_in, "numel": lambda e: e.size}[self.norm]
        factors = layout.spread_layers(torch.tensor([measure(e) ** 0.5 for e in layout.entries]))
        self.register_buffer("factors", factors, persistent=False)
        self.shift = torch.zeros(layout.size)

    def importance(self):
        return self.factors


class STESoft(ST3):
    """Straight-through and soft threshold, no rescaling (ST-3, figure 5)."""

    name = "ste_soft"
    rescale = option("off", "smoothed", "paper")


class STEHard(STESoft):
    """Straight-through and hard threshold, no rescaling (ST-3, figure 5)."""

    name = "ste_hard"
    soft = False


class STEHardRescale(ST3):
    """Straight-through, hard threshold and rescaling (ST-3, figure 5)."""

    name = "ste_hard_rescale"
    soft = False

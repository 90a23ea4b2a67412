"""Dynamic sparse training with trainable masked layers (Liu et al., ICLR 2020)."""
import torch
from torch import nn

from methods.base import Sparsifier, option


class DSTMask(Sparsifier):
    """A learned threshold for each filter; the sparsity emerges from the penalty Σ exp(−threshold) (Liu et al. 2020)."""

    name = "dst_mask"
    exact = False
    gradient = "shaped"
    original = {"cifar": dict(epochs=160, batch_size=64, lr=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True,
                              milestones=(80 / 160, 120 / 160), clip=0.0, bn_momentum=0.1, sparsity_penalty=5e-6,
                              augmentation="zero", validation=False)}  # its code chooses the epoch by the test images; here the last one counts
    sparsity_penalty = option(5e-6, help="factor of the penalty Σ exp(−threshold), which decides the sparsity (default: the released "
                              "command for CIFAR-10)")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        filters = [entry.shape[0] for entry in layout.entries]
        self.thresholds = nn.Parameter(torch.zeros(sum(filters)))
        self.register_buffer("filters", torch.tensor(filters), persistent=False)
        self.register_buffer("sizes", torch.tensor(layout.sizes), persistent=False)

    def over(self, theta):
        """|w| above its filter's threshold, (N,)."""
        return theta.abs() - self.layout.spread_filters(self.thresholds)

    def forward(self, theta):
        return Masked.apply(theta, self.layout.spread_filters(self.thresholds))

    def added_loss(self, run):
        return self.sparsity_penalty * torch.exp(-self.thresholds).sum()

    @torch.no_grad()
    def forget(self, run):
        self.thresholds.zero_()

    def start(self, run, cycle):
        self.after_step(run)

    def after_step(self, run):
        self.repeated(self.renew, run.theta)

    @torch.no_grad()
    def renew(self, theta):
        """The mask of the weights theta (N,); the thresholds of a layer of which it would keep at most 1 % restart at zero."""
        alive = self.layout.layer_sums(self.over(theta) > 0) > 0.01 * self.sizes
        self.thresholds.mul_(alive.repeat_interleave(self.filters, output_size=len(self.thresholds)))
        self.set_mask(self.over(theta) > 0)


class Masked(torch.autograd.Function):
    """w (N,) where |w| > t (N,), else 0; backward a long-tailed estimate h of the step's derivative (equation 4 of the paper)."""

    @staticmethod
    def forward(ctx, w, t):
        ctx.save_for_backward(w, over := w.abs().sub_(t))
        return w.masked_fill(over <= 0, 0)

    @staticmethod
    def backward(ctx, gradient):
        w, over = ctx.saved_tensors
        size = over.abs()
        beyond = size > 1
        h = size.mul_(-4).add_(2).clamp_min_(0.4).masked_fill_(beyond, 0)  # in place: new memory costs more than the arithmetic
        at_step = h.mul_(gradient * w)
        return gradient.masked_fill(over <= 0, 0).addcmul_(at_step, w.sgn()), at_step.neg_()

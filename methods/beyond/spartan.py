"""Spartan: soft top-k masks by optimal transport (Tai et al., NeurIPS 2022)."""
import torch

from methods.allocation import count, whole
from methods.base import Sparsifier, option
from methods.ranking import keep


class Spartan(Sparsifier):
    """Weights times a soft mask σ(β|w| + μ) that sums to the budget K, cut to the K largest; gradients see the soft mask (Tai et al. 2022).

    The budget falls linearly at first, β rises linearly, and for the last part of training both masks are frozen.

    With `budget_of=all`, as in the released code (`adjust_cost_frac`), a sparsity s is that of the N prunable weights and the M other
    parameters together: round((1 − s)(N + M)) are left, the M among them, which stay dense. The share of zeros among the prunable
    weights, which a row gives as achieved, is then s(N + M)/N. Raises ValueError if that leaves less than one weight a layer.
    """

    name = "spartan"
    gradient = "shaped"
    original = {"imagenet": dict(epochs=100, batch_size=8 * 512, lr=1.0, momentum=0.9, nesterov=True, weight_decay=1e-4,
                                 decay_all=False, schedule="cosine", label_smoothing=0.1, clip=0.0, bn_momentum=0.1)}
    beta = option(10.0, least=1, help="sharpness β of the soft mask where it is frozen; rises linearly from 1")
    ramp_end = option(0.2, most=1, help="share of training at which the budget is reached")
    freeze = option(0.8, most=1, help="share of training after which the masks are frozen")
    budget_of = option("prunable", "all", help="what a sparsity counts: prunable weights, or all parameters (released code)")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.register_buffer("soft", torch.ones(layout.size))
        self.register_buffer("mu", torch.zeros(()))
        self.register_buffer("slope", torch.zeros(()))  # β; 0 where the soft mask is a constant

    def kept(self, sparsity):
        """Prunable weights that are left at a sparsity of what `budget_of` counts."""
        others = self.layout.others if self.budget_of == "all" else 0
        return max(count(self.layout.size + others, sparsity) - others, 0)

    def final_budget(self):
        return self.kept(self.sparsity)

    def forward(self, theta):
        return SoftTopK.apply(theta, self.soft, self.mask, self.slope)

    def start(self, run, cycle):
        self.refresh(run.theta, *self.scheduled(run, 0))

    def scheduled(self, run, done):
        """(sparsity, β) after `done` steps; both stay the same from the freezing on, by which the budget is always reached."""
        end = max(whole(self.freeze, run.total_steps), 1)
        share = min(done / max(min(self.ramp_end * run.total_steps, end), 1), 1)
        return self.sparsity * share, 1 + (self.beta - 1) * min(done / end, 1)

    def after_step(self, run):
        done, end = run.step + 1, max(whole(self.freeze, run.total_steps), 1)
        if done <= end:
            self.refresh(run.theta, *self.scheduled(run, done))
        if done == end:
            self.soft.mul_(self.mask)
            self.slope.zero_()

    def refresh(self, theta, sparsity, beta):
        """New hard and soft mask from the weights theta (N,) at this sparsity and sharpness β."""
        kept = self.kept(sparsity)
        if kept < self.layout.size:
            self.repeated(self.rank, theta, kept, beta)
        else:
            self.set_mask(torch.ones_like(self.mask)), self.soft.fill_(1), self.slope.zero_()

    @torch.no_grad()
    def rank(self, theta, kept, beta):
        """`refresh` to a number of weights kept, fewer than all."""
        magnitude = theta.abs()
        self.set_mask(keep(magnitude, kept))
        self.mu.copy_(offset(beta * magnitude, kept, self.mu))
        self.soft.copy_(torch.sigmoid(beta * magnitude + self.mu))
        self.slope.fill_(beta)


def offset(x, total, guess):
    """μ with Σ σ(x + μ) = total, 0 < total < n, by Newton's steps from a guess, bisecting where one leaves the bracket. x (n,)."""
    middle = torch.logit(torch.as_tensor(total / x.numel(), dtype=x.dtype, device=x.device))
    low, high = middle - x.max(), middle - x.min()
    mu = torch.where((guess > low) & (guess < high), guess, (low + high) / 2)
    for _ in range(20):
        soft = torch.sigmoid(x + mu)
        missing, rate = total - soft.sum(), (soft * (1 - soft)).sum()
        low, high = torch.where(missing > 0, mu, low), torch.where(missing > 0, high, mu)
        newton, last = mu + missing / rate, mu
        mu = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
        if not torch.is_tensor(total) and not x.is_cuda and mu == last:  # converged; not tested on a GPU, which it would have to wait for
            break
    return mu


class SoftTopK(torch.autograd.Function):
    """θ·σ, cut by the mask; backward the gradient of θ·σ(θ) under Σσ = constant, as if there were no cut."""

    @staticmethod
    def forward(ctx, theta, soft, mask, slope):
        ctx.save_for_backward(theta, soft, slope)
        return theta * soft * mask

    @staticmethod
    def backward(ctx, gradient):
        theta, soft, beta = ctx.saved_tensors
        toward = gradient * theta
        rate = soft * (1 - soft)
        mean = (toward * rate).sum() / rate.sum().clamp_min(1e-30)
        return gradient * soft + theta.sign() * beta * rate * (toward - mean), None, None, None

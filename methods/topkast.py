"""Top-KAST: sparse forward pass, denser backward pass (Jayakumar et al. 2020)."""
import torch

from methods.allocation import whole
from methods.base import Sparsifier, option, through
from methods.dynamic import Static
from methods.ranking import keep_each


class TopKAST(Static):
    """Computes with the largest weights of each layer (`mask`), and trains them and the next largest (`trained`) (Jayakumar et al. 2020)."""

    name = "topkast"
    gradient = "superset"
    gamma = option(1.0, help="weights trained beyond the active ones, as a multiple of these")
    penalty = option(1e-4, help="factor of the un-squared L2 norms that replace weight decay")
    every_step_until = option(0.105, most=1, help="share of training in which the sets are renewed at every step, later every `interval`")
    interval = option(1000, least=1, help="steps between two renewals of the sets after `every_step_until`")
    sampler, init = "exact", "network"  # its first mask is that of the largest weights
    start_weights = option("network", "pytorch", help="network: its own; pytorch: PyTorch's default, a third of the variance of GSE's")
    mode = option("correct", "literal", help="literal: a weight that enters the active set restarts at zero (GSE's code)")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.register_buffer("trained", torch.ones_like(self.mask))
        self.register_buffer("lost", torch.zeros(layout.size))
        density = layout.spread_layers(torch.tensor([k / n for k, n in zip(self.counts, layout.sizes)]))
        self.register_buffer("density", density, persistent=False)
        self.register_buffer("before", torch.zeros(layout.size), persistent=False)  # the weights before a step
        self.wider = [min(round(k * (1 + self.gamma)), n) for k, n in zip(self.counts, layout.sizes)]

    def forward(self, theta):
        return through((theta - self.lost) * self.mask, theta * self.trained)

    @torch.no_grad()
    def forget(self, run):
        run.theta.sub_(self.lost * self.mask), self.lost.zero_()  # goes on from the working weights
        Sparsifier.forget(self, run)  # not Static's: weights outside the mask keep their values in this method

    @torch.no_grad()
    def start(self, run, cycle):
        if self.start_weights == "pytorch":
            self.draw_weights(run, self.layout.filter_sums(torch.ones_like(run.theta)).rsqrt())
        self.no_decay(run)
        self.renew(run.theta)

    def no_decay(self, run):
        """The optimiser's weight decay is off: `penalise` takes its place."""
        for group in run.optimizer.param_groups:
            group["weight_decay"] = 0.0

    def renew(self, theta):
        """New sets from the weights theta (N,): `mask`, the largest of each layer, and `trained`, these and the next largest."""
        self.repeated(self.rank, theta, *self.counts, *self.wider)

    @torch.no_grad()
    def rank(self, theta, *counts):
        """`renew`. counts: for each layer the number of weights in `mask`, then for each layer the number in `trained`."""
        if self.mode == "literal":  # the stored weights are overwritten by the working ones
            theta.sub_(self.lost * self.mask), self.lost.masked_fill_(self.mask, 0)
        layers = len(self.counts)
        self.set_mask(keep_each(theta.abs(), counts[:layers], self.layout.sizes))
        self.trained.copy_(keep_each(theta.abs(), counts[layers:], self.layout.sizes))

    def before_step(self, run):
        self.no_decay(run)  # again, for a new optimiser or a new group brings it back
        self.repeated(self.penalise, run)

    @torch.no_grad()
    def penalise(self, run):
        working = run.theta - self.lost if self.mode == "literal" else run.theta  # a weight that has just entered counts as zero
        for part, scale in ((working * self.mask, 1.0), (run.theta * (self.trained & ~self.mask), self.density)):
            norms = self.layout.layer_sums(part.square()).sqrt().clamp_min(1e-12)
            run.theta.grad += self.penalty * part / self.layout.spread_layers(norms) / scale
        for name, weight in run.model.net.named_parameters():
            if name.endswith("weight") and weight.grad is not None and not weight.grad.is_sparse:  # nor does SGD decay by sparse gradients
                weight.grad += self.penalty * weight / weight.norm().clamp_min(1e-12)
        self.before.copy_(run.theta)

    @torch.no_grad()
    def hold(self, theta):
        """Undoes the step for weights that are not in `trained`: momentum must not move them."""
        theta.copy_(torch.where(self.trained, theta, self.before))
        if self.mode == "literal":
            self.lost.copy_(torch.where(self.trained & ~self.mask, theta, self.lost))

    def after_step(self, run):
        self.repeated(self.hold, run.theta)
        done = run.step + 1
        if done % self.interval == 0 or done <= whole(self.every_step_until, run.total_steps):
            self.renew(run.theta)

    def training_cost(self, sparse, dense):
        return 2 * sparse + min((1 + self.gamma) * sparse, dense)

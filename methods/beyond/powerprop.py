"""Powerpropagation (Schwarz et al., NeurIPS 2021)."""
import torch

from methods.base import Sparsifier, option, through
from methods.magnitude import GMP


class Powerprop(Sparsifier):
    """Computes with θ|θ|^(α−1), so that large weights learn faster. A base class to put before that of a method that prunes by magnitude.

    A weight at zero never moves: methods that grow connections at zero cannot use it.
    """

    alpha = option(2.0, least=1, help="the power; 1 is the other method alone")
    decay_of = option("theta", "q", help="weight decay on the stored weights (for α = 2 an L1 penalty on the effective ones), or on "
                      "these, where it is a part of the loss and of the gradients that are clipped")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.register_buffer("decay_of_q", torch.zeros(()))
        self.register_buffer("rooted", torch.tensor(False))  # whether theta holds the roots of the network's weights

    @torch.no_grad()
    def start(self, run, cycle):
        """Raises ValueError if theta shares a parameter group whose weight decay is to be taken."""
        if not self.rooted:  # the effective weights begin where the network's own did
            run.theta.copy_(run.theta.sign() * run.theta.abs() ** (1 / self.alpha))
            self.rooted.fill_(True)
        for group in run.optimizer.param_groups:
            decays = self.decay_of == "q" and any(p is run.theta for p in group["params"]) and group["weight_decay"]
            if decays:  # not where an earlier start has taken it
                if len(group["params"]) > 1:
                    raise ValueError("decay_of=q needs theta in a parameter group of its own, because it replaces that group's weight decay")
                self.decay_of_q.fill_(group["weight_decay"])
                group["weight_decay"] = 0.0
        super().start(run, cycle)

    def forward(self, theta):
        power = theta.detach().abs() ** (self.alpha - 1) * self.mask
        return through(theta * power, theta * (self.alpha * power))

    def added_loss(self, run):
        return self.decay_of_q / 2 * self(run.theta).square().sum() if self.decay_of == "q" else None


class PowerpropGMP(Powerprop, GMP):
    """Powerpropagation with gradual magnitude pruning (Schwarz et al. 2021)."""

    name = "powerprop_gmp"

"""Feather (Glentis Georgoulakis et al., BMVC 2023)."""
import torch

from methods.base import Ramped, option, through
from methods.ranking import between, keep


class Feather(Ramped):
    """A threshold between soft and hard, (|w|^p − th^p)^(1/p), and damped gradients of pruned weights (Glentis Georgoulakis et al. 2023)."""

    name = "feather"
    gradient = "dense"
    original = {"cifar": dict(epochs=160, batch_size=128, lr=0.1, momentum=0.9, weight_decay=5e-4, decay_all=False, schedule="cosine_step",
                              clip=3.0, validation=False, augmentation="zero", bn_momentum=0.1)}
    retained = {}  # its ramp is not ST-3's
    p = option(3, 1, help="power p in (|w|^p − th^p)^(1/p); 1 is the soft threshold")
    theta = option("auto", "1", "0.5", help="factor on the gradients of pruned weights; auto: 0.5 beyond 95 % sparsity")
    ramp_start = option(0.0, most=1)

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.register_buffer("shift", torch.zeros(()))
        self.damping = (0.5 if sparsity > 0.95 else 1.0) if self.theta == "auto" else float(self.theta)
        self.gradient = "dense" if self.damping == 1 else "shaped"

    def forward(self, theta):
        magnitude = theta.abs()
        share = torch.relu(magnitude - self.shift) / magnitude.clamp_min(1e-30)
        # 1 − (1 − x)³ as x (3 − x (3 − x)): no power underflows, and nothing cancels at the threshold
        weights = theta * (share if self.p == 1 else (share * (3 - share * (3 - share))) ** (1 / 3)) * self.mask
        return through(weights, theta if self.damping == 1 else torch.where(self.mask, theta, self.damping * theta))

    @torch.no_grad()
    def rank(self, theta, kept, share):
        magnitude = theta.abs()
        self.set_mask(keep(magnitude, kept))
        self.shift.copy_(between(magnitude, self.mask, share))

    def keep_all(self):
        super().keep_all()
        self.shift.zero_()

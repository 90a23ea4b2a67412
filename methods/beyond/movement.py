"""Movement pruning (Sanh et al., NeurIPS 2020)."""
import torch
from torch import nn

from methods.allocation import allocate
from methods.base import option, through
from methods.beyond.after_dense import AfterDense
from methods.ranking import keep, keep_each


class Movement(AfterDense):
    """Keeps the weights of the largest learned scores; a score rises where the gradient moves its weight away from zero."""

    name = "movement"
    threshold = "topk_exact"
    scope = option("global", "layer", help="scores are ranked over all weights, or in each layer")
    score_lr = option(1.0, help="learning rate of the scores, as a multiple of the recipe's")
    ramp_start = option(0.1, most=1)
    ramp_end = option(0.8, most=1)

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.scores = nn.Parameter(torch.zeros(layout.size))

    def groups(self):
        return [dict(params=[self.scores], lr_scale=self.score_lr, weight_decay=0.0, momentum=0.0, nesterov=False)]

    def forward(self, theta):
        return theta * through(self.mask.to(theta.dtype), self.scores)

    @torch.no_grad()
    def refresh(self, theta, sparsity):
        if self.scope == "global":
            self.set_mask(keep(self.scores, self.kept(sparsity)[0]))
        else:
            self.set_mask(keep_each(self.scores, allocate(self.layout, "uniform", sparsity), self.layout.sizes))

    def training_cost(self, sparse, dense):
        return 2 * sparse + dense  # the scores' gradient is that of every weight

"""Movement pruning (Sanh et al., NeurIPS 2020)."""
import torch
from torch import nn

from methods.allocation import allocate
from methods.base import option, through
from methods.beyond.after_dense import AfterDense
from methods.ranking import keep, keep_each


class Movement(AfterDense):
    """Keeps the weights of the largest learned scores S; a score rises where the gradient moves its weight away from zero (Sanh et al. 2020).

    `pruning=sigmoid` is soft movement pruning: it keeps the weights whose sigmoid(S) is above τ, and adds λ Σ sigmoid(S) to the loss.
    τ and λ rise from 0 along the ramp and each layer keeps more than .5 % of its weights, as in the released code, whose λ (200 and more)
    is a factor on means, for Adam. The sparsity is learned: the one that was asked for has no meaning, and the row has what was
    achieved. A training of few steps needs a large `score_lr` (100 on digits: 95 % with the default λ).
    """

    name = "movement"
    retained = {}  # its ramp is not ST-3's
    threshold = "topk_exact"
    pruning = option("topk", "sigmoid", help="what is kept: as many of the largest scores as the sparsity allows, or those above tau")
    tau = option(0.1, most=1, help="pruning=sigmoid: τ at the end of the ramp")
    score_penalty = option(0.01, help="pruning=sigmoid: λ at the end of the ramp, which decides the sparsity")
    scope = option("global", "layer", help="pruning=topk: scores are ranked over all weights, or in each layer")
    score_lr = option(1.0, least=1e-9, help="learning rate of the scores, as a multiple of the recipe's")
    ramp_start = option(0.1, most=1)
    ramp_end = option(0.8, most=1)

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.soft = self.pruning == "sigmoid"
        self.exact = not self.soft
        self.scores = nn.Parameter(torch.zeros(layout.size))
        self.register_buffer("least", torch.tensor([int(0.005 * size) + 1 for size in layout.sizes]), persistent=False)

    @torch.no_grad()
    def start(self, run, cycle):
        self.scores.zero_()
        super().start(run, cycle)

    def before_step(self, run):
        if run.cycle < self.pretrain:  # else they would count in the norm by which gradients are clipped
            self.scores.grad = None

    def groups(self):
        return [dict(params=[self.scores], lr_scale=self.score_lr, weight_decay=0.0, momentum=0.0, nesterov=False)]

    def forward(self, theta):
        return theta * through(self.mask.to(theta.dtype), self.scores)

    def scheduled(self, run, done):
        """Sparsity after `done` steps; τ in its place where the sparsity is learned."""
        return self.tau * self.ramped(run, done) if self.soft else super().scheduled(run, done)

    def added_loss(self, run):
        if self.soft:
            return self.score_penalty * self.ramped(run, run.step) * self.scores.sigmoid().sum()

    def refresh(self, theta, sparsity):
        """New mask from the scores at this sparsity, or this τ where the sparsity is learned; theta is not looked at."""
        if self.soft:
            self.repeated(self.above, theta, sparsity)
        elif self.scope == "global":
            super().refresh(theta, sparsity)
        else:
            self.repeated(self.rank_each, theta, *allocate(self.layout, "uniform", sparsity))

    @torch.no_grad()
    def rank(self, theta, kept, share):
        self.set_mask(keep(self.scores, kept))

    @torch.no_grad()
    def rank_each(self, theta, *kept):
        self.set_mask(keep_each(self.scores, kept, self.layout.sizes))

    @torch.no_grad()
    def above(self, theta, tau):
        """New mask: the weights whose sigmoid(S) is above τ, but more than .5 % of each layer."""
        above = torch.maximum(self.layout.layer_sums(self.scores.sigmoid() > tau), self.least)
        self.rank_each(theta, *(above.unbind() if torch.is_tensor(tau) else above.tolist()))

    def training_cost(self, sparse, dense):
        return 2 * sparse + dense  # the scores' gradient is that of every weight

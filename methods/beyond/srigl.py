"""SRigL: RigL with a constant fan-in and neurons that are switched off (Lasby et al., ICLR 2024)."""
import torch

from methods.base import option
from methods.dynamic import DynamicSparse
from methods.ranking import keep


class SRigL(DynamicSparse):
    """All active neurons (output rows) of a layer have the same number of active inputs; those with few salient ones are ablated (Lasby et al. 2024).

    In the classifier none are ablated: it would lose classes.

    A whole number of inputs cannot meet every budget: at most the budget is active.
    """

    name = "srigl"
    original = {"cifar": dict(epochs=250, batch_size=128, lr=0.1, nesterov=True, weight_decay=5e-4, decay_all=True,
                              schedule="cosine_step", gamma=0.3, interval=100, init="grad_flow", clip=0.0, bn_momentum=0.1,
                              augmentation="granet", validation=False)}  # which pads by reflection; its images are not normalised
    scope, score_batches, sampler = "layer", "train_batch", "exact"
    init = option("network", "sparse", "grad_flow", help="network: its own first weights; sparse: uniform by the active inputs of each neuron (GSE); "
                  "grad_flow: normal, with a standard deviation of 2 / active inputs, but in dense layers (released code)")
    gamma = option(0.3, most=1, help="a neuron with fewer salient inputs than this share of the fan-in (without ablation: released code) "
                   "is ablated")
    ablation = option(True, help="false: constant fan-in alone")
    cut = option("magnitude", "literal", help="which of too many kept inputs stay: the largest, or the first (released code)")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.exact = False

    def settled(self, run):
        return True

    def first_mask(self, score):
        pieces = score.split(self.layout.sizes)
        return torch.cat([self.first_layer_mask(*layer) for layer in zip(pieces, self.counts, self.layout.entries)])

    def first_layer_mask(self, score, count, entry):
        """The mask (size,) of a layer before training, with at most `count` ones, by a random score (size,)."""
        score, rows = score.view(entry.shape[0], -1), min(entry.shape[0], count)
        chosen = keep(score.mean(1), rows)  # a count below one input a neuron leaves some without any
        return (largest(score, count // rows) & chosen[:, None]).flatten()

    def initialise(self, run):
        if self.init == "sparse":
            return super().initialise(run)
        spread = 2 / self.layout.filter_sums(self.mask.to(run.theta.dtype)).clamp_min(1)
        drawn = run.random("init", normal=True) * self.layout.spread_filters(spread)
        for weights, draws, count in zip(run.theta.split(self.layout.sizes), drawn.split(self.layout.sizes), self.counts):
            if count < len(draws):
                weights.copy_(draws)

    @torch.no_grad()
    def update(self, run, fraction):
        """Before the optimiser's step; `change_mask` clears what leaves and what enters."""
        parts = [vector.split(self.layout.sizes) for vector in (run.theta.abs(), run.dense_gradient.abs(), self.mask)]
        self.set_mask(torch.cat([self.following(index, layer, fraction) for index, layer in enumerate(zip(*parts))]))

    def following(self, index, parts, fraction):
        """The next mask of a layer, from its (|w|, |gradient|, mask), all (size,)."""
        parts = (part.view(self.layout.entries[index].shape[0], -1) for part in parts)
        return self.renewed(*parts, self.counts[index], fraction, self.ablation and index != self.layout.classifier).flatten()

    def renewed(self, magnitude, gradient, mask, count, fraction, ablate):
        """The next mask of a layer; magnitude, gradient, mask: (neurons, fan_in), the first two ≥ 0; count: the largest number of active weights."""
        fan_in = mask.shape[1]
        active = int(mask.sum())
        pruned = int(fraction * active)
        score = magnitude.masked_fill(~mask, -1)
        kept = keep(score.flatten(), active - pruned).view_as(mask)
        salient = (kept | keep(gradient.flatten(), pruned).view_as(mask)).sum(1)
        least = max(1, int(self.gamma * (count // mask.shape[0])))
        needed = -(-count // fan_in)  # fewer neurons could not hold the budget
        alive = keep(salient, min(max(int((salient >= least).sum()), needed), count)) if ablate else salient >= 0
        alive = keep(salient, count) if int(alive.sum()) > count else alive
        k = min(count // int(alive.sum()), fan_in)
        kept = keep(score.masked_fill(~alive[:, None], -1).flatten(), min(active - pruned, int(mask[alive].sum()))).view_as(mask)
        order = magnitude if self.cut == "magnitude" else -torch.arange(fan_in, device=magnitude.device).expand_as(magnitude).to(magnitude)
        kept &= largest(order.masked_fill(~kept, -torch.inf), k)
        return largest(gradient.masked_fill(kept, torch.inf), k) & alive[:, None]


def largest(score, k):
    """Mask with k ones in each row at the largest scores, ties to the lowest index. score (rows, n)."""
    index = score.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return torch.zeros_like(score, dtype=torch.bool).scatter_(1, index, True)

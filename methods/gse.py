"""Guided stochastic exploration: growth by the gradients of a sampled subset of connections (Heddes et al.)."""
import math

import torch

from methods.activity import Activity, uniform
from methods.base import option
from methods.dynamic import DynamicSparse
from methods.ranking import keep_each
from methods.sampling import pairs


class GSE(DynamicSparse):
    """Sample about as many inactive connections as are active, grow those of the largest gradient, then prune by magnitude (Heddes et al. 2024)."""

    name, aliases = "gse_uniform", ("gse",)
    # its paper gives gamma, the network, 100 epochs, warm-up and label smoothing; all else is assumed
    original = {"imagenet-resnet50": dict(
        model="resnet50_torchvision", gamma=2.0, allocation="er_gse", init="sparse", epochs=100, batch_size=256, lr=0.1, momentum=0.9,
        weight_decay=1e-4, decay_all=True, schedule="steps", milestones=(0.3, 0.6, 0.9), warmup=5.0, update_end=0.75, clip=0.0,
        label_smoothing=0.1, bn_momentum=0.1)}
    interval = option(1000, least=1)
    gamma = option(1.0, help="candidates drawn, as a multiple of the active weights")
    drop_fraction = option(0.2, most=1)
    update_end = option(0.6, most=1)
    scope = option("global", "layer")
    score_batches = option("ceil10", "train_batch")
    skip_step = option(False, True)

    @torch.no_grad()
    def update(self, run, fraction):
        """Before the optimiser's step (with GraNet: after it), grow `fraction` and prune to the budget.

        `change_mask` clears what enters and leaves.
        """
        weights, gradient = self.explore(run, self.growth_batches(run))
        candidates, score = self.sample(run, weights), gradient.abs()
        sizes, old = self.pieces, self.mask.clone()
        active, new = ([int(piece.sum()) for piece in mask.split(sizes)] for mask in (old, candidates))
        grown, after = self.grown_and_pruned(active, new, fraction)
        score.masked_fill_(~candidates, -torch.inf).masked_fill_(old, torch.inf)
        grown = keep_each(score, grown, sizes)
        self.set_mask(keep_each(run.theta.abs().masked_fill(~grown, -torch.inf).masked_fill(grown & ~old, torch.inf), after, sizes))

    def growth_batches(self, run):
        """Batches that growth is scored on; a pass of one costs 2 + γ sparse forward passes, where a training pass costs 3."""
        batches = run.batches() if self.score_batches == "ceil10" else [run.batch]
        run.count_passes(len(batches) * (self.gamma - 1) / 3)  # besides what `run.gradient` counts
        return batches

    def grown_and_pruned(self, active, new, fraction):
        """(weights after growth, weights after pruning), lists over the `pieces`, given the active weights and new candidates of each."""
        if self.scope == "layer":
            most, after = [a + math.ceil(fraction * a) for a in active], active
        else:
            most, after = [max(math.floor(self.layout.size * (1 - self.sparsity) * (1 + fraction) + 1e-9), self.budget, *active)], [self.budget]
        grown = [min(m, a + c) for m, a, c in zip(most, active, new)]
        return grown, [min(m, g) for m, g in zip(after, grown)]  # there may be too few candidates for the budget

    def sample(self, run, weights):
        """Candidates (N,): γ·nnz pairs (output, input) of each layer, drawn with replacement; those not active already."""
        generator, chosen = run.generator("sample"), []
        for entry, active, (outputs, inputs) in zip(self.layout.entries, self.mask.split(self.layout.sizes), weights):
            nnz = int(active.sum())
            if 2 * nnz >= entry.size:  # not sparse: every inactive weight is a candidate
                chosen.append(~active)
                continue
            picked = torch.zeros(entry.size, dtype=torch.bool)
            picked[pairs(outputs, inputs, int(self.gamma * nnz), generator)] = True
            chosen.append(picked.to(active.device) & ~active)
        return torch.cat(chosen)

    def explore(self, run, batches):
        """(per layer (g (outputs,), f (groups, fan_in)) on the CPU, dense gradient (N,)); pairs are drawn in proportion to g ⊗ f."""
        return uniform(self.layout), run.gradient(run.theta * self.mask, batches)


class GraBo(GSE):
    """Candidates by an upper bound on the gradient: Σ|δ| of the output times Σ|h| of the input (Heddes et al. 2024)."""

    name = "gse_grabo"

    def explore(self, run, batches):
        activity = Activity(run, batches, lambda n: None)
        return activity.weights(), activity.gradient


class GraEst(GSE):
    """Candidates by an unbiased estimate of the gradient: |Σ rδ| times |Σ rh| with random signs r shared by both (Heddes et al. 2024)."""

    name = "gse_graest"
    signs = option("corrected", "literal", help="literal: GSE's code, whose convolutions see the first position's gradient alone, and "
                   "whose signs are the same in every batch")

    def explore(self, run, batches):
        # processes with batches of their own need signs of their own: with the same ones, samples of two processes would not be independent
        generator = run.generator("signs", own=not run.same_batches or self.score_batches == "train_batch")

        def draw(n):
            return torch.randint(2, (n,), generator=generator).float() * 2 - 1
        activity = Activity(run, batches, draw, literal=self.signs == "literal")
        return activity.weights(), activity.gradient

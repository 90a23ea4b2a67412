"""Static random masks and dynamic sparse training: SET and RigL."""
import math
from functools import cached_property

import torch

from methods.allocation import BY_SHAPE, allocate, count
from methods.base import Sparsifier, option
from methods.ranking import keep_each
from methods.warn import warn


class Static(Sparsifier):
    """A random mask that never changes: the baseline of dynamic sparse training (Evci et al. 2020)."""

    name = "static"
    allocation = option(*BY_SHAPE, help="how active weights are shared out over layers: erk: Erdős–Rényi kernel (Evci et al. 2020); er: without "
                        "the kernel's size (Mocanu et al. 2018); er_gse: convolutions as matrices (GSE's code); balanced: as many in each layer "
                        "(Gadhikar et al. 2024); uniform: the same density; uniform_plus: the first convolution dense, the last layer at least "
                        "20 % (Gale et al. 2019)")
    redistribute = option(False, help="er_gse: what a full layer cannot take goes to the others")
    sampler = option("exact", "bernoulli", help="exact: a mask with exactly the layer's count; bernoulli: each weight on its own, with its density")
    init = option("network", "sparse", help="network: its own first weights; sparse: uniform by the active inputs of each neuron (GSE)")

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.exact = self.sampler == "exact"

    @cached_property
    def counts(self):
        """Active weights of each layer in the first mask."""
        return self.allocate(self.sparsity)

    def final_budget(self):
        return sum(self.counts)

    def allocate(self, sparsity, redistribute=False):
        """Active weights of each layer at a sparsity."""
        return allocate(self.layout, self.allocation, sparsity, redistribute=self.redistribute or redistribute)

    def forget(self, run):
        """What enters the first mask anew starts at zero: without `skip_step`, momentum has moved it since it was dropped."""
        run.clear(~self.mask)

    @torch.no_grad()
    def start(self, run, cycle):
        self.set_mask(self.first_mask(run.random("mask")))
        if self.init != "network":
            self.initialise(run)
        run.clear(~self.mask)

    def first_mask(self, score):
        """The mask before training, by a random score (N,) that is uniform in [0, 1)."""
        if self.sampler == "exact":
            return keep_each(score, self.counts, self.layout.sizes)
        density = score.new_tensor([k / n for k, n in zip(self.counts, self.layout.sizes)])
        return score < self.layout.spread_layers(density)

    @torch.no_grad()
    def initialise(self, run):
        """Draws weights and biases uniformly with variance 1/κ, κ the number of active inputs of their neuron (GSE, released code)."""
        self.draw_weights(run, (3 / self.layout.filter_sums(self.mask.to(run.theta.dtype)).clamp_min(1)).sqrt())

    def draw_weights(self, run, bounds):
        """Draws weights and biases uniformly from −bound to bound, with one of `bounds` for each neuron."""
        run.theta.copy_((2 * run.random("init") - 1) * self.layout.spread_filters(bounds))
        generator = run.generator("bias")
        for bound, entry in zip(bounds.split([e.shape[0] for e in self.layout.entries]), self.layout.entries):
            biases = dict.fromkeys(getattr(module, "bias", None) for module in entry.modules(run.model.net))  # of all that share a weight
            for bias in (bias for bias in biases if bias is not None and bias.shape == bound.shape):
                bias.copy_((2 * torch.rand(bias.shape, generator=generator) - 1).to(bound) * bound)


class DynamicSparse(Static):
    """Every `interval` steps, replace a share of the active weights; the share decays as a cosine (in CHT only if asked for)."""

    interval = option(100, least=1, help="steps between two updates of the mask")
    update_end = option(0.75, most=1, help="share of training after which the mask is fixed")
    drop_fraction = option(0.3, most=1, help="share of the active weights that the first update replaces; cosine decay to 0")
    scope = option("layer", "global", help="layer: each layer keeps its number of weights; global: all together keep theirs")
    skip_step = option(True, help="an update of the mask replaces the optimiser's step")
    score_batches = option("train_batch", "ceil10", help="train_batch: growth is scored on the batch at hand; ceil10: on fresh ones, "
                           "`scoring_batches` of Training (in the suite: ten images a class)")
    changes = "change its mask"  # for the warning that it cannot do so in time

    def final_budget(self):
        allocated = super().final_budget()
        return allocated if self.scope == "layer" else count(self.layout.size, self.sparsity)

    def start(self, run, cycle):
        idle = self.warn_if_idle(run)
        if self.scope == "global":  # er_gse's first mask falls short, and if idle no update will fill it
            self.counts = self.allocate(self.sparsity, redistribute=idle)
        super().start(run, cycle)

    @property
    def needs_batches(self):
        return self.score_batches == "ceil10"

    @property
    def pieces(self):
        """Sizes of the pieces that are ranked separately: the layers or, with scope=global, all weights as one piece."""
        return self.layout.sizes if self.scope == "layer" else [self.layout.size]

    def fraction(self, run):
        """α_t: the drop fraction at this step."""
        return self.drop_fraction / 2 * (1 + math.cos(math.pi * run.step / (self.update_end * run.total_steps)))

    def idle(self, run):
        """Whether this training ends, or fixes the mask, before the first update."""
        return self.interval - 1 >= self.update_end * run.total_steps

    def warn_if_idle(self, run):
        """`idle`, with a warning if it is true."""
        idle = self.idle(run)
        if idle:
            warn(f"{self.called} cannot {self.changes} in time: of {run.total_steps} steps, its first update at step "
                 f"{self.interval} comes too late; choose a smaller interval")
        return idle

    def due(self, run):
        """Whether this step updates the mask."""
        return (run.step + 1) % self.interval == 0 and run.step < self.update_end * run.total_steps

    def before_step(self, run):
        if not self.due(run):
            return True
        self.change_mask(run)
        return not self.skip_step

    def change_mask(self, run):
        """Updates the mask; the weights and the optimiser state of connections that enter or leave restart at zero."""
        if not run.finite():
            return
        before = self.mask.clone()
        self.update(run, self.fraction(run))
        run.clear(before ^ self.mask)

    def update(self, run, fraction):
        """Replace `fraction` of the active weights in the mask by others."""
        raise NotImplementedError


class DropAndGrow(DynamicSparse):
    """Drop the smallest active weights, then grow as many."""

    drop_rounding = option("floor", "ceil", help="scope=layer: how the number of weights to drop is rounded")
    regrow = option("keeps", "zeroed", "no", help="keeps: weights just dropped may grow again, with their value; zeroed: at zero; no: not at once")
    noise = option(1e-5, help="standard deviation of the noise on the drop score")

    @torch.no_grad()
    def update(self, run, fraction):
        """Before the optimiser's step (GraNet: after it), drop `fraction` and grow as many.

        With regrow=zeroed it clears what was dropped, so that it can regrow only at zero; `change_mask` clears what enters and leaves.
        """
        score, sizes = self.growth_score(run), self.pieces
        kept, after = self.dropped_and_grown([int(piece.sum()) for piece in self.mask.split(sizes)], fraction)
        magnitude = run.theta.abs()
        if self.noise:
            magnitude += self.noise * run.random("drop", normal=True)
        old = self.mask.clone()
        survivors = keep_each(magnitude.masked_fill(~old, -torch.inf), kept, sizes)
        barred = old if self.regrow == "no" else survivors
        grown = keep_each(score.masked_fill(barred, -torch.inf), [m - k for m, k in zip(after, kept)], sizes)
        self.set_mask(survivors | grown)
        if self.regrow == "zeroed":
            run.clear(old & ~survivors, state=False)  # what grows again at once keeps its momentum, as in rigl-reproducibility

    def dropped_and_grown(self, active, fraction):
        """(weights after the drop, weights after growth), lists over the `pieces`, of which `active` are the active weights."""
        rounded = math.ceil if self.drop_rounding == "ceil" else math.floor
        if self.scope == "layer":
            kept, after = [k - rounded(fraction * k) for k in active], active
        else:
            kept, after = [min(math.floor(self.layout.size * (1 - self.sparsity) * (1 - fraction) + 1e-9), *active)], [self.budget]
        if self.regrow == "no":  # a nearly full layer can grow no more than its inactive weights
            kept = [max(k, a + m - n) for k, a, m, n in zip(kept, active, after, self.pieces)]
        return kept, after

    def growth_score(self, run):
        """Score (N,) of the candidates; the largest grow."""
        raise NotImplementedError


class SET(DropAndGrow):
    """Drop by magnitude, grow at random (Mocanu et al. 2018)."""

    name = "set"
    skip_step = option(False, True)
    score_batches = "train_batch"  # nothing is scored

    def growth_score(self, run):
        return run.random("grow")


class RigL(DropAndGrow):
    """Drop by magnitude, grow where the dense gradient is largest (Evci et al. 2020)."""

    name = "rigl"
    # 32,000 steps (102 epochs), with mask updates in the first 25,000; a learning rate of 0.1 per 256 images. Its code has no
    # warm-up; the paper has one of 5 epochs (warmup=5)
    original = {"imagenet-resnet50": dict(
        epochs=102, batch_size=4096, lr=1.6, momentum=0.9, nesterov=True, weight_decay=1e-4, schedule="steps",
        milestones=(30 / 102, 70 / 102, 90 / 102), label_smoothing=0.1, update_end=25 / 32, clip=0.0,
        bn_momentum=0.1)}

    def growth_score(self, run):
        if self.score_batches == "train_batch":
            return run.dense_gradient.abs()
        batches = run.batches()
        run.reads += len(batches)
        return run.gradient(run.theta * self.mask, batches).abs()

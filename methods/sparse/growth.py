"""The always-sparse forms of `static`, `set`, `rigl`, `srigl`, `mest*` and `gse_*`: the same decisions as the masked ones, on keys of connections."""
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import nn

from methods import dynamic, gse
from methods.activity import uniform
from methods.beyond import mest
from methods.beyond.srigl import SRigL
from methods.images import Geometry, as_images, convolves
from methods.ranking import keep_each
from methods.sampling import pairs
from methods.seeds import stable_seed
from methods.sparse.edges import contains, distinct, merged, none, once


class Stored:
    """A method that knows its active connections alone: `keys` (nnz,), their sorted int64 places in the layout; `mask` (nnz,) is all ones."""

    def __init__(self, layout, sparsity=0.0, **options):
        with torch.device("meta"):  # the masked form's mask has the dense size
            super().__init__(layout, sparsity, **options)
        del self.mask
        self.register_buffer("mask", torch.ones((), dtype=torch.bool), persistent=False)
        self.register_buffer("keys", none())

    def draw_graph(self, bounds):
        """The first connections: an Erdős–Rényi graph, drawn edge by edge with torch's global generator. bounds: those of the layers' keys."""
        counts = self.counts
        if self.sampler == "bernoulli":
            counts = [int(torch.binomial(torch.tensor(float(n), dtype=torch.float64), torch.tensor(k / n, dtype=torch.float64)))
                      for k, n in zip(counts, self.layout.sizes)]
        return torch.cat([distinct(low, high, k, none()) for low, high, k in zip(bounds, bounds[1:], counts)])

    def forward(self, theta):
        return theta

    def forget(self, run):
        """`start` draws another graph."""

    def start(self, run, cycle):
        if run.model.updates:  # else the connections drawn when the model was made are the first
            run.model.redraw(run.optimizer, stable_seed(run.seed, "graph"))


class SparseStatic(Stored, dynamic.Static):
    pass


class StoredDynamic(Stored):
    """Connections that change every `interval` steps."""

    def start(self, run, cycle):
        idle = self.warn_if_idle(run)
        if self.scope == "global":
            self.counts = self.allocate(self.sparsity, redistribute=idle)
            if idle and self.exact and not run.model.updates and len(self.keys) < self.budget:
                # er_gse's first graph, drawn when the model was made, falls short of the budget, and no update will fill it
                if self.init != "sparse":
                    raise ValueError("no update comes that fills what er_gse's first graph lacks of the budget: set redistribute=True")
                run.model.redraw(run.optimizer, stable_seed(run.seed, "graph"))
        super().start(run, cycle)

    def change_mask(self, run):
        if run.finite():
            self.update(run, self.fraction(run))  # it calls `rewire`, which clears

    def active(self, model):
        """Number of connections in each of the `pieces`."""
        return model.counts if self.scope == "layer" else [len(self.keys)]

    def magnitude(self, run):
        """|w| of the connections, (nnz,)."""
        return run.theta.detach().abs()


class StoredDropAndGrow(StoredDynamic):
    """Drop the smallest active weights, then grow as many."""

    @torch.no_grad()
    def update(self, run, fraction):
        model, keys, active = run.model, self.keys, self.active(run.model)
        kept, after = self.dropped_and_grown(active, fraction)
        magnitude = self.magnitude(run)
        if self.noise:
            magnitude += self.noise * run.random("drop", normal=True)
        survivors = keep_each(magnitude, kept, active)
        barred = keys if self.regrow == "no" else keys[survivors]
        grown = self.grow(run, [0, *accumulate(self.pieces)], [m - k for m, k in zip(after, kept)], barred)
        # what was dropped and grows again keeps its weight unless it is to be zeroed
        model.rewire(run.optimizer, merged(keys[survivors], grown), survivors if self.regrow == "zeroed" else torch.ones_like(survivors))

    def grow(self, run, bounds, counts, barred):
        """counts[i] keys between bounds[i] and bounds[i + 1], not in the sorted `barred`; sorted."""
        raise NotImplementedError


class AtRandom:
    """Growth at random: O(nnz)."""

    def grow(self, run, bounds, counts, barred):
        generator = run.generator("grow")
        return torch.cat([distinct(low, high, k, barred, generator)
                          for low, high, k in zip(bounds, bounds[1:], counts)]).to(barred.device)


class SparseSET(AtRandom, StoredDropAndGrow, dynamic.SET):
    pass


class StoredMEST(AtRandom, Stored):
    """What is dropped loses its momentum, which the masked form lets fade."""

    @torch.no_grad()
    def update(self, run, parts):
        model, keys = run.model, self.keys
        kept, grown = self.kept_and_grown(model.counts, parts)
        survivors = keep_each(run.theta.abs() + self.lam * run.theta.grad.abs().nan_to_num(0, 0, 0), kept, model.counts)
        model.rewire(run.optimizer, merged(keys[survivors], self.grow(run, model.bounds, grown, keys[survivors])), survivors)


class SparseMEST(StoredMEST, mest.MEST):
    pass


class SparseMESTS(StoredMEST, mest.MESTS):
    pass


class SparseRigL(StoredDropAndGrow, dynamic.RigL):
    """Growth by the dense gradient, which is computed and ranked at every update: O(all connections)."""

    def grow(self, run, bounds, counts, barred):
        score = torch.cat(dense_gradients(run, self.score_batches == "ceil10")).abs_()
        sizes = [high - low for low, high in zip(bounds, bounds[1:])]
        score[barred] = 0  # ranking is fast if barred connections are tied with those without a gradient
        if any(int(piece.count_nonzero()) < k for piece, k in zip(score.split(sizes), counts)):
            score[barred] = -torch.inf
        return keep_each(score, counts, sizes).nonzero().flatten()


class SparseSRigL(StoredDynamic, SRigL):
    """Constant fan-in; as RigL, O(all connections) at an update, and where the graph is drawn O(those of the largest layer)."""

    def draw_graph(self, bounds):
        masks = (self.first_layer_mask(torch.rand(entry.size), count, entry) for count, entry in zip(self.counts, self.layout.entries))
        return torch.cat([low + mask.nonzero().flatten() for low, mask in zip(bounds, masks)])

    @torch.no_grad()
    def update(self, run, fraction):
        model, gradients, found = run.model, dense_gradients(run), []
        for i, (keys, values, gradient) in enumerate(zip(model.local(self.keys), run.theta.split(model.counts), gradients)):
            magnitude, mask = torch.zeros_like(gradient).index_copy(0, keys, values.abs()), torch.zeros_like(gradient, dtype=torch.bool)
            mask[keys] = True
            found.append(model.bounds[i] + self.following(i, (magnitude, gradient.abs(), mask), fraction).nonzero().flatten())
        model.rewire(run.optimizer, torch.cat(found), torch.ones_like(self.keys, dtype=torch.bool))


class StoredGSE(StoredDynamic):
    """GSE: the gradients of sampled connections alone, O(neurons + nnz) besides the passes of the scoring batches."""

    @torch.no_grad()
    def update(self, run, fraction):
        model, keys = run.model, self.keys
        batches = self.growth_batches(run)
        random = torch.get_rng_state()
        weights, explored = self.explore(run, batches)
        candidates = self.candidates(run, weights)
        torch.set_rng_state(random)  # so that, on a CPU, dropout in the second pass is that of the first
        with same_buffers(model.net, explored is not None):
            score = self.scores(run, candidates, batches).abs()
        new, active = [len(c) for c in candidates], self.active(model)
        new = new if self.scope == "layer" else [sum(new)]
        most, after = self.grown_and_pruned(active, new, fraction)
        grown = [m - a for m, a in zip(most, active)]
        chosen = keep_each(score, grown, new)
        if sum(grown) > sum(after):  # more than the budget has room for: the first of them stay, as in the masked form
            chosen[chosen.nonzero().flatten()[sum(after):]] = False
        survivors = keep_each(self.magnitude(run), [max(m - g, 0) for m, g in zip(after, grown)], active)
        candidates = torch.cat([c + first for c, first in zip(candidates, model.bounds)])
        model.rewire(run.optimizer, merged(keys[survivors], candidates[chosen]), survivors)

    def candidates(self, run, weights):
        """Per layer, the sorted places of inactive connections drawn in proportion to g ⊗ f."""
        generator, found = run.generator("sample"), []
        for entry, active, (outputs, inputs) in zip(self.layout.entries, run.model.local(self.keys), weights):
            if 2 * len(active) >= entry.size:  # not sparse: every inactive weight is a candidate
                drawn = torch.arange(entry.size, device=active.device)
            else:
                drawn = once(pairs(outputs, inputs, int(self.gamma * len(active)), generator)).to(active.device)
            found.append(drawn[~contains(drawn, active)])
        return found

    def scores(self, run, candidates, batches):
        """Gradients at the candidates of all layers, summed over the batches."""
        layers = [layers[0] for layers in run.model.layers]
        patterns = [layer.pattern_of(keys) for layer, keys in zip(layers, candidates)]
        found = [run.theta.new_zeros(len(keys)) for keys in candidates]

        def add(i, layer, x, delta):
            found[i] += layer.sampled(patterns[i], x, delta)
        watch(run, batches, add)
        return torch.cat(found)


class SparseGSE(StoredGSE, gse.GSE):
    def explore(self, run, batches):
        return uniform(self.layout), None


class SparseGraBo(StoredGSE, gse.GraBo):
    pass


class SparseGraEst(StoredGSE, gse.GraEst):
    pass


def dense_gradients(run, fresh=False):
    """For each layer, the gradient at every connection (size,), on fresh scoring batches or by a second pass of the training batch."""
    found = [torch.zeros(n, dtype=run.theta.dtype, device=run.theta.device) for n in run.model.layout.sizes]

    def add(i, layer, x, delta):
        found[i] += dense_gradient(layer, x, delta)
    batches = run.batches() if fresh else [run.batch]
    with same_buffers(run.model.net, not fresh):
        watch(run, batches, add)
    run.reads += len(batches)
    return found


def watch(run, batches, add):
    """Passes the batches through the network and calls add(i, layer, x, delta) with each layer's input and the gradient at its output."""
    def watcher(i, layer):
        def seen(input, output):
            if not output.requires_grad:
                return output
            x = input.detach().to(run.theta.dtype)
            output = output.clone() if output._is_view() else output  # what changes a view in place would drop its hook
            output.register_hook(lambda delta: add(i, layer, x, delta.to(x.dtype)))
            return output
        return seen

    layers = [(i, layer) for i, layers in enumerate(run.model.layers) for layer in layers]
    for i, layer in layers:
        layer.watcher = watcher(i, layer)
    try:
        run.gradient(run.theta, batches)
    finally:
        for _, layer in layers:
            layer.watcher = None


@contextmanager
def same_buffers(net, wanted):
    """If `wanted`, passes in this context do not change the network's buffers (running statistics)."""
    before = [buffer.clone() for buffer in net.buffers()] if wanted else []
    try:
        yield
    finally:
        for buffer, value in zip(net.buffers(), before):
            buffer.copy_(value)


def dense_gradient(layer, x, delta):
    """Gradient at every connection of a layer, (size,), from its input and the gradient at its output."""
    module = layer.module
    if not convolves(module):
        return (delta.reshape(-1, delta.shape[-1]).T @ x.reshape(-1, x.shape[-1])).flatten()
    x, delta, of = as_images(module, x), as_images(module, delta), Geometry(module)
    gradient = nn.grad.conv2d_weight(of.padded(x), (*layer.shape[:2], *of.kernel_size), delta, of.stride, 0, of.dilation, module.groups)
    return gradient.movedim(1, -1).flatten()

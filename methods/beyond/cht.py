"""Cannistraci-Hebb training: growth by the topology alone (Zhang et al., CHT at ICLR 2024, CHTs at NeurIPS 2025)."""
from collections import Counter

import torch
from torch import nn

from methods.base import option
from methods.dynamic import DynamicSparse
from methods.ranking import keep

# what may lie between two linear layers without mixing neurons
NEURONWISE = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Dropout, nn.Identity, nn.modules.batchnorm._BatchNorm)


class CHTs(DynamicSparse):
    """Draws weights to keep, favouring large ones, and pairs to grow, favouring those with many paths of length three (Zhang et al. 2025).

    The released code handles linear layers only; convolutions as (outputs × fan-in) matrices are ours. Connections of neurons that the drop
    left without any input or any output are removed too ("chain removal"), and as many more grow, where it is known which layer feeds which:
    between linear layers that follow each other in an nn.Sequential. Elsewhere nothing is removed, because a network does not tell.
    A connection that is dropped and grows again in the same update keeps its weight (released code).
    That code makes no step of the optimiser at an update (`skip_step`), and with a constant share it updates to the end (`update_end=1`).
    """

    name = "chts"
    soft = True
    scope, score_batches = "layer", "train_batch"
    score = option("ch2", "ch3", help="what counts a path: shared neighbours over external ones, or one over these")
    drop_fraction = option(0.3, most=1, help="share of the active weights that an update replaces (drop_schedule=cosine: the first; it falls to 0)")
    drop_schedule = option("constant", "cosine", help="of the share that is replaced; the released commands have the cosine")
    importance = option("magnitude", "relative", help="of a weight: |w|, or |w| relative to its row and its column")
    temper = option(3.0, help="power of the importance in the draw at `update_end`; rises linearly from 1")
    early_stop = option(1.0, most=1, help="a layer is fixed once more than this share of what it dropped grows again; 1: never")
    chains = option(True, help="remove connections that lead nowhere, between linear layers in an nn.Sequential")
    skip_step = option(False, True)

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.register_buffer("stopped", torch.zeros(len(layout.sizes), dtype=torch.bool))

    def forget(self, run):
        super().forget(run)
        self.stopped.zero_()

    def fraction(self, run):
        return super().fraction(run) if self.drop_schedule == "cosine" else self.drop_fraction

    @torch.no_grad()
    def update(self, run, fraction):
        power = 1 + (self.temper - 1) * min(run.step / (self.update_end * run.total_steps), 1)

        def matrices(vector):
            return [part.view(entry.shape[0], -1) for part, entry in zip(vector.split(self.layout.sizes), self.layout.entries)]

        magnitudes, masks, drops, grows = map(matrices, (run.theta.abs(), self.mask, run.random("drop"), run.random("grow")))
        moving = [index for index in range(len(masks)) if not self.stopped[index]]
        active, survivors, new = [int(mask.sum()) for mask in masks], list(masks), list(masks)
        for i in moving:
            survivors[i] = self.dropped_to(magnitudes[i], masks[i], active[i] - int(fraction * active[i]), power, drops[i])
        if self.chains:
            remove_chains(survivors, [pair for pair in chained(run.model) if set(pair) <= set(moving)])
        for i in moving:
            count = active[i] - int(survivors[i].sum())
            new[i] = survivors[i] | self.grown(survivors[i], count, grows[i])
            self.stopped[i] = int((new[i] & masks[i] & ~survivors[i]).sum()) > self.early_stop * count
        self.set_mask(torch.cat([mask.flatten() for mask in new]))

    def dropped_to(self, magnitude, mask, kept, power, draw):
        """Mask of the `kept` connections that stay. All (outputs, inputs)."""
        if self.importance == "relative":
            magnitude = magnitude * mask
            magnitude = magnitude / magnitude.sum(0).clamp_min(1e-20) + magnitude / magnitude.sum(1, keepdim=True).clamp_min(1e-20)
        score = power * magnitude.clamp_min(1e-20).log() + gumbel(draw) if self.soft else magnitude
        return keep(score.masked_fill(~mask, -torch.inf).flatten(), kept).view_as(mask)

    def grown(self, mask, count, draw):
        """Mask of the `count` inactive connections that grow, by the paths through the active ones of mask (outputs, inputs)."""
        links = mask.to(draw.dtype)
        paths = (self.paths(links) + self.paths(links.T).T).masked_fill(mask, 0)
        if int((paths > 0).sum()) < count:
            paths += 1e-5
        # without draws the noise breaks ties only where float32 can resolve it: always between pairs without paths, never between large
        # scores (32 and more); what is still tied goes by its index
        score = paths.log() + gumbel(draw) if self.soft else paths + 1e-6 * draw
        return keep(score.masked_fill(mask, -torch.inf).flatten(), count).view_as(mask)

    def paths(self, links):
        """Scores of the paths whose first two links start at a row's node: X(A)·A for A = links (nodes, others)."""
        degree, found = links.sum(1), []
        for rows in links.split(1024):
            common = rows @ links.T
            linked = common > 0
            external = ((degree - common) * linked).clamp_min(1)
            found.append((common + 1 if self.score == "ch2" else 1) * linked / external @ links)
        return torch.cat(found)


class CHT(CHTs):
    """CHTs without draws: drops the smallest weights, grows the pairs with the most paths of length three between them (Zhang et al. 2024).

    Ties between small scores are broken at random, between large ones by their index.
    """

    name = "cht"
    soft = False
    temper = 1.0  # nothing is drawn


def chained(model):
    """[(i, j)] where linear layer i feeds linear layer j, neuron by neuron, and nothing else; both are prunable. Found in each nn.Sequential."""
    uses = Counter(module for _, module in model.net.named_modules(remove_duplicate=False))
    modules = [entry.modules(model.net)[0] for entry in model.layout.entries]
    index = {m: i for i, (m, entry) in enumerate(zip(modules, model.layout.entries)) if uses[m] == len(entry.names) == 1}
    found = []
    for sequence in model.net.modules():
        before = None
        for module in sequence if type(sequence).forward is nn.Sequential.forward else ():
            if isinstance(module, nn.Linear):
                found += [(index[before], index[module])] if before in index and module in index else []
                before = module
            elif not isinstance(module, NEURONWISE):
                before = None
    return found


def remove_chains(masks, pairs):
    """Removes links from the masks (outputs, inputs), in place: from the last layer back, those into neurons without outputs; then, from the
    first layer on, those out of neurons without inputs."""
    for i, j in reversed(pairs):
        masks[i] &= masks[j].any(0)[:, None]
    for i, j in pairs:
        masks[j] &= masks[i].any(1)


def gumbel(uniform):
    """Gumbel noise; the k largest log p + noise are k draws from p without replacement."""
    exponential = -uniform.clamp_min(1e-20).log()
    return -exponential.clamp_min(1e-20).log()

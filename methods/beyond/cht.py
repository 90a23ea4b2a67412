"""Cannistraci-Hebb training: growth by the topology alone (Zhang et al., CHT at ICLR 2024, CHTs at NeurIPS 2025)."""
import torch

from methods.base import option
from methods.dynamic import DynamicSparse
from methods.ranking import keep


class CHTs(DynamicSparse):
    """Drops by a draw that favours large weights, grows by a draw that favours pairs with many paths of length three between them.

    The released code has linear layers; convolutions as (outputs × fan-in) matrices are ours. Connections that lead nowhere are not
    removed: a network does not tell which layer feeds which.
    """

    name = "chts"
    soft = True
    scope, score_batches = "layer", "train_batch"
    score = option("ch2", "ch3", help="what counts a path: shared neighbours over external ones, or one over these")
    drop_schedule = option("constant", "cosine", help="of the share that is replaced")
    importance = option("magnitude", "relative", help="of a weight: |w|, or |w| relative to its row and its column")
    temper = option(3.0, help="power of the importance in the draw at `update_end`, from 1")
    early_stop = option(1.0, most=1, help="a layer is fixed once more than this share of what it dropped grows again; 1: never")
    skip_step = option(False, True)

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.register_buffer("stopped", torch.zeros(len(layout.sizes), dtype=torch.bool))

    def fraction(self, run):
        return super().fraction(run) if self.drop_schedule == "cosine" else self.drop_fraction

    @torch.no_grad()
    def update(self, run, fraction):
        power = 1 + (self.temper - 1) * min(run.step / (self.update_end * run.total_steps), 1)
        vectors = (run.theta.abs(), self.mask, run.random("drop"), run.random("grow"))
        layers, masks, survivors = zip(*(vector.split(self.layout.sizes) for vector in vectors)), [], []
        for index, (entry, parts) in enumerate(zip(self.layout.entries, layers)):
            size, mask, *draws = (part.view(entry.shape[0], -1) for part in parts)
            if self.stopped[index]:
                masks.append(mask), survivors.append(mask)
                continue
            active = int(mask.sum())
            kept = active - int(fraction * active)
            old = self.dropped_to(size, mask, kept, power, draws[0])
            new = old | self.grown(old, active - kept, draws[1])
            self.stopped[index] = int((new & mask & ~old).sum()) > self.early_stop * (active - kept)
            masks.append(new), survivors.append(old)
        self.set_mask(torch.cat([mask.flatten() for mask in masks]))
        run.clear(~torch.cat([mask.flatten() for mask in survivors]))

    def dropped_to(self, size, mask, kept, power, draw):
        """Mask of the `kept` connections that stay. All (outputs, inputs)."""
        if self.importance == "relative":
            size = size * mask
            size = size / size.sum(0).clamp_min(1e-20) + size / size.sum(1, keepdim=True).clamp_min(1e-20)
        score = power * size.clamp_min(1e-20).log() + gumbel(draw) if self.soft else size
        return keep(score.masked_fill(~mask, -torch.inf).flatten(), kept).view_as(mask)

    def grown(self, mask, count, draw):
        """`count` inactive connections, by the paths through the active ones of mask (outputs, inputs)."""
        links = mask.to(draw.dtype)
        paths = (self.paths(links) + self.paths(links.T).T).masked_fill(mask, 0)
        if int((paths > 0).sum()) < count:
            paths += 1e-5
        # without draws, too, equal scores are told apart at random
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
    """The same without draws: drops the smallest weights, grows the pairs with the most paths."""

    name = "cht"
    soft = False


def gumbel(uniform):
    """Gumbel noise; the k largest log p + noise are k draws from p without replacement."""
    exponential = -uniform.clamp_min(1e-20).log()
    return -exponential.clamp_min(1e-20).log()

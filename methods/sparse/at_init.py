"""The always-sparse forms of `snip`, `grasp` and `synflow`: the dense network is scored once, before the first step, and then given up."""
import torch

from methods import at_init
from methods.model import SparseModel
from methods.sparse.growth import Stored
from methods.training import Training


class StoredAtInit(Stored):
    """All connections are stored until `start`, then those that the masked form, `masked`, keeps of the same network."""

    init = "network"  # the scores are of its own weights

    def draw_graph(self, bounds):
        return torch.arange(bounds[-1])

    def start(self, run, cycle):
        model, net = run.model, run.model.plain()
        dense = SparseModel(net, self.masked, self.sparsity, skip=[name for name, _ in model.layout.dense], **self.chosen)
        Training(dense, torch.optim.SGD(dense.parameters(), lr=1.0), run.epochs, run.steps_per_epoch, seed=run.seed, batches=run.batches,
                 scoring_batches=run.scoring_batches, criterion=run.criterion, group=run.group).start(cycle)
        for name, buffer in net.named_buffers():  # running statistics, which the scoring passes move
            model.net.get_buffer(name).copy_(buffer)
        model.rewire(run.optimizer, dense.method.mask.nonzero().flatten(), torch.ones_like(self.keys, dtype=torch.bool))


class SparseSNIP(StoredAtInit, at_init.SNIP):
    masked = at_init.SNIP


class SparseGraSP(StoredAtInit, at_init.GraSP):
    masked = at_init.GraSP


class SparseSynFlow(StoredAtInit, at_init.SynFlow):
    masked = at_init.SynFlow

"""Layer-adaptive magnitude pruning (Lee et al., ICLR 2021)."""
from methods.allocation import lamp
from methods.base import Cycle, Sparsifier
from methods.cycles import IMP


class LAMP(Sparsifier):
    """Prunes by the LAMP score of what is left."""

    def saliency(self, run):
        return lamp(self.layout, run.theta * self.mask)

    def start(self, run, cycle):
        if cycle:
            run.optimizer.state.clear()
            self.prune(run, self.budget_at(cycle))


class LAMPOneshot(LAMP):
    """A dense training, one pruning to the target, and a second training at the same learning rates (ours)."""

    name = "lamp_oneshot"

    def cycles(self, epochs):
        return [Cycle(epochs)] * 2

    def budget_at(self, cycle):
        return self.budget if cycle else self.layout.size


class LAMPIMP(LAMP, IMP):
    """20 % of what is left at a time; the weights go on, the optimiser is new in each cycle."""

    name = "lamp_imp"
    rewind_epoch, rounding = 0, "exact"
    after_step = Sparsifier.after_step

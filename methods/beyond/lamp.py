"""Layer-adaptive magnitude pruning (Lee et al., ICLR 2021)."""
from methods.allocation import RANKED, allocate, round_counts
from methods.base import Cycle, Sparsifier, option
from methods.cycles import IMP
from methods.ranking import keep_each


class LAMP(Sparsifier):
    """Prunes by the LAMP score of the remaining weights or, like the paper's other arms, by magnitude with given counts per layer."""

    # not `allocation`, which GSE's tasks set for all methods that have it
    layerwise = option("lamp", "global", "global_l2", "uniform", "uniform_plus", "erk",
                       help="weights per layer: by the LAMP score, or as the paper's other arms and jaxpruner (global_l2) have it")

    def final_budget(self):
        if self.layerwise not in RANKED:
            allocate(self.layout, self.layerwise, self.sparsity)  # raises ValueError before training begins
        return super().final_budget()

    def saliency(self, run):
        weights = run.theta * self.mask
        if self.layerwise in RANKED:
            return RANKED[self.layerwise](self.layout, weights)
        budget, active = self.budget_at(run.cycle), self.layout.layer_sums(self.mask).tolist()
        counts = allocate(self.layout, self.layerwise, 1 - budget / self.layout.size)
        return keep_each(weights.abs(), round_counts(counts, budget, active), self.layout.sizes).float()  # nested: none has more than before

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
    """20 % of what is left at a time; the weights go on, the optimiser is new in each cycle (Lee et al. 2021)."""

    name = "lamp_imp"
    rewind_epoch, rounding = 0, "exact"

"""What methods made for pruning trained networks share."""
from methods.base import Cycle, Ramped, option


class AfterDense(Ramped):
    """A pruning ramp, from scratch or, with `pretrain`, in a second cycle after a dense one."""

    pretrain = option(False, help="a dense training first, from whose weights the method goes on")

    def cycles(self, epochs):
        return [Cycle(epochs)] * (1 + self.pretrain)

    def budget_at(self, cycle):
        return self.budget if cycle >= self.pretrain else self.layout.size

    def start(self, run, cycle):
        if cycle:
            run.optimizer.state.clear()
        super().start(run, cycle)

    def ramped(self, run, done):
        return super().ramped(run, done) if run.cycle >= self.pretrain else 0.0

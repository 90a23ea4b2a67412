"""What the methods share that were made for trained networks."""
from methods.base import Cycle, Ramped, option


class AfterDense(Ramped):
    """A ramp in the second of two cycles, the first of which is dense, or from scratch."""

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

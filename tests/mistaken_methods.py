"""Methods with a mistake each, as somebody's own file may have them (test_dry_run.py; `Good` has none)."""
import random

import numpy
import torch

from methods import get
from methods.base import Ramped, Sparsifier, option, through


class NoMethod:
    pass


class ChangesTheta(Ramped):
    def forward(self, theta):
        with torch.no_grad():
            theta.mul_(self.mask)
        return theta * self.mask


class ChangesMask(Ramped):
    def forward(self, theta):
        self.set_mask(self.mask & (theta > 0))
        return theta * self.mask


class NewBuffer(get("static")):
    def __init__(self, layout, sparsity, **options):
        super().__init__(layout, sparsity, **options)
        self.register_buffer("mean", torch.zeros(layout.size))

    def after_step(self, run):
        self.mean = 0.9 * self.mean + 0.1 * run.theta.detach()


class Attached(NewBuffer):
    def after_step(self, run):
        self.mean = 0.9 * self.mean + 0.1 * run.theta


class NoStep(get("static")):
    def before_step(self, run):
        return False


class Half(get("static")):
    def final_budget(self):
        return self.layout.size // 2


class Good(Ramped):
    pass


class WrongShape(Good):
    def forward(self, theta):
        return (theta * self.mask)[:-1]


class NoTensor(Good):
    def forward(self, theta):
        return None


class NoGradient(Good):
    def forward(self, theta):
        return (theta * self.mask).detach()


class ForwardNaN(Good):
    def forward(self, theta):
        return theta * self.mask / 0


class StepNaN(Good):
    def after_step(self, run):
        super().after_step(run)
        with torch.no_grad():
            run.theta.mul_(float("nan"))


class Late(Sparsifier):
    def after_step(self, run):
        if run.epoch_ends and run.epoch + 1 == 2:
            self.prune(run, self.budget)


class Silent(get("gmp")):
    def start(self, run, cycle):
        super().start(run, cycle)

    def after_step(self, run):
        print("a step")


class Leaks(Good):
    def forward(self, theta):
        return theta


class Costlier(Good):
    def forward(self, theta):
        return through(theta * self.mask, theta)


class NoSuchCost(Good):
    gradient = "sparse"


class Pays(Good):
    def training_cost(self, sparse, dense):
        return -3.0


class Free(Good):
    def training_cost(self, sparse, dense):
        return 0.0


class FloatMask(Good):
    def after_step(self, run):
        self.mask = self.mask.float()

    def forward(self, theta):
        return theta * self.mask


class NoBudget(Good):
    def final_budget(self):
        pass


class HalfBudget(Good):
    def budget_at(self, cycle):
        return 10.5


class Raises(Good):
    def start(self, run, cycle):
        raise RuntimeError("on\npurpose")


class Forgets(Good):
    seen = 0

    def after_step(self, run):
        super().after_step(run)
        self.seen += 1
        with torch.no_grad():
            run.theta.mul_(1 - self.seen / 10)


class Dice(Good):
    def after_step(self, run):
        super().after_step(run)
        with torch.no_grad():
            run.theta.mul_(random.random())


class Remembers(Good):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.register_buffer("seen", torch.zeros(()))

    def after_step(self, run):
        super().after_step(run)
        self.seen += 1
        with torch.no_grad():
            run.theta.mul_(1 - self.seen / 10)


class LateBuffer(Good):
    def start(self, run, cycle):
        super().start(run, cycle)
        self.register_buffer("rate", torch.ones(()))


class LateTensor(Good):
    def start(self, run, cycle):
        super().start(run, cycle)
        self.mean = torch.zeros_like(run.theta)

    def after_step(self, run):
        self.mean.lerp_(run.theta.detach(), 0.1)
        super().after_step(run)


class Typo(get("set")):
    def growth_score(self, run):
        return run.random("grow") + self.bonus


class OwnDice(get("set")):
    def growth_score(self, run):
        return torch.from_numpy(numpy.random.rand(self.layout.size))


class OwnGenerator(get("rigl")):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.numbers = numpy.random.default_rng(0)

    def growth_score(self, run):
        return torch.from_numpy(self.numbers.random(self.layout.size))


class Halves(Good):
    def before_step(self, run):
        if run.step:
            for group in run.optimizer.param_groups:
                group["lr"] *= 0.5


class Uneven(Good):
    @classmethod
    def levels(cls, sparsity, options):
        return [sparsity / 2, sparsity]


class Evaluates(Good):
    def after_step(self, run):
        run.model.eval()
        super().after_step(run)


class TensorCost(Good):
    def training_cost(self, density, dense):
        return torch.tensor(0.5)


class TensorGoes(Good):
    def before_step(self, run):
        return run.theta.grad.norm() > 0


class FloatLoss(Good):
    def added_loss(self, run):
        return 0.5


class Contains(Good):
    def start(self, run, cycle):
        super().start(run, cycle)
        self.model = run.model


class NoGroups(Good):
    def groups(self):
        return {"params": []}


class OwnRate(Good):
    lr = option(0.5)


class SkipExits(Good):
    @classmethod
    def skip(cls, task):
        raise SystemExit(0)


class NoSuper(Good):
    def __init__(self, layout, sparsity, **options):
        self.count = 0

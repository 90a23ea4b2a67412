"""`Sparsifier`: the one interface behind which every method stands."""
import inspect
import numbers
from typing import NamedTuple

import torch
from torch import nn

from methods.allocation import count, count_above
from methods.options import Option, nearest, option
from methods.ranking import keep


TAKEN = ("layout", "sparsity", "chosen", "mask", "budget", "training")  # attributes of each Sparsifier object


class Cycle(NamedTuple):
    """One training schedule of `epochs`, starting at epoch `first`. lr: if not 0, the learning rate is constant, this multiple of the recipe's.

    passes: forward and backward passes of each step, whose losses are averaged (ProbMask: 2).
    """

    epochs: int
    first: int = 0
    lr: float = 0.0
    passes: int = 1


class Sparsifier(nn.Module):
    """Maps the stored weights theta (N,) to the sparse weights (N,) that the network computes with.

    A method overrides what it needs of `start`, `forward`, `before_step` and `after_step` (and `forget`), and declares its options as class
    attributes. `mask` (N,) marks the active weights; whatever a checkpoint must hold is a buffer. `run` is a `methods.run.Run`.

    Raises ValueError for a sparsity outside [0, 1) or one that leaves fewer weights than layers, for unknown options or values, and for a `…_start`
    after its `…_end`.
    """

    name = None             # how commands call it; a class without a name is a building block
    aliases = ()            # its other names, which a method derived from it does not have
    keeps_best = False      # needs the snapshot "best" of each cycle, by validation accuracy (LRR)
    replay = "none"         # whether the suite's loop gives later cycles the first one's batches: "none", "all", or only its "crops"
    needs_batches = False   # it calls `run.batches`: a Training without batches= is refused at its start
    exact = True            # ends with exactly `budget` active weights (False: the sparsity is learned)
    # its own paper's recipe (recipe=original): {"cifar", "imagenet", or one data set or network of these ("cifar10", "imagenet-resnet50"):
    # {field of benchmarks.tasks.Task or option: value}}
    original = {}
    retained = {}           # options that replace its defaults in the suite's recipe, as in the papers that compare it
    presets = {}            # {option: {value: {other option: its default with that value}}}
    # theta's gradient: "masked" (active weights only), "superset" (these and some more), "dense" (straight-through), "shaped" (its own formula)
    gradient = "masked"

    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__()
        if not (isinstance(sparsity, numbers.Real) and 0 <= sparsity < 1):  # NumPy's too
            raise ValueError(f"sparsity must lie in [0, 1), not {sparsity!r}")
        known = self.options()
        for name in options:
            if name not in known:
                raise ValueError(nearest(name, known, f"option of {self.called}"))
        self.chosen = {name: known[name].parse(value) for name, value in {**self.preset(options), **options}.items()}
        for name in known:
            end = name.removesuffix("_start") + "_end"
            if name.endswith("_start") and end in known and getattr(self, name) > getattr(self, end):
                raise ValueError(f"{name} ({getattr(self, name):g}) is after {end} ({getattr(self, end):g})")
        self.layout, self.sparsity = layout, float(sparsity)
        self.register_buffer("mask", torch.ones(layout.size, dtype=torch.bool))
        self.budget = self.final_budget()
        if not isinstance(self.budget, numbers.Integral):
            raise ValueError(f"final_budget of {self.called} must return a whole number, not {self.budget!r}")
        if self.budget < len(layout.sizes):
            raise ValueError(f"sparsity {sparsity} leaves {self.budget} weights for {len(layout.sizes)} layers; each needs one at least")

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name, own in vars(cls).items():
            if isinstance(own, Option) and (name in TAKEN or hasattr(nn.Module, name)):  # which would hide the option
                raise ValueError(f"an option cannot be named {name}: every method has an attribute of this name")
            if hasattr(Sparsifier, name) and (inspect.isgeneratorfunction(own) or inspect.iscoroutinefunction(own)):
                raise ValueError(f"{name} must be an ordinary function: one with `yield` or `async` does nothing when it is called")
        if cls.__module__ != next(base.__module__ for base in cls.__mro__ if "original" in vars(base)):
            cls.original = {}  # a method in another file is another method, which nobody has trained with this recipe
        declares = next(base for base in cls.__mro__ if "name" in vars(base))
        if cls.__module__ != declares.__module__ and not cls.__module__.startswith("methods."):
            cls.name = None  # nor does it share the name

    @property
    def called(self):
        """Its name in messages."""
        return self.name or type(self).__name__

    @classmethod
    def options(cls):
        """{name: Option} of this method; a plain value in a subclass turns an option of its base into a constant."""
        names = [name for base in reversed(cls.__mro__) for name in vars(base)]
        return {name: getattr(cls, name) for name in names if isinstance(getattr(cls, name, None), Option)}

    @classmethod
    def preset(cls, options):
        """{option: default} of the options whose default depends on one of `options`, {name: value} (see `presets`)."""
        return {name: value for own, forms in cls.presets.items() for name, value in forms.get(str(options.get(own)), {}).items()}

    @classmethod
    def skip(cls, task):
        """Why this method is not run on a task ("cifar10-vit"), in a few words; None if it is run."""
        return None

    def final_budget(self):
        """Active weights at the end of training."""
        return count(self.layout.size, self.sparsity)

    @classmethod
    def levels(cls, sparsity, options):
        """Sparsities that a run to `sparsity` passes through; each gives a row, the last is `sparsity`."""
        return [sparsity]

    def cycles(self, epochs):
        """The training schedules, one after the other, for a recipe of `epochs`."""
        return [Cycle(epochs)]

    def budget_at(self, cycle):
        """Active weights at the end of a cycle."""
        return self.budget

    def settled(self, run):
        """Whether a mask that is within the budget now will stay within it. If not (AC/DC), only the last epoch's accuracy counts."""
        return self.exact

    def groups(self):
        """Optimiser groups for those parameters of the method that need other settings than theta.

        Each is a parameter group of torch's optimisers, a dictionary with a list of `params`, but with `lr_scale`, a multiple of the recipe's
        learning rate, in place of `lr`.
        """
        return []

    def added_loss(self, run):
        """What the method adds to the loss, once a step: a scalar with gradients, or None."""

    def logged(self):
        """Numbers of the method's own that are stored at the end of each epoch, {name: number or tensor of one element}, such as a threshold."""
        return {}

    def forget(self, run):
        """Before the first cycle's `start`, if the model was trained before: all weights are active again, as in a new model. A method that learns
        more than weights gives that up, too."""
        self.set_mask(torch.ones_like(self.mask))

    def start(self, run, cycle):
        """Before each cycle: first mask, prune at initialisation, rewind."""

    def forward(self, theta):
        """The effective weights (N,) of the stored ones theta (N,), at every step: elementwise only, no ranking and no synchronisation, so that
        it can be captured in a graph.

        A graph reads buffers anew at every step, but keeps the Python numbers it was captured with. So what a hook changes and this reads must
        be a buffer, changed in place.
        """
        return theta * self.mask

    def before_step(self, run):
        """Called with the gradients computed and the weights not yet changed. Returning False skips the optimiser's step."""

    def after_step(self, run):
        """Called after the weights have changed: next threshold, mask, schedule."""

    def evaluating(self, net, now):
        """Called after the network was set to evaluation (`now` true) or training mode: changes the modules that must not follow that mode."""

    def extra_repr(self):
        """What print() shows of a method."""
        return ", ".join([f"sparsity={self.sparsity:g}", *(f"{name}={value}" for name, value in self.chosen.items())])

    def set_mask(self, mask):
        """Copies `mask` (N,), bool, into the method's in place, so that a step captured in a graph reads it."""
        self.mask.copy_(mask)

    def repeated(self, function, fixed, *numbers):
        """Calls function(fixed, *numbers). The function is a bound method that does the same work at every step and leaves its results in
        buffers; `fixed` is always the same object (theta or run). On a GPU it is captured in a graph once, as `forward` is, and replayed; the numbers
        then arrive as 0-dim tensors, so it must not branch on them. Only if `fixed` is run may it read gradients of the network's other parameters.
        """
        function(fixed, *numbers)

    @torch.no_grad()
    def prune(self, run, kept):
        """Keeps the `kept` most salient of the active weights; the others restart at zero, so that masks are nested.

        Waits for the device. Raises ValueError if fewer are active.
        """
        active = int(self.mask.sum())
        if kept > active:
            raise ValueError(f"{self.called} cannot prune to {kept} weights: {active} are active")
        self.set_mask(keep(self.saliency(run).masked_fill(~self.mask, -1), kept))
        run.clear(~self.mask)

    def saliency(self, run):
        """The scores (N,), at least 0, that `prune` ranks."""
        return run.theta.abs()

    def training_cost(self, sparse, dense):
        """Training FLOPs per sample of one step, in units of a dense forward pass, given those of a sparse and of a dense forward pass.

        If a method does not override this, or inherits the formula of one of the suite's methods, the trainer adds what is not in it: the
        dense gradients of steps that read `run.dense_gradient` (if `gradient` is "masked") and, after the first step, passes by `run.loss`,
        `run.gradient` and `run.count_passes`. A formula in a user's own file counts as it is.
        """
        return 2 * sparse + (sparse if self.gradient == "masked" else dense)


class Ramped(Sparsifier):
    """A method whose global sparsity follows the cubic schedule of Zhu & Gupta (2018) and whose mask ranks all weights."""

    retained = {"imagenet": dict(ramp_start=0.05, ramp_end=0.5)}  # ST-3, §4.3
    threshold = option("quantile_lerp", "topk_exact", "kth_value", help="weights kept of N at a sparsity s: quantile_lerp: those above "
                       "torch.quantile's s; topk_exact: round(N (1 - s)); kth_value: N - floor(N s)")
    ramp_start = option(5 / 160, most=1, help="start of the ramp, as a share of training")
    ramp_end = option(80 / 160, most=1, help="end of the ramp, as a share of training")
    ramp_power = option(3.0, help="0 is the final sparsity from the first step on, 3 the cubic schedule")
    ramp_granularity = option("step", "epoch", help="how often the sparsity rises")

    def start(self, run, cycle):
        self.refresh(run.theta, self.scheduled(run, 0))

    def after_step(self, run):
        self.refresh(run.theta, self.scheduled(run, run.step + 1))

    def refresh(self, theta, sparsity):
        """New mask (and what depends on it) from the weights theta (N,) at this sparsity."""
        kept, share = self.kept(sparsity)
        self.repeated(self.rank, theta, kept, share) if kept < self.layout.size else self.keep_all()

    @torch.no_grad()
    def rank(self, theta, kept, share):
        """As `refresh`, given what `kept` returns: the number of weights kept, fewer than all, and where between two weights the threshold lies."""
        self.set_mask(keep(theta.abs(), kept))

    def keep_all(self):
        """As `refresh`, if nothing is pruned."""
        self.set_mask(torch.ones_like(self.mask))

    def scheduled(self, run, done):
        """Sparsity after `done` optimiser steps."""
        return self.sparsity * self.ramped(run, done)

    def ramped(self, run, done):
        """How far up the ramp `done` optimiser steps are, from 0 to 1."""
        if self.ramp_granularity == "epoch":
            done -= done % run.steps_per_epoch
        first, last = self.ramp_start * run.total_steps, self.ramp_end * run.total_steps
        return ramp(done, first, last, self.ramp_power)

    def kept(self, sparsity):
        """(weights kept, share of the way from the largest pruned to the smallest kept |w| at which the threshold lies)."""
        n = self.layout.size
        if sparsity <= 0:
            return n, 0.0
        if self.threshold == "quantile_lerp":
            return count_above(n, sparsity), (n - 1) * sparsity % 1
        return (count(n, sparsity) if self.threshold == "topk_exact" else n - int(n * sparsity)), 0.0

    def final_budget(self):
        return self.kept(self.sparsity)[0]


def ramp(t, first, last, power=3.0):
    """Zhu & Gupta's schedule from 0 at `first` to 1 at `last`: 1 − (1 − x)^power; power 0 is 1 throughout."""
    if power == 0 or t >= last:
        return 1.0
    return 1 - (1 - (t - first) / (last - first)) ** power if t > first else 0.0


class Through(torch.autograd.Function):
    """See `through`. In the form that transforms of torch.func take, too."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value, surrogate):
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Nothing is kept."""

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient

    @staticmethod
    def jvp(ctx, _, tangent):
        return tangent.view_as(tangent)


def through(value, surrogate):
    """`value` forward, bit for bit; backward its gradient goes to `surrogate` unchanged (straight-through, Bengio et al. 2013)."""
    return Through.apply(value.detach(), surrogate)

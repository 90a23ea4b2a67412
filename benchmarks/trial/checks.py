"""What a trial looks at in a method: each function returns what is wrong, in words, or None."""
import numbers

import torch

import methods
from benchmarks import kept
from benchmarks.accuracy import OFF_TARGET
from benchmarks.levels import levels_of
from benchmarks.progress import several
from benchmarks.tasks import of_the_suite, settle

SAME = 0.001  # share of the weights' change: smaller differences may come from another order of computation
COSTS = ("masked", "superset", "dense", "shaped")


def wrong(model, step):
    """In words, what is wrong with a method's weights, mask or cost before a step; or None."""
    method, theta, mask = model.method, model.theta.detach().clone(), model.method.mask.clone()
    weights = method(model.theta)
    if not (torch.equal(model.theta, theta) and torch.equal(method.mask, mask)):
        return "forward changes theta or the mask: it returns the weights in use; hooks change what is stored"
    shape = tuple(weights.shape) if torch.is_tensor(weights) else type(weights).__name__
    if shape != tuple(model.theta.shape):
        return f"forward returns {shape}, not one weight for each of theta's {tuple(model.theta.shape)}"
    if not weights.requires_grad:
        return "forward returns weights through which no gradient reaches theta"
    if not weights.isfinite().all():
        return f"forward returns NaN or infinity in step {step}"
    if method.mask.dtype != torch.bool or method.mask.shape != shape:
        return f"mask is {method.mask.dtype} {tuple(method.mask.shape)}, not torch.bool {shape}: change it with set_mask"
    if method.gradient not in COSTS:
        return f"gradient = {method.gradient!r} is none of {', '.join(COSTS)} (methods/base.py)"
    reached, = torch.autograd.grad(weights.sum(), model.theta)
    if method.gradient == "masked" and not weights[~method.mask].any() and reached[~method.mask].any():
        return "weights outside the mask get gradients: gradient = \"dense\" says what such a step costs (or another, methods/base.py)"
    return None


def differs(start, one, anew, again):
    """Whether the weights `one` differ from `anew` by more than the repetition `again` does; all trained from the weights `start` (N,)."""
    other, by_chance, moved = (float((each - anew).norm()) for each in (one, again, start))
    return other > 10 * by_chance + SAME * moved


def stale(start, recorded, anew, again):
    """The message if a training with recorded steps differs from one without (made twice: `anew`, `again`), or None."""
    if differs(start, recorded, anew, again):
        return ("recorded steps differ from those made anew: a number of Python that forward (or what is `repeated`) reads stays as it was when "
                "the step was recorded, and so does a tensor that is another one at each step (run.batch). What changes must be a buffer, changed in "
                "place; what reads the batch does not go through `repeated`")
    return None


def forgotten(start, resumed, anew, again):
    """The message if a training that was stopped and resumed differs from one that was not, or None."""
    if differs(start, resumed, anew, again):
        return ("a training that was stopped and goes on differs from one that was not: the method remembers something that no checkpoint holds, or "
                "draws numbers that no seed decides (those of random and numpy.random are shared by the runs on a GPU). What it keeps must be a "
                "buffer, made in __init__; what it draws, of run.random")
    return None


def unlogged(found):
    """The message if what a method logs of itself is not {name: number}, or None."""
    if isinstance(found, dict) and all(isinstance(name, str) and (isinstance(value, numbers.Real) or torch.is_tensor(value) and value.numel() == 1)
                                       for name, value in found.items()):
        return None
    return f"logged returns {str(found)[:60]}, not numbers with their names, such as {{'threshold': 0.1}}"


def longer(method, epochs):
    """The message if a user's own method has a cycle longer than the recipe's, which its row would not show, or None."""
    lengths = [cycle.epochs - cycle.first for cycle in method.cycles(epochs)]
    if max(lengths) > epochs and not of_the_suite(type(method), "cycles"):
        return (f"cycles() has one of {max(lengths)} epochs where the recipe has {epochs}, and the row would not say so: train longer with "
                f"--epochs {max(lengths)}")
    return None


def uneven(method, spec):
    """The message if a user's own method does not have a budget for each of its cycles, or a cycle for each of its levels: the rows of the lower
    levels would never be made."""
    cycles, levels = method.cycles(settle(spec)[0].epochs), levels_of(spec)
    for cycle in range(len(cycles)):
        if not isinstance(budget := method.budget_at(cycle), numbers.Integral):
            return f"budget_at({cycle}) must return a whole number, not {budget!r}"
    own = any(not of_the_suite(type(method), name) for name in ("levels", "cycles"))
    if own and 1 < len(levels) != len(cycles):
        return f"levels() has {len(levels)} sparsities and cycles() {several(len(cycles), 'cycle')}: each level's row is made at the end of its cycle"
    return None


def misses(method, steps):
    """In words, how a method's mask misses the budget of its first cycle after a trial of so many steps; or None."""
    active, budget = int(method.mask.sum()), method.budget_at(0)
    asked = round((1 - method.sparsity) * method.layout.size)
    if method.exact and abs(method.budget - asked) > OFF_TARGET * asked:
        return (f"at the end it keeps {method.budget} of {method.layout.size} weights, not the {asked} of this sparsity: its rows are shown, not "
                f"ranked (--sparsities {1 - method.budget / method.layout.size:.4g})")
    if method.exact and active != budget:
        return "; ".join([f"in a trial of 1 epoch of {steps} steps {active} weights are active at the end, the budget is {budget}",
                          *([*replaced(type(method))] or ["nothing has changed the mask (set_mask does, in a hook)"] * bool(method.mask.all())),
                          "where that is so at the end of a run, too, it fails"])
    return None


def doubtful(model, start, places):
    """In words, what may be meant but seldom is, or None: a method's buffer that carries a gradient, one that is no longer at its place in memory
    ({name: place} before the steps), and steps after which theta is as at the `start` (N,)."""
    method = model.method
    for name, buffer in method.named_buffers():
        if buffer.requires_grad:
            return f"self.{name} carries a gradient from step to step: change it under torch.no_grad()"
        if places.get(name, buffer.data_ptr()) != buffer.data_ptr():
            return (f"self.{name} becomes another tensor in its steps, and a step recorded on a GPU keeps the first: change it in place "
                    f"(self.{name}.copy_(…); the mask by set_mask)")
    if torch.equal(model.theta, start) and not [*method.parameters()]:  # of scores alone, a training changes no weight
        return "its steps change no weight: before_step returns False, or the gradients are zero"
    return None


def replaced(cls):
    """Yields, in words, which hooks of a method's class override those of its base class without calling them."""
    for hook in ("start", "before_step", "after_step"):
        own, *bases = [base for base in cls.__mro__ if hook in vars(base)]
        code = getattr(vars(own)[hook], "__code__", None)
        if not of_the_suite(cls, hook) and bases[0] is not methods.Sparsifier and code and hook not in code.co_names:
            yield f"its {hook} replaces that of {bases[0].__name__} (super().{hook}(…) calls it)"


@torch.no_grad()
def computes_more(trainer, x):
    """Whether a Trainer's network and the plain network with the same weights differ in their outputs for a batch by more than rounding."""
    trainer.model.eval()
    with trainer.autocast():
        outputs, others = trainer.apply_weights(trainer.model.method(trainer.model.theta), x), kept.plain(trainer)(x)
    trainer.model.train()
    return (outputs - others).abs().max() > 0.1 * outputs.abs().max()

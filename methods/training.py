"""`Training`: the training around a `SparseModel`."""
import types
import weakref
from contextlib import suppress
from functools import wraps
from numbers import Integral

import torch
from torch.nn.functional import cross_entropy

from methods import processes
from methods.advice import (LOOKED, refuse_later_weights, refuse_processes, refuse_shards, refuse_strangers, warn_of_collapse, warn_of_first_step,
                            warn_of_groups)
from methods.base import Cycle
from methods.networks import refuse_default_device
from methods.processes import from_the_first
from methods.run import NO_GRADIENTS, NOT_HELD, Run, described
from methods.warn import warn

UPDATING = []  # the trainings whose update() is running; a list, because changing a class at every step would invalidate Python's caches


class Training(Run):
    """Counts the steps, and calls the method's hooks and the optimiser in the right order.

    model: SparseModel. optimizer: over `model.parameters()`. epochs, steps_per_epoch: length of one cycle. seed: of everything random
    in the method. clip: largest norm of all gradients together, 0 for none. batches: function n → list of n training batches (x, y),
    for methods that score connections on them; scoring_batches: how many of them one scoring takes (the suite: ten images a class).
    criterion: (output, y) → loss. group: the processes that train the model together: a torch.distributed group, None for all that there
    are, False for this one alone. Call `start()` once, and for methods of several cycles `start(cycle)` at the beginning of each of
    `cycles`; then `update()` after each `loss.backward()`. With a GradScaler:
    `training.take_step = lambda: scaler.step(optimizer)` once, and `scaler.unscale_(optimizer)` before, `scaler.update()` after each
    `update()`. With an optimiser that asks for the loss (LBFGS): `training.take_step = lambda: optimizer.step(closure)`.

    Raises ValueError, in one line, for what is no SparseModel or optimiser, weights or an optimiser that processes share out among them, an
    optimiser without the model's or the method's parameters, lengths that are no whole numbers from 1 on, a negative clip, and `batches` or
    `criterion` that are no functions.
    """

    def __init__(self, model, optimizer, epochs, steps_per_epoch, seed=0, clip=0.0, batches=None, scoring_batches=1,
                 criterion=cross_entropy, group=None):
        if not hasattr(model, "theta"):
            raise ValueError(f"Training takes the SparseModel, not {type(model).__name__}: what wraps one computes, and Training has the one within")
        for number in (epochs, steps_per_epoch):
            if not isinstance(number, Integral):
                raise ValueError(f"epochs and steps_per_epoch are whole numbers, not {number!r}")
        if min(epochs, steps_per_epoch) < 1:
            raise ValueError("training needs at least one epoch of one step; with drop_last, a batch must not be larger than the data")
        refuse_default_device()
        if not hasattr(optimizer, "param_groups"):
            raise ValueError(f"Training takes an optimiser, not {type(optimizer).__name__}")
        refuse_shards(model, optimizer)
        refuse_processes(model, group)
        self.model, self.optimizer, self.method, self.group = model, optimizer, model.method, group
        # int: torch.load does not accept NumPy's numbers
        self.seed = int(seed) if isinstance(seed, Integral) else seed
        self.steps_per_epoch, self.clip, self.criterion = int(steps_per_epoch), clip, criterion
        if not (batches is None or callable(batches)):
            raise ValueError(f"batches= takes a function(n) that gives n batches (x, y), not {type(batches).__name__}")
        self._batches, self.scoring_batches = batches, scoring_batches
        if clip is None or not clip >= 0:
            raise ValueError(f"clip is the largest norm of all gradients, 0 for none, not {clip}")
        if not (criterion is None or callable(criterion)):  # None: no loss is asked for (SynFlow)
            raise ValueError(f"criterion= takes a function of output and y, not {type(criterion).__name__}")
        held = {id(p) for p in self.parameters}
        if id(model.theta) not in held:
            raise ValueError(NOT_HELD)
        if any(p.requires_grad and id(p) not in held for p in self.method.parameters()):
            raise ValueError(f"{self.method.called} learns parameters that the optimiser does not hold: add model.method.parameters() to one of "
                             "its groups")
        warn_of_groups(self)
        self.cycles = self.method.cycles(int(epochs))
        if not (isinstance(self.cycles, list) and self.cycles and all(isinstance(cycle, Cycle) for cycle in self.cycles)):
            raise ValueError(f"cycles of {self.method.called} must return a list of methods.base.Cycle, not {self.cycles!r}")
        self.step, self.cycle, self.batch, self.snapshots, self.loaded, self.updating = 0, 0, None, {}, False, False
        # reads: how many dense gradients the method read in this step; dense_steps: in all steps; scored: passes besides the steps' own
        # (`count_passes`)
        self.started, self.reads, self.dense_steps, self.scored = False, 0, 0, 0
        self.with_optimizer = False  # whether optimizer.step() calls update()
        self._watch()

    def _watch(self):
        own = weakref.ref(self)  # weak, so that an optimiser that is used again does not keep an ended training alive
        with suppress(AttributeError):  # a wrapper (accelerate's) has no hooks
            self.optimizer.register_step_pre_hook(lambda *_: own() and own().check_step())

    def __setstate__(self, state):  # a copy's optimiser has neither the original's hook nor its replaced step
        vars(self).update(state)
        self._watch()
        if self.with_optimizer:
            self.update_with_optimizer()

    def start(self, cycle=0):
        """Begin a cycle; call it once before its first step. Raises ValueError for a cycle that does not exist, if the method needs batches= and
        there is none, for a network that the method cannot score, in the middle of a cycle that was resumed from a saved state, and if the
        processes differ in what they are to train together."""
        unended = self.cycles[self.cycle].first * self.steps_per_epoch < self.step < self.total_steps
        if cycle == self.cycle and (unended or self.loaded and self.step):
            if self.loaded and unended:
                raise ValueError("this training goes on from a saved state, with the mask it had: start() would prune anew; go on with update()")
            warn(f"start() begins this cycle anew, after {self.step} of its {self.total_steps} steps: call it once, before the loop")
        if not 0 <= cycle < len(self.cycles):
            raise ValueError(f"{self.method.called} has no cycle {cycle} here: there are {len(self.cycles)}, from 0 on")
        if self.method.needs_batches:
            self.check_batches()
        if self.holder() is not self and self.model.updates and not cycle:
            warn(f"this model has been trained before, by {self.model.updates} updates of another Training: start() gives it the mask that "
                 f"{self.method.called} begins with; to go on as it is: load_state_dict(the other's state_dict())")
        elif not (cycle or self.loaded or self.model.trained_by or self.method.mask.all()):
            warn(f"this model was loaded with a mask of {int(self.method.mask.sum())} weights: start() gives it the one that {self.method.called} "
                 "begins with; to go on as it is: load_state_dict() of the training's state, too, and no start()")
        refuse_later_weights(self.model)
        refuse_strangers(self)
        if not cycle and self.model.trained_by:
            self.clear_gradients()  # of the last training's last step, if it was interrupted
        self.cycle, self.step = cycle, self.cycles[cycle].first * self.steps_per_epoch
        self.model.cycles_left = len(self.cycles) - 1 - cycle
        mask = self.method.mask.clone()
        try:
            if not cycle and (self.model.updates or not mask.all()):
                self.method.forget(self)
            self.method.start(self, cycle)
        except BaseException:
            if self.method.mask.shape == mask.shape and not torch.equal(self.method.mask, mask):
                self.method.set_mask(mask)  # the last training may go on
            raise
        if not cycle:
            self.model.updates = 0
        self.loaded = self.model.loaded = False
        self._takes_over()
        self.same_everywhere()

    def holder(self):
        """The Training that the model is in, None if it is in none."""
        return self.model.trained_by and self.model.trained_by()

    def _takes_over(self):
        """Makes the model this training's; one that had it before has ended."""
        self.started, self.model.trained_by = True, weakref.ref(self)

    def same_everywhere(self):
        """Gives all processes of a distributed training the first one's state: rounding may have made theirs different."""
        if processes.world_size(self.group) > 1:
            states = [*self.model.state_dict().values(), *(value for values in self.optimizer.state.values() for value in values.values())]
            # Adam counts its steps on the CPU, where NCCL has no tensors
            from_the_first([value for value in states if torch.is_tensor(value) and value.device == self.model.theta.device], self.group)

    def update(self, batch=None):
        """One optimiser step with the gradients at hand: the method's `added_loss`, `before_step`, clipping, step, `after_step`; then the
        gradients are removed, as by zero_grad().

        batch: the (x, y) that gave the gradients, for methods that score connections on it.
        Raises ValueError without gradients, before `start()`, or if another Training has taken over the model; FloatingPointError, at the end of an
        epoch, if weights are NaN or infinite. Warns beyond the planned steps and, after `LOOKED` of them, of a layer collapse.
        """
        if not self.started:
            raise ValueError("call training.start() once before the first update(), or load_state_dict() to go on: without either nothing is pruned")
        if self.holder() is None:  # this training and its model are a copy
            self._takes_over()
        if self.holder() is not self:
            raise ValueError("another Training has begun with this model since: go on with that one")
        if self.step >= self.total_steps:
            more = self.cycle + 1 < len(self.cycles)
            warn(f"the training goes on after the {self.total_steps} steps that were planned: " + (
                f"call training.start({self.cycle + 1}) for the next of its {len(self.cycles)} cycles" if more else "its schedules have ended"))
        if self.step == self.cycles[self.cycle].first * self.steps_per_epoch:
            warn_of_first_step(self)
        self.batch, self.updating = batch, True
        UPDATING.append(self)
        try:
            self._update()
        finally:
            self.batch, self.updating = None, False
            UPDATING.remove(self)

    def _update(self):
        if not any(p is self.theta for p in self.parameters):  # load_state_dict(assign=True) has replaced it
            raise ValueError(NOT_HELD)
        # a replaced take_step may run the passes itself (LBFGS)
        if "take_step" not in vars(self) and all(p.grad is None for p in self.parameters):
            raise ValueError(NO_GRADIENTS)
        if self.step == self.cycles[self.cycle].first * self.steps_per_epoch + LOOKED and self.theta.grad is not None:
            warn_of_collapse(self)
        apart = ()  # parameters that this step's loss does not depend on, or that are frozen
        if self.theta.grad is None and any(p.grad is not None for p in self.parameters):
            apart = [p for p in (self.theta, *self.method.parameters()) if p.grad is None]
            for p in apart:  # the method's hooks expect a gradient
                p.grad = torch.zeros_like(p)
        if (added := self.method.added_loss(self)) is not None:
            if not torch.is_tensor(added) or added.numel() != 1:
                raise ValueError(f"added_loss of {self.method.called} must return a tensor of one number or None, not {described(added)}")
            added.backward()
        goes = self.method.before_step(self)
        if not (goes is None or isinstance(goes, bool)):  # a tensor's False would not be seen, and asking it would wait for a GPU
            raise ValueError(f"before_step of {self.method.called} must return None, True or False (no step), not {type(goes).__name__}")
        if goes is not False:
            for p in apart:  # without a gradient, the optimiser leaves them as they are
                p.grad = p.grad if p.requires_grad and p.grad is not None and p.grad.any() else None
            self.apply()
        if self.theta.grad is None and all(p.grad is None for p in self.parameters):  # only now: some optimisers run the passes in their step
            raise ValueError(NO_GRADIENTS)
        self.method.after_step(self)
        self.clear_gradients()
        self.model.dense_gradient = None
        if self.epoch_ends:
            refuse_later_weights(self.model)
            self.same_everywhere()
        if self.epoch_ends and not torch.stack([p.isfinite().all() for p in self.parameters]).all():
            raise FloatingPointError(f"training diverged in epoch {self.epoch}: weights are NaN or infinite")
        self.dense_steps, self.reads = self.dense_steps + self.reads, 0
        self.step += 1
        self.model.updates, self.model.loaded = self.model.updates + 1, False

    def check_step(self):
        """Raises ValueError for a step of the optimiser outside `update`, of which the method would not know."""
        if self.holder() and not self.holder().updating:
            if any(other.optimizer is self.optimizer for other in UPDATING):
                raise ValueError("this step of the optimiser is an update of another SparseModel's training: two SparseModels need an optimiser "
                                 "each, or one SparseModel around both networks")
            raise ValueError("call training.update() and not optimizer.step(): update() takes the optimiser's step itself; where a framework "
                             "takes it, call training.update_with_optimizer() once")

    def apply(self):
        """Clip the gradients and change the weights by them."""
        self.clip_gradients()
        self.take_step()

    def clear_gradients(self):
        """As the optimiser's zero_grad does, in a quarter of the time."""
        for p in self.parameters:
            p.grad = None

    def take_step(self):
        """The optimiser's step."""
        self.optimizer.step()

    def update_with_optimizer(self):
        """From now on `optimizer.step()` calls `update()`, for the loops of frameworks, which take the step themselves. A closure that is passed
        to it runs first; if it returns None and leaves no gradients, no step is made for this batch. For methods that score connections on
        the step's batch, the loop sets `batch` to its (x, y) before each step.

        The optimiser keeps this training alive from then on. Raises ValueError for an optimiser that needs the closure itself (LBFGS).
        """
        if isinstance(self.optimizer, torch.optim.LBFGS):
            raise ValueError("LBFGS asks for the loss within its step: call training.update() in a loop of your own")
        own = getattr(self.optimizer.step, "own", self.optimizer.step)  # the original, if the optimiser has served another training

        @wraps(own)  # learning-rate schedulers look for a mark that they left on it
        def step(_, closure=None):
            if self.holder() and self.holder().updating:
                return own()
            loss = closure and closure()
            ended = self.step >= self.total_steps  # Lightning's averaging of weights ends with passes without gradients
            if any(p.grad is not None for p in self.parameters) or not ended and (not closure or loss is not None):  # else a batch left out
                self.update(self.batch)
            return loss

        step.own, self.with_optimizer = own, True
        self.optimizer.step = types.MethodType(step, self.optimizer)

    def clip_gradients(self):
        """Scales all gradients together to a norm of `clip` at most."""
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)

    def state_dict(self):
        """The training's position and its snapshots; save the model and the optimiser, which hold the rest, separately."""
        return {"cycle": self.cycle, "step": self.step, "snapshots": self.snapshots, "dense_steps": self.dense_steps,
                "scored": self.scored, "started": self.started, "method": self.method.called, "epochs": self.epochs,
                "steps_per_epoch": self.steps_per_epoch, "seed": self.seed}

    def load_state_dict(self, state):
        """Resume from `state_dict()`; load the model and the optimiser separately. Raises ValueError for the state of another method or seed, or of
        an unfinished training with another number of steps per epoch."""
        if state["method"] != self.method.called:
            raise ValueError(f"this is the state of a training with {state['method']}, not with {self.method.called}: build the model with "
                             "that method")
        if (seed := state.get("seed", self.seed)) != self.seed:
            raise ValueError(f"this training had seed={seed!r} and would go on with the random numbers of {self.seed!r}: Training(…, seed={seed!r})")
        was, now = state["steps_per_epoch"], self.steps_per_epoch
        if was != now and 0 < state["step"] < max(state["epochs"] * was, self.cycles[state["cycle"]].epochs * now):
            raise ValueError(f"this training had {was} steps per epoch and would go on with {now}, elsewhere in its schedules: keep what decides the "
                             "number of updates in an epoch (batch size, accumulation)")
        self.cycle, self.step, self.snapshots = state["cycle"], state["step"], state["snapshots"]
        self.dense_steps, self.scored = state["dense_steps"], state["scored"]
        self.started = state["started"]
        if self.started:
            self._takes_over()
            self.loaded, self.model.cycles_left = True, len(self.cycles) - 1 - self.cycle

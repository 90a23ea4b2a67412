"""`Training`: the training around a `SparseModel`, as its method sees it."""
import copy
import warnings
import weakref
from contextlib import suppress
from numbers import Integral

import torch
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map_only

from methods import processes
from methods.processes import from_the_first, mean_of_processes
from methods.seeds import stable_seed

NO_GRADIENTS = "there are no gradients: call loss.backward() before update()"


class Training:
    """Counts the steps, takes them in the right order, and is what the hooks of a method may use.

    model: SparseModel. optimizer: over `model.parameters()`. epochs, steps_per_epoch: length of one cycle. seed: of everything random
    in the method. clip: largest norm of all gradients together, 0 for none. batches: function n → list of n training batches (x, y),
    for methods that score connections on them; scoring_batches: how many they take. criterion: (output, y) → loss.
    Call `start()` once, then `update()` after each `loss.backward()`. With a GradScaler:
    `training.take_step = lambda: scaler.step(optimizer)` once, and `scaler.unscale_(optimizer)` before, `scaler.update()` after each
    `update()`. With an optimiser that asks for the loss (LBFGS): `training.take_step = lambda: optimizer.step(closure)`.
    """

    def __init__(self, model, optimizer, epochs, steps_per_epoch, seed=0, clip=0.0, batches=None, scoring_batches=1,
                 criterion=cross_entropy):
        if not hasattr(model, "theta"):
            raise ValueError(f"Training takes the SparseModel, not {type(model).__name__}: what wraps one computes, and Training has the one within")
        for number in (epochs, steps_per_epoch):
            if not isinstance(number, Integral):
                raise ValueError(f"epochs and steps_per_epoch are whole numbers, not {number!r}")
        if min(epochs, steps_per_epoch) < 1:
            raise ValueError("training needs at least one epoch of one step; with drop_last, a batch must not be larger than the data")
        if not hasattr(optimizer, "param_groups"):
            raise ValueError(f"Training takes an optimiser, not {type(optimizer).__name__}")
        self.model, self.optimizer, self.method = model, optimizer, model.method
        self.steps_per_epoch, self.seed, self.clip, self.criterion = steps_per_epoch, seed, clip, criterion
        if not (batches is None or callable(batches)):
            raise ValueError(f"batches= takes a function(n) that gives n batches (x, y), not {type(batches).__name__}")
        self._batches, self.scoring_batches = batches, scoring_batches
        held = {id(p) for p in self.parameters}
        if id(model.theta) not in held:
            raise ValueError("the optimiser does not hold the model's parameters: build it over model.parameters()")
        if any(p.requires_grad and id(p) not in held for p in self.method.parameters()):
            raise ValueError(f"{self.method.name} learns parameters that the optimiser does not hold: add model.method.parameters() to one of its groups")
        self.cycles = self.method.cycles(epochs)
        self.step, self.cycle, self.snapshots, self.loaded, self.updating = 0, 0, {}, False, False
        # dense_steps: those in which the method read a dense gradient; scored: batches that it scored on after its first step
        self.started, self.reads, self.dense_steps, self.scored = False, False, 0, 0
        own = weakref.ref(self)  # an optimiser that is used again later holds no ended training
        with suppress(AttributeError):  # a wrapper (accelerate's) has no hooks
            optimizer.register_step_pre_hook(lambda *_: own() and own().check_step())

    def start(self, cycle=0):
        """Begin a cycle; call it once before its first step. Raises ValueError in the middle of one that goes on from a saved state."""
        if self.loaded and cycle == self.cycle and self.cycles[cycle].first * self.steps_per_epoch < self.step < self.total_steps:
            raise ValueError("this training goes on from a saved state, with the mask it had: start() would prune anew; go on with update()")
        if not 0 <= cycle < len(self.cycles):
            raise ValueError(f"{self.method.name} has no cycle {cycle} here: there are {len(self.cycles)}, from 0 on")
        if self.method.needs_batches:
            self.check_batches()
        self.cycle, self.step = cycle, self.cycles[cycle].first * self.steps_per_epoch
        self.model.cycles_left = len(self.cycles) - 1 - cycle
        self.method.start(self, cycle)
        self._takes_over()
        self.same_everywhere()

    def holder(self):
        """The Training that the model is in, None if it is in none."""
        return self.model.trained_by and self.model.trained_by()

    def _takes_over(self):
        """From now on the model is this training's; one that had it before has ended."""
        self.started, self.model.trained_by = True, weakref.ref(self)

    def same_everywhere(self):
        """What rounding may make different in the processes of a distributed training becomes that of the first."""
        if processes.count() > 1:
            from_the_first([*self.model.state_dict().values(), *(value for values in self.optimizer.state.values() for value in values.values())])

    def update(self, batch=None):
        """One optimiser step with the gradients at hand: the method's `added_loss`, `before_step`, clipping, step, `after_step`.

        batch: the (x, y) that gave the gradients, for methods that score connections on it.
        """
        if not self.started:
            raise ValueError("call training.start() once before the first update(), or load_state_dict() to go on: without either nothing is pruned")
        if self.holder() is None:  # of a copy of all
            self._takes_over()
        if self.holder() is not self:
            raise ValueError("another Training has begun with this model since: go on with that one")
        if self.step >= self.total_steps:
            more = self.cycle + 1 < len(self.cycles)
            warnings.warn(f"the training goes on after the {self.total_steps} steps that were planned: " + (
                f"call training.start({self.cycle + 1}) for the next of its {len(self.cycles)} cycles" if more else "its schedules have ended"),
                stacklevel=2)
        self.batch, self.updating = batch, True
        try:
            self._update()
        finally:
            self.updating = False

    def _update(self):
        apart = ()  # of this step's loss
        if self.theta.grad is None and self.theta.requires_grad and any(p.grad is not None for p in self.parameters):
            apart = [p for p in (self.theta, *self.method.parameters()) if p.grad is None and p.requires_grad]
            for p in apart:  # for the method's hooks
                p.grad = torch.zeros_like(p)
        if (added := self.method.added_loss(self)) is not None:
            added.backward()
        if self.method.before_step(self) is not False:
            for p in apart:  # what has no gradient the optimiser leaves as it is
                p.grad = p.grad if p.grad is not None and p.grad.any() else None
            self.apply()
        if self.theta.grad is None and all(p.grad is None for p in self.parameters):  # not before: some optimisers ask for the passes in their step
            raise ValueError(NO_GRADIENTS)
        self.method.after_step(self)
        for p in self.parameters:  # as the optimiser's zero_grad does, in a quarter of the time
            p.grad = None
        self.model.dense_gradient = None
        if self.epoch_ends:
            self.same_everywhere()
        if self.epoch_ends and not torch.stack([p.isfinite().all() for p in self.parameters]).all():
            raise FloatingPointError(f"training diverged in epoch {self.epoch}: weights are NaN or infinite")
        self.dense_steps, self.reads = self.dense_steps + self.reads, False
        self.step += 1

    def check_step(self):
        """Raises ValueError for a step of the optimiser besides those of `update`, of which the method knows nothing."""
        if self.holder() and not self.holder().updating:
            raise ValueError("call training.update() and not optimizer.step(): update() takes the optimiser's step itself (two SparseModels need an "
                             "optimiser each, or one SparseModel around both networks)")

    def apply(self):
        """Clip the gradients and change the weights by them."""
        self.clip_gradients()
        self.take_step()

    def take_step(self):
        """The optimiser's step."""
        self.optimizer.step()

    def clip_gradients(self):
        """Scales all gradients together to a norm of `clip` at most."""
        if self.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)

    @property
    def parameters(self):
        """All that the optimiser trains, with the groups that were added to it later."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def theta(self):
        """The stored weights (N,)."""
        return self.model.theta

    @property
    def epochs(self):
        """Epochs of the cycle in progress."""
        return self.cycles[self.cycle].epochs

    @property
    def all_epochs(self):
        """Epochs of all cycles together."""
        return sum(cycle.epochs - cycle.first for cycle in self.cycles)

    @property
    def passes(self):
        """Forward and backward passes that a step of the cycle in progress takes, each of its loss divided by their number."""
        return self.cycles[self.cycle].passes

    @property
    def total_steps(self):
        """Steps of the cycle in progress."""
        return self.epochs * self.steps_per_epoch

    @property
    def epoch(self):
        """Epoch of the step in progress, from 0, within its cycle."""
        return self.step // self.steps_per_epoch

    @property
    def epoch_ends(self):
        """True at the last step of an epoch."""
        return (self.step + 1) % self.steps_per_epoch == 0

    @property
    def dense_gradient(self):
        """Gradient (N,) at the effective weights of every connection, active or not, for the batch just used."""
        if self.model.dense_gradient is None:
            raise ValueError(NO_GRADIENTS if self.theta.grad is None else f"{self.method.name} grows connections by their gradients, and this step's "
                             "loss does not depend on the prunable weights")
        self.reads = True
        return mean_of_processes(self.model.dense_gradient)

    @property
    def momentum(self):
        """The optimiser's running mean of theta's gradients (N,), after its first step; of Adam divided by the root of its second moment.

        Raises ValueError for an optimiser that keeps none.
        """
        state = self.optimizer.state.get(self.theta, {})
        found = [state[name] for name in ("momentum_buffer", "exp_avg") if state.get(name) is not None]
        if not found:
            raise ValueError(f"{self.method.name} reads the optimiser's momentum: give it an optimiser that has one")
        return found[0] / (state["exp_avg_sq"].sqrt() + 1e-8) if "exp_avg_sq" in state else found[0]

    def check_batches(self):
        """Raises ValueError if the training was given no batches."""
        if self._batches is None:
            raise ValueError(f"{self.method.name} scores connections on training batches: give Training batches=function(n)")

    def batches(self, n=None):
        """`n` training batches (x, y), by default as many as scoring takes, in a list. Raises ValueError if there are none."""
        self.check_batches()
        found = list(self._batches(n or self.scoring_batches))
        if not found:
            raise ValueError(f"{self.method.name} scores connections on training batches: batches= of Training gave none")
        for batch in found:
            if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
                raise ValueError(f"batches= of Training must give batches (x, y), pairs, not {type(batch).__name__}"
                                 + f" of {len(batch)}" * isinstance(batch, (tuple, list)))
        return found

    @torch.enable_grad()
    def loss(self, weights, x, y, temperature=1.0):
        """Loss of a batch with these effective weights (N,), differentiable, of outputs in float32 at least. x: input, tuple of inputs or
        dictionary of named ones."""
        args, kwargs = arguments(x)
        output = self.model.apply_weights(weights, *args, **kwargs)
        if self.criterion is cross_entropy and torch.is_tensor(output) and output.shape[1:2] == (1,):
            raise ValueError("cross-entropy of a single output is always 0: give Training criterion=")
        output = tree_map_only(torch.Tensor, lambda value: value.to(torch.promote_types(value.dtype, torch.float32)) / temperature, output)
        return self.criterion(output, y)

    @torch.enable_grad()
    def gradient(self, weights, batches):
        """Sum over the batches of the gradient (N,) at these effective weights."""
        if any(batch is None for batch in batches):
            raise ValueError(f"{self.method.name} passes the training batch once more: call update((x, y))")
        self.scored += len(batches) * (self.step + self.cycle > 0)
        weights = weights.detach().requires_grad_()
        return mean_of_processes(sum(torch.autograd.grad(self.loss(weights, x, y), weights)[0] for x, y in batches))

    @torch.no_grad()
    def clear(self, where, state=True):
        """Stored weights and, with `state`, optimiser state restart at zero at `where` (N,)."""
        rest = ~where
        self.theta.mul_(rest)
        for value in self.optimizer.state.get(self.theta, {}).values() if state else ():
            if torch.is_tensor(value) and value.shape == where.shape:
                value.mul_(rest)

    def random(self, purpose, normal=False):
        """Random numbers (N,), uniform in [0, 1) or normal, that follow from (seed, purpose, cycle, step) alone."""
        draw = torch.randn if normal else torch.rand
        return draw(self.theta.shape, generator=self.generator(purpose), dtype=self.theta.dtype).to(self.theta.device)

    def generator(self, purpose, own=False):
        """A CPU generator whose numbers follow from (seed, purpose, cycle, step) alone: nothing to save, the same on every device. own:
        others in each of the processes that train together."""
        rank = (processes.number(),) if own and processes.count() > 1 else ()
        return torch.Generator().manual_seed(stable_seed(self.seed, purpose, self.cycle, self.step, *rank))

    def snapshot(self, name):
        """Remember theta and all other parameters and buffers of the network."""
        state = {"theta": self.theta, **{f"net.{key}": value for key, value in self.model.net.state_dict().items()}}
        self.snapshots[name] = {key: value.detach().clone() if torch.is_tensor(value) else copy.deepcopy(value) for key, value in state.items()}

    @torch.no_grad()
    def rewind(self, name):
        """Bring back what `snapshot(name)` remembered; nothing if there is none."""
        state = self.snapshots.get(name)
        if state:
            self.theta.copy_(state["theta"])
            self.model.net.load_state_dict({key[4:]: value for key, value in state.items() if key != "theta"})

    def state_dict(self):
        """Where the training is, and its snapshots; the model and the optimiser, which have the rest, are saved apart."""
        return {"cycle": self.cycle, "step": self.step, "snapshots": self.snapshots, "dense_steps": self.dense_steps,
                "scored": self.scored, "started": self.started}

    def load_state_dict(self, state):
        """Go on from `state_dict()`; the model and the optimiser are loaded apart."""
        self.cycle, self.step, self.snapshots = state["cycle"], state["step"], state["snapshots"]
        self.dense_steps, self.scored = state.get("dense_steps", 0), state.get("scored", 0)  # a state of older code has none
        if state.get("started", True):  # nor this, and was begun
            self._takes_over()
            self.loaded, self.model.cycles_left = True, len(self.cycles) - 1 - self.cycle


def arguments(x):
    """(args, kwargs) that a network takes: x is its one argument, a tuple of them or a dictionary of named ones."""
    return (x, {}) if isinstance(x, tuple) else ((), x) if isinstance(x, dict) else ((x,), {})

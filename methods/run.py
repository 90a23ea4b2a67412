"""`Run`: the training in progress, as the hooks of a method see it."""
import copy
from collections.abc import Mapping
from itertools import islice

import torch
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map_only

from methods import processes
from methods.processes import mean_of_processes
from methods.seeds import stable_seed

NOT_HELD = "the optimiser does not hold the model's parameters: build it over model.parameters()"
NO_GRADIENTS = "there are no gradients: call loss.backward() before update()"


class Run:
    """Where the training is, and what a hook of a method may use of it.

    `model`, `optimizer`; `group`: the processes that train together (methods/processes.py); `step` and `epoch` from 0 within `cycle`; `batch`: the
    (x, y) of the step in progress, if the loop passed it.
    Weights, gradients and random numbers are vectors (N,) over all prunable connections, as `model.layout` orders them.
    """

    group = None
    same_batches = False  # whether `batches` gives every process the same, as the suite's loop does

    @property
    def parameters(self):
        """All parameters that the optimiser trains, including those of groups added later."""
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
        """Forward and backward passes in each step of the cycle in progress; the loss of each is divided by their number."""
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
        """Gradient (N,) with respect to the effective weight of every connection, active or not, for the batch just used. Raises ValueError if
        there is none yet."""
        if self.model.dense_gradient is None:
            raise ValueError(NO_GRADIENTS if all(p.grad is None for p in self.parameters) else
                             f"{self.method.called} grows connections by their gradients, and this step's loss does not depend on the prunable "
                             "weights")
        self.reads = max(self.reads, 1)
        return mean_of_processes(self.model.dense_gradient, self.group)

    @property
    def momentum(self):
        """The optimiser's running mean of theta's gradients (N,), zero before its first step; Adam's is divided by the root of its second moment. If the method's gradients are masked, so is this: zero for weights that were never active.

        Raises ValueError for an optimiser that keeps none.
        """
        state = self.optimizer.state.get(self.theta, {})
        found = [state[name] for name in ("momentum_buffer", "exp_avg") if state.get(name) is not None]
        if not found:
            group = next((group for group in self.optimizer.param_groups if any(p is self.theta for p in group["params"])), {})
            if group.get("momentum") or "betas" in group:
                return torch.zeros_like(self.theta)
            raise ValueError(f"{self.method.called} reads the optimiser's momentum: give it an optimiser that has one")
        return found[0] / (state["exp_avg_sq"].sqrt() + 1e-8) if "exp_avg_sq" in state else found[0]

    def finite(self):
        """Whether theta's gradient is finite. If it is not, as after an overflow, for which a GradScaler leaves the step out, connections cannot be
        scored by it. Waits for the device."""
        return self.theta.grad is None or bool(self.theta.grad.isfinite().all())

    def check_batches(self):
        """Raises ValueError if the training was given no batches."""
        if self._batches is None:
            raise ValueError(f"{self.method.called} scores connections on training batches: give Training batches=function(n)")

    def batches(self, n=None):
        """`n` training batches (x, y), by default as many as scoring takes, in a list. Raises ValueError if there are none, or more."""
        self.check_batches()
        n = n or self.scoring_batches
        found = pairs(list(islice(self._batches(n), n + 1)), "batches= of Training must give")
        if not found:
            raise ValueError(f"{self.method.called} scores connections on training batches: batches= of Training gave none")
        if len(found) > n:
            raise ValueError(f"batches= of Training gave more than the {n} asked for: let it give itertools.islice(…, n); "
                             "scoring_batches= says how many scoring takes")
        return found

    @torch.enable_grad()
    def loss(self, weights, x, y, temperature=1.0):
        """Differentiable loss of a batch with these effective weights (N,), from outputs in float32 at least, divided by `temperature`. x: input,
        tuple of inputs or dictionary of named ones. Counts as a pass. Raises ValueError without a criterion, or if cross-entropy does not fit output
        and y."""
        if self.criterion is None:
            raise ValueError(f"{self.method.called} asks for the loss of a batch: give Training criterion=, a function of output and y")
        self.count_passes(1)
        args, kwargs = arguments(x)
        output = self.model.apply_weights(weights, *args, **kwargs)
        if self.criterion is cross_entropy and not torch.is_tensor(output):
            raise ValueError(f"the network's output is a {type(output).__name__}, of which {self.method.called} asks for the loss: give Training "
                             "criterion=, a function of output and y")
        if self.criterion is cross_entropy and torch.is_tensor(y) and output.dim() > 1:
            if y.shape == output.shape and len(y) and not (y.min() >= 0 and (y.float().sum(1) - 1).abs().max() < 0.01):
                raise ValueError("cross-entropy takes probabilities that sum to 1 over the classes, and y's do not: give Training criterion=, a "
                                 "function of output and y")
            if output.shape[1] == 1:
                raise ValueError("cross-entropy of a single output is always 0: give Training criterion=")
            if y.shape not in (output.shape, output.shape[:1] + output.shape[2:]):
                raise ValueError(f"cross-entropy takes outputs (B, classes, …) and y (B, …), not {(*output.shape,)} and {(*y.shape,)}: give Training "
                                 "criterion=, a function of output and y")
        output = tree_map_only(torch.Tensor, lambda value: value.to(torch.promote_types(value.dtype, torch.float32)) / temperature, output)
        loss = self.criterion(output, y)
        if not (torch.is_tensor(loss) and loss.numel() == 1 and loss.requires_grad >= weights.requires_grad):
            without = " without a gradient" * (torch.is_tensor(loss) and not loss.requires_grad)
            raise ValueError("criterion= must return the loss of output and y, a tensor of one number with a gradient, not "
                             f"{described(loss)}{without}")
        return loss

    @torch.enable_grad()
    def gradient(self, weights, batches):
        """Sum over the batches of the loss gradient (N,) with respect to these effective weights. Raises ValueError for a batch that is None or no
        pair (x, y)."""
        if any(batch is None for batch in batches):
            raise ValueError(f"{self.method.called} passes the training batch once more: call update((x, y)), or set training.batch before")
        weights = weights.detach().requires_grad_()
        batches = pairs(batches, f"{self.method.called} passes the training batch once more: update() takes")
        return mean_of_processes(sum(torch.autograd.grad(self.loss(weights, x, y), weights)[0] for x, y in batches), self.group)

    def count_passes(self, number):
        """Adds to the training FLOPs `number` forward and backward passes of a batch that a hook made besides the step's own; `loss` and
        `gradient` call this themselves. Passes before the first step do not count: scoring at the start is not training."""
        self.scored += number * (self.step + self.cycle > 0)

    @torch.no_grad()
    def clear(self, where, state=True):
        """Sets the stored weights and, with `state`, their optimiser state to zero where the mask `where` (N,) is true."""
        rest = ~where
        self.theta.mul_(rest)
        forget_steps(self.optimizer)
        for value in self.optimizer.state.get(self.theta, {}).values() if state else ():
            if torch.is_tensor(value) and value.shape == where.shape:
                value.mul_(rest)

    def random(self, purpose, normal=False):
        """Random numbers (N,), uniform in [0, 1) or normal, that depend on (seed, purpose, cycle, step) alone."""
        draw = torch.randn if normal else torch.rand
        return draw(self.theta.shape, generator=self.generator(purpose), dtype=self.theta.dtype).to(self.theta.device)

    def generator(self, purpose, own=False):
        """A CPU generator whose numbers depend on (seed, purpose, cycle, step) alone: nothing to save, the same on every device. own:
        different numbers in each of the processes that train together."""
        rank = (processes.rank(self.group),) if own and processes.world_size(self.group) > 1 else ()
        return torch.Generator().manual_seed(stable_seed(self.seed, purpose, self.cycle, self.step, *rank))

    def snapshot(self, name):
        """Remember theta and all other parameters and buffers of the network."""
        state = {"theta": self.theta, **{f"net.{key}": value for key, value in self.model.net.state_dict().items()}}
        self.snapshots[name] = {key: value.detach().clone() if torch.is_tensor(value) else copy.deepcopy(value) for key, value in state.items()}

    @torch.no_grad()
    def rewind(self, name):
        """Bring back what `snapshot(name)` remembered. Raises ValueError if nothing is remembered by this name; "best", of which the loop makes
        snapshots, may be absent, and then nothing changes."""
        state = self.snapshots.get(name)
        if state is None and name != "best":
            raise ValueError(f"{self.method.called} rewinds to {name!r}, of which there is no snapshot (there are: "
                             f"{', '.join(map(repr, self.snapshots)) or 'none'})")
        if state:
            self.theta.copy_(state["theta"])
            self.model.net.load_state_dict({key[4:]: value for key, value in state.items() if key != "theta"})


def forget_steps(optimizer):
    """Gives up what LBFGS has seen of the loss, which is that of other connections."""
    if isinstance(optimizer, torch.optim.LBFGS):
        optimizer.state.clear()


def described(value):
    """What it is, in words: a tensor's shape, or the type of anything else."""
    return f"one of shape {(*value.shape,)}" if torch.is_tensor(value) else type(value).__name__


def pairs(batches, wanted):
    """`batches`, as they are. Raises ValueError if one is not a pair (x, y)."""
    for batch in batches:
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            of = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            raise ValueError(f"{wanted} batches (x, y), pairs, not {type(batch).__name__}{of}: several inputs are ((a, b), y) or ({{name: a}}, y)")
    return batches


def arguments(x):
    """(args, kwargs) to call a network with: x is its one argument, a tuple of arguments or a dictionary of named ones."""
    return (x, {}) if isinstance(x, tuple) else ((), x) if isinstance(x, Mapping) else ((x,), {})

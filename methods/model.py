"""`SparseModel`: a plain network joined with a sparsifier."""
import copy
from functools import cached_property

import torch
from torch import nn
from torch.autograd import Variable
from torch.func import functional_call

from methods.advice import refuse_later_weights, why_not
from methods.networks import addresses, detached, differs, explained, layout_of, order_of, put, tensors
from methods.warn import warn

STORAGES = ("masked", "sparse", "auto")
FAR = 0.01  # a method with exact=False may miss the sparsity asked for by this much without a warning


def asked_for(sparsity, method):
    """The sparsity asked for of a Sparsifier class: 0 where it is None, of `dense` and of methods that learn theirs. Raises ValueError where another
    method has none."""
    if sparsity is None and method.exact and method.name != "dense":
        name = method.name or method.__name__
        raise ValueError(f"{name} needs a sparsity, the share of zeros in [0, 1), as in SparseModel(net, method, sparsity=0.9)")
    return 0.0 if sparsity is None else sparsity


class SparseModel(nn.Module):
    """Computes `net` with the sparse weights that `method` makes from one flat parameter `theta` (N,).

    Call it like the network and give its parameters to any optimiser. The network is taken over: its prunable weights move into
    `theta`, the rest stays where it is; `export()` gives a plain network back.

    net: any nn.Module; its forward is unchanged. method: a name of `methods.available()`, "file.py:Class", or a Sparsifier class.
    sparsity: share of zeros in [0, 1), which methods need that end with exactly as many. skip: names of weights or modules to leave dense. include:
    names of those to prune although they do not belong to linear or convolutional layers, such as `in_proj_weight` of nn.MultiheadAttention.
    options: the method's own.
    torch.utils.checkpoint works in it with use_reentrant=False.
    storage: "masked"; "sparse" for weights that exist for active connections only (methods/sparse/model.py); or "auto", which stores like
    "sparse" but computes with dense products the layers that are faster that way.
    Raises ValueError, in one line, for an unknown method, option or name in skip or include, a sparsity that is missing, outside [0, 1) or leaves
    fewer weights than layers, no prunable weight, mixed dtypes or devices, NaN, and a method that the storage cannot hold.
    """

    rounded_to = None  # the dtype that the network computes in, if theta's is finer
    cycles_left = 0  # cycles that its Training has not begun
    lent = None  # during a backward pass: the function that removes the weights from the network again
    collected = None  # id of the backward pass that last added to `dense_gradient`
    watched = False  # whether a pass has been watched for a network that sets its own weights
    trained_by = None  # weak reference to the Training that it is in
    updates = 0  # made by the last Training that began with it
    loaded = False  # whether a state has been loaded since the last update

    # the arguments are those of __init__, so that help() and editors show them; copying and unpickling pass none
    def __new__(cls, net=None, method=None, sparsity=None, skip=(), *, include=(), storage="masked", **options):
        if storage not in STORAGES:
            raise ValueError(f"storage must be one of {', '.join(STORAGES)}, not {storage!r}")
        if storage != "masked" and cls is SparseModel:
            from methods.sparse.model import AlwaysSparse as cls
        return super().__new__(cls)

    def __init__(self, net, method, sparsity=None, skip=(), *, include=(), storage="masked", **options):
        super().__init__()
        if storage != "masked":
            raise ValueError(f"{type(self).__name__} has masked storage: derive it from methods.sparse.model.AlwaysSparse for storage={storage!r}")
        from methods import get
        self.layout = layout_of(net, skip, include)
        for name, parameter in net.named_parameters():
            if parameter.is_meta:
                raise ValueError(f"{name} is on the meta device: give the network memory (to_empty) and weights, or take storage='sparse'")
        theta = self.layout.flatten([net.get_parameter(e.name).detach() for e in self.layout.entries])
        # 16 bits are too few to rank and to add small steps to: such a network computes with rounded float32 weights
        if theta.element_size() < 4:
            self.rounded_to = theta.dtype
        self.theta = nn.Parameter(theta.float() if self.rounded_to else theta)
        self.net = net
        kind = get(method)
        made = kind(self.layout, asked_for(sparsity, kind), **options)
        if "_buffers" not in vars(made):
            raise TypeError(f"{type(made).__name__}.__init__ must begin with super().__init__(layout, sparsity, **options)")
        self.method = made.to(self.theta.device, self.theta.dtype)
        for entry in self.layout.entries:  # last, so that a network that is refused keeps its weights
            put(net, entry, None)
        self.dense_gradient, self.training = None, net.training

    def __getstate__(self):  # copies and pickles are in no training and in no backward pass
        self.recover()
        return {name: value for name, value in vars(self).items() if name not in ("collected", "trained_by", "lent")}

    def _replicate_for_data_parallel(self):
        raise ValueError("nn.DataParallel copies the network at each step, and what a method collects is lost with the copies: train with a process for "
                         "each GPU (DistributedDataParallel, torchrun), or let the program see one GPU (CUDA_VISIBLE_DEVICES=0)")

    def forward(self, *args, **kwargs):
        weights = self.method(self.theta)
        if weights.requires_grad and isinstance(self.theta, nn.Parameter):  # torch.func computes with another tensor in its place
            # a hook on theta itself would outlive the pass; one on a view does not
            weights = weights.view_as(weights) if weights is self.theta else weights
            weights.register_hook(self._collect)
        return self.apply_weights(weights, *args, **kwargs)

    def apply_weights(self, weights, /, *args, **kwargs):
        """The network's output with these effective weights (N,)."""
        self.take_back()  # weights that a failed backward pass has left in the network
        views = self.layout.named_views(self.rounded(weights))
        before, self.watched = None if self.watched else addresses(views), True
        try:
            output = self.compute(weights, views, *args, **kwargs)
        except (AttributeError, RuntimeError, TypeError) as error:
            raise explained(error)
        if before and (moved := [name for name, old, new in zip(views, before, addresses(views)) if old != new]):
            warn(f"the network's forward sets {moved[0]}, which reaches only the copy of one pass: skip=[{moved[0]!r}] leaves it dense")
        return self.backward_with(lambda: self.lend(views), output)

    def compute(self, weights, views, /, *args, **kwargs):
        """The network's output with weights (N,), also given as views {name: view of them}; may be replaced by something faster."""
        return functional_call(self.net, views, args, kwargs, tie_weights=False)

    def backward_with(self, lend, output):
        """`output`, whose backward pass will begin by calling `lend()` and end by calling the function that this returns: there
        torch.utils.checkpoint recomputes parts of the network, and needs the weights of the forward pass."""
        def hook(gradient):
            self.take_back()
            self.lent = lend()
            Variable._execution_engine.queue_callback(self.take_back)

        for tensor in (t for t in tensors(output, set(), objects=True) if t.grad_fn is not None):
            tensor.register_hook(hook)
        return output

    def own_groups(self):
        """The method's `groups()`. Raises ValueError if they are no list of dictionaries with a list of `params`, or give a learning rate."""
        groups = self.method.groups()
        listed = isinstance(groups, (list, tuple))
        if not (listed and all(isinstance(group, dict) and isinstance(group.get("params"), (list, tuple)) for group in groups)):
            raise ValueError(f"groups() of {self.method.called} must return a list of dictionaries such as {{'params': [self.scores]}}")
        if any("lr" in group for group in groups):
            raise ValueError(f"groups() of {self.method.called} gives lr: give lr_scale, a multiple of the recipe's learning rate")
        return groups

    def parameter_groups(self, lr):
        """All parameters as groups for an optimiser with the learning rate `lr`; the method's own `groups()` (thresholds, scores) come last."""
        own = self.own_groups()
        apart = {id(p) for group in own for p in group["params"]}
        others = [p for p in self.parameters() if id(p) not in apart]
        return [{"params": others, "lr": lr}, *({**group, "lr": lr * group.get("lr_scale", 1)} for group in own)]

    def recover(self):
        """Takes back the weights that an interrupted backward pass has left in the network, so that no copy, state or optimiser has them; one that is
        under way still needs them."""
        if self.lent and torch._C._current_graph_task_id() < 0:
            self.take_back()

    def named_modules(self, *args, **options):
        self.recover()
        yield from super().named_modules(*args, **options)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        self.recover()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}order"] = order_of(self.layout).to(self.theta.device)

    def _load_from_state_dict(self, state, prefix, *args):
        self.recover()
        self.take_order(state, prefix)
        super()._load_from_state_dict(state, prefix, *args)

    def take_order(self, state, prefix):
        """Takes the layers' order out of a state. Raises ValueError for that of a network with other layers or layers in another order, whose weights
        and masks would come into the wrong ones."""
        self.loaded = True
        order = state.pop(f"{prefix}order", None)  # a plain network's state has none, and is refused later
        if order is not None and (other := differs(order, order_of(self.layout))):
            raise ValueError(f"the checkpoint is of a network with other layers, or with layers in another order: {other}")

    def load_state_dict(self, state_dict, *args, **options):
        """As nn.Module's. Its RuntimeError also says if the state is of another storage, or of the plain network. Raises ValueError for one of a
        network with other layers."""
        try:
            return super().load_state_dict(state_dict, *args, **options)
        except RuntimeError as error:
            sparse = "method.keys" in state_dict
            if "theta" in state_dict and sparse != ("method.keys" in super().state_dict()):
                raise RuntimeError(f"{error}\n\tThis is the state of a model with storage={'sparse' if sparse else 'masked'}") from None
            if "theta" in state_dict:
                raise
            raise RuntimeError(f"{error}\n\tThere is no theta: load pretrained weights into the network before SparseModel takes it") from None

    def take_back(self):
        lent, self.lent = self.lent, None
        if lent:
            lent()

    def lend(self, views):
        """Puts the weights {name: tensor} where the network looks for them; returns a function that removes them again. A weight that somebody has
        put there stays, so that the epoch's end can refuse it."""
        def place(weights):
            for (module, name), weight in zip(self.places, weights):
                module._parameters[name] = weight

        found = [module._parameters.get(name) for module, name in self.places]
        place(views.values())
        return lambda: place(found)

    @cached_property
    def places(self):
        """[(module, name in it)] of all weights; cached, because looking them up at every step would take longer than using them."""
        return [place for entry in self.layout.entries for place in entry.places(self.net)]

    def _apply(self, fn, *args, **options):
        self.recover()
        if self.rounded_to:
            self.rounded_to = fn(torch.zeros((), dtype=self.rounded_to)).dtype
        super()._apply(fn, *args, **options)
        if self.theta.element_size() < 4:
            warn(f"weights are ranked and trained in {self.theta.dtype} now, too coarse for small steps: for training use autocast, or "
                 "convert the network before SparseModel takes it, which then keeps float32 weights")
        return self

    def rounded(self, weights):
        return weights.to(self.rounded_to) if self.rounded_to else weights

    def train(self, mode=True):
        super().train(mode)
        self.method.evaluating(self.net, not mode)
        return self

    def _collect(self, gradient):
        """Accumulates the gradient with respect to the effective weights, as autograd accumulates theta's."""
        under_way = torch._C._current_graph_task_id()
        if self.collected != under_way:  # the first gradient of a backward pass
            self.collected = under_way
            if self.theta.grad is None:  # the gradients of earlier passes were used or discarded
                self.dense_gradient = None
            elif self.dense_gradient is not None:  # or set to zero, which is tested on the device, without waiting for it
                self.dense_gradient = self.dense_gradient.where(self.theta.grad.any(), 0)
        self.dense_gradient = gradient if self.dense_gradient is None else self.dense_gradient + gradient

    @torch.no_grad()
    def layer_nnz(self):
        """Active weights of each layer, int64 (layers,), in the order of `layout.entries`."""
        return self.layer_sums(self.method.mask)

    def layer_sums(self, values):
        """Sums of values such as theta's (N,) over each layer: (layers,)."""
        return self.layout.layer_sums(values)

    def masks(self):
        """{weight's name in the network: bool tensor of its shape, True where a connection is active}."""
        return {name: view.clone() for name, view in self.layout.named_views(self.method.mask).items()}

    @torch.no_grad()
    def outside(self):
        """How many of the network's weights in evaluation are not zero although the mask says so: 0, or the network is not as sparse
        as its mask."""
        return int(((self.evaluated() != 0) & ~self.method.mask).sum())

    @torch.no_grad()
    def zeros(self):
        """How many prunable weights are exactly zero in evaluation: those outside the mask, and active ones whose value is 0."""
        return self.layout.size - int(self.evaluated().count_nonzero())

    def evaluated(self):
        """The effective weights (N,) in evaluation, whatever the current mode."""
        training = self.method.training
        weights = self.method.eval()(self.theta)
        self.method.train(training)
        return weights

    def export(self):
        """A plain copy of the network, with exact zeros, whose `state_dict` loads anywhere. Warns if the sparsity that was asked for is not
        reached, if cycles of the training are left, and if weights are not finite, or not zero outside the mask. Raises ValueError if layers
        have been given other weights than theta's."""
        refuse_later_weights(self)
        active, budget = int(self.method.mask.sum()), self.method.budget
        if abs(active - budget) > (0 if self.method.exact else FAR * self.layout.size):
            warn(f"the exported network has {active} weights, not the {budget} that were asked for: {why_not(self, active > budget)}")
        elif self.cycles_left:
            warn(why_not(self))
        outside = self.outside()
        if not self.theta.isfinite().all():
            warn("the exported weights are NaN or infinite: the training has diverged")
        elif outside:
            warn(f"the exported network has {outside} weights besides the {active} of its mask: the method's forward does not leave "
                 "them out")
        return self.plain()

    @torch.no_grad()
    def plain(self):
        """A plain copy of the network with its current effective weights."""
        net = copy.deepcopy(self.net, detached(self.net))
        for entry, view in zip(self.layout.entries, self.layout.views(self.rounded(self.evaluated()))):
            put(net, entry, nn.Parameter(view.clone(memory_format=entry.memory_format)))
        return net

    def densify(self):
        """The same as `export()`."""
        return self.export()

"""`SparseModel(..., storage="sparse")` and `"auto"`: a network whose prunable weights exist for active connections alone."""
import copy
import math
import sys
from threading import get_ident

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from methods.advice import refuse_processes
from methods.images import convolves, plain_layer
from methods.layout import gpt2_linear
from methods.model import SparseModel, asked_for
from methods.networks import detached, explained, layout_of, put
from methods.run import forget_steps
from methods.sparse.conv import SparseConv
from methods.sparse.edges import places
from methods.sparse.linear import SparseLinear
from methods.sparse.shapes import materialise


class AlwaysSparse(SparseModel):
    """Computes `net` with one flat parameter `theta` (nnz,), its active weights, at the sorted int64 places `method.keys` (nnz,).

    Weights, gradients and optimiser state have nnz entries. An update of the connections makes nothing of the dense size either, except with RigL and
    SRigL, which compute dense gradients. The graph is drawn here, edge by edge (SRigL's: layer by layer), with torch's global generator; SNIP, GraSP
    and SynFlow have all connections until the training's start, which scores the dense network. A network built under `torch.device("meta")` gives
    shapes alone: its dense weights never exist, and its connections are initialised by the active inputs of their neuron (as with init=sparse).

    storage="auto" times each layer once, at its first training pass, with its connections alone and with a dense weight made for the
    pass, keeps the faster form and says so; `forms()` tells which. What is stored, trained and grown stays the same.

    Given the same draws (first graph, growth of SET, noise on the drop score), it computes the same numbers as masked storage, except: an update's
    clipping does not count the gradients of the connections that it just pruned; RigL and SRigL pass their training batch a second time, GraBo and
    GraEst each scoring batch; MEST forgets the momentum of what it drops, which with masks fades; Adafactor's steps follow the number of weights.

    Raises ValueError, in one line, for methods that need dense weights, where several processes train it together, and for layers other
    than Linear, Conv1d, Conv2d and transformers' Conv1D, which `skip` leaves dense. Layers whose weight another module reads need `skip`, too.
    """

    def __init__(self, net, method, sparsity=None, skip=(), *, include=(), storage="sparse", **options):
        nn.Module.__init__(self)
        from methods import get
        from methods.sparse.forms import of
        self.layout = layout_of(net, skip, include, sparse=True)
        self.users = [entry.modules(net) for entry in self.layout.entries]
        others = {entry.name: title(users[0]) for entry, users in zip(self.layout.entries, self.users)
                  if not all(layer_class(module) and name == "weight" for module, name in entry.places(net))}
        if others:
            kinds = " and no ".join(sorted({*others.values()}))
            raise ValueError(f"sparse storage holds Linear, Conv1d and Conv2d layers, no {kinds}; these stay dense with skip={[*others]}")
        for entry, users in zip(self.layout.entries, self.users):
            if len({(getattr(module, "groups", 1), gpt2_linear(module)) for module in users}) > 1:
                raise ValueError(f"{entry.name} is the weight of layers with different groups or orders, whose connections are not the same; "
                                 "skip=[its name] leaves it dense")
        weights = [net.get_parameter(entry.name).detach() for entry in self.layout.entries]
        refuse_half(weights[0])
        shapes = weights[0].is_meta
        device = torch.device("cpu") if shapes else weights[0].device
        kind = get(method)
        self.method = of(kind)(self.layout, asked_for(sparsity, kind), **options).to(device)
        self.bounds = [0, *torch.tensor(self.layout.sizes).cumsum(0).tolist()]
        keys = self.method.draw_graph(self.bounds).to(device)
        self.dense_gradient, self.training = None, net.training
        self.theta = nn.Parameter(torch.zeros(len(keys), dtype=weights[0].dtype, device=device))
        self.net = net
        dense = {"sparse": False, "auto": None}[storage]
        self.layers = [[layer_class(module)(module, entry.shape, dense) for module in users]
                       for entry, users in zip(self.layout.entries, self.users)]
        self.undecided = sum(map(len, self.users)) if dense is None else 0
        if self.undecided:  # 1: dense, 0: not, -1: not known yet
            self.register_buffer("chosen", torch.full((self.undecided,), -1, dtype=torch.int8, device=device))
        self.connect(keys)
        if not shapes:
            self.theta.data = torch.cat([e.flatten(w)[k] for e, w, k in zip(self.layout.entries, weights, self.local(keys))])
        for entry, users, layers in zip(self.layout.entries, self.users, self.layers):
            put(net, entry, None)
            for module, layer in zip(users, layers):
                module.forward = layer
        if shapes:
            materialise(net)
        if shapes or self.method.init != "network":
            self.initialise()
        self.register_load_state_dict_post_hook(_reconnect)

    @property
    def _ddp_params_and_buffers_to_ignore(self):
        """Raises ValueError: DistributedDataParallel asks for this where it wraps a network."""
        refuse_processes(self)
        return ()

    def forward(self, *args, **kwargs):
        return self.apply_weights(self.theta, *args, **kwargs)

    def apply_weights(self, weights, /, *args, **kwargs):
        """The network's output with these weights (nnz,) at its connections."""
        self.take_back()
        pieces = weights.contiguous().split(self.counts)
        take_back, fast = self.lend(pieces), torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # where nn.TransformerEncoderLayer reads the weights of its layers
        try:
            output = self.net(*args, **kwargs)
        except (AttributeError, RuntimeError, TypeError) as error:
            raise explained(error, self.net, {module: entry.name for entry, users in zip(self.layout.entries, self.users) for module in users})
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            take_back()
        self.backward_with(lambda: self.lend(pieces), output)
        if self.undecided and self.net.training and weights.requires_grad and torch.is_grad_enabled():
            self.decide()
        return output

    def lend(self, pieces):
        """Gives each layer its weights, for this thread; returns a function that removes them again."""
        thread, layers = get_ident(), [(layer, values) for values, layers in zip(pieces, self.layers) for layer in layers]
        for layer, values in layers:
            layer.values = values
        return lambda: [layer.given.pop(thread, None) for layer, _ in layers]

    def local(self, keys):
        """Sorted keys split by layer, as places within each layer."""
        return [piece - first for first, piece in zip(self.bounds, self.pieces(keys))]

    def pieces(self, keys):
        """Sorted keys split by layer, as views."""
        cuts = torch.searchsorted(keys, torch.tensor(self.bounds, device=keys.device)).tolist()
        return [keys[a:b] for a, b in zip(cuts, cuts[1:])]

    def connect(self, keys):
        """Makes these sorted keys the connections."""
        self.method.keys = keys
        self.method.mask = torch.ones((), dtype=torch.bool, device=keys.device).expand(len(keys))
        pieces = self.pieces(keys)
        self.counts = [len(piece) for piece in pieces]
        for first, piece, layers in zip(self.bounds, pieces, self.layers):
            pattern, local = None if all(layer.dense for layer in layers) else layers[0].pattern_of(piece, first), piece - first
            for layer in layers:
                layer.keys, layer.pattern = None if layer.dense is False else local, pattern

    def decide(self):
        """Settles the form of each layer that has been timed, by a pass with gradients: it keeps only what its form needs, and the user is
        told. The others compute sparse until they have been timed."""
        layers = [layer for layers in self.layers for layer in layers]
        missing = sum(layer.dense is None for layer in layers)
        if missing == self.undecided:
            return
        self.undecided = missing
        self.chosen.copy_(torch.tensor([-1 if layer.dense is None else layer.dense for layer in layers]))
        self.connect(self.method.keys)
        dense = [f"{name} ({1e3 * b:.2g} ms, sparse {1e3 * a:.2g})" for name, (form, a, b) in self.forms().items() if form == "dense"]
        print(f"storage auto: {len(layers) - len(dense)} of {len(layers)} layers compute sparse" + "; faster dense: " * bool(dense)
              + ", ".join(dense), file=sys.stderr)

    def forms(self):
        """{weight: ("sparse", "dense" or "undecided", seconds sparse, seconds dense)}: of a pass forward and back, NaN if it was not timed."""
        word = {None: "undecided", True: "dense", False: "sparse"}
        return {name: (word[layer.dense], *(layer.seconds or (math.nan, math.nan)))
                for entry, layers in zip(self.layout.entries, self.layers) for name, layer in zip(entry.names, layers)}

    @torch.no_grad()
    def rewire(self, optimizer, keys, survivors):
        """Replaces the connections by `keys`, sorted. Connections that stay keep their optimiser state and, if they are among `survivors`
        (nnz,), bool, their weight; all else starts at zero. The current gradient stays with the connections that it was computed for."""
        old = self.method.keys
        forget_steps(optimizer)
        source = places(keys, old)
        known = old[source] == keys

        def moved(values, where=known):
            return torch.where(where, values[source], 0)

        state = optimizer.state.get(self.theta, {})
        state.update({name: moved(v) for name, v in state.items() if torch.is_tensor(v) and v.shape == self.theta.shape})
        gradient = None if self.theta.grad is None else moved(self.theta.grad)
        self.replace(moved(self.theta, known & survivors[source]))
        self.theta.grad = gradient
        self.connect(keys)

    @torch.no_grad()
    def redraw(self, optimizer, seed):
        """Draws another graph, with the method's current counts, and with init=sparse its first weights; without, connections that stay keep theirs,
        and others start at zero."""
        devices = [self.theta.device] if self.theta.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would leave the generators of other devices changed
            for device in devices:
                torch.cuda.default_generators[device.index].manual_seed(seed)
            keys = self.method.draw_graph(self.bounds).to(self.theta.device)
            self.rewire(optimizer, keys, torch.ones_like(self.method.keys, dtype=torch.bool))
            if self.method.init != "network":
                self.initialise()

    def replace(self, values):
        """Gives theta these values; its length may change."""
        self.theta.grad = None
        dtype = self.theta.dtype
        # autograd remembers the length as long as an old loss is alive; another dtype makes it forget
        self.theta.data = torch.empty(0, dtype=torch.float16, device=values.device)
        self.theta.data = values.to(dtype)

    @torch.no_grad()
    def initialise(self):
        """Draws the first weights as the masked methods' `initialise` does, by the number κ of active inputs of a neuron: weights and biases uniform
        with variance 1/κ, or those of sparse layers alone normal with standard deviation 2/κ (init=grad_flow)."""
        draws = []
        for entry, users, keys, own in zip(self.layout.entries, self.users, self.local(self.method.keys), self.theta.split(self.counts)):
            rows = keys // entry.fan_in
            active = torch.bincount(rows, minlength=entry.shape[0]).clamp_min(1)
            if self.method.init == "grad_flow":
                spread = (2 / active).to(self.theta.dtype)[rows]
                kept = len(keys) == entry.size and own.any()  # a network of shapes has none of its own
                draws.append(own if kept else torch.randn_like(spread) * spread)
                continue
            bounds = (3 / active).sqrt().to(self.theta.dtype)
            draws.append((2 * torch.rand_like(bounds[rows]) - 1) * bounds[rows])
            for bias in dict.fromkeys(module.bias for module in users if module.bias is not None):  # a set's order would vary
                bias.copy_((2 * torch.rand_like(bounds) - 1) * bounds)
        self.theta.copy_(torch.cat(draws))

    def layer_nnz(self):
        """Active weights of each layer, as a tensor, in the order of `layout.entries`."""
        return torch.tensor(self.counts, device=self.theta.device)

    def layer_sums(self, values):
        """Sums of values such as theta's (nnz,) over each layer: (layers,)."""
        return torch.stack([piece.sum() for piece in values.split(self.counts)])

    def masks(self):
        """{weight's name in the network: bool tensor of its shape, True where a connection is active}; dense, as the network's weights."""
        flat = torch.zeros(self.layout.size, dtype=torch.bool, device=self.theta.device)
        flat[self.method.keys] = True
        return self.layout.named_views(flat)

    def outside(self):
        """Always 0: there are no weights besides those of the connections."""
        return 0

    @torch.no_grad()
    def plain(self):
        """A plain copy of the network, dense, with its current weights."""
        # the layers that stand in for forward are left out of the copy
        net = copy.deepcopy(self.net, {id(layer): None for layers in self.layers for layer in layers} | detached(self.net))
        for entry, keys, values in zip(self.layout.entries, self.local(self.method.keys), self.theta.split(self.counts)):
            for module in entry.modules(net):
                del module.forward
            flat = values.new_zeros(entry.size).index_put_((keys,), values)
            put(net, entry, nn.Parameter(entry.view(flat).clone(memory_format=entry.memory_format)))
        return net

    def __setstate__(self, state):
        super().__setstate__(state)
        self.connect(self.method.keys)  # anew: their index depends on the device, and on what is installed

    def _apply(self, fn, *args, **options):
        refuse_half(fn(self.theta.new_zeros(())))
        super()._apply(fn, *args, **options)
        self.connect(self.method.keys)
        return self

    def _load_from_state_dict(self, state, prefix, *args):
        self.take_order(state, prefix)
        keys = state.get(f"{prefix}method.keys")
        if keys is not None and hasattr(self, "chosen"):  # a state of storage="sparse" has decided nothing
            state.setdefault(f"{prefix}chosen", torch.full_like(self.chosen, -1))
        elif keys is not None:
            state.pop(f"{prefix}chosen", None)
        if keys is not None and keys.shape != self.method.keys.shape:
            self.replace(self.theta.detach().new_zeros(len(keys)))
            self.method.keys = torch.zeros_like(keys, device=self.theta.device)
        super()._load_from_state_dict(state, prefix, *args)


def layer_class(module):
    """The class that computes a layer from its active connections, None where there is none."""
    if gpt2_linear(module):
        return SparseLinear
    if not plain_layer(module) or isinstance(module, NonDynamicallyQuantizableLinear):  # nn.MultiheadAttention reads the weight of the latter
        return None
    return SparseConv if convolves(module) else SparseLinear


def title(module):
    """The name of a module's class, with that of its file where it is not torch's class of that name."""
    kind = type(module)
    return f"{kind.__module__}.{kind.__name__}" if hasattr(nn, kind.__name__) and not kind.__module__.startswith("torch.") else kind.__name__


def refuse_half(weight):
    """Raises ValueError for weights of 16 bits."""
    if weight.element_size() < 4:
        raise ValueError(f"sparse storage computes in float32 or float64, not {weight.dtype}")


def _reconnect(model, _):
    chosen = model.chosen.tolist() if hasattr(model, "chosen") else ()
    for layer, dense in zip((layer for layers in model.layers for layer in layers), chosen):
        layer.dense = None if dense < 0 else bool(dense)
    model.undecided = sum(dense < 0 for dense in chosen)
    model.connect(model.method.keys)

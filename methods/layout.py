"""Where each prunable weight of a network lies in one flat vector."""
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import nn
from torch.nn.parameter import is_lazy

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of dimensions
ASKED = FROZEN, SKIPPED = "frozen", "skipped on request"  # why a weight stays dense on purpose
UNNAMED = "not only the weight of linear or convolutional layers"  # and not named in `include`


@dataclass(frozen=True)
class Entry:
    """One prunable tensor: all its names in the network (several if tied) and its shape (outputs, inputs of a group, *kernel).

    groups: number of groups of a transposed convolution, whose tensor is (inputs, outputs of a group, *kernel); 1 for GPT-2's linear layer,
    whose tensor is (inputs, outputs); 0 for all others. own: the tensor's shape in the network if it has more than two dimensions and belongs to
    no linear or convolutional layer; all but the last are outputs. channels_last: whether the tensor was in that memory format. contiguous:
    whether the network needs it in the usual one (`strided`).
    """
    names: tuple
    shape: tuple
    groups: int = 0
    own: tuple = ()
    channels_last: bool = False
    contiguous: bool = False

    @property
    def name(self):
        return self.names[0]

    @property
    def size(self):
        return prod(self.shape)

    @property
    def fan_in(self):
        return prod(self.shape[1:])

    @property
    def memory_format(self):
        """Of the tensor in the network."""
        return CHANNELS_LAST[len(self.own or self.shape)] if self.channels_last else torch.contiguous_format

    def modules(self, net):
        """The layers of `net` that it is a weight of: several if tied."""
        return [net.get_submodule(name.rpartition(".")[0]) for name in self.names]

    def places(self, net):
        """[(module, name in it)] of the weight."""
        return [(module, name.rpartition(".")[2]) for module, name in zip(self.modules(net), self.names)]

    def turn(self, weight):
        """The network's tensor with its outputs first; the same again turns it back."""
        return weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1) if self.groups else weight

    def flatten(self, weight):
        """The network's tensor as a vector (size,) in the layout's order: output, kernel, input."""
        weight = weight.reshape(self.shape) if self.own else weight
        return self.turn(weight).movedim(1, -1).reshape(-1)

    def view(self, flat):
        """The inverse of `flatten`: a vector (size,) as the network's tensor; a view, except for transposed convolutions with groups."""
        if self.own or self.contiguous:
            return flat.view(self.own or self.shape)
        return self.turn(flat.view(self.shape[0], *self.shape[2:], self.shape[1]).movedim(-1, 1))


class Layout:
    """The prunable weights of `net` as one flat vector of N entries, layer after layer.

    Prunable are the weights of linear and convolutional modules, and what `include` names, itself or by its module: other parameters of
    two or more dimensions, the last of which is taken for the inputs. `skip` names what to leave dense; `dense` lists everything that
    stays dense, as (name, reason).
    Within a layer the order is (output, kernel, input): a filter (output row) is one contiguous piece, and the view handed back
    to a convolution is channels_last without a copy. `others` is the number of all parameters that are not among the N: biases,
    normalisation, what is left dense. `classifier` is the index in `entries` of the network's last layer, None if it is left dense.

    Raises ValueError if there is nothing to prune, if dtypes or devices are mixed, if a lazy layer has no shape yet, or if a name in
    `skip` matches nothing, or one in `include` nothing that can be pruned.
    """

    def __init__(self, net, skip=(), include=()):
        places, skipped, included = {}, _named(net, skip, "skip"), _named(net, include, "include", least=2)
        for prefix, module in net.named_modules():
            if prunable(module) and module._parameters.get("weight", prefix) is None:
                raise ValueError(f"{prefix}.weight already belongs to another SparseModel: export() it first".lstrip("."))
            for tensors in (module.named_parameters, module.named_buffers):
                for name, tensor in tensors(prefix, recurse=False, remove_duplicate=False):
                    places.setdefault(_memory(tensor), []).append((name, tensor, module))
        self.dense, self.entries, weights = [], [], []
        for uses in places.values():
            names, tensors, modules = zip(*uses)
            matrices = [(name, t) for name, t, _ in uses if isinstance(t, nn.Parameter) and t.ndim > 1]
            if not matrices:
                continue
            name, weight = matrices[0]
            layers = all(prunable(module) and name.rpartition(".")[2] == "weight" for name, module in zip(names, modules))
            if id(weight) in skipped:
                self.dense.append((name, SKIPPED))
            elif not weight.requires_grad:
                self.dense.append((name, FROZEN))
            elif not layers and (reason := next(filter(None, map(_stubborn, modules)), None)):
                if id(weight) in included:
                    raise ValueError(f"include: {name} is of {reason}; skip=[names] leaves such weights dense")
                self.dense.append((name, f"of {reason}"))
            elif not layers and id(weight) not in included:
                self.dense.append((name, UNNAMED))
            elif any(t is not weight for t in tensors):
                self.dense.append((name, f"shares its memory with {names[1]}"))
            elif not weight.numel():
                self.dense.append((name, "empty"))
            elif weight.is_complex():
                self.dense.append((name, "complex"))
            else:
                entry = _entry(names, weight, modules[0] if layers else None)
                self.entries.append(replace(entry, channels_last=channels_last(weight), contiguous=layers and any(map(strided, modules))))
                weights.append(weight)
        if not weights:
            left = ", ".join(f"{name} ({reason})" for name, reason in self.dense[:2]) + ", …" * (len(self.dense) > 2)
            raise ValueError("the network has no weight that can be pruned (linear and convolutional weights can, others with include=[names])"
                             + f": {left}" * bool(left))
        if len({(w.dtype, w.device) for w in weights}) > 1:
            kinds = {(w.dtype, w.device): e.name for w, e in zip(reversed(weights), reversed(self.entries))}
            raise ValueError("the prunable weights must share one dtype and one device, unlike " +
                             ", ".join(f"{name} ({str(dtype).removeprefix('torch.')}, {device})" for (dtype, device), name in kinds.items())
                             + ": convert or move the network, or skip=[names]")
        self.sizes = [e.size for e in self.entries]
        self.size = sum(self.sizes)
        self.others = sum(parameter.numel() for parameter in net.parameters()) - self.size
        head = [module.weight for module in net.modules() if prunable(module)][-1:]
        self.classifier = next((i for i, weight in enumerate(weights) if any(weight is last for last in head)), None)
        self._filters = self._lengths = None

    def flatten(self, tensors):
        """Per-layer tensors, in the order of `entries` and the network's shapes, as one vector (N,)."""
        return torch.cat([e.flatten(t) for t, e in zip(tensors, self.entries)])

    def views(self, flat):
        """The vector (N,) as a list of per-layer views in the network's shapes."""
        return [e.view(piece) for piece, e in zip(flat.split(self.sizes), self.entries)]

    def named_views(self, flat):
        """{name in the network: view}, tied names sharing one view."""
        return {name: view for view, e in zip(self.views(flat), self.entries) for name in e.names}

    def _filter_index(self, device):
        """(offset of each filter, and the end of the last, (number of filters + 1,); index of each weight's filter, (N,))."""
        if self._filters is None or self._filters[0].device != device:
            with torch.inference_mode(False):  # a backward pass cannot save tensors made in inference mode, which may ask first
                lengths = torch.tensor([e.fan_in for e in self.entries for _ in range(e.shape[0])], device=device)
                index = torch.arange(len(lengths), dtype=torch.int32, device=device).repeat_interleave(lengths, output_size=self.size)
                self._filters = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), index
        return self._filters

    def filter_means(self, flat):
        """Mean over each filter (output row): vector (N,) → (number of filters,)."""
        # unsafe: the offsets are known to be right, and checking them would wait for the device. Lengths would be summed anew at each call
        return torch.segment_reduce(flat, "mean", offsets=self._filter_index(flat.device)[0], unsafe=True)

    def spread_filters(self, values):
        """One value per filter, a tensor (number of filters,) → one per weight (N,), differentiable."""
        index = self._filter_index(values.device)[1]
        return _spread(values, lambda values: values.index_select(0, index), self.filter_sums)

    def spread_layers(self, values):
        """One value per layer, a tensor (number of layers,) → one per weight (N,), differentiable."""
        if self._lengths is None or self._lengths.device != values.device:
            with torch.inference_mode(False):
                self._lengths = torch.tensor(self.sizes, device=values.device)
        return _spread(values, lambda values: values.repeat_interleave(self._lengths, output_size=self.size), self.layer_sums)

    def filter_sums(self, flat):
        """Sum over each filter: vector (N,) → (number of filters,)."""
        return torch.cat([piece.view(e.shape[0], -1).sum(1) for piece, e in zip(flat.split(self.sizes), self.entries)])

    def layer_sums(self, flat):
        """Sum over each layer: vector (N,) → (number of layers,)."""
        return torch.stack([piece.sum() for piece in flat.split(self.sizes)])


class Spread(torch.autograd.Function):
    """spread(values), which copies each value to many weights; its gradient is sums(gradient at the weights)."""

    @staticmethod
    def forward(ctx, values, spread, sums):
        ctx.sums = sums
        return spread(values)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.sums(gradient), None, None


def _spread(values, spread, sums):
    # a GPU sums the gradient of index_select, and so of repeat_interleave, in a different order each time
    return Spread.apply(values, spread, sums) if values.is_cuda else spread(values)


def prunable(module):
    """Whether the module's `weight` is that of a linear or convolutional layer."""
    return isinstance(module, PRUNABLE) or gpt2_linear(module)


def gpt2_linear(module):
    """Whether the module is transformers' Conv1D, a linear layer whose weight is (inputs, outputs)."""
    return any((kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D") for kind in type(module).__mro__)


def _stubborn(module):
    """Why a module's weights cannot be taken from it, None where they can."""
    if isinstance(module, nn.RNNBase):
        return "a recurrent layer, which keeps its weights in a second place, too"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and (module.max_norm is not None or module.sparse):
        return "an embedding with max_norm= or sparse=True, which handles its weight itself"
    if type(module)._save_to_state_dict is not nn.Module._save_to_state_dict:
        return f"a {type(module).__name__}, which stores its weight itself"
    return None


def _entry(names, weight, layer):
    """The Entry of a weight; layer: the linear or convolutional layer that it belongs to, if any."""
    shape = tuple(weight.shape)
    if layer is None:
        return Entry(names, (weight.numel() // shape[-1], shape[-1]), own=shape if len(shape) > 2 else ())
    groups = layer.groups if isinstance(layer, TRANSPOSED) else int(gpt2_linear(layer))  # both have their inputs first
    first, second, *kernel = shape
    return Entry(names, (second * groups, first // groups, *kernel) if groups else shape, groups)


def strided(module):
    """Whether it is a convolution with a stride and one input per filter (of a single channel, or depthwise), or of single pixels with few. Its
    weight is at once contiguous and channels_last in memory; with strides of the latter, torch 2.14's convolution reads beyond it where the stride of
    the width is 2 or more (of single pixels: on large images), and in bf16 gives wrong gradients where the output is one pixel."""
    if not isinstance(module, (nn.Conv2d, nn.Conv3d)) or max(module.stride) == 1:
        return False
    inputs = module.in_channels // module.groups
    return inputs == 1 or max(module.kernel_size) == 1 and inputs < 16


def channels_last(weight):
    """Whether a convolution's weight is channels_last in memory, and not contiguous as well."""
    return weight.ndim in CHANNELS_LAST and not weight.is_contiguous() and weight.is_contiguous(memory_format=CHANNELS_LAST[weight.ndim])


def _named(net, names, word, least=0):
    """The ids of the parameters that `names` names, directly or by their module. least: only those that are trained and have at least so many
    dimensions. Raises ValueError for a name without any."""
    try:
        names = () if names is None else (names,) if isinstance(names, str) else tuple(names)
    except TypeError:
        raise ValueError(f"{word}= takes names of weights or modules, not {names!r}") from None
    found, used = set(), set()
    for name, parameter in net.named_parameters(remove_duplicate=False):
        if is_lazy(parameter):
            raise ValueError(f"{name} has no shape yet: call a network with lazy layers once before")
        of = {given for given in names if name == given or name.startswith(f"{given}.")}
        if of and parameter.ndim >= least and (parameter.requires_grad or not least):
            found.add(id(parameter))
            used |= of
    if missing := set(names) - used:
        kinds = f"is no weight of {least} or more dimensions that is trained, nor a module that has one"
        raise ValueError(f"{word}: {min(missing)!r} {kinds}" if least else f"{word}: the network has no parameter or module {min(missing)!r}")
    return found


def _memory(tensor):
    """A key that is the same for tensors that share their memory: a tied weight, or a buffer or second parameter on the same memory."""
    return (tensor.layout is torch.strided and tensor.data_ptr()) or f"tensor {id(tensor)}"

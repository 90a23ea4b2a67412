"""CIFAR's ResNets (models/resnet.py) in training by the kernels of models/normalised.py, on a GPU: a third of a compiled network's launches."""
from dataclasses import dataclass

import torch
from torch import nn

from . import normalised
from .narrow import exactness
from .normalised import triton
from .resnet import ResNet, ZeroPadShortcut

MOST = 64  # channels
PROGRAMS = 264  # of a grid, at most: two for each multiprocessor of an H100 and H200
CHUNKS = 132  # parts of a batch whose gradients of the weights are summed apart, at most
STATISTICS = 2048  # numbers of the programs' statistics that are summed at a time
PIECE, LINES = 256, 16  # weights of a program of the sum of the parts, and parts at a time


@dataclass(eq=False)
class Layer:
    """A convolution and its normalisation. begin: where its weights begin among the network's; side: that of its square inputs."""
    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    begin: int
    side: int
    number: int

    def __post_init__(self):
        (self.size, _), (self.stride, _) = self.conv.kernel_size, self.conv.stride
        self.inputs, self.outputs = self.conv.in_channels, self.conv.out_channels
        self.out, self.weights = (self.side - 1) // self.stride + 1, self.inputs * self.outputs * self.size ** 2
        self.shape = dict(height=self.side, width=self.side, rows=self.out, columns=self.out, stride=self.stride, size=self.size, inputs=self.inputs,
                          outputs=self.outputs)


@dataclass
class Normed:
    """What a layer gives: y (B, C, H, W) before and affine (4, C) of its normalisation (models/normalised.py)."""
    y: torch.Tensor
    affine: torch.Tensor


@dataclass
class Slope:
    """The gradient at a layer's y: g (B, C, H, W) is that behind its normalisation, or with no slope (2, C) itself."""
    g: torch.Tensor
    normed: Normed = None
    slope: torch.Tensor = None


@dataclass
class Block:
    """Two layers and the shortcut: "same", "padded", or a layer, then "normalised"."""
    first: Layer
    second: Layer
    kind: str
    shortcut: Layer | None


def fused(net, layout, x, again=True):
    """A function of effective weights (N,) and images like x (B, C, H, W) that gives `net`'s logits in training; None where these kernels are not
    for it: they are for ResNets of at most MOST channels and square images, whose convolutions and last layer are all in the `layout`.

    again: what is normalised, and the gradients behind, are computed wherever they are read, at each place of a kernel, in the fewest launches;
    else once, by launches of their own (104 instead of 74 of ResNet-20), and kept.
    """
    if not triton or type(net) is not ResNet or net.fc.in_features > MOST or x.shape[2] != x.shape[3]:
        return None
    layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in net.modules())
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    plain = all(type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None for norm in norms)
    return Fused(net, layout, x, again) if plain and len(layout.entries) == layers else None


class Fused:
    """See `fused`. What is planned once: where all lies, and counters of programs that have ended."""

    def __init__(self, net, layout, x, again):
        (self.images, _, side, _), self.device, self.fc, self.again = x.shape, x.device, net.fc, again
        names, ends = {module: f"{name}.weight" for name, module in net.named_modules()}, torch.tensor(layout.sizes).cumsum(0).tolist()
        begins = dict(zip((entry.name for entry in layout.entries), [0, *ends]))
        self.layers, self.blocks, self.size, self.begin = [], [], layout.size, begins[names[net.fc]]

        def layer(conv, norm):
            self.layers.append(Layer(conv, norm, begins[names[conv]], side, len(self.layers)))
            return self.layers[-1]

        self.stem = layer(net.conv, net.bn)
        for block in (block for stage in net.stages for block in stage):
            first, kind, shortcut = layer(block.conv1, block.bn1), "same", None
            if isinstance(block.shortcut, nn.Sequential):
                kind, shortcut = "normalised", layer(*block.shortcut)
            elif isinstance(block.shortcut, ZeroPadShortcut):
                kind = "padded"
            side = first.out
            self.blocks.append(Block(first, layer(block.conv2, block.bn2), kind, shortcut))
        self.side = side
        # of 16 bytes each: a place that is a multiple of that is another kind of argument for Triton
        self.counters = torch.zeros((2 * len(self.layers) + 1, 4), dtype=torch.int32, device=self.device)
        self.places, lines, begin = [], [], 0
        for layer in self.layers:  # where the parts of its gradient lie, and what each program sums up
            chunks = self.chunks(layer)[0]
            lines += [(begin + i, chunks, layer.weights, min(PIECE, layer.weights - i), layer.begin + i) for i in range(0, layer.weights, PIECE)]
            self.places.append(begin)
            begin += chunks * layer.weights
        self.parts, self.table = begin, torch.tensor(lines, dtype=torch.int32, device=self.device)

    def __call__(self, weights, x):
        return Passes.apply(self, x, weights, self.fc.bias, *(p for layer in self.layers for p in (layer.norm.weight, layer.norm.bias)))

    def chunks(self, layer):
        """(parts of a batch, blocks of pixels in each, pixels of a block)."""
        block = 128 if width(layer.inputs) + width(layer.outputs) < 2 * MOST else 64  # what fits into a multiprocessor
        blocks = -(-self.images * layer.out ** 2 // block)
        each = max(128 // block, -(-blocks // CHUNKS))
        return -(-blocks // each), each, block

    def grid(self, side):
        """(pixels, programs, blocks of pixels of each, pixels of a block, warps)."""
        pixels = self.images * side ** 2
        block, warps = (128, 4) if pixels >= 2 ** 15 else (64, 8)
        blocks = -(-pixels // block)
        each = -(-blocks // PROGRAMS)
        return pixels, -(-blocks // each), each, block, warps

    def empty(self, dtype, channels, side):
        return torch.empty((self.images, channels, side, side), dtype=dtype, device=self.device, memory_format=torch.channels_last)

    def forward(self, layer, source, weights):
        """The Normed of a layer from a tensor, or from the Normed before."""
        norm, y, affine = layer.norm, self.empty(weights.dtype, layer.outputs, layer.out), torch.empty((4, layer.outputs), device=self.device)
        (pixels, programs, each, block, warps), wide = self.grid(layer.out), width(layer.outputs)
        partial = torch.empty((programs, 2, wide), device=self.device)
        normalised._forward[(programs,)](
            *read(source), weights[layer.begin:], y, partial, self.counters[layer.number], affine, norm.weight, norm.bias, norm.running_mean,
            norm.running_var, norm.momentum, norm.eps, pixels, each, **layer.shape, normalised=isinstance(source, Normed), block=block, wide=wide,
            deep=min(32, width(layer.inputs)), lines=STATISTICS // wide, exactness=exactness(y), num_warps=warps, num_stages=3)
        return Normed(y, affine)

    def join(self, normed, kind="", rest=None):
        """ReLU of a layer and the shortcut, which is of a `kind`."""
        out, block = torch.empty_like(normed.y), 1024
        _, channels, rows, columns = out.shape
        rest, other = read(out if rest is None else rest)
        _, fewer, *sides = rest.shape
        normalised._join[(-(-out.numel() // block),)](
            normed.y, normed.affine, rest, other, out, out.numel(), channels, kind, rows, columns, *sides, -(-sides[0] // rows),
            fewer, block, num_warps=4)
        return out

    def settled(self, layer, g, normed, slope):
        """The Slope of a layer."""
        if self.again:
            return Slope(g, normed, slope)
        out, block = torch.empty_like(g), 1024
        normalised._settle[(-(-out.numel() // block),)](g, *read(normed), slope, out, out.numel(), layer.outputs, block, num_warps=4)
        return Slope(out)

    def backward(self, layer, at, weights, norms=(), gate=None, more=None, added=""):
        """(gradient at the inputs of a layer, [[slope, gradient at gamma, at beta] of each of the `norms` before it]) from the Slope at its outputs.

        layer: None for the mean over all pixels, at which is (B, C). norms: [Normed]. gate: the inputs, a tensor or Normed, whose ReLU the gradient
        passes, after `more` was `added` to it ("same", or "padded" as the shortcut is).
        """
        if layer:
            inputs, side, shape, kind, counter = layer.inputs, layer.side, layer.shape, "same", self.counters[len(self.layers) + layer.number]
            apart, wider, share = (layer.stride, layer.outputs, 1.0) if added == "padded" else (1, 1, 1.0)
        else:
            inputs, side, kind, counter, apart, wider, share = self.fc.in_features, self.side, "average", self.counters[-1], 1, 1, 1 / self.side ** 2
            shape = dict(height=side, width=side, rows=1, columns=1, stride=1, size=1, inputs=inputs, outputs=inputs)
        out, begin = self.empty(weights.dtype, inputs, side), layer.begin if layer else 0
        found = [[torch.empty(size, device=self.device) for size in ((2, inputs), (inputs,), (inputs,))] for _ in norms]
        (pixels, programs, each, block, warps), wide = self.grid(side), width(inputs)
        partial = torch.empty((programs, 3, wide), device=self.device)
        first, second = (*norms, *2 * [out])[:2]  # of what is not there the kernel reads nothing: any tensor stands for it
        normalised._backward[(programs,)](
            *parts_of(at), weights[begin:], out if more is None else more, *read(out if gate is None else gate), *read(first), *read(second), out,
            partial, counter, *(*sum(found, []), *6 * [out])[:6], pixels, each, **shape, kind=kind, settled=at.slope is None, added=added,
            normalised=isinstance(gate, Normed), norms=len(norms), apart=apart, wider=wider, share=share, block=block, wide=wide,
            deep=min(32, width(shape["outputs"])), lines=STATISTICS // wide, exactness=exactness(out), num_warps=warps, num_stages=3)
        return out, found

    def weights(self, layer, at, source, parts):
        """The parts of the gradient at the weights of a layer, whose inputs are `source`, from the Slope at its outputs."""
        chunks, each, block = self.chunks(layer)
        normalised._weights[chunks, layer.size](
            *parts_of(at), *read(source), parts[self.places[layer.number]:], self.images * layer.out ** 2, each, **layer.shape,
            settled=at.slope is None, normalised=isinstance(source, Normed), block=block, wide=width(layer.outputs), deep=width(layer.inputs), exactness=exactness(at.g),
            num_warps=4, num_stages=3)


def read(source):
    """(tensor, affine), of a tensor any for the latter."""
    return (source.y, source.affine) if isinstance(source, Normed) else (source, source)


def parts_of(at):
    """What a kernel reads of a Slope."""
    return (at.g, at.g, at.g, at.g) if at.slope is None else (at.g, *read(at.normed), at.slope)


def width(channels):
    """Of a tile, whose sides are powers of two from 16 on."""
    return max(16, triton.next_power_of_2(channels))


class Passes(torch.autograd.Function):
    """A ResNet's pass and the one back."""

    @staticmethod
    def forward(ctx, own, x, weights, bias, *_):
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else weights.dtype
        x, weights = x.contiguous(memory_format=torch.channels_last), weights.to(dtype)
        stem, states = own.forward(own.stem, x, weights), []
        z = own.join(stem)
        for block in own.blocks:
            one = own.forward(block.first, z, weights)
            inner = one if own.again else own.join(one)
            two = own.forward(block.second, inner, weights)
            rest = own.forward(block.shortcut, z, weights) if block.shortcut else z
            states.append((z, one, inner, two, rest))
            z = own.join(two, block.kind, rest)
        with torch.autocast(x.device.type, enabled=False):
            pooled, last = z.float().mean((2, 3)), weights[own.begin:][:own.fc.in_features * own.fc.out_features]
            last = last.view(own.fc.out_features, -1).float()
            logits = pooled @ last.T
        ctx.own, ctx.kept = own, (x, weights, stem, states, z, pooled, last)
        return logits if bias is None else logits + bias

    @staticmethod
    def backward(ctx, gradient):
        own, (x, weights, stem, states, z, pooled, last) = ctx.own, ctx.kept
        parts, flat, at_norms = torch.empty(own.parts, device=own.device), torch.empty(own.size, device=own.device), {}
        torch.mm(gradient.T, pooled, out=flat[own.begin:own.begin + last.numel()].view_as(last))
        before = [(own.stem,), *((block.second, block.shortcut)[:1 + bool(block.shortcut)] for block in own.blocks)]  # the layers before each join
        norms = [(stem,), *((two, rest)[:len(layers)] for layers, (*_, two, rest) in zip(before[1:], states))]
        g, found = own.backward(None, Slope(gradient @ last), weights, norms[-1], z)
        for number, (block, (z, one, inner, two, rest)) in reversed([*enumerate(zip(own.blocks, states))]):
            slopes = [slope for slope, *_ in found]
            at_norms |= {layer: at for layer, (_, *at) in zip(before[number + 1], found)}
            at = own.settled(block.second, g, two, slopes[0])
            own.weights(block.second, at, inner, parts)
            within, [(slope, *at_norms[block.first])] = own.backward(block.second, at, weights, [one], inner)
            more, added = g, "padded" if block.kind == "padded" else "same"
            if block.shortcut:
                at = own.settled(block.shortcut, g, rest, slopes[1])
                own.weights(block.shortcut, at, z, parts)
                more, _ = own.backward(block.shortcut, at, weights)
            at = own.settled(block.first, within, one, slope)
            own.weights(block.first, at, z, parts)
            g, found = own.backward(block.first, at, weights, norms[number], z, more, added)
        [(slope, *at_norms[own.stem])] = found
        own.weights(own.stem, own.settled(own.stem, g, stem, slope), x, parts)
        normalised._add[(len(own.table),)](parts, own.table, flat, PIECE, LINES, num_warps=4)
        return None, None, flat, gradient.sum(0) if ctx.needs_input_grad[3] else None, *(at for layer in own.layers for at in at_norms[layer])

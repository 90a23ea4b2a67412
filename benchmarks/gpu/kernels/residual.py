"""Training passes of CIFAR's ResNets (models/resnet.py) on a GPU with the kernels of normalised.py and narrow.py: a third of the launches of a
compiled network."""
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_flatten, tree_unflatten

from benchmarks.gpu.kernels import narrow, normalised
from benchmarks.gpu.kernels.narrow import exactness, tile
from benchmarks.gpu.kernels.normalised import triton
from benchmarks.models.resnet import ResNet, ZeroPadShortcut

MOST = 64  # largest number of channels
PROGRAMS = 264  # largest number in a grid: two for each multiprocessor of an H100 or H200
PARTS = 44  # most parts of a batch with separate weights' gradients: times a kernel's three rows, one program per multiprocessor
STATISTICS = 2048  # how many of the programs' statistics are summed at a time
ELEMENTS = 1024  # numbers per program in elementwise kernels
PIECE, LINES = 256, 16  # for summing the parts of gradients: weights per program, parts at a time


@dataclass(eq=False)
class Layer:
    """A convolution and its normalisation. begin: offset of its weights among the network's; side: of its square inputs."""
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

    def of(self, weights):
        """This layer's weights (outputs, inputs, size, size), from those of the network."""
        return weights[self.begin:][:self.weights].view(self.outputs, self.size, self.size, self.inputs).permute(0, 3, 1, 2)


class Normed(NamedTuple):
    """The result of a layer: y (B, C, H, W) before its normalisation, and the affine (4, C) of the normalisation."""
    y: torch.Tensor
    affine: torch.Tensor


@dataclass
class Block:
    """Two layers and a shortcut, of the kind "same", "padded" or "normalised" (then `shortcut` is its layer)."""
    first: Layer
    second: Layer
    kind: str
    shortcut: Layer | None


def fused(net, layout, x, dtype):
    """A function of effective weights (N,) and images like x (B, C, H, W) that returns `net`'s logits, computed in `dtype`, if all normalisations are
    in training mode. None if these kernels cannot do it: they are for ResNets with at most MOST channels and square images, whose convolutions and
    last layer are all in the `layout`."""
    if not triton or type(net) is not ResNet or net.fc.in_features > MOST or x.shape[2] != x.shape[3]:
        return None
    layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in net.modules())
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    plain = all(type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats and norm.momentum is not None for norm in norms)
    return Fused(net, layout, x, dtype) if plain and len(layout.entries) == layers else None


class Fused:
    """The function that `fused` returns. Offsets, and the counters of programs that have ended, are set up once."""

    def __init__(self, net, layout, x, dtype):
        (self.images, _, side, _), self.device, self.dtype, self.fc = x.shape, x.device, dtype, net.fc
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
        # 16 bytes each: Triton compiles another kernel for pointers that are not aligned to 16 bytes
        self.counters = torch.zeros((2 * len(self.layers) + 1, 4), dtype=torch.int32, device=self.device)
        self.places, lines, begin = [], [], 0
        for layer in self.layers:  # the offset of the parts of its gradient, and the lines for the programs of `_add`
            parts = narrow.chunks_of(self.images * layer.out ** 2, dtype, PARTS)[0]
            lines += [(begin + i, parts, layer.weights, min(PIECE, layer.weights - i), layer.begin + i) for i in range(0, layer.weights, PIECE)]
            self.places.append(begin)
            begin += parts * layer.weights
        self.parts, self.table = begin, torch.tensor(lines, dtype=torch.int32, device=self.device)

    def __call__(self, weights, x):
        return Passes.apply(self, x, weights, self.fc.bias, *(p for layer in self.layers for p in (layer.norm.weight, layer.norm.bias)))

    def in_training(self):
        """Whether all normalisations are in training mode, so that they use the batch's statistics."""
        return all(layer.norm.training for layer in self.layers)

    def grid(self, side):
        """(pixels, programs, blocks of pixels for each, pixels of a block, warps) for images of this side."""
        pixels = self.images * side ** 2
        block, warps = (128, 4) if pixels >= 2 ** 15 else (64, 8)
        blocks = -(-pixels // block)
        each = -(-blocks // PROGRAMS)
        return pixels, -(-blocks // each), each, block, warps

    def empty(self, channels, side):
        return torch.empty((self.images, channels, side, side), dtype=self.dtype, device=self.device, memory_format=torch.channels_last)

    def forward(self, layer, x, weights):
        """The Normed of a layer."""
        norm, y, affine = layer.norm, self.empty(layer.outputs, layer.out), torch.empty((4, layer.outputs), device=self.device)
        (pixels, programs, each, block, warps), wide = self.grid(layer.out), tile(layer.outputs)
        normalised._forward[(programs,)](
            x, layer.of(weights), y, torch.empty((programs, 2, wide), device=self.device), self.counters[layer.number], affine, norm.weight,
            norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps, pixels, each, **layer.shape, block=block, wide=wide,
            deep=min(32, tile(layer.inputs)), lines=STATISTICS // wide, exactness=exactness(y), num_warps=warps, num_stages=1)
        return Normed(y, affine)

    def join(self, normed, kind="", rest=None):
        """ReLU of the sum of a normalised layer and a shortcut of this kind (see `normalised._join`)."""
        out = torch.empty_like(normed.y)
        rest, other = (rest.y, rest.affine) if kind == "normalised" else (out if rest is None else rest, out)
        (_, channels, rows, columns), (_, fewer, *sides) = out.shape, rest.shape
        normalised._join[(-(-out.numel() // ELEMENTS),)](
            normed.y, normed.affine, rest, other, out, out.numel(), channels, kind, rows, columns, *sides, -(-sides[0] // rows), fewer, ELEMENTS,
            num_warps=4)
        return out

    def settle(self, g, normed, slope):
        """The gradient at a layer's y from the one after its normalisation."""
        out = torch.empty_like(g)
        normalised._settle[(-(-out.numel() // ELEMENTS),)](g, normed.y, normed.affine, slope, out, out.numel(), g.shape[1], ELEMENTS, num_warps=4)
        return out

    def backward(self, layer, at, weights, x, norms, more=None, added=""):
        """(the gradient at a layer's inputs x before the ReLU that gave x, [[slope, gradient at gamma, at beta] for each of the `norms` before it]).

        at: the gradient at the layer's outputs. layer: None for the mean over all pixels; `at` is then (B, C). norms: [Normed]. more: a gradient
        that is `added` to the one at x ("same", or "padded" if it comes from a padded shortcut).
        """
        inputs, side = x.shape[1], x.shape[2]
        mean = dict(height=side, width=side, rows=1, columns=1, stride=1, size=1, inputs=inputs, outputs=inputs)
        g, wide, (pixels, programs, each, block, warps) = torch.empty_like(x), tile(inputs), self.grid(side)
        found = [[torch.empty(size, device=self.device) for size in ((2, inputs), (inputs,), (inputs,))] for _ in norms]
        first, second = norms[0], norms[-1]
        normalised._backward[(programs,)](
            at, layer.of(weights) if layer else weights, x if more is None else more, x, first.y, first.affine, second.y, second.affine, g,
            torch.empty((programs, 3, wide), device=self.device), self.counters[len(self.layers) + layer.number if layer else -1],
            *found[0], *found[-1], pixels, each, **(layer.shape if layer else mean), kind="same" if layer else "average", added=added,
            norms=len(norms), wider=more.shape[1] if added == "padded" else 1, share=1 / side ** 2, block=block, wide=wide,
            deep=min(32, tile(layer.outputs if layer else inputs)), lines=STATISTICS // wide, exactness=exactness(g), num_warps=warps, num_stages=1)
        return g, found

    def weights(self, layer, at, x, parts):
        """Writes the parts of the gradient at a layer's weights into `parts`, from the gradient `at` its outputs."""
        narrow.products(at, x, layer.size, layer.stride, parts[self.places[layer.number]:], PARTS)


class Passes(torch.autograd.Function):
    """A ResNet's forward and backward pass."""

    @staticmethod
    def forward(ctx, own, x, weights, bias, *_):
        x, weights = x.to(own.dtype, memory_format=torch.channels_last), weights.to(own.dtype)
        stem, states = own.forward(own.stem, x, weights), []
        z = own.join(stem)
        for block in own.blocks:
            one = own.forward(block.first, z, weights)
            inner = own.join(one)
            two = own.forward(block.second, inner, weights)
            rest = own.forward(block.shortcut, z, weights) if block.shortcut else z
            states.append((z, one, inner, two, rest))
            z = own.join(two, block.kind, rest)
        with torch.autocast(x.device.type, enabled=False):
            pooled, last = z.float().mean((2, 3)), weights[own.begin:][:own.fc.in_features * own.fc.out_features]
            last = last.view(own.fc.out_features, -1).float()
            logits = pooled @ last.T
        kept, ctx.form = tree_flatten((x, weights, stem, states, z, pooled, last))
        ctx.own = own
        ctx.save_for_backward(*kept)
        return logits if bias is None else logits + bias

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        own, (x, weights, stem, states, z, pooled, last) = ctx.own, tree_unflatten(ctx.saved_tensors, ctx.form)
        parts, flat, at_norms = torch.empty(own.parts, device=own.device), torch.empty(own.size, device=own.device), {}
        with torch.autocast(gradient.device.type, enabled=False):
            torch.mm(gradient.T, pooled, out=flat[own.begin:own.begin + last.numel()].view_as(last))
            at_pooled = gradient @ last
        before = [(own.stem,), *((block.second, block.shortcut)[:1 + bool(block.shortcut)] for block in own.blocks)]  # the layers before each join
        norms = [(stem,), *((two, rest)[:len(layers)] for layers, (*_, two, rest) in zip(before[1:], states))]
        g, found = own.backward(None, at_pooled, weights, z, norms[-1])
        for number, (block, (z, one, inner, two, rest)) in reversed([*enumerate(zip(own.blocks, states))]):
            slopes = [slope for slope, *_ in found]
            at_norms |= {layer: at for layer, (_, *at) in zip(before[number + 1], found)}
            at = own.settle(g, two, slopes[0])
            own.weights(block.second, at, inner, parts)
            within, [(slope, *at_norms[block.first])] = own.backward(block.second, at, weights, inner, [one])
            more, added = g, "padded" if block.kind == "padded" else "same"
            if block.shortcut:
                at = own.settle(g, rest, slopes[1])
                own.weights(block.shortcut, at, z, parts)
                more = narrow.gather(at, block.shortcut.of(weights), torch.empty_like(z), block.shortcut.stride, True)
            at = own.settle(within, one, slope)
            own.weights(block.first, at, z, parts)
            g, found = own.backward(block.first, at, weights, z, norms[number], more, added)
        [(slope, *at_norms[own.stem])] = found
        own.weights(own.stem, own.settle(g, stem, slope), x, parts)
        normalised._add[(len(own.table),)](parts, own.table, flat, PIECE, LINES, num_warps=4)
        return None, None, flat, gradient.sum(0) if ctx.needs_input_grad[3] else None, *(at for layer in own.layers for at in at_norms[layer])

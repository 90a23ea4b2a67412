"""Sparse linear layers."""
import time
from itertools import chain
from math import prod

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from methods.sparse.pattern import Pattern, add_sampled, loops_for

PIECE = 2 ** 18       # numbers of input and output together that a core's second-level cache holds
LEAST, MOST = 128, 512  # rows (samples, tokens) of a piece,
LANES = 32            # a multiple of this, because the rest of a sum that no vector register holds is slow
TRIALS = 4            # how often each form of a layer is timed


class Matmul(torch.autograd.Function):
    """y (rows, outputs) of x (rows, inputs), values (nnz,) and bias (outputs,) or None; the gradient at the values is computed for
    these alone.

    Products run over features, (features, rows), a piece of the rows at a time, which stays in the cache from its transposition to that
    of the product: each number comes from memory and goes there once. A single piece comes out as a transposed view, so that between
    sparse layers nothing is transposed.
    """

    @staticmethod
    def forward(ctx, x, values, bias, pattern):
        ctx.save_for_backward(x, values)
        ctx.pattern = pattern
        products = (pattern.product(values, columns(piece)) for piece in x.split(rows(pattern)))
        return joined(products if bias is None else (y.add_(bias[:, None]) for y in products), len(x))

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        (x, values), pattern, wanted = ctx.saved_tensors, ctx.pattern, ctx.needs_input_grad
        gradient, matrices = pattern.gradients(delta)
        sums = delta.new_zeros(pattern.size[0]) if wanted[2] else None
        values = values.index_select(0, pattern.order_t)

        def products():
            for inputs, piece in zip(x.split(rows(pattern)), delta.split(rows(pattern))):
                inputs, piece = columns(inputs), columns(piece)
                for _, matrix in matrices:
                    add_sampled(matrix, piece, inputs)
                if wanted[2]:
                    sums.add_(piece.sum(1))
                yield pattern.transposed_product(values, piece) if wanted[0] else piece[:0]
        back = joined(products(), len(delta))
        return back if wanted[0] else None, gradient, sums, None


def rows(pattern):
    """Rows of a piece: input and output stay in the cache."""
    return min(max(PIECE // sum(pattern.size) // LANES * LANES, LEAST), MOST)


def columns(x):
    """(rows, features) → (features, rows), contiguous."""
    if x.stride(1) != 1:  # a transposed view, which is there already, or a gradient that is one number everywhere
        return x.t().contiguous()
    return transposed(x, x.new_empty(x.shape[::-1]))


def transposed(x, out):
    """x (n, m) into out (m, n); the lines of both are contiguous."""
    loops = loops_for(x)
    return loops.transpose(x, out) if loops else out.copy_(x.t())


def joined(parts, total):
    """(features, rows of a piece) one after the other as (total rows, features); a single one as a view."""
    first = next(parts)
    if first.shape[1] == total:
        return first.t()
    y, end = first.new_empty(total, len(first)), 0
    for part in chain([first], parts):
        transposed(part, y[end:end + part.shape[1]])
        end += part.shape[1]
    return y


def sampled(pattern, x, delta):
    """deltaᵀ (outputs, rows) @ x (rows, inputs) at the connections of `pattern`, (nnz,) in the order of its keys."""
    values, matrices = pattern.gradients(delta)
    for x, delta in zip(x.split(rows(pattern)), delta.split(rows(pattern))):
        for _, gradient in matrices:
            add_sampled(gradient, columns(delta), columns(x))
    return values


class SparseLayer:
    """The forward of `module` with `values` (nnz,), which the model gives it for each pass, at the places `keys` of its weight.

    shape: that of the weight. dense: False computes with the connections alone, True with a dense weight that is made for each pass
    (small layers are faster so), None with what turns out to be faster at the first training pass.
    """

    def __init__(self, module, shape, dense=False):
        self.module, self.shape, self.groups, self.dense = module, tuple(shape), getattr(module, "groups", 1), dense
        self.keys = self.pattern = self.values = None
        self.seconds = ()

    def __getstate__(self):
        return {**vars(self), "pattern": None}

    def pattern_of(self, keys):
        return Pattern(keys, self.shape, self.groups)

    def __call__(self, x):
        x = x.to(self.values.dtype)
        if self.dense is None and self.module.training and torch.is_grad_enabled():
            self.measure(x)
        return (self.by_weight if self.dense else self.by_connections)(x, self.values)

    def by_connections(self, x, values):
        return self.apply(x, values, self.module.bias)

    def by_weight(self, x, values):
        weight = values.new_zeros(prod(self.shape)).index_copy(0, self.keys, values)
        return self.plain(x, weight.view(self.shape[0], *self.shape[2:], self.shape[1]).movedim(-1, 1))

    def measure(self, x):
        """Keeps the form that is faster, forward and backward, with this input."""
        values = self.values.detach().requires_grad_()
        inputs = [x.detach().requires_grad_(), values] if x.requires_grad else [x, values]
        times = []
        for form in TRIALS * (self.by_connections, self.by_weight):
            began = _now(x)
            y = form(*inputs)
            torch.autograd.grad(y, inputs[not x.requires_grad:], torch.ones_like(y))
            times.append(_now(x) - began)
        self.seconds = min(times[::2]), min(times[1::2])
        self.dense = self.seconds[1] < self.seconds[0]


class SparseLinear(SparseLayer):
    """y (..., outputs) of x (..., inputs)."""

    def apply(self, x, values, bias):
        return Matmul.apply(x.reshape(-1, x.shape[-1]), values, bias, self.pattern).view(*x.shape[:-1], self.shape[0])

    def plain(self, x, weight):
        return F.linear(x, weight, self.module.bias)

    def sampled(self, pattern, x, delta):
        """Weight gradient (nnz of `pattern`,) at its connections, given the layer's input and the gradient at its output."""
        return sampled(pattern, x.reshape(-1, x.shape[-1]), delta.reshape(-1, delta.shape[-1]))


def _now(x):
    """Seconds, when the device of x has done all that it was asked for."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()

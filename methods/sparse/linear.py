"""Sparse linear layers."""
import sys
import time
from math import prod
from threading import get_ident

import torch
from torch._compile import _disable_dynamo
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from methods.layout import Entry, strided
from methods.sparse.pattern import Pattern, add_sampled, as_array, compiled, loops_for

TRIALS = 4  # how often each form of a layer is timed


class Matmul(torch.autograd.Function):
    """y (outputs, rows) of x (rows, inputs), values (nnz,) and bias (outputs,) or None, as CSR products over features: on any device.
    The weight gradient is computed at the nnz values alone. Between sparse layers nothing is transposed in memory."""

    @staticmethod
    def forward(ctx, x, values, bias, pattern):
        ctx.save_for_backward(x, values)
        ctx.pattern = pattern
        y = pattern.product(values, x.t().contiguous())
        return y if bias is None else y.add_(bias[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        (x, values), pattern, (input, _, bias, _) = ctx.saved_tensors, ctx.pattern, ctx.needs_input_grad
        delta = delta.contiguous()
        back = pattern.transposed_product(values.index_select(0, pattern.order_t), delta).t() if input else None
        return back, sampled_csr(pattern, x, delta), delta.sum(1) if bias else None, None


class LoopMatmul(torch.autograd.Function):
    """y (rows, outputs) of the same arguments, on one core, by loops over the connections (loops.py). y and the gradient at x have x's dtype:
    that of the values or bfloat16."""

    @staticmethod
    def forward(ctx, x, values, bias, pattern):
        ctx.save_for_backward(x, values)
        ctx.pattern, loops = pattern, compiled("loops")
        y, start = x.new_empty(len(x), pattern.size[0]), values[:0] if bias is None else bias
        loops.linear_forward(*map(as_array, (x.contiguous(), values, start, pattern.starts[0], pattern.columns[0], y,
                                          room(x, values, x.shape[1]), room(x, values, loops.PART))))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        (x, values), (input, _, bias, _) = ctx.saved_tensors, ctx.needs_input_grad
        return *gradients(x, delta, values, ctx.pattern, input, bias), None


def room(like, values, features):
    """An empty buffer, with the dtype of `like`, for a block of rows of so many features."""
    return like.new_empty(features * compiled("loops").block_of(values))


def gradients(x, delta, values, pattern, input=True, bias=False):
    """The gradients (at x (rows, inputs), at the values (nnz,), at the bias (outputs,)), given delta (rows, outputs), that at y; None for x or
    the bias if it is not wanted."""
    back, sums, gradient = x.new_empty(len(x) * input, x.shape[1]), values.new_zeros(pattern.size[0] * bias), torch.empty_like(values)
    loops = compiled("loops")
    loops.linear_backward(*map(as_array, (
        x.contiguous(), delta.contiguous(), values, torch.empty_like(values), torch.zeros_like(values), pattern.order_t,
        pattern.starts_t[0], pattern.columns_t[0], back, gradient, sums, room(x, values, loops.PART), room(delta, values, pattern.size[0]),
        room(x, values, loops.PART))))
    return back if input else None, gradient, sums if bias else None


def sampled_csr(pattern, x, columns):
    """columns (outputs, rows) @ x (rows, inputs) at the connections of `pattern`, (nnz,) in the order of its keys."""
    matrices = pattern.gradients(columns)
    for _, matrix in matrices:
        add_sampled(matrix, columns, x.t().contiguous())
    return pattern.in_order(matrices, columns)


class SparseLayer:
    """Takes the place of `module`'s forward. Computes with `values` (nnz,), which the model sets for each pass and thread, at the places
    `keys` of the weight.

    shape: that of the weight. dense: False computes with the connections alone, True with a dense weight that is made for each pass
    (faster for small layers), None with whichever is faster, as measured at its first training pass.
    """

    watcher = None  # while growth is scored: a function of the input and the output, which gives the output

    def __init__(self, module, shape, dense=False):
        self.module, self.shape, self.groups, self.dense = module, tuple(shape), getattr(module, "groups", 1), dense
        self.keys = self.pattern = None
        self.seconds, self.given = (), {}

    def __getstate__(self):
        return {**vars(self), "pattern": None, "given": {}}

    @property
    def values(self):
        return self.given.get(get_ident())

    @values.setter
    def values(self, values):
        self.given[get_ident()] = values

    def pattern_of(self, keys, first=0):
        """The index of the connections `keys`, which are places in a vector in which this layer's weight begins at `first`."""
        return Pattern(keys - first, self.shape, self.groups)

    @_disable_dynamo  # torch.compile would trace numba's compiler
    def __call__(self, input):
        kind = self.values.dtype
        if input.dtype != kind and not torch.is_autocast_enabled(input.device.type):
            raise ValueError(f"a layer of {kind} weights got inputs of {input.dtype}, which the exported network would not take either: convert them")
        x = input.to(torch.bfloat16 if self.in_half(input) else kind)
        if self.dense is None and self.module.training and torch.is_grad_enabled():
            self.measure(x)
        y = (self.by_weight if self.dense else self.by_connections)(x, self.values)
        return self.watcher(input, y) if self.watcher else y

    def in_half(self, input):
        """Whether to take and give bfloat16, as the plain layer does: under autocast to it, and if compiled loops serve, which can read it."""
        device = input.device.type
        wanted = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
        return wanted and self.values.dtype == torch.float32 and bool(self.loops(input))

    def by_connections(self, x, values):
        return self.apply(x, values, self.module.bias)

    def by_weight(self, x, values):
        weight = values.new_zeros(prod(self.shape)).index_copy(0, self.keys, values)
        return self.plain(x, Entry((), self.shape, contiguous=strided(self.module)).view(weight))

    def measure(self, x):
        """Times both forms, forward and backward, with this input, and keeps the faster one."""
        values = self.values.detach().requires_grad_()
        inputs = [x.detach().requires_grad_(), values] if x.requires_grad else [x, values]
        times = []
        for form in TRIALS * (self.by_connections, self.by_weight):
            began = _now(x)
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):  # not those of torch.utils.checkpoint
                y = form(*inputs)
            torch.autograd.grad(y, inputs[not x.requires_grad:], torch.ones_like(y))
            times.append(_now(x) - began)
        self.seconds = min(times[::2]), min(times[1::2])
        self.dense = self.seconds[1] < self.seconds[0]


class SparseLinear(SparseLayer):
    """y (..., outputs) of x (..., inputs)."""

    def apply(self, x, values, bias):
        if x.shape[-1:] != self.shape[1:]:
            raise ValueError(f"a linear layer of {self.shape[1]} inputs got {tuple(x.shape)}")
        rows = x.reshape(-1, x.shape[-1])
        if loops_for(len(rows), values):
            y = LoopMatmul.apply(rows, values, bias, self.pattern)
        else:  # the view is made out here, because torch forbids in-place changes of one that a Function returns
            y = Matmul.apply(rows, values, bias, self.pattern).t()
            if loops_for(sys.maxsize, values):  # as the loops give it for more rows: `.view()` must not fail at a short last batch alone
                y = y.contiguous()
        return y.view(*x.shape[:-1], self.shape[0])

    def loops(self, x):
        """The compiled loops that serve for such an input, or None."""
        return loops_for(prod(x.shape[:-1]), self.values)

    def plain(self, x, weight):
        return F.linear(x, weight, self.module.bias)

    def sampled(self, pattern, x, delta):
        """Weight gradient (nnz of `pattern`,) at its connections, given the layer's input and the gradient at its output."""
        x, delta = x.reshape(-1, x.shape[-1]), delta.reshape(-1, delta.shape[-1])
        if loops_for(len(x), x):
            return gradients(x, delta, x.new_zeros(pattern.nnz), pattern, input=False)[1]
        return sampled_csr(pattern, x, delta.t().contiguous())


def _now(x):
    """The time in seconds, once the device of x has finished all its work."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()

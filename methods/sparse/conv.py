"""Sparse 2-D convolutions as one CSR product per kernel position, over shifted views of a zero-bordered activation."""
from functools import cache

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from methods.sparse.linear import SparseLayer
from methods.sparse.pattern import add_product, add_sampled

PIECE = 2 ** 19  # numbers of a piece of samples, input and output together: it stays in a core's second-level cache


class Grid:
    """Where the pixels of samples lie in flat memory with zeros between them, so that a shifted image is an offset.

    An input (inputs, samples, height, width) becomes stride² phases (every stride-th row and column), each a buffer of `inputs`
    rows of samples · rows · columns numbers. Kernel position (i, j) is then the buffer of phase (i mod stride, j mod stride) from
    an offset on, and products run over whole rows: what they compute at the borders is not used.
    """

    def __init__(self, size, module, padding):
        left, right, top, bottom = padding
        kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
        self.stride, self.before, self.input = stride, (top, left), tuple(size)
        reach = [d * (k - 1) for d, k in zip(dilation, kernel)]
        full = [n + before + after for n, before, after in zip(size, self.before, (bottom, right))]
        self.output = tuple((n - r - 1) // s + 1 for n, r, s in zip(full, reach, stride))
        # with stride 1 the zeros before the next row serve as those after this one
        self.lines = [max(o, n - min(before, after)) if s == 1 else -(-n // s)
                      for o, n, before, after, s in zip(self.output, full, self.before, (bottom, right), stride)]
        self.whole = tuple(stride) == (1, 1) and all(line >= n for line, n in zip(self.lines, size))  # each pixel has its place
        self.area = self.lines[0] * self.lines[1]
        self.tail = max(r // s for r, s in zip(reach, stride)) * (self.lines[1] + 1)
        self.views = [((i * dilation[0] % stride[0], j * dilation[1] % stride[1]),
                       i * dilation[0] // stride[0] * self.lines[1] + j * dilation[1] // stride[1])
                      for i in range(kernel[0]) for j in range(kernel[1])]

    def buffers(self, like, rows, samples, positions):
        """{phase: zeros} for the phases that these kernel positions need."""
        return {phase: like.new_zeros(rows * samples * self.area + self.tail) for phase in {self.views[k][0] for k in positions}}

    def view(self, buffers, k, rows):
        """The image shifted for kernel position k, (rows, samples · area), on the memory of its phase."""
        phase, offset = self.views[k]
        length = (len(buffers[phase]) - self.tail) // rows
        return buffers[phase].as_strided((rows, length), (length, 1), offset)

    def pixels(self, buffers, rows, samples):
        """Pairs of views: where a phase has its pixels, and which pixels of (rows, samples, height, width) these are."""
        for phase, buffer in buffers.items():
            grid = buffer[:len(buffer) - self.tail].view(rows, samples, *self.lines)
            inside, outside = [], []
            for p, before, n, s, lines in zip(phase, self.before, self.input, self.stride, self.lines):
                first = max(0, -(-(before - p) // s))
                start = p + s * first - before
                number = min(lines - first, -(-(n - start) // s))
                inside.append(slice(first, first + number)), outside.append(slice(start, start + s * number, s))
            yield grid[:, :, inside[0], inside[1]], (slice(None), slice(None), *outside)

    def fill(self, buffers, x):
        """The phases of x (inputs, samples, height, width), in place; their borders stay zero."""
        for view, where in self.pixels(buffers, *x.shape[:2]):
            view.copy_(x[where])
        return buffers

    def add_shifted(self, buffers, k, matrix, spread, begun):
        """The product matrix @ spread into the pixels that kernel position k reaches; the first one of a phase overwrites it."""
        phase, offset = self.views[k]
        view = self.view(buffers, k, matrix.shape[0])
        if phase not in begun:
            buffers[phase][:offset].zero_()
            buffers[phase][offset + view.numel():].zero_()
        add_product(view, matrix, spread, fresh=phase not in begun)
        begun.add(phase)

    def spread(self, room, delta):
        """delta (outputs, samples, *output) on the grid, (outputs, samples · area), in a room that is zero elsewhere."""
        room.view(*delta.shape[:2], *self.lines)[:, :, :self.output[0], :self.output[1]] = delta
        return room


class Convolution(torch.autograd.Function):
    """y (samples, outputs, *output) of x (samples, inputs, height, width) and values (nnz,), in the memory format of x."""

    @staticmethod
    def forward(ctx, x, values, pattern, grid):
        ctx.save_for_backward(x, values)
        ctx.pattern, ctx.grid = pattern, grid
        matrices, outputs = pattern.matrices(values), pattern.size[0]
        y = torch.empty(len(x), outputs, *grid.output, dtype=x.dtype, device=x.device, memory_format=format_of(x))
        buffers, room = rooms(grid, x, matrices, outputs)
        for some, n in pieces(len(x), grid.area, pattern):
            shifted, piece = grid.fill(buffers(n), features(x[some])), room(n)
            for number, (k, matrix) in enumerate(matrices):
                add_product(piece, matrix, grid.view(shifted, k, x.shape[1]), fresh=number == 0)
            place(y[some], piece.view(outputs, n, *grid.lines)[:, :, :grid.output[0], :grid.output[1]])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        (x, values), pattern, grid = ctx.saved_tensors, ctx.pattern, ctx.grid
        if not ctx.needs_input_grad[0]:
            return None, sampled_on_grid(pattern, grid, x, delta), None, None
        transposes = pattern.transposes(values)
        back = (torch.empty_like if transposes and grid.whole else torch.zeros_like)(x)
        shifts = cache(lambda n: grid.buffers(x, x.shape[1], n, [k for k, _ in transposes]))

        def send_back(some, n, spread):
            shifted, begun = shifts(n), set()
            for k, matrix in transposes:
                grid.add_shifted(shifted, k, matrix, spread, begun)
            for view, (_, _, *where) in grid.pixels(shifted, x.shape[1], n):
                place(back[some][:, :, where[0], where[1]], view)
        return back, sampled_on_grid(pattern, grid, x, delta, send_back), None, None


def sampled_on_grid(pattern, grid, x, delta, also=lambda some, n, spread: None):
    """Weight gradient (nnz,) at the connections of `pattern`, x (samples, inputs, ...) and delta (samples, outputs, ...).

    also(slice of the samples, its length, delta on the grid) is called for each piece.
    """
    values, gradients = pattern.gradients(delta)
    buffers, room = rooms(grid, x, gradients, delta.shape[1])
    for some, n in pieces(len(x), grid.area, pattern):
        shifted, spread = grid.fill(buffers(n), features(x[some])), grid.spread(room(n), features(delta[some]))
        for k, gradient in gradients:
            add_sampled(gradient, spread, grid.view(shifted, k, x.shape[1]))
        also(some, n, spread)
    return pattern.in_order(values)


def format_of(x):
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def features(x):
    """x (samples, channels, height, width) as (channels, samples, height, width), in the quickest way."""
    if format_of(x) == torch.contiguous_format:
        return x.transpose(0, 1)
    x = x.permute(0, 2, 3, 1)
    return x.reshape(-1, x.shape[3]).t().contiguous().view(-1, *x.shape[:3])


def place(y, values):
    """values (channels, samples, height, width) into y (samples, channels, height, width)."""
    if format_of(y) == torch.contiguous_format:
        y.copy_(values.transpose(0, 1))
    else:
        y.permute(0, 2, 3, 1).view(-1, y.shape[1]).copy_(values.flatten(1).t())


def rooms(grid, x, matrices, outputs):
    """Memory for a piece of n samples, used again for the next one: function n → phases, function n → zeros (outputs, n · area)."""
    return (cache(lambda n: grid.buffers(x, x.shape[1], n, [k for k, _ in matrices])),
            cache(lambda n: x.new_zeros(outputs, n * grid.area)))


def pieces(samples, area, pattern):
    """(slice, its length) of the samples, so many at a time that they stay in the cache."""
    step = max(1, PIECE // (area * sum(pattern.size)))
    return [(slice(start, start + step), min(step, samples - start)) for start in range(0, samples, step)]


class SparseConv2d(SparseLayer):
    """y (samples, outputs, *output) of x (samples, inputs, height, width)."""

    def apply(self, x, values):
        x, padding = self.padded(x)
        return Convolution.apply(x, values, self.pattern, Grid(x.shape[2:], self.module, padding))

    def plain(self, x, weight):
        return self.module._conv_forward(x, weight, self.module.bias)

    def sampled(self, pattern, x, delta):
        """Weight gradient (nnz of `pattern`,) at its connections, given the layer's input and the gradient at its output."""
        x, padding = self.padded(x)
        return sampled_on_grid(pattern, Grid(x.shape[2:], self.module, padding), x, delta)

    def padded(self, x):
        """x with what is not padding by zeros, and the zeros that are still to come."""
        module, padding = self.module, self.module._reversed_padding_repeated_twice
        if module.padding_mode == "zeros":
            return x, padding
        return F.pad(x, padding, mode=module.padding_mode), [0] * 4

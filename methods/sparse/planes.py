"""Sparse 2-D convolutions on a CPU: loops over the active connections, compiled by numba.

A few samples lie in a buffer with zeros around each image (`conv.Grid`), so that a connection (output, input, kernel position) is one
offset: forward it adds its weight times a run of input pixels to a run of output pixels, backward it is one dot product of such runs
and one sum. What these compute between the images is not used. Outside, memory is channels_last, which is the quickest for the layers
between (normalisation, pooling).
"""
import numba
import torch
from torch.autograd.function import once_differentiable

from methods.sparse.loops import SUMS, numpy

RUN = 512  # pixels of a run, over several samples where their images are small


class Connections:
    """The active connections of a layer by output. Arguments: those of `Pattern`. O(nnz + outputs)."""

    def __init__(self, keys, shape, groups=1):
        rows, width, *kernel = shape
        positions = int(torch.Size(kernel).numel())
        row, rest = keys // (width * positions), keys % (width * positions)
        self.nnz, self.outputs = len(keys), rows
        self.position = (rest // width).int()
        self.channel = (rest % width + row * groups // rows * width).int()
        self.starts = torch.zeros(rows + 1, dtype=torch.int32)
        self.starts[1:] = torch.bincount(row, minlength=rows).cumsum(0)
        self.last = None, None

    def offsets(self, grid, inputs, samples):
        """Where the run of input pixels of each connection begins (nnz,)."""
        where = grid, inputs, samples
        if self.last[0] != where:
            plane = samples * grid.area
            starts = torch.tensor([(i * grid.stride[1] + j) * (inputs * plane + grid.tail) + shift for (i, j), shift in grid.views])
            self.last = where, (starts[self.position] + self.channel * plane).int()
        return self.last[1]


class Convolution(torch.autograd.Function):
    """y (samples, outputs, *output) of x (samples, inputs, height, width) and values (nnz,)."""

    @staticmethod
    def forward(ctx, x, values, connections, grid):
        ctx.save_for_backward(x, values)
        ctx.connections, ctx.grid = connections, grid
        y = like(x, (len(x), connections.outputs, *grid.output))
        _forward(pixels(x), numpy(values), pixels(y), *place(x, connections, grid))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        x, values = ctx.saved_tensors
        back, gradient = like(x, x.shape if ctx.needs_input_grad[0] else (0, *x.shape[1:])), torch.zeros_like(values)
        _backward(pixels(x), numpy(values), pixels(delta), pixels(back), numpy(gradient), *place(x, ctx.connections, ctx.grid))
        return back if ctx.needs_input_grad[0] else None, gradient, None, None


def sampled(connections, grid, x, delta):
    """Weight gradient (nnz,) at the connections, x (samples, inputs, ...) and delta (samples, outputs, ...)."""
    gradient = x.new_zeros(connections.nnz)
    _backward(pixels(x), numpy(gradient), pixels(delta), pixels(like(x, (0, *x.shape[1:]))), numpy(gradient), *place(x, connections, grid))
    return gradient


def like(x, shape):
    return torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)


def pixels(x):
    """x (samples, channels, height, width) as an array (samples, height, width, channels), contiguous."""
    return numpy(x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1))


def place(x, connections, grid):
    """What both loops need besides the numbers: connections, geometry, and zeros for some samples' inputs and outputs."""
    samples = max(1, min(len(x), RUN // grid.area))
    phase = x.shape[1] * samples * grid.area + grid.tail
    inputs, outputs = x.new_zeros(grid.stride[0] * grid.stride[1] * phase), x.new_zeros(connections.outputs * samples * grid.area)
    return (numpy(connections.starts), numpy(connections.offsets(grid, x.shape[1], samples)), numpy(inputs), numpy(outputs), samples,
            (*grid.before, *grid.stride, *grid.lines, phase))


@numba.njit(cache=True, fastmath=SUMS)
def _forward(x, values, y, starts, offsets, inputs, outputs, samples, geometry):
    plane, length, whole = _run(y, samples, geometry)
    for first in range(0, len(x), samples):
        _move(x[first:first + samples], inputs, samples, geometry, True)
        for o in range(len(starts) - 1):
            total = outputs[o * plane:o * plane + length]
            total[:] = 0
            last = starts[o + 1]
            rest = last - (last - starts[o]) % 4
            for e in range(starts[o], rest, 4):  # four at a time: a sum is read and written once
                a, b, c, d = values[e], values[e + 1], values[e + 2], values[e + 3]
                p, q = inputs[offsets[e]:offsets[e] + length], inputs[offsets[e + 1]:offsets[e + 1] + length]
                r, s = inputs[offsets[e + 2]:offsets[e + 2] + length], inputs[offsets[e + 3]:offsets[e + 3] + length]
                for i in range(length):
                    total[i] += a * p[i] + b * q[i] + c * r[i] + d * s[i]
            for e in range(rest, last):
                value, run = values[e], inputs[offsets[e]:offsets[e] + length]
                for i in range(length):
                    total[i] += value * run[i]
        _move(y[first:first + samples], outputs, samples, whole, False)


@numba.njit(cache=True, fastmath=SUMS)
def _backward(x, values, delta, back, gradient, starts, offsets, inputs, outputs, samples, geometry):
    """Adds to `gradient`; fills `back`, the gradient at x, unless it is empty."""
    plane, length, whole = _run(delta, samples, geometry)
    sums = inputs.copy() if len(back) else inputs[:0]
    for first in range(0, len(x), samples):
        _move(x[first:first + samples], inputs, samples, geometry, True)
        if first + samples > len(x):
            outputs[:] = 0  # there are fewer samples than places
        _move(delta[first:first + samples], outputs, samples, whole, True)
        sums[:] = 0
        for o in range(len(starts) - 1):
            run = outputs[o * plane:o * plane + length]
            for e in range(starts[o], starts[o + 1]):
                begin, product = offsets[e], gradient.dtype.type(0)
                pixels = inputs[begin:begin + length]
                for i in range(length):
                    product += run[i] * pixels[i]
                gradient[e] += product
                if len(sums):
                    value, pixels = values[e], sums[begin:begin + length]
                    for i in range(length):
                        pixels[i] += value * run[i]
        if len(sums):
            _move(back[first:first + samples], sums, samples, geometry, False)


@numba.njit
def _run(y, samples, geometry):
    """(numbers of a channel of y in its buffer, those from its first pixel to its last, the geometry of that buffer)."""
    lines, line = geometry[4], geometry[5]
    return samples * lines * line, ((samples - 1) * lines + y.shape[1] - 1) * line + y.shape[2], (0, 0, 1, 1, lines, line, 0)


@numba.njit
def _move(images, buffer, samples, geometry, into):
    """The pixels of images (n, height, width, channels) into their places in the buffer, or out of it."""
    top, left, down, across, lines, line, phase = geometry
    plane = samples * lines * line
    for n in range(images.shape[0]):
        for r in range(images.shape[1]):
            row = (r + top) % down * across * phase + (n * lines + (r + top) // down) * line
            for k in range(images.shape[2]):
                at = row + (k + left) % across * phase + (k + left) // across
                if into:
                    for c in range(images.shape[3]):
                        buffer[c * plane + at] = images[n, r, k, c]
                else:
                    for c in range(images.shape[3]):
                        images[n, r, k, c] = buffer[c * plane + at]

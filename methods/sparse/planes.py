"""Sparse 2-D convolutions on a CPU, by loops over the active connections (loops.py).

A few samples lie in a buffer with zeros around each image (`conv.Grid`), a plane for each channel, so that a connection (output, input,
kernel position) is one offset: forward it adds its weight times a run of input pixels to a run of output pixels, backward it is one dot
product of such runs and one sum. What these compute between the images is not used. Outside, memory is channels_last, which is the
quickest for the layers between (normalisation, pooling).
"""
from math import prod

import torch
from torch.autograd.function import once_differentiable

from methods.sparse import loops
from methods.sparse.edges import transposed
from methods.sparse.pattern import as_array, lines
from methods.sparse.registers import LINE

# at most so many numbers in a plane, which holds several samples if their images are small, and in all planes; but at least one sample
RUN, ALL = 1024, 2 ** 18


class Connections:
    """The active connections of a layer by output. Arguments: those of `Pattern`; `keys` may count from `first` on; they are not
    copied, so that a piece of the model's keys takes no memory. O(nnz + outputs)."""

    def __init__(self, keys, shape, groups=1, first=0):
        self.keys, self.first, self.shape, self.groups = keys, first, shape, groups
        self.nnz, self.outputs = len(keys), shape[0]
        self.starts = lines(keys - first, self.outputs, prod(shape[1:]))[1]
        self.known = []

    def places(self, planes):
        """Where the runs of pixels of each connection begin, as a tuple of four. Forward: the run of input pixels (nnz,). Backward, with the
        connections sorted by input plane: the bounds of the planes (planes of inputs + 1,), the order of the connections (nnz,), and the run of
        output pixels (nnz,)."""
        last = next((one for one in self.known if one[0] == planes), None)  # another thread may replace the list meanwhile
        if last is None:
            if max(planes.phases * planes.phase, planes.room + self.outputs * planes.plane) >= 2 ** 31:
                raise ValueError(f"images of {planes.grid.input} are too large for a sparse convolution of {planes.inputs} channels")
            (rows, width, *_), grid, keys = self.shape, planes.grid, self.keys - self.first
            row, rest = keys // prod(self.shape[1:]), keys % prod(self.shape[1:])
            position, channel = rest // width, rest % width + row * self.groups // rows * width
            shifts = torch.tensor([shift for _, shift in grid.views])[position]
            line = torch.tensor([i * grid.stride[1] + j for (i, j), _ in grid.views])[position] * planes.inputs + channel
            run = line // planes.inputs * planes.phase + channel * planes.plane + shifts
            order, row_t, starts = transposed(self.starts, line.int(), planes.inputs * planes.phases)
            back = planes.room + row_t * planes.plane - shifts[order]
            last = planes, (run.int(), starts, order, back.int())
            self.known = [last, *self.known[:7]]
        return last[1]


class Planes:
    """How `samples` samples lie in the buffers of a pass."""

    def __init__(self, x, values, connections, grid):
        block = loops.block_of(values)
        self.grid, self.inputs, self.phases = grid, x.shape[1], grid.stride[0] * grid.stride[1]
        length = min(RUN, ALL // (2 * self.inputs * self.phases + connections.outputs)) // block * block
        self.samples = max(1, min(len(x), length // grid.area))
        self.used, self.room = (-(-numbers // block) * block for numbers in (self.samples * grid.area, grid.tail))
        # an odd number of cache lines from one plane to the next: else the same pixel of all channels would compete for a few places in the cache
        self.plane = self.used + LINE // x.element_size()
        self.phase = self.inputs * self.plane + self.room

    def __eq__(self, other):
        return isinstance(other, Planes) and vars(self) == vars(other)

    def buffers(self, x, outputs):
        """Zeros of x's dtype for the inputs, phase after phase, and for the outputs, with `room` numbers in front."""
        return x.new_zeros(self.phases * self.phase), x.new_zeros(self.room + outputs * self.plane)

    @property
    def geometry(self):
        """(numbers computed in a plane, distance from one plane to the next, size of a phase, (padding, stride, number of lines, and pixels of a
        line, of an input), the same of an output)."""
        grid = self.grid
        return self.used, self.plane, self.phase, (*grid.before, *grid.stride, *grid.lines), (0, 0, 1, 1, *grid.lines)


class Convolution(torch.autograd.Function):
    """y (samples, outputs, *output) of x (samples, inputs, height, width), values (nnz,) and bias (outputs,) or None. y and the gradient at x
    have x's dtype: that of the values or bfloat16."""

    @staticmethod
    def forward(ctx, x, values, bias, connections, grid):
        ctx.save_for_backward(x, values)
        ctx.connections, ctx.grid = connections, grid
        planes = Planes(x, values, connections, grid)
        run, *_ = connections.places(planes)
        y = torch.empty(len(x), connections.outputs, *grid.output, dtype=x.dtype, memory_format=torch.channels_last)
        start = values[:0] if bias is None else bias
        loops.convolution_forward(pixels(x), as_array(values), as_array(start), pixels(y), as_array(connections.starts), as_array(run),
                                  *map(as_array, planes.buffers(x, connections.outputs)), planes.samples, planes.geometry)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        wanted = ctx.needs_input_grad
        return *gradients(ctx.connections, ctx.grid, *ctx.saved_tensors, delta, input=wanted[0], bias=wanted[2]), None, None


def gradients(connections, grid, x, values, delta, input=True, bias=False):
    """The gradients (at x, at the values (nnz,), at the bias (outputs,)), given delta (samples, outputs, *output), that at y; None for x or the
    bias if it is not wanted."""
    planes = Planes(x, values, connections, grid)
    back = torch.empty(x.shape if input else (0, *x.shape[1:]), dtype=x.dtype, memory_format=torch.channels_last)
    gradient, sums = torch.empty_like(values), values.new_zeros(connections.outputs * bias)
    _, *places = connections.places(planes)
    inputs, outputs = planes.buffers(x, connections.outputs)
    loops.convolution_backward(pixels(x), *map(as_array, (values, torch.empty_like(values), torch.zeros_like(values))), pixels(delta),
                               pixels(back), *map(as_array, (gradient, sums, *places, inputs, outputs, torch.empty_like(inputs))),
                               planes.room, planes.samples, planes.geometry)
    return back if input else None, gradient, sums if bias else None


def pixels(x):
    """x (samples, channels, height, width) as an array (samples, height, width, channels), contiguous."""
    return as_array(x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1))

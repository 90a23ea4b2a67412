"""Sparse convolutions of images, and of signals as images of one row. Where the loops of planes.py are not available: one CSR product per kernel
position, over shifted views of a zero-bordered activation."""
import torch
from torch.autograd.function import once_differentiable

from methods.images import Geometry, as_images
from methods.sparse.linear import SparseLayer
from methods.sparse.pattern import Pattern, add_product, add_sampled, compiled


class Grid:
    """How the pixels of samples lie in flat memory, with zeros between the images, so that shifting the images is adding an offset.

    An input (inputs, samples, height, width) is split into phases, one for each row and column within a stride (with every stride-th pixel
    from there on), each a buffer of `inputs` rows of samples · rows · columns numbers. Kernel position (i, j) is then the buffer of phase
    (i · dilation mod stride, j · dilation mod stride) from an offset on, and products run over whole rows: what they compute at the borders
    is not used.
    """

    def __init__(self, size, geometry, padding):
        left, right, top, bottom = padding
        kernel, stride, dilation = geometry.kernel_size, geometry.stride, geometry.dilation
        self.stride, self.before, self.input = stride, (top, left), tuple(size)
        reach = [d * (k - 1) for d, k in zip(dilation, kernel)]
        full = [n + before + after for n, before, after in zip(size, self.before, (bottom, right))]
        self.output = tuple((n - r - 1) // s + 1 for n, r, s in zip(full, reach, stride))
        # with stride 1 the zeros before the next row serve as those after this one
        self.lines = [max(o, n - min(before, after)) if s == 1 else -(-n // s)
                      for o, n, before, after, s in zip(self.output, full, self.before, (bottom, right), stride)]
        self.area = self.lines[0] * self.lines[1]
        self.tail = max(r // s for r, s in zip(reach, stride)) * (self.lines[1] + 1)
        self.views = [((i * dilation[0] % stride[0], j * dilation[1] % stride[1]),
                       i * dilation[0] // stride[0] * self.lines[1] + j * dilation[1] // stride[1])
                      for i in range(kernel[0]) for j in range(kernel[1])]

    def buffers(self, like, rows, samples, positions):
        """{phase: zeros} for the phases that these kernel positions need."""
        return {phase: like.new_zeros(rows * samples * self.area + self.tail) for phase in {self.views[k][0] for k in positions}}

    def view(self, buffers, k, rows):
        """The images shifted for kernel position k, (rows, samples · area), a view of the buffer of its phase."""
        phase, offset = self.views[k]
        length = (len(buffers[phase]) - self.tail) // rows
        return buffers[phase].as_strided((rows, length), (length, 1), offset)

    def pixels(self, buffers, rows, samples):
        """For each phase, (view of its pixels in its buffer, the index of these pixels in an array (rows, samples, height, width))."""
        for phase, buffer in buffers.items():
            grid = buffer[:len(buffer) - self.tail].view(rows, samples, *self.lines)
            inside, outside = [], []
            for p, before, n, s, lines in zip(phase, self.before, self.input, self.stride, self.lines):
                first = max(0, -(-(before - p) // s))
                start = p + s * first - before
                number = min(lines - first, -(-(n - start) // s))
                inside.append(slice(first, first + number)), outside.append(slice(start, start + s * number, s))
            yield grid[:, :, inside[0], inside[1]], (slice(None), slice(None), *outside)

    def shifted(self, x, matrices):
        """{phase: buffer with its pixels of x (samples, inputs, height, width), borders zero}, as the kernel positions in `matrices`, a list of
        (position, matrix), need them."""
        buffers = self.buffers(x, *x.shape[1::-1], [k for k, _ in matrices])
        for view, where in self.pixels(buffers, *x.shape[1::-1]):
            view.copy_(x.transpose(0, 1)[where])
        return buffers

    def spread(self, delta):
        """delta (samples, outputs, *output) on the grid, (outputs, samples · area), zero elsewhere."""
        room = delta.new_zeros(delta.shape[1], len(delta), *self.lines)
        room[:, :, :self.output[0], :self.output[1]] = delta.transpose(0, 1)
        return room.flatten(1)


class Convolution(torch.autograd.Function):
    """y (samples, outputs, *output) of x (samples, inputs, height, width), values (nnz,) and bias (outputs,) or None, as CSR products:
    on any device."""

    @staticmethod
    def forward(ctx, x, values, bias, pattern, grid):
        ctx.save_for_backward(x, values)
        ctx.pattern, ctx.grid = pattern, grid
        matrices, outputs = pattern.matrices(values), pattern.size[0]
        shifted, room = grid.shifted(x, matrices), x.new_zeros(outputs, len(x) * grid.area)
        for number, (k, matrix) in enumerate(matrices):
            add_product(room, matrix, grid.view(shifted, k, x.shape[1]), fresh=number == 0)
        y = room.view(outputs, len(x), *grid.lines)[:, :, :grid.output[0], :grid.output[1]].transpose(0, 1)
        y = y.clone(memory_format=torch.contiguous_format)  # a copy: torch forbids in-place changes of a view that a Function returns
        return y if bias is None else y.add_(bias[:, None, None])

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        (x, values), pattern, grid = ctx.saved_tensors, ctx.pattern, ctx.grid
        spread = grid.spread(delta)
        gradient = sampled_on_grid(pattern, grid, x, spread)
        sums = delta.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        if not ctx.needs_input_grad[0]:
            return None, gradient, sums, None, None
        transposes, begun = pattern.transposes(values), set()  # phases written so far: the first product of one overwrites
        shifted, back = grid.buffers(x, *x.shape[1::-1], [k for k, _ in transposes]), torch.zeros_like(x)
        for k, matrix in transposes:
            phase, _ = grid.views[k]
            add_product(grid.view(shifted, k, x.shape[1]), matrix, spread, fresh=phase not in begun)
            begun.add(phase)
        for view, where in grid.pixels(shifted, *x.shape[1::-1]):
            back.transpose(0, 1)[where] = view
        return back, gradient, sums, None, None


def sampled_on_grid(pattern, grid, x, spread):
    """Weight gradient (nnz,) at the connections of `pattern`, given x (samples, inputs, ...) and `spread`, the output's gradient on the grid."""
    gradients = pattern.gradients(spread)
    shifted = grid.shifted(x, gradients)
    for k, gradient in gradients:
        add_sampled(gradient, spread, grid.view(shifted, k, x.shape[1]))
    return pattern.in_order(gradients, spread)


class SparseConv(SparseLayer):
    """y (samples, outputs, *output) of x (samples, inputs, height, width), or without a height: on a CPU with numba by loops over the connections
    (planes.py), otherwise by CSR products."""

    def __init__(self, *args):
        super().__init__(*args)
        self.grids, self.geometry = {}, Geometry(self.module)

    def pattern_of(self, keys, first=0):
        planes = self.loops(keys)
        return planes.Connections(keys, self.shape, self.groups, first) if planes else super().pattern_of(keys, first)

    def apply(self, x, values, bias):
        inputs, dims = self.shape[1] * self.groups, len(self.shape)
        if x.dim() not in (dims - 1, dims) or x.shape[1 - dims] != inputs:
            raise ValueError(f"a convolution of {inputs} channels got {tuple(x.shape)}")
        single, (x, grid) = x.dim() < dims, self.on_grid(as_images(self.module, x))
        form = Convolution if isinstance(self.pattern, Pattern) else compiled("planes").Convolution
        y = form.apply(x, values, bias, self.pattern, grid)
        y = y if dims == 4 else y.squeeze(2).contiguous()  # as torch gives it: `.view()` must not fail
        return y[0] if single else y

    def loops(self, x):
        return compiled("planes") if x.device.type == "cpu" else None

    def plain(self, x, weight):
        return self.module._conv_forward(x, weight, self.module.bias)

    def sampled(self, pattern, x, delta):
        """Weight gradient (nnz of `pattern`,) at its connections, given the layer's input and the gradient at its output."""
        delta, (x, grid) = as_images(self.module, delta), self.on_grid(as_images(self.module, x))
        if isinstance(pattern, Pattern):
            return sampled_on_grid(pattern, grid, x, grid.spread(delta))
        return compiled("planes").gradients(pattern, grid, x, x.new_zeros(pattern.nnz), delta, input=False)[1]

    def on_grid(self, x):
        """(x, its Grid). The Grid holds the zeros of zero padding; padding of any other kind is applied to x."""
        geometry, padding = self.geometry, self.geometry.padding
        if geometry.mode != "constant":
            x, padding = geometry.padded(x).to(x.dtype), [0] * 4  # autocast pads some modes in float32
        if x.shape[2:] not in self.grids:
            grid = Grid(x.shape[2:], geometry, padding)
            if min(grid.output) < 1:
                raise ValueError(f"a convolution with a kernel of {geometry.kernel_size} got images of {tuple(x.shape[2:])}: too small")
            self.grids[x.shape[2:]] = grid
        return x, self.grids[x.shape[2:]]

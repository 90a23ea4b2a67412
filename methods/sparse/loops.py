"""The loops of sparse layers on one core, compiled by numba."""
import numba
import numpy as np

from methods.sparse.blocks import block_of, combine, combine_and_correlate, correlate, kernel, prefetch, total, written
from methods.sparse.registers import NEAR, PART
from methods.sparse.transposition import CACHED, START, leaves, transpose, transpose_here


@kernel
def linear_forward(x, values, bias, starts, columns, y, inputs, outputs):
    """Fills y (rows, outputs), given x (rows, inputs), values (nnz,) and bias (outputs or 0,). starts, columns: CSR index of the connections
    by output.

    Buffers: `inputs` for a block of all input features, `outputs` for a block of PART output features. Here and below activations and their
    gradients have the weights' dtype or are bfloat16.
    """
    block, flat, past = block_of(values), x.reshape(-1), leaves(y)
    features, results = inputs.reshape(-1, block), outputs.reshape(-1, block)
    ahead = -(-inputs.size // y.shape[1]) if inputs.nbytes <= NEAR else 0  # how many numbers of the next block to prefetch for each output
    for first in range(0, len(x), block):
        rows = min(block, len(x) - first)
        transpose(x, first, rows, START, x.shape[1], features, START, START, CACHED)
        for part in range(0, y.shape[1], PART):
            end = min(part + PART, y.shape[1])
            for o in range(part, end):
                start = bias[o] if len(bias) else values.dtype.type(0)
                prefetch(flat, (first + block) * x.shape[1] + o * ahead, ahead)
                combine(values, columns, block, 0, starts[o], starts[o + 1], inputs, start, outputs, (o - part) * block)
            transpose(results, START, end - part, START, rows, y, first, part, past)
    written()


@kernel
def linear_backward(x, delta, values, ordered, products, order, starts, columns, back, gradient, sums, inputs, outputs, backs):
    """Fills `gradient` (nnz,) and `back` (rows or 0, inputs), the gradients at the values and at x, and adds the bias's to `sums` (outputs or 0,).
    order, starts, columns: the connections by input.

    Buffers: `outputs` for a block of all output features, `inputs` and `backs` for a block of PART input features; `ordered` and `products`
    (nnz,) for values and gradients by input, the latter zeros at first.
    """
    block, past = block_of(values), leaves(back)
    if len(back):
        _arrange(values, order, ordered)
    features, deltas, results = inputs.reshape(-1, block), outputs.reshape(-1, block), backs.reshape(-1, block)
    flat, flat_delta = x.reshape(-1), delta.reshape(-1)
    ahead = -(-outputs.size // x.shape[1]) if outputs.nbytes <= NEAR else 0
    for first in range(0, len(x), block):
        rows = min(block, len(x) - first)
        if rows < block:
            inputs[:], outputs[:] = 0, 0
        transpose(delta, first, rows, START, delta.shape[1], deltas, START, START, CACHED)
        for o in range(len(sums)):
            sums[o] += total(values, outputs, o * block)
        for part in range(0, x.shape[1], PART):
            end = min(part + PART, x.shape[1])
            transpose(x, first, rows, part, end - part, features, START, START, CACHED)
            for i in range(part, end):
                if ahead:
                    prefetch(flat, (first + block) * x.shape[1] + i * block, block)
                    prefetch(flat_delta, (first + block) * delta.shape[1] + i * ahead, ahead)
                at = (i - part) * block
                if len(back):
                    combine_and_correlate(ordered, columns, block, 0, starts[i], starts[i + 1], outputs, inputs, backs, at, products)
                else:
                    correlate(columns, block, 0, starts[i], starts[i + 1], outputs, inputs, at, products)
            if len(back):
                transpose(results, START, end - part, START, rows, back, first, part, past)
    _spread(products, order, gradient)
    written()


@kernel
def convolution_forward(x, values, bias, y, starts, run, inputs, outputs, samples, geometry):
    """Fills y (samples, height, width, outputs), given x (samples, height, width, inputs), values (nnz,) and bias (outputs or 0,)."""
    used, plane, phase, before, after = geometry
    for first in range(0, len(x), samples):
        _move(x[first:first + samples], inputs, plane, phase, before, True)
        for i in range(0, used, block_of(values)):  # all planes for one block of pixels, so that these are near each other in the cache
            for o in range(len(starts) - 1):
                start = bias[o] if len(bias) else values.dtype.type(0)
                combine(values, run, 1, i, starts[o], starts[o + 1], inputs, start, outputs, o * plane + i)
        _move(y[first:first + samples], outputs, plane, phase, after, False)


@kernel
def convolution_backward(x, values, ordered, products, delta, back, gradient, sums, starts, order, run, inputs, outputs, backs, room,
                         samples, geometry):
    """Fills `gradient` (nnz,) and `back` (as x, or empty), the gradients at the values and at x, and adds the bias's to `sums` (outputs or 0,).
    order, starts, run: the connections by input plane.

    Buffers: `ordered` and `products` (nnz,) for values and gradients in this order, the latter zeros at first.
    """
    used, plane, phase, before, after = geometry
    if len(back):
        _arrange(values, order, ordered)
    for first in range(0, len(x), samples):
        if first + samples > len(x):
            outputs[:] = 0  # the last samples do not fill the buffer
        _move(x[first:first + samples], inputs, plane, phase, before, True)
        _move(delta[first:first + samples], outputs[room:], plane, phase, after, True)
        for o in range(len(sums)):
            for i in range(room + o * plane, room + o * plane + used, block_of(values)):
                sums[o] += total(values, outputs, i)
        for i in range(0, used, block_of(values)):
            for line in range(len(starts) - 1):
                at = line // x.shape[3] * phase + line % x.shape[3] * plane + i
                if len(back):
                    combine_and_correlate(ordered, run, 1, i, starts[line], starts[line + 1], outputs, inputs, backs, at, products)
                else:
                    correlate(run, 1, i, starts[line], starts[line + 1], outputs, inputs, at, products)
        if len(back):
            _move(back[first:first + samples], backs, plane, phase, before, False)
    _spread(products, order, gradient)


@numba.njit
def _arrange(values, order, out):
    for e in range(len(order)):
        out[e] = values[np.uint32(order[e])]  # unsigned, so that no check for negative indices is compiled


@numba.njit
def _spread(values, order, out):
    for e in range(len(order)):
        out[np.uint32(order[e])] = values[e]


@numba.njit
def _move(images, buffer, plane, phase, shape, into):
    """Copies the pixels of images (n, height, width, channels) to their places in the buffer (`into`), or back."""
    top, left, down, across, lines, line = shape
    count, height, width, channels = images.shape
    flat, numbers = images.reshape(-1, channels), images.reshape(-1)
    for p in range(down * across):
        # [::1] gives it the type of `pixels`, so that one version of the transposition is compiled for both directions
        planes = buffer[p * phase:p * phase + channels * plane].reshape(channels, plane)[::1]
        # the first row and column that lie in this phase
        row, column = (p // across - top) % down, (p % across - left) % across
        number = (width - column + across - 1) // across
        for n in range(count):
            for r in range(row, height, down):
                at = (n * lines + (r + top) // down) * line + (column + left) // across
                pixel = (n * height + r) * width + column
                # the same pixels of the next samples: the processor does not prefetch across pages of memory by itself
                prefetch(numbers, len(numbers) + pixel * channels, width * channels)
                if across > 1:
                    pixels, pixel = flat[pixel:pixel + (number - 1) * across + 1:across], 0
                else:
                    pixels = flat
                if into:
                    transpose_here(pixels, pixel, number, START, channels, planes, START, at, CACHED)
                else:
                    transpose_here(planes, START, channels, at, number, pixels, pixel, START, CACHED)

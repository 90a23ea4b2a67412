"""What the loops of sparse layers (loops.py) do with blocks (registers.py), which numba compiles into them.

A connection is the multiplication of a block with a number: of a block of rows (samples, tokens) in a linear layer, of pixels in a
convolution, brought into the order of features, or channels, and back (transposition.py). Between, they stay in the first or second level of
the cache: activations come from memory, asked for ahead, and go there once; large ones of linear layers past the cache.
"""
import hashlib
from functools import reduce
from pathlib import Path

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from methods.sparse.registers import FLAGS, REGISTER, SUMS, VECTORS, Code


@register_jitable
def block_of(x):
    """Numbers of a block."""
    return VECTORS * REGISTER // x.itemsize


@intrinsic
def combine(context, values, places, scale, shift, first, last, x, start, out, at):
    """The block of out that begins at `at` = start + Σ values[e] · the block of x that begins at (places[e] · scale + shift), over e from first
    on, before last."""
    def code(context, builder, signature, arguments):
        c = Code(context, builder, values.dtype)
        values_, places_, scale, shift, first, last, x_, start, out_, at = arguments
        numbers, lines, source, target = (c.array(kind, value) for kind, value in
                                          zip((values, places, x, out), (values_, places_, x_, out_)))
        sums = c.variables(c.spread(start))

        def add(connections):
            for e, run in zip(connections, c.runs(source, lines, connections, scale, shift)):
                c.add_product(sums, c.spread(c.item(numbers, e)), run)
        c.connections(first, last, add)
        c.store(c.load(sums), c.block(target, at))
        return context.get_dummy_value()
    return numba.void(values, places, *4 * (numba.intp,), x, values.dtype, out, numba.intp), code


@intrinsic
def combine_and_correlate(context, values, places, scale, shift, first, last, delta, x, out, at, gradient):
    """As `combine` of delta, from 0; and gradient[e] += the same block of delta · the block of x that begins at `at`."""
    def code(context, builder, signature, arguments):
        c = Code(context, builder, values.dtype)
        values_, places_, scale, shift, first, last, delta_, x_, out_, at, gradient_ = arguments
        kinds = (values, places, delta, x, out, gradient)
        numbers, lines, source, inputs, target, products = (c.array(kind, value) for kind, value in zip(
            kinds, (values_, places_, delta_, x_, out_, gradient_)))
        sums, own = c.variables(ir.Constant(c.vector, [0.0] * c.n)), c.load(c.block(inputs, at))

        def add(connections):
            runs = c.runs(source, lines, connections, scale, shift)
            for e, run in zip(connections, runs):
                c.add_product(sums, c.spread(c.item(numbers, e)), run)
            c.add_correlations(products, connections[0], own, runs)
        c.connections(first, last, add)
        c.store(c.load(sums), c.block(target, at))
        return context.get_dummy_value()
    return numba.void(values, places, *4 * (numba.intp,), delta, x, out, numba.intp, gradient), code


@intrinsic
def correlate(context, places, scale, shift, first, last, delta, x, at, gradient):
    """As `combine_and_correlate`, the gradient alone."""
    def code(context, builder, signature, arguments):
        c = Code(context, builder, gradient.dtype)
        places_, scale, shift, first, last, delta_, x_, at, gradient_ = arguments
        kinds = (places, delta, x, gradient)
        lines, source, inputs, products = (c.array(kind, value) for kind, value in zip(kinds, (places_, delta_, x_, gradient_)))
        own = c.load(c.block(inputs, at))
        c.connections(first, last, lambda connections: c.add_correlations(
            products, connections[0], own, c.runs(source, lines, connections, scale, shift)))
        return context.get_dummy_value()
    return numba.void(places, *4 * (numba.intp,), delta, x, numba.intp, gradient), code


@intrinsic
def total(context, like, x, at):
    """The sum of the block of x that begins at `at`, a number as those of `like`."""
    def code(context, builder, signature, arguments):
        c = Code(context, builder, like.dtype)
        _, x_, at = arguments
        vectors = c.load(c.block(c.array(x, x_), at))
        return c.total(reduce(lambda a, b: builder.fadd(a, b, flags=FLAGS), vectors))
    return like.dtype(like, x, numba.intp), code


@intrinsic
def prefetch(context, x, place, size):
    """Asks for `size` numbers of the flat contiguous array x from `place` on, which may lie behind its end."""
    def code(context, builder, signature, arguments):
        c = Code(context, builder, x.dtype)
        array, place, size = arguments
        data = c.array(x, array).data
        with cgutils.for_range_slice(builder, place, builder.add(place, size), place.type(c.n), place.type) as (e, _):
            c.ask(builder.gep(data, [e]), REGISTER, 2)
        return context.get_dummy_value()
    return numba.void(x, numba.intp, numba.intp), code


@intrinsic
def written(context):
    """What was written past the cache comes before what is written from here on, on every core."""
    def code(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()
    return numba.void(), code


MADE_OF = [Path(__file__).with_name(name).read_bytes() for name in ("registers.py", "blocks.py", "transposition.py")]
STAMP = hashlib.sha256(b"".join(MADE_OF)).hexdigest()[:8]


def kernel(function):
    """`function` compiled, once for all processes: numba's cache sees a change of the function's own file, and by this name one of those that
    it is made of."""
    function.__qualname__ += f"_{STAMP}"
    return numba.njit(cache=True, fastmath=SUMS)(function)

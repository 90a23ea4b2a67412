"""Operations on blocks (registers.py) that numba compiles into the loops of sparse layers (loops.py).

A connection multiplies a whole block of numbers by its weight: a block of rows (samples, tokens) in a linear layer, a block of pixels in a
convolution. For that, activations are transposed to feature (channel) order first and back afterwards (transposition.py). In between they
stay in the first or second level of the cache, so each activation is read from memory once (prefetched) and written once; large outputs of
linear layers are written past the cache.
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
    """How many numbers of x's kind make a block."""
    return VECTORS * REGISTER // x.itemsize


@intrinsic
def combine(context, values, places, scale, shift, first, last, x, start, out, at):
    """out_block = start + Σ values[e] · x_block(e) for first <= e < last, where out_block begins at out[at] and x_block(e) at
    x[places[e] · scale + shift]."""
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
    """As `combine`, of delta instead of x and with start = 0. Also adds to gradient[e] the dot product of delta_block(e) and the block of x
    that begins at x[at]."""
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
    """As `combine_and_correlate`, but computes only the gradient."""
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
    """The sum of the block that begins at x[at], as a number of `like`'s dtype."""
    def code(context, builder, signature, arguments):
        c = Code(context, builder, like.dtype)
        _, x_, at = arguments
        vectors = c.load(c.block(c.array(x, x_), at))
        return c.total(reduce(lambda a, b: builder.fadd(a, b, flags=FLAGS), vectors))
    return like.dtype(like, x, numba.intp), code


@intrinsic
def prefetch(context, x, place, size):
    """Prefetches `size` numbers of the flat contiguous array x from x[place] on; the range may reach beyond its end."""
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
    """A memory fence: every core sees what was written past the cache before anything that is written from here on."""
    def code(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()
    return numba.void(), code


MADE_OF = [Path(__file__).with_name(name).read_bytes() for name in ("registers.py", "blocks.py", "transposition.py")]
STAMP = hashlib.sha256(b"".join(MADE_OF)).hexdigest()[:8]


def kernel(function):
    """`function` compiled by numba, cached on disk for all processes. The cache is renewed when the function's own file changes; STAMP, in the
    function's name, also renews it when one of the files in MADE_OF does."""
    function.__qualname__ += f"_{STAMP}"
    return numba.njit(cache=True, fastmath=SUMS)(function)

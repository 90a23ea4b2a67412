"""What the loops of sparse layers (loops.py) are made of: blocks of numbers in registers, in LLVM's instructions.

A connection is the multiplication of a block with a number: of a block of rows (samples, tokens) in a linear layer, of pixels in a
convolution, brought into the order of features, or channels, and back. Between, they stay in the first or second level of the cache:
activations come from memory, asked for ahead, and go there once; large ones of linear layers past the cache. A block is VECTORS
registers' numbers, 64 in float32 and 32 in float64; `combine` and `combine_and_correlate`, made of LLVM's instructions, keep its sums
in registers. Activations may be bfloat16, here arrays of int16: they become float32 on the way into a block and are rounded to the
nearest on the way back, so that half as much comes from memory and goes there. All memory comes from torch, whose record of
allocations has it, and which lets it begin where a line of the cache begins: a register that lies on two lines takes twice as long.
"""
import hashlib
from pathlib import Path

import numba
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

if numba.config.DISABLE_JIT:
    raise ImportError("the loops are made of instructions: they need numba's compiler")

LINE = 64  # bytes: a line of the cache
REGISTER = 64  # bytes
VECTORS = 4  # with these, a block's sums, its inputs and what is being read all stay in 32 registers
AHEAD = 8  # connections: so far ahead a block is asked for, because one core's cache does not hold those of thousands of features
PART = 1024  # features that are brought into order at a time, where one comes after the other
CACHE = 2 ** 22  # bytes: what is larger has left a core's cache before it is used again
HALF = numba.int16  # what bfloat16 is here: numba has none
SUMS = {"reassoc", "contract", "nsz"}  # a sum may be made in several parts at once; infinities and NaN stay what they are
FLAGS = sorted(SUMS)


class Code:
    """Instructions on arrays of one kind of number, of which a register of REGISTER // part bytes holds n."""

    def __init__(self, context, builder, dtype, part=1):
        self.context, self.builder, self.number = context, builder, context.get_data_type(dtype)
        self.size = context.get_abi_sizeof(self.number)
        self.n = max(1, REGISTER // part // self.size)
        self.vector, self.index = ir.VectorType(self.number, self.n), ir.IntType(32)

    def array(self, kind, value):
        return self.context.make_array(kind)(self.context, self.builder, value)

    def item(self, array, place):
        """The number at a place of a flat array; an index as the processor wants it."""
        number = self.builder.load(self.builder.gep(array.data, [place]))
        return self.builder.sext(number, place.type) if isinstance(number.type, ir.IntType) else number

    def block(self, array, place):
        """Where the registers of the block lie that begins there."""
        first = self.builder.bitcast(self.builder.gep(array.data, [place]), self.vector.as_pointer())
        return [self.builder.gep(first, [place.type(k)]) for k in range(VECTORS)]

    def ask(self, pointer, bytes, level):
        """Asks for so many bytes from there on, to be read: they are on their way to this level of the cache, and may lie anywhere."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, *[self.index] * 3])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        read, locality, data = self.index(0), self.index(4 - level), self.index(1)
        for line in range(0, bytes, LINE):
            address = self.builder.gep(self.builder.bitcast(pointer, byte), [self.index(line)])
            self.builder.call(function, [address, read, locality, data])

    def run(self, source, places, e, scale, shift):
        """The block of `source` that belongs to connection e; that of a later one is asked for."""
        def begin(e):
            return self.builder.add(self.builder.mul(self.item(places, e), scale), shift)
        later, last = self.builder.add(e, e.type(AHEAD)), self.builder.sub(places.nitems, e.type(1))
        later = self.builder.select(self.builder.icmp_signed("<", later, last), later, last)
        self.ask(self.builder.gep(source.data, [begin(later)]), VECTORS * REGISTER, 1)
        return self.load(self.block(source, begin(e)))

    def load(self, addresses):
        return [self.builder.load(address, align=self.aligned(address)) for address in addresses]

    def aligned(self, address):
        """Bytes by which a register's place can be divided for certain: those of a number."""
        return self.context.get_abi_sizeof(address.type.pointee.element)

    def store(self, vectors, addresses, past=False):
        for vector, address in zip(vectors, addresses):
            instruction = self.builder.store(vector, address, align=REGISTER if past else self.aligned(address))
            if past:
                instruction.set_metadata("nontemporal", self.builder.module.add_metadata([self.index(1)]))

    def widened(self, halves):
        """A register of float32 from one of bfloat16, whose bits are the upper half."""
        bits = self.builder.shl(self.builder.zext(halves, self.bits), self.each(16))
        return self.builder.bitcast(bits, self.vector)

    def narrowed(self, vector, halves):
        """A register of bfloat16, of type `halves`, from one of float32: the nearest, of two as near the even one; NaN stays NaN."""
        bits = self.builder.bitcast(vector, self.bits)
        odd = self.builder.and_(self.builder.lshr(bits, self.each(16)), self.each(1))
        bits = self.builder.lshr(self.builder.add(bits, self.builder.add(odd, self.each(0x7FFF))), self.each(16))
        bits = self.builder.select(self.builder.fcmp_unordered("uno", vector, vector), self.each(0x7FC0), bits)
        return self.builder.trunc(bits, halves)

    @property
    def bits(self):
        return ir.VectorType(self.index, self.n)

    def each(self, number):
        """A register full of a whole number."""
        return ir.Constant(self.bits, [number] * self.n)

    def shuffled(self, a, b, places):
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(self.index, len(places)), places))

    def spread(self, number):
        """A register full of it."""
        empty = ir.Constant(self.vector, ir.Undefined)
        return self.shuffled(self.builder.insert_element(empty, number, self.index(0)), empty, [0] * self.n)

    def plus_product(self, total, a, b):
        return self.builder.fadd(total, self.builder.fmul(a, b, flags=FLAGS), flags=FLAGS)

    def total(self, vector):
        """The sum of a register's numbers, half with half."""
        for n in (self.n >> k for k in range(1, self.n.bit_length())):
            low, high = (self.shuffled(vector, vector, [*range(first, first + n)]) for first in (0, n))
            vector = self.builder.fadd(low, high, flags=FLAGS)
        return self.builder.extract_element(vector, self.index(0))

    def add_correlation(self, products, e, own, run):
        """products[e] += own · run, two blocks."""
        product = ir.Constant(self.vector, [0.0] * self.n)
        for a, b in zip(own, run):
            product = self.plus_product(product, a, b)
        address = self.builder.gep(products.data, [e])
        self.builder.store(self.builder.fadd(self.builder.load(address), self.total(product), flags=FLAGS), address)

    def variables(self, value):
        """A block of sums, each `value` at first."""
        sums = [cgutils.alloca_once(self.builder, self.vector) for _ in range(VECTORS)]
        for address in sums:
            self.builder.store(value, address)
        return sums


@register_jitable
def block_of(x):
    """Numbers of a block."""
    return VECTORS * REGISTER // x.itemsize


@intrinsic
def combine(context, values, places, scale, shift, first, last, x, start, out, at):
    """The block of out that begins at `at` = start + Σ values[e] · that of x at places[e] · scale + shift, over e from first to last."""
    def code(context, builder, signature, arguments):
        c = Code(context, builder, x.dtype)
        values_, places_, scale, shift, first, last, x_, start, out_, at = arguments
        numbers, lines, source, target = (c.array(kind, value) for kind, value in
                                          zip((values, places, x, out), (values_, places_, x_, out_)))
        sums = c.variables(c.spread(start))
        with cgutils.for_range_slice(builder, first, last, at.type(1), at.type) as (e, _):
            value = c.spread(c.item(numbers, e))
            for total, run in zip(sums, c.run(source, lines, e, scale, shift)):
                builder.store(c.plus_product(builder.load(total), value, run), total)
        c.store(c.load(sums), c.block(target, at))
        return context.get_dummy_value()
    return numba.void(values, places, *4 * (numba.intp,), x, x.dtype, out, numba.intp), code


@intrinsic
def combine_and_correlate(context, values, places, scale, shift, first, last, delta, x, out, at, gradient):
    """As `combine` of delta, from 0; and gradient[e] += the block of delta · that of x at `at`."""
    def code(context, builder, signature, arguments):
        c = Code(context, builder, x.dtype)
        values_, places_, scale, shift, first, last, delta_, x_, out_, at, gradient_ = arguments
        kinds = (values, places, delta, x, out, gradient)
        numbers, lines, source, inputs, target, products = (c.array(kind, value) for kind, value in zip(
            kinds, (values_, places_, delta_, x_, out_, gradient_)))
        sums, own = c.variables(ir.Constant(c.vector, [0.0] * c.n)), c.load(c.block(inputs, at))
        with cgutils.for_range_slice(builder, first, last, at.type(1), at.type) as (e, _):
            value, run = c.spread(c.item(numbers, e)), c.run(source, lines, e, scale, shift)
            for total, part in zip(sums, run):
                builder.store(c.plus_product(builder.load(total), value, part), total)
            c.add_correlation(products, e, own, run)
        c.store(c.load(sums), c.block(target, at))
        return context.get_dummy_value()
    return numba.void(values, places, *4 * (numba.intp,), delta, x, out, numba.intp, gradient), code


@intrinsic
def correlate(context, places, scale, shift, first, last, delta, x, at, gradient):
    """As `combine_and_correlate`, the gradient alone."""
    def code(context, builder, signature, arguments):
        c = Code(context, builder, x.dtype)
        places_, scale, shift, first, last, delta_, x_, at, gradient_ = arguments
        kinds = (places, delta, x, gradient)
        lines, source, inputs, products = (c.array(kind, value) for kind, value in zip(kinds, (places_, delta_, x_, gradient_)))
        own = c.load(c.block(inputs, at))
        with cgutils.for_range_slice(builder, first, last, at.type(1), at.type) as (e, _):
            c.add_correlation(products, e, own, c.run(source, lines, e, scale, shift))
        return context.get_dummy_value()
    return numba.void(places, *4 * (numba.intp,), delta, x, numba.intp, gradient), code


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


STAMP = hashlib.sha256(b"".join(Path(__file__).with_name(name).read_bytes() for name in ("registers.py", "transposition.py"))).hexdigest()[:8]


def kernel(function):
    """`function` compiled, once for all processes: numba's cache sees a change of the function's own file, and by this name one of those that
    it is made of."""
    function.__qualname__ += f"_{STAMP}"
    return numba.njit(cache=True, fastmath=SUMS)(function)

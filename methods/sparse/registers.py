"""Blocks of numbers in registers, in LLVM's instructions: what the loops of sparse layers are made of (blocks.py).

A block is VECTORS registers' numbers, 64 in float32 and 32 in float64, whose sums stay in registers. One of bfloat16, here arrays of int16,
lies in half the memory, and so in half the cache: its numbers become float32 as they are read, and sums are rounded to the nearest as they
are written. All memory comes from torch, whose record of allocations has it, and which lets it begin where a line of the cache begins: a
register that lies on two lines takes twice as long.
"""
import numba
from llvmlite import ir
from numba.core import cgutils

if numba.config.DISABLE_JIT:
    raise ImportError("the loops are made of instructions: they need numba's compiler")

LINE = 64  # bytes: a line of the cache
REGISTER = 64  # bytes
VECTORS = 4  # with these, a block's sums, its inputs and what is being read all stay in 32 registers
AHEAD = 8  # connections: so far ahead a block is asked for, because one core's cache does not hold those of thousands of features
PART = 1024  # features that are brought into order at a time, where one comes after the other
NEAR = 2 ** 19  # bytes: beside a larger block the next one has no room in a core's second-level cache
CACHE = 2 ** 22  # bytes: what is larger has left a core's cache before it is used again
HALF = ir.IntType(16)  # what bfloat16 is here: numba has none
UPPER = -2 ** 16  # the upper half of 32 bits
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
        """Where the registers of the block lie that begins there: of bfloat16 half as many, each of whose 32 bits are two numbers."""
        first, half = self.builder.gep(array.data, [place]), array.data.type.pointee == HALF
        first = self.builder.bitcast(first, (self.bits if half else self.vector).as_pointer())
        return [self.builder.gep(first, [place.type(k)]) for k in range(VECTORS // 2 if half else VECTORS)]

    def ask(self, pointer, bytes, level):
        """Asks for so many bytes from there on, to be read: they are on their way to this level of the cache, and may lie anywhere."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, *[self.index] * 3])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        read, locality, data = self.index(0), self.index(4 - level), self.index(1)
        for line in range(0, bytes, LINE):
            address = self.builder.gep(self.builder.bitcast(pointer, byte), [self.index(line)])
            self.builder.call(function, [address, read, locality, data])

    def runs(self, source, places, connections, scale, shift):
        """The blocks of `source` that belong to these connections, neighbours; those of later ones are asked for."""
        def block(e):
            return self.block(source, self.builder.add(self.builder.mul(self.item(places, e), scale), shift))
        kind, found = connections[0].type, []
        later, last = self.builder.add(connections[0], kind(AHEAD)), self.builder.sub(places.nitems, kind(len(connections)))
        later = self.builder.select(self.builder.icmp_signed("<", later, last), later, last)
        for k, e in enumerate(connections):
            ahead = block(self.builder.add(later, kind(k)))
            self.ask(ahead[0], len(ahead) * REGISTER, 1)
            found.append(self.load(block(e)))
        return found

    def load(self, addresses):
        """The numbers of a block, those of bfloat16 at even places before those at odd ones, as float32, whose upper half they are."""
        vectors = []
        for address in addresses:
            pairs = address.type.pointee == self.bits
            vector = self.builder.load(address, align=2 if pairs else self.size)
            both = (self.builder.shl(vector, self.each(16)), self.builder.and_(vector, self.each(UPPER))) if pairs else (vector,)
            vectors += [self.builder.bitcast(one, self.vector) for one in both]
        return vectors

    def store(self, vectors, addresses):
        """Writes a block in the order of `load`, in bfloat16 rounded."""
        for k, address in enumerate(addresses):
            if address.type.pointee == self.bits:
                even, odd = map(self.rounded, vectors[2 * k:2 * k + 2])
                vector = self.builder.or_(self.builder.lshr(even, self.each(16)), self.builder.and_(odd, self.each(UPPER)))
                self.builder.store(vector, address, align=2)
            else:
                self.builder.store(vectors[k], address, align=self.size)

    def rounded(self, vector):
        """The bits of float32 whose upper half is the nearest bfloat16, of two as near the even one; NaN stays NaN."""
        bits = self.builder.bitcast(vector, self.bits)
        odd = self.builder.and_(self.builder.lshr(bits, self.each(16)), self.each(1))
        bits = self.builder.add(bits, self.builder.add(odd, self.each(0x7FFF)))
        return self.builder.select(self.builder.fcmp_unordered("uno", vector, vector), self.each(0x7FC00000), bits)

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

    def folded(self, vector, lanes):
        """The sums of a register's numbers that lie `lanes` apart, half with half."""
        while vector.type.count > lanes:
            n = vector.type.count // 2
            low, high = (self.shuffled(vector, vector, [*range(first, first + n)]) for first in (0, n))
            vector = self.builder.fadd(low, high, flags=FLAGS)
        return vector

    def total(self, vector):
        """The sum of a register's numbers."""
        return self.builder.extract_element(self.folded(vector, 1), self.index(0))

    def totals(self, vectors):
        """Those of `together` registers, in a short one: neighbours within 16 bytes first, which is quickest."""
        unit, half = 1, self.together // 2
        while len(vectors) > 1:
            low = [first + k for group in range(0, self.n, self.together) for place in range(group, group + half, unit)
                   for first in (place, self.n + place) for k in range(unit)]
            high = [place + half for place in low]
            vectors = [self.builder.fadd(self.shuffled(a, b, low), self.shuffled(a, b, high), flags=FLAGS)
                       for a, b in zip(vectors[::2], vectors[1::2])]
            unit *= 2
        return self.folded(vectors[0], self.together)

    @property
    def together(self):
        """Connections whose products are summed at once: so many numbers have 16 bytes."""
        return 16 // self.size

    def connections(self, first, last, body):
        """body(connections) for those from first to last, `together` at a time and the rest one by one."""
        kind = first.type
        rest = self.builder.and_(self.builder.sub(last, first), kind(self.together - 1))
        whole = self.builder.sub(last, rest)
        for start, stop, step in ((first, whole, self.together), (whole, last, 1)):
            with cgutils.for_range_slice(self.builder, start, stop, kind(step), kind) as (e, _):
                body([self.builder.add(e, kind(k)) for k in range(step)])

    def add_correlations(self, products, e, own, runs):
        """products[e + k] += own · runs[k], blocks, for one or `together` of these."""
        vectors = []
        for run in runs:
            vectors.append(ir.Constant(self.vector, [0.0] * self.n))
            for a, b in zip(own, run):
                vectors[-1] = self.plus_product(vectors[-1], a, b)
        sums = self.totals(vectors) if len(runs) > 1 else self.total(vectors[0])
        address = self.builder.bitcast(self.builder.gep(products.data, [e]), sums.type.as_pointer())
        sums = self.builder.fadd(self.builder.load(address, align=self.size), sums, flags=FLAGS)
        self.builder.store(sums, address, align=self.size)

    def add_product(self, sums, value, run):
        """sums, variables, += value · run, blocks."""
        for total, part in zip(sums, run):
            self.builder.store(self.plus_product(self.builder.load(total), value, part), total)

    def variables(self, value):
        """A block of sums, each `value` at first."""
        sums = [cgutils.alloca_once(self.builder, self.vector) for _ in range(VECTORS)]
        for address in sums:
            self.builder.store(value, address)
        return sums

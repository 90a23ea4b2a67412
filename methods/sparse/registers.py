"""Blocks of numbers in vector registers, as LLVM instructions: the building blocks of the loops of sparse layers (blocks.py).

A block fills VECTORS registers (64 numbers in float32, 32 in float64); its sums stay in registers. A block of bfloat16 (an int16 array here,
as numba has no bfloat16) takes half the memory and half the cache: its numbers are converted to float32 when they are read, and sums are
rounded to the nearest bfloat16 when they are written. All memory is allocated by torch, so that its allocation statistics include it, and so
that it is aligned to cache lines: loading a register that straddles two lines takes twice as long.
"""
import numba
from llvmlite import ir
from numba.core import cgutils

if numba.config.DISABLE_JIT:
    raise ImportError("the loops are made of instructions: they need numba's compiler")

LINE = 64  # bytes: a line of the cache
REGISTER = 64  # bytes
VECTORS = 4  # so few that a block's sums, its inputs and what is being read fit into 32 registers together
AHEAD = 8  # connections: how far ahead blocks are prefetched, because a core's cache does not hold the blocks of thousands of features
PART = 1024  # features that are transposed at a time, where they are visited in order
NEAR = 2 ** 19  # bytes: if a block is larger, the next one does not fit beside it in a core's second-level cache
CACHE = 2 ** 22  # bytes: anything larger is evicted from a core's cache before it is used again
HALF = ir.IntType(16)  # stands for bfloat16, which numba lacks
UPPER = -2 ** 16  # mask of the upper half of 32 bits
SUMS = {"reassoc", "contract", "nsz"}  # fast-math flags: sums may be reordered; infinities and NaN are kept
FLAGS = sorted(SUMS)


class Code:
    """Emits instructions on arrays of one dtype; a register has REGISTER // part bytes and holds n of its numbers."""

    def __init__(self, context, builder, dtype, part=1):
        self.context, self.builder, self.number = context, builder, context.get_data_type(dtype)
        self.size = context.get_abi_sizeof(self.number)
        self.n = max(1, REGISTER // part // self.size)
        self.vector, self.index = ir.VectorType(self.number, self.n), ir.IntType(32)

    def array(self, kind, value):
        return self.context.make_array(kind)(self.context, self.builder, value)

    def item(self, array, place):
        """The number at a place of a flat array; an integer (an index) is extended to pointer width."""
        number = self.builder.load(self.builder.gep(array.data, [place]))
        return self.builder.sext(number, place.type) if isinstance(number.type, ir.IntType) else number

    def block(self, array, place):
        """Addresses of the registers of the block that begins there. A block of bfloat16 has half as many, with two numbers in each 32 bits."""
        first, half = self.builder.gep(array.data, [place]), array.data.type.pointee == HALF
        first = self.builder.bitcast(first, (self.bits if half else self.vector).as_pointer())
        return [self.builder.gep(first, [place.type(k)]) for k in range(VECTORS // 2 if half else VECTORS)]

    def ask(self, pointer, bytes, level):
        """Prefetches so many bytes for reading into this level of the cache; the address may be invalid."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, *[self.index] * 3])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        read, locality, data = self.index(0), self.index(4 - level), self.index(1)
        for line in range(0, bytes, LINE):
            address = self.builder.gep(self.builder.bitcast(pointer, byte), [self.index(line)])
            self.builder.call(function, [address, read, locality, data])

    def runs(self, source, places, connections, scale, shift):
        """The blocks of `source` that these adjacent connections read; prefetches the blocks of later connections."""
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
        """The numbers of a block as registers. Those of bfloat16 are widened to float32 (of which they are the upper half), and those at even
        places come before those at odd ones."""
        vectors = []
        for address in addresses:
            pairs = address.type.pointee == self.bits
            vector = self.builder.load(address, align=2 if pairs else self.size)
            both = (self.builder.shl(vector, self.each(16)), self.builder.and_(vector, self.each(UPPER))) if pairs else (vector,)
            vectors += [self.builder.bitcast(one, self.vector) for one in both]
        return vectors

    def store(self, vectors, addresses):
        """Writes a block that is in the order of `load`, rounded where it is bfloat16."""
        for k, address in enumerate(addresses):
            if address.type.pointee == self.bits:
                even, odd = map(self.rounded, vectors[2 * k:2 * k + 2])
                vector = self.builder.or_(self.builder.lshr(even, self.each(16)), self.builder.and_(odd, self.each(UPPER)))
                self.builder.store(vector, address, align=2)
            else:
                self.builder.store(vectors[k], address, align=self.size)

    def rounded(self, vector):
        """float32 bits whose upper half is the nearest bfloat16 (ties to even); NaN stays NaN."""
        bits = self.builder.bitcast(vector, self.bits)
        odd = self.builder.and_(self.builder.lshr(bits, self.each(16)), self.each(1))
        bits = self.builder.add(bits, self.builder.add(odd, self.each(0x7FFF)))
        return self.builder.select(self.builder.fcmp_unordered("uno", vector, vector), self.each(0x7FC00000), bits)

    @property
    def bits(self):
        return ir.VectorType(self.index, self.n)

    def each(self, number):
        """A register with this integer in all lanes."""
        return ir.Constant(self.bits, [number] * self.n)

    def shuffled(self, a, b, places):
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(self.index, len(places)), places))

    def spread(self, number):
        """A register with this number in all lanes."""
        empty = ir.Constant(self.vector, ir.Undefined)
        return self.shuffled(self.builder.insert_element(empty, number, self.index(0)), empty, [0] * self.n)

    def plus_product(self, total, a, b):
        return self.builder.fadd(total, self.builder.fmul(a, b, flags=FLAGS), flags=FLAGS)

    def folded(self, vector, lanes):
        """Sums the numbers of a register that lie `lanes` apart, by adding its halves until `lanes` numbers are left."""
        while vector.type.count > lanes:
            n = vector.type.count // 2
            low, high = (self.shuffled(vector, vector, [*range(first, first + n)]) for first in (0, n))
            vector = self.builder.fadd(low, high, flags=FLAGS)
        return vector

    def total(self, vector):
        """The sum of all lanes of a register."""
        return self.builder.extract_element(self.folded(vector, 1), self.index(0))

    def totals(self, vectors):
        """`total` of each of `together` registers, in one short register. Adds neighbours within 16 bytes first, which is fastest."""
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
        """How many connections' products are summed at once: as many as 16 bytes hold numbers."""
        return 16 // self.size

    def connections(self, first, last, body):
        """Emits body(connections) for first <= e < last, `together` at a time, then the rest one by one."""
        kind = first.type
        rest = self.builder.and_(self.builder.sub(last, first), kind(self.together - 1))
        whole = self.builder.sub(last, rest)
        for start, stop, step in ((first, whole, self.together), (whole, last, 1)):
            with cgutils.for_range_slice(self.builder, start, stop, kind(step), kind) as (e, _):
                body([self.builder.add(e, kind(k)) for k in range(step)])

    def add_correlations(self, products, e, own, runs):
        """products[e + k] += the dot product of the blocks own and runs[k], for one or `together` runs."""
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
        """sums (from `variables`) += value · run, all blocks."""
        for total, part in zip(sums, run):
            self.builder.store(self.plus_product(self.builder.load(total), value, part), total)

    def variables(self, value):
        """A block of sums as variables, each initialised with `value`."""
        sums = [cgutils.alloca_once(self.builder, self.vector) for _ in range(VECTORS)]
        for address in sums:
            self.builder.store(value, address)
        return sums

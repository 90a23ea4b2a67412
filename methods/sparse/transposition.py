"""Transposes activations into the order of blocks (registers.py) and back, in square tiles as wide as a register."""
import numba
import numpy as np
from numba.extending import intrinsic

from methods.sparse.registers import CACHE, REGISTER, Code

# use these as arguments in place of 0 and False: numba compiles a version of its own for each literal
START, CACHED = np.intp(0), np.bool_(False)


def tiles(part, past=False):
    """(tile, cover) for registers of REGISTER // part bytes. past: they are written past the cache."""
    @intrinsic
    def tile(context, x, i, j, out, p, q):
        """out[p:p+n, q:q+n] = x[i:i+n, j:j+n]ᵀ, where a register holds n numbers, by log2(n) rounds of exchanges between pairs of lines."""
        def code(context, builder, signature, arguments):
            source, i, j, target, p, q = arguments
            c = Code(context, builder, x.dtype, part)

            def lines(kind, array, row, column):
                array = c.array(kind, array)
                step = builder.extract_value(array.strides, 0)
                at = builder.add(builder.mul(row, step), builder.mul(column, array.itemsize))
                at = builder.add(builder.ptrtoint(array.data, step.type), at)
                return [builder.inttoptr(builder.add(at, builder.mul(step, step.type(k))), c.vector.as_pointer()) for k in range(c.n)]
            tile = [builder.load(line, align=c.size) for line in lines(x, source, i, j)]
            for w in (c.n // 2 >> k for k in range(c.n.bit_length() - 1)):
                for k in (k for k in range(c.n) if not k & w):
                    a, b = tile[k], tile[k + w]
                    tile[k] = c.shuffled(a, b, [c.n + e - w if e & w else e for e in range(c.n)])
                    tile[k + w] = c.shuffled(a, b, [c.n + e if e & w else e + w for e in range(c.n)])
            for line, place in zip(tile, lines(out, target, p, q)):
                stored = builder.store(line, place, align=REGISTER if past else c.size)
                if past:
                    stored.set_metadata("nontemporal", builder.module.add_metadata([c.index(1)]))
            return context.get_dummy_value()
        return numba.void(x, numba.intp, numba.intp, out, numba.intp, numba.intp), code

    @numba.njit(inline="always")
    def cover(x, i, n, j, m, out, p, q, done):
        """As `transpose`, from line `done` on, for as many lines as fill whole registers; returns the first line that is left."""
        step = max(1, REGISTER // part // x.itemsize)
        if m < step:
            return done
        last, whole = done + (n - done) // step * step, m // step * step
        if whole > last - done:  # along the longer lines, those of the array in memory, not of the block in the cache
            for k in range(done, last, step):
                for e in range(0, whole, step):
                    tile(x, i + k, j + e, out, p + e, q + k)
        else:
            for e in range(0, whole, step):
                for k in range(done, last, step):
                    tile(x, i + k, j + e, out, p + e, q + k)
        for e in range(whole, m):
            for k in range(done, last):
                number(x, i + k, j + e, out, p + e, q + k)
        return last
    return tile, cover


number, _ = tiles(REGISTER)  # a register that holds one number
(_, _whole), (_, _halves), (_, _quarters), (_, _eighths), (_, _past) = *map(tiles, (1, 2, 4, 8)), tiles(1, past=True)


@numba.njit
def leaves(out):
    """Whether to write `out` (..., features) past the cache: if it does not fit there, and its lines begin where cache lines do."""
    return out.nbytes > CACHE and (out.ctypes.data | out.shape[-1] * out.itemsize) % REGISTER == 0


def transpose(x, i, n, j, m, out, p, q, past):
    """out[p:p+m, q:q+n] = x[i:i+n, j:j+m]ᵀ; the lines of both are contiguous. past: written past the cache.

    (It takes indices, because making a slice takes as long as a tile.)
    """
    done = _past(x, i, n, j, m, out, p, q, 0) if past else _whole(x, i, n, j, m, out, p, q, 0)
    if done < n:
        done = _halves(x, i, n, j, m, out, p, q, done)
    if done < n:
        done = _quarters(x, i, n, j, m, out, p, q, done)
    if done < n:
        done = _eighths(x, i, n, j, m, out, p, q, done)
    for k in range(done, n):
        for e in range(m):
            number(x, i + k, j + e, out, p + e, q + k)


# convolutions transpose one line of an image at a time, which takes less than a call would
transpose, transpose_here = numba.njit(transpose), numba.njit(forceinline=True)(transpose)

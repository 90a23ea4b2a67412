"""Loops of sparse linear layers on one core, compiled by numba: what torch's operators take two to four times as long for."""
import numba
from llvmlite import ir
from numba.extending import intrinsic

SUMS = {"reassoc", "contract", "nsz"}  # a sum may be made in several parts at once; infinities and NaN stay what they are
REGISTER = 64  # bytes of a vector


def numpy(tensor):
    return tensor.detach().numpy()


def transpose(x, out):
    """x (n, m) into out (m, n), returned; the lines of both are contiguous."""
    _transpose(numpy(x), numpy(out))
    return out


def add_sampled(values, starts, columns, delta, x):
    """values (nnz,) += the entries of delta (rows, L) @ x (columns, L)ᵀ that lie at `starts` (rows + 1,), `columns` (nnz,)."""
    _add_sampled(numpy(values), numpy(starts), numpy(columns), numpy(delta), numpy(x))


@intrinsic
def _tile(context, x, i, j, out):
    """out[j:j+n, i:i+n] = x[i:i+n, j:j+n]ᵀ, where a register holds n numbers: log2(n) exchanges between pairs of its lines."""
    def code(context, builder, signature, arguments):
        number = context.get_data_type(x.dtype)
        size = context.get_abi_sizeof(number)
        n = REGISTER // size
        vector, picks = ir.VectorType(number, n), ir.VectorType(ir.IntType(32), n)

        def lines(kind, array, row, column):
            array = context.make_array(kind)(context, builder, array)
            step = builder.extract_value(array.strides, 0)
            at = builder.add(builder.ptrtoint(array.data, step.type), builder.add(builder.mul(row, step), builder.mul(column, step.type(size))))
            return [builder.inttoptr(builder.add(at, builder.mul(step, step.type(k))), vector.as_pointer()) for k in range(n)]
        source, i, j, target = arguments
        tile = [builder.load(line, align=size) for line in lines(x, source, i, j)]
        for w in (n // 2 >> k for k in range(n.bit_length() - 1)):
            for k in (k for k in range(n) if not k & w):
                a, b = tile[k], tile[k + w]
                tile[k] = builder.shuffle_vector(a, b, picks([n + e - w if e & w else e for e in range(n)]))
                tile[k + w] = builder.shuffle_vector(a, b, picks([n + e if e & w else e + w for e in range(n)]))
        for line, address in zip(tile, lines(out, target, j, i)):
            builder.store(line, address, align=size)
        return context.get_dummy_value()
    return numba.void(x, numba.intp, numba.intp, out), code


@numba.njit(cache=True)
def _transpose(x, out):
    step = REGISTER // x.itemsize
    n, m = x.shape[0] // step * step, x.shape[1] // step * step
    for j in range(0, m, step):
        for i in range(0, n, step):
            _tile(x, i, j, out)
    for j in range(x.shape[1]):
        for i in range(0 if j >= m else n, x.shape[0]):
            out[j, i] = x[i, j]


@numba.njit(cache=True, fastmath=SUMS)
def _add_sampled(values, starts, columns, delta, x):
    zero = values.dtype.type(0)
    for o in range(len(starts) - 1):
        run, last = delta[o], starts[o + 1]
        rest = last - (last - starts[o]) % 4
        for e in range(starts[o], rest, 4):  # four at a time: a line of delta is read once for them
            a, b, c, d = zero, zero, zero, zero
            p, q, r, s = x[columns[e]], x[columns[e + 1]], x[columns[e + 2]], x[columns[e + 3]]
            for i in range(len(run)):
                a += run[i] * p[i]
                b += run[i] * q[i]
                c += run[i] * r[i]
                d += run[i] * s[i]
            values[e] += a
            values[e + 1] += b
            values[e + 2] += c
            values[e + 3] += d
        for e in range(rest, last):
            total, p = zero, x[columns[e]]
            for i in range(len(run)):
                total += run[i] * p[i]
            values[e] += total

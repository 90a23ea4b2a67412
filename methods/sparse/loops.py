"""Loops of sparse linear layers on one core, compiled by numba: what torch's operators take two to four times as long for."""
import numba

SUMS = {"reassoc", "contract", "nsz"}  # a sum may be made in several parts at once; infinities and NaN stay what they are
STREAMS = 16  # lines that are written at a time


def numpy(tensor):
    return tensor.detach().numpy()


def transpose(x, out):
    """x (n, m) into out (m, n), returned."""
    _transpose(numpy(x), numpy(out))
    return out


def add_sampled(values, starts, columns, delta, x):
    """values (nnz,) += the entries of delta (rows, L) @ x (columns, L)ᵀ that lie at `starts` (rows + 1,), `columns` (nnz,)."""
    _add_sampled(numpy(values), numpy(starts), numpy(columns), numpy(delta), numpy(x))


@numba.njit(cache=True)
def _transpose(x, out):
    for first in range(0, x.shape[1], STREAMS):
        for i in range(x.shape[0]):
            for j in range(first, min(x.shape[1], first + STREAMS)):
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

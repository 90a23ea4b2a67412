"""Connections as sorted int64 keys: drawn, compared and merged in time and memory of the order of their number, never of the dense size.

On a CPU numpy sorts and searches them, two to five times as fast as torch on one core. What numpy searches and scipy transposes into
is their memory, which torch's allocation statistics do not include.
"""
import numpy as np
import torch
from scipy.sparse import csr_matrix


def none():
    return torch.empty(0, dtype=torch.int64)


def in_order(keys):
    """`keys`, sorted."""
    if keys.device.type != "cpu":
        return keys.sort().values
    keys = keys.clone()
    keys.numpy().sort()
    return keys


def transposed(starts, columns, count):
    """The transpose of a CSR index, starts (rows + 1,) and columns (nnz,) below `count`, both int32: the order of its entries by column and,
    in a column, by row (nnz,), their rows (nnz,), and where each column starts (count + 1,); int32."""
    return (by_counting if columns.device.type == "cpu" else by_sorting)(starts, columns, count)


def by_counting(starts, columns, count):
    """`transposed` on a CPU: scipy counts, which on one core takes a seventh of the time of sorting, for millions of entries."""
    index = np.arange(len(columns), dtype=np.int32), columns.numpy(), starts.numpy()
    transpose = csr_matrix(index, shape=(len(starts) - 1, count)).tocsc()
    return tuple(map(torch.from_numpy, (transpose.data, transpose.indices, transpose.indptr)))


def by_sorting(starts, columns, count):
    """`transposed` on any device."""
    order = torch.argsort(columns, stable=True)
    rows = torch.arange(len(starts) - 1, dtype=torch.int32, device=starts.device)
    row = torch.repeat_interleave(rows, starts.diff(), output_size=len(columns))
    bounds = torch.arange(count + 1, dtype=torch.int32, device=starts.device)
    return order.int(), row[order], torch.searchsorted(columns[order], bounds, out_int32=True)


def places(keys, among):
    """The index in the sorted `among`, which is not empty, of each of `keys`; any index for a key that is not in it."""
    on_cpu = keys.device.type == "cpu"
    found = torch.from_numpy(np.searchsorted(among.numpy(), keys.numpy())) if on_cpu else torch.searchsorted(among, keys)
    return found.clamp_(max=len(among) - 1)


def once(keys):
    """`keys`, sorted, without duplicates."""
    return torch.unique_consecutive(in_order(keys))


def contains(keys, among):
    """Which of `keys` are in the sorted `among`, as bool of the length of `keys`."""
    if not len(among):
        return torch.zeros_like(keys, dtype=torch.bool)
    return among[places(keys, among)] == keys


def merged(*parts):
    """The keys of disjoint parts, sorted."""
    return in_order(torch.cat(parts))


def distinct(low, high, k, barred, generator=None):
    """`k` different keys in [low, high), sorted, without the sorted `barred`; all sets of such keys are equally probable.

    O(k + barred) in time and memory (except for sorting). Raises ValueError if there are fewer than k.
    """
    first, last = torch.searchsorted(barred, torch.tensor([low, high], device=barred.device)).tolist()
    barred = barred[first:last].cpu()
    if k > high - low - len(barred):
        raise ValueError(f"cannot draw {k} of {high - low - len(barred)} free connections")
    if 2 * (k + len(barred)) >= high - low:  # then a list of all keys is of the order of k + barred, too
        free = torch.ones(high - low, dtype=torch.bool)
        free[barred - low] = False
        found = low + free.nonzero().flatten()
    else:
        found = none()
        while (missing := k - len(found)) > 0:
            # sorted, they are found in a tenth of the time
            drawn = in_order(torch.randint(low, high, (missing + missing // 8 + 8,), generator=generator))
            found = once(torch.cat([found, drawn[~contains(drawn, barred)]]))
    if len(found) > k:
        found = found[torch.randperm(len(found), generator=generator)[:k].sort().values]
    return found

"""Ranking: exactly k of n. On a CPU by partition, on a GPU by counting (counting.py), else by sorting."""
import numpy as np
import torch

from methods import counting
from methods.warn import warn


def keep(score, k):
    """Mask with exactly k ones at the largest scores, ties to the lowest index. score (n,) → bool (n,).

    k: a number, or a 0-dim tensor on the device of the scores, whose value, 0 to n, is not read on the host: so this can be captured in a graph.
    NaN counts as the largest, so that it is not pruned unnoticed. Raises ValueError unless 0 ≤ k ≤ n (for a number).
    """
    if not torch.is_tensor(k):
        n = score.numel()
        check(k, n)
        if k == 0 or k == n:
            return torch.full_like(score, k == n, dtype=torch.bool)
        if score.device.type == "cpu" and score.dtype != torch.bfloat16:
            return by_partition(score, k)
        k = torch.full((), k, device=score.device)
    return counting.choose(score, k) if counting.countable(score) else by_sorting(score, k)


def keep_each(score, counts, sizes):
    """`keep` within each piece: counts[i] (as `keep` takes them, all of one kind) ones in the i-th piece, of sizes[i] entries."""
    known = not torch.is_tensor(counts[0])
    if known and score.device.type == "cpu":
        return torch.cat([keep(piece, k) for piece, k in zip(score.split(sizes), counts)])
    for k, n in zip(counts, sizes) if known else ():
        check(k, n)
    counts = torch.tensor(counts, device=score.device) if known else torch.stack(counts)
    pieces = torch.cat([torch.full((size,), place, dtype=torch.int32, device=score.device) for place, size in enumerate(sizes)])
    return by_sorting(score, counts, pieces)  # all pieces at once, with as few GPU calls as for one


def check(k, n):
    """Raises ValueError unless 0 ≤ k ≤ n."""
    if not 0 <= k <= n:
        raise ValueError(f"cannot keep {k} of {n} weights")


def by_partition(score, k):
    """`keep` on a CPU, where reading values costs nothing, for 0 < k < n. NumPy compares eight times as fast as torch on one core."""
    values = score.detach().numpy()
    threshold = kth_smallest(values, len(values) - k + 1)
    if np.isnan(threshold):  # then k or more scores are NaN, which no comparison finds
        warn("the largest scores, by which a mask is chosen, are NaN: the mask says nothing (0/0 in the score?)")
        return keep(score.isnan().float(), k)
    chosen = ~(values <= threshold)
    chosen[np.flatnonzero(values == threshold)[:k - np.count_nonzero(chosen)]] = True
    return torch.from_numpy(chosen)


def kth_smallest(values, k):
    """The k-th smallest (k from 1) of an array (n,), NaN the largest. A sample gives two bounds that enclose it with near certainty
    (Floyd and Rivest, 1975): all values are compared with these two only, which takes less time than partitioning them."""
    n = values.size
    sample = np.sort(values[::stride_of(n)])
    place, apart = sample.size * k / n, 2 + 4 * (sample.size * k / n * (1 - k / n)) ** 0.5
    first, last = int(place - apart), int(place + apart)
    low, high = sample[first] if first >= 0 else -np.inf, sample[last] if last < sample.size else np.inf
    to_low = values <= low
    left = k - np.count_nonzero(to_low)
    if left > 0:
        inside = values[(values < high) > to_low]  # few: a value that many are tied at is one of the two bounds
        if left <= inside.size:
            return np.partition(inside, left - 1)[left - 1]
        if k <= np.count_nonzero(values <= high):
            return high
    elif np.count_nonzero(values < low) < k:
        return low
    return np.partition(values, k - 1)[k - 1]  # the sample has misled, or the result is NaN


def stride_of(n):
    """The stride that samples about n^(2/3) of n scores. Odd, because a stride that divides a layer's number of channels, which is mostly even,
    would sample only some channels."""
    return int(n ** (1 / 3)) | 1


def by_sorting(score, k, pieces=None):
    """`keep` without waiting for the device. pieces (n,): the index of each score's piece, ascending from 0; k (number of pieces,) then has one
    number for each piece."""
    order = (score.detach() + 0).argsort(descending=True, stable=True)  # + 0: 0 and -0 become one
    place = torch.arange(score.numel(), device=score.device)
    if pieces is None:
        chosen = place < k
    else:
        order = order[pieces[order].argsort(stable=True)]
        firsts = torch.searchsorted(pieces, torch.arange(len(k), dtype=pieces.dtype, device=score.device))
        chosen = place < (firsts + k).index_select(0, pieces)
    return torch.empty_like(chosen).scatter_(0, order, chosen)


def between(score, mask, share):
    """The threshold at `share` (a number, or a 0-dim tensor of their dtype) of the way from the largest score outside the mask to the
    smallest inside, 0-dim. score (n,) ≥ 0."""
    if not torch.is_tensor(share) and score.device.type == "cpu" and score.dtype != torch.bfloat16:  # in half the time
        values, inside = score.detach().numpy(), mask.numpy()
        ends = score.new_tensor([np.where(inside, 0, values).max(), values[inside].min(initial=np.inf)])
        return torch.lerp(*ends, share)
    return torch.lerp(torch.where(mask, 0, score).max(), torch.where(mask, score, torch.inf).min(), share)

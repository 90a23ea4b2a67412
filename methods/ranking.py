"""Ranking: exactly k of n, without sorting."""
import numpy as np
import torch

DIGIT = 16  # bits, half of a float32: few passes over the scores, and few of them counted in the same place


def keep(score, k):
    """Mask with exactly k ones at the largest scores, ties to the lowest index. score (n,) → bool (n,).

    k: a number, or a 0-dim tensor of one from 0 to n, on the device of the scores, whose value is never read on the host: so this can be recorded.
    NaN counts as the largest, so that it is not pruned unseen. Raises ValueError unless 0 ≤ k ≤ n.
    """
    if not torch.is_tensor(k):
        n = score.numel()
        check(k, n)
        if k == 0 or k == n:
            return torch.full_like(score, k == n, dtype=torch.bool)
        if score.device.type == "cpu" and score.dtype != torch.bfloat16:
            return by_partition(score, k)
        k = torch.full((), k, device=score.device)
    return by_digits(score, k)


def keep_each(score, counts, sizes):
    """`keep` within each piece: counts[i] (as `keep` takes them, all of one kind) ones in the i-th piece, of sizes[i] entries."""
    known = not torch.is_tensor(counts[0])
    if known and score.device.type == "cpu":
        return torch.cat([keep(piece, k) for piece, k in zip(score.split(sizes), counts)])
    for k, n in zip(counts, sizes) if known else ():
        check(k, n)
    counts = torch.tensor(counts, device=score.device) if known else torch.stack(counts)
    pieces = torch.cat([torch.full((size,), place, dtype=torch.int32, device=score.device) for place, size in enumerate(sizes)])
    return by_digits(score, counts, pieces)  # all pieces at once: a GPU is asked no more than for one


def check(k, n):
    """Raises ValueError unless 0 ≤ k ≤ n."""
    if not 0 <= k <= n:
        raise ValueError(f"cannot keep {k} of {n} weights")


def by_partition(score, k):
    """`keep` on a CPU, where looking at numbers costs nothing, for 0 < k < n."""
    threshold = kth_smallest(score.detach().numpy(), score.numel() - k + 1)
    if np.isnan(threshold):  # so are k or more scores, and none compares with them
        return keep(score.isnan().float(), k)
    above, tied = ~(score <= threshold.item()), score == threshold.item()
    above.numpy()[tied.numpy().nonzero()[0][:k - np.count_nonzero(above.numpy())]] = True
    return above


def kth_smallest(values, k):
    """The k-th smallest (k from 1) of an array: numpy's vectorised partition is some ten times faster than torch's selection on one core, but
    slow where many entries are equal, as the inactive weights' scores are."""
    least = values.min()
    ties = np.count_nonzero(values == least)
    if k <= ties:
        return least
    if 8 * ties > values.size:
        values, k = values[~(values == least)], k - ties
    return np.partition(values, k - 1)[k - 1]


def by_digits(score, k, pieces=None):
    """`keep` in a fixed number of passes over the scores, in each of which all of a GPU takes part; nothing waits.

    With pieces (n,), which count up from 0, k (number of pieces,) is that of each. The bit patterns of the negative scores are in their
    order; the k-th smallest is found digit by digit, by counting the patterns that share all digits before.
    """
    score = score.detach() if score.is_floating_point() else score.detach().double()  # a whole number's bits are in another order
    score = score if score.element_size() > 2 else score.float()
    whole, bits = {8: torch.int64, 4: torch.int32}[score.element_size()], 8 * score.element_size()
    keys = (0 - score).view(whole)  # 0 and -0 become one
    keys = (keys ^ ((keys >> (bits - 1)) & torch.iinfo(whole).max)).masked_fill(score.isnan(), torch.iinfo(whole).min)

    def spread(values):
        return values if pieces is None else values.index_select(0, pieces)

    found, size = None, 2 ** DIGIT
    for shift in range(bits - DIGIT, -1, -DIGIT):
        half = size // 2 if found is None else 0  # the first digit has the sign: negative numbers are its lower half
        shares = torch.ones_like(keys) if found is None else keys >> shift + DIGIT == spread(found)
        places = ((keys >> shift) + half & size - 1).int()
        places = places if pieces is None else places + pieces * size
        counts = torch.zeros(k.numel() * size, dtype=torch.int32, device=keys.device).index_add_(0, places, shares.int())
        counts = counts.view(*k.shape, size)
        before = counts.cumsum(-1) < k.unsqueeze(-1)
        k = k - (counts * before).sum(-1)
        digit = before.sum(-1)
        found = (0 if found is None else found * size) + (digit - half).to(whole)
    tied = keys == spread(found)
    order = tied.cumsum(0)
    if pieces is not None:
        equal = counts.gather(-1, digit.unsqueeze(-1)).squeeze(-1)
        order = order - spread(equal.cumsum(0) - equal)
    return (keys < spread(found)) | (tied & (order <= spread(k)))


def between(score, mask, share):
    """The threshold at `share` (a number, or a 0-dim tensor of their dtype) of the way from the largest score outside the mask to the
    smallest inside, 0-dim. score (n,) ≥ 0."""
    return torch.lerp(score.masked_fill(mask, 0).max(), score.masked_fill(~mask, torch.inf).min(), share)

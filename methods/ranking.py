"""Ranking: exactly k of n, without sorting."""
import numpy as np
import torch


def kth_smallest(x, k):
    """The k-th smallest entry (k from 1) of the vector x, as a 0-dim tensor."""
    if x.device.type != "cpu" or x.dtype == torch.bfloat16:
        return torch.kthvalue(x, k).values
    # numpy's vectorised partition is some ten times faster than torch's selection on one core, but slow where many entries
    # are equal, as the inactive weights' scores are
    values = x.detach().numpy()
    least = values.min()
    ties = np.count_nonzero(values == least)
    if k <= ties:
        return torch.from_numpy(np.asarray(least))
    if 8 * ties > values.size:
        values, k = values[~(values == least)], k - ties
    return torch.from_numpy(np.partition(values, k - 1)[k - 1:k])[0]


def keep(score, k):
    """Mask with exactly k ones at the largest scores, ties to the lowest index. score (n,) → bool (n,).

    NaN counts as the largest, so that it is not pruned unseen. Raises ValueError unless 0 ≤ k ≤ n.
    """
    n = score.numel()
    if not 0 <= k <= n:
        raise ValueError(f"cannot keep {k} of {n} weights")
    if k == 0 or k == n:
        return torch.full_like(score, k == n, dtype=torch.bool)
    threshold = kth_smallest(score, n - k + 1)
    above, tied = ~(score <= threshold), score == threshold
    if score.device.type == "cpu":  # where looking costs nothing, and a running sum ten times the rest
        if threshold.isnan():  # so are k or more scores, and none compares with them
            return keep(score.isnan().float(), k)
        above.numpy()[tied.numpy().nonzero()[0][:k - np.count_nonzero(above.numpy())]] = True
        return above
    nan = threshold.isnan()
    above, tied = above & ~nan, tied | (score.isnan() & nan)
    return above | (tied & (tied.cumsum(0) <= k - above.sum()))


def keep_each(score, counts, sizes):
    """`keep` within each piece: counts[i] ones in the i-th piece, of sizes[i] entries."""
    return torch.cat([keep(piece, k) for piece, k in zip(score.split(sizes), counts)])


def between(score, mask, share):
    """The threshold at `share` of the way from the largest score outside the mask to the smallest inside, 0-dim. score (n,) ≥ 0."""
    return torch.lerp(score.masked_fill(mask, 0).max(), score.masked_fill(~mask, torch.inf).min(), share)

"""Selects exactly k of n scores on a GPU (Triton): a radix select with 8 bits of the scores per pass, each of which uses the whole device."""
from functools import cache

import torch
from torch.utils._triton import has_triton

from methods.warn import warn

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs alone has none
    triton = None

DIGITS, BINS = 4, 256  # digits of a score of 32 bits, from the highest on, and values of a digit
BLOCK, WARPS = 4096, 8  # scores that a program reads, and its warps
TOGETHER = 1024  # programs whose ties are added up at once


@cache
def triton_works():
    """Whether Triton can make kernels here: it needs a GPU that it supports, a C compiler and Python's headers."""
    if not has_triton():
        return False
    try:
        _nothing[(1,)](torch.zeros(1, device="cuda"))
    except Exception as error:  # from the compiler, its files, the driver
        if "out of memory" in str(error):  # temporary, so it must not be cached as an answer
            raise
        warn(f"Triton makes no kernels here ({type(error).__name__}: {error}), which is slower: networks are not compiled, and "
             "ranking sorts")
        return False
    return True


def countable(score):
    """Whether `choose` can rank these scores."""
    return score.is_cuda and score.dtype == torch.float32 and score.numel() < 2**31 and triton_works()


def choose(score, k):
    """Mask (n,), bool, with exactly k ones at the largest of score (n,) float32, ties to the lowest index, NaN the largest. n < 2³¹; k: 0-dim int64
    tensor from 0 to n, which stays on the device: nothing waits for it, so that this can be captured in a graph."""
    score, n = score.detach().contiguous(), score.numel()
    blocks = -(-n // BLOCK)
    counts = torch.zeros(DIGITS, BINS, dtype=torch.int32, device=score.device)
    last = torch.empty(BINS, blocks, dtype=torch.int32, device=score.device)  # counts of the last digit's values, by program
    mask = torch.empty(n, dtype=torch.bool, device=score.device)
    with torch.cuda.device_of(score):  # Triton launches on the current GPU
        for number in range(DIGITS):
            _count[(blocks,)](score, k, counts, last, n, number, DIGITS, BINS, BLOCK, num_warps=WARPS)
        _choose[(blocks,)](score, k, counts, last, mask, n, DIGITS, BINS, BLOCK, TOGETHER, num_warps=WARPS)
    return mask


if triton:
    @triton.jit
    def _nothing(x):
        tl.store(x, tl.load(x))

    @triton.jit
    def _keys(score, place, n):
        """Keys (uint32) in the opposite order of the scores: the largest score has the smallest key, and NaN has 0."""
        value = 0.0 - tl.load(score + place, mask=place < n, other=0.0)  # 0 and -0 become one
        bits = value.to(tl.uint32, bitcast=True)
        return tl.where(value != value, 0, bits ^ tl.where(bits >> 31 == 1, 0xFFFFFFFF, 0x80000000)).to(tl.uint32)

    @triton.jit
    def _found(k, counts, known: tl.constexpr, bins: tl.constexpr):
        """(the first `known` digits of the k-th smallest key, how many of the keys that begin with them are chosen)."""
        left, found, values = tl.load(k).to(tl.int32), tl.zeros((), tl.uint32), tl.arange(0, bins)
        for number in tl.static_range(known):
            count = tl.load(counts + number * bins + values)
            before = tl.cumsum(count, 0) < left
            found = found * bins + tl.sum(before.to(tl.int32), 0).to(tl.uint32)
            left -= tl.sum(tl.where(before, count, 0), 0)
        return found, left

    @triton.jit
    def _count(score, k, counts, last, n, number: tl.constexpr, digits: tl.constexpr, bins: tl.constexpr, block: tl.constexpr):
        """Counts each value of a digit among the keys that share all digits before with the k-th key; for the last digit also by program."""
        place = tl.program_id(0) * block + tl.arange(0, block)
        key, counted = _keys(score, place, n), place < n
        if number:
            found, _ = _found(k, counts, number, bins)
            counted = counted & (key >> 8 * (digits - number) == found)
        values, digit = tl.arange(0, bins), (key >> 8 * (digits - 1 - number) & bins - 1).to(tl.int32)
        own = tl.histogram(tl.where(counted, digit, 0), bins)
        own -= tl.where(values == 0, tl.sum(1 - counted.to(tl.int32), 0), 0)
        tl.atomic_add(counts + number * bins + values, own, mask=own > 0, sem="relaxed")
        if number == digits - 1:
            tl.store(last + values * tl.num_programs(0) + tl.program_id(0), own)

    @triton.jit
    def _choose(score, k, counts, last, mask, n, digits: tl.constexpr, bins: tl.constexpr, block: tl.constexpr, together: tl.constexpr):
        own = tl.program_id(0)
        place, before = own * block + tl.arange(0, block), tl.arange(0, together)
        found, left = _found(k, counts, digits, bins)
        ties = last + (found & bins - 1).to(tl.int32) * tl.num_programs(0)  # keys equal to the k-th, by program
        for first in range(0, own, together):
            left -= tl.sum(tl.load(ties + first + before, mask=first + before < own, other=0), 0)
        key = _keys(score, place, n)
        tied = (key == found).to(tl.int32)
        tl.store(mask + place, (key < found) | ((tied == 1) & (tl.cumsum(tied, 0) <= left)), mask=place < n)

"""Exact ranking: by numpy on a CPU, by sorting where it is recorded, by counting on a GPU."""
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import models
from methods import SparseModel, counting, st3
from methods.ranking import between, keep, keep_each, kth_smallest, stride_of

NAN, INF = math.nan, math.inf
KINDS = {  # of scores, from normal ones
    "normal": lambda x: x,
    "tied": lambda x: x.round(),
    "tiny": lambda x: x * 1e-41,
    "large": lambda x: x * 1e30,
    "negative": lambda x: -x.abs(),
    "zeros of both signs": lambda x: torch.where(x.abs() < 0.7, x.sign() * 0.0, x),
    "infinities": lambda x: torch.where(x.abs() < 0.4, x.sign() * INF, x),
    "no numbers": lambda x: torch.where(x.abs() < 0.4, x.sign() * NAN, x),
}


def by_sorting(score, k):
    """Python's own sort, which is stable: NaN first, then the largest."""
    values = score.double().tolist()
    order = sorted(range(len(values)), key=lambda i: (not math.isnan(values[i]), 0 if math.isnan(values[i]) else -values[i]))
    mask = torch.zeros(len(values), dtype=torch.bool)
    mask[order[:k]] = True
    return mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_number_of_weights_that_is_not_looked_at(kind, dtype):
    numbers, draw = random.Random(0), torch.Generator().manual_seed(0)
    for _ in range(20):
        sizes = [numbers.randint(1, 40) for _ in range(numbers.randint(1, 5))]
        counts = [numbers.randint(0, size) for size in sizes]
        score = KINDS[kind](torch.randn(sum(sizes), generator=draw)).to(dtype)
        tensors = [torch.tensor(k) for k in counts]
        masks = [by_sorting(piece, k) for piece, k in zip(score.split(sizes), counts)]
        for piece, k, tensor, mask in zip(score.split(sizes), counts, tensors, masks):
            assert torch.equal(keep(piece, tensor), mask) and torch.equal(keep(piece, k), mask)
        each = torch.cat(masks)
        assert torch.equal(keep_each(score, tensors, sizes), each) and torch.equal(keep_each(score, counts, sizes), each)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool])
def test_whole_numbers(dtype):
    score = torch.randint(0 if dtype in (torch.uint8, torch.bool) else -9, 10, (60,), generator=torch.Generator().manual_seed(0)).to(dtype)
    for k in range(61):
        mask = by_sorting(score, k)
        assert torch.equal(keep(score, k), mask) and torch.equal(keep(score, torch.tensor(k)), mask)
        assert torch.equal(keep_each(score, [torch.tensor(k)], [60]), mask)


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_many_between_two_of_a_sample(kind):
    draw = torch.Generator().manual_seed(0)
    for n in (1, 2, 15, 16, 17, 300, 5000, 70_000):
        values = KINDS[kind](torch.randn(n, generator=draw)).numpy()
        misleading = values.copy()
        misleading[::stride_of(n)] = 50  # all of the sample
        for numbers in (values, np.sort(values), misleading):
            ordered = np.sort(numbers)
            for k in sorted({1, 2, n // 20, n // 2, n - n // 50, n - 1, n} & set(range(1, n + 1))):
                assert np.array_equal(kth_smallest(numbers, k), ordered[k - 1], equal_nan=True), (n, k)


def test_few_are_partitioned(monkeypatch):
    sizes, partition = [], np.partition
    monkeypatch.setattr(np, "partition", lambda values, k: sizes.append(len(values)) or partition(values, k))
    for values in (np.random.default_rng(0).normal(size=200_000), np.arange(200_000) % 7, np.arange(200_000)):
        for k in (10, 10_000, 100_000, 199_000):
            kth_smallest(values, k)
    assert len(sizes) == 8 and max(sizes) < 20_000  # of seven values that are tied none
    channels = np.tile(np.exp(0.7 * np.random.default_rng(0).normal(size=64)), 4233)  # the weights' sizes of one input each, as in a layer
    for k in (27_000, 135_000, 257_000):
        kth_smallest(channels * np.random.default_rng(1).normal(size=len(channels)), k)
    few = np.random.default_rng(0).random(200_000) < 0.05
    for values in (few * 1.0, -1.0 * few, few * np.arange(200_000), few * -np.arange(200_000)):
        for k in (few.sum() - 1, few.sum(), few.sum() + 1, len(few) - few.sum(), len(few) - few.sum() + 1):
            kth_smallest(values, k)
    assert max(sizes) < 20_000


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_threshold_between_what_is_kept_and_what_is_not(dtype, share):
    score = torch.tensor([3.0, 1.0, 7.0, 2.0, 7.0, 0.5], dtype=dtype)
    for k, below, above in ((2, 3.0, 7.0), (1, 7.0, 7.0), (5, 0.5, 1.0), (6, 0.0, 0.5)):
        found = between(score, keep(score, k), share)
        assert torch.equal(found, between(score, keep(score, k), torch.tensor(share, dtype=dtype)))
        assert found.shape == () and found.dtype == dtype
        assert float(found) == pytest.approx(below + share * (above - below), rel=0.01)
    assert not between(score, keep(score, 0), share).isfinite()
    assert between(torch.tensor([NAN, 1.0]), torch.tensor([True, False]), 0.5).isnan()
    assert between(torch.tensor([NAN, 1.0]), torch.tensor([False, True]), 0.5).isnan()


def test_both_forms_choose_the_same_of_many():
    score = torch.randn(300_000, generator=torch.Generator().manual_seed(1)).abs()
    for k in (1, 3_000, 150_000, 299_999, 300_000):
        mask = keep(score, torch.tensor(k))
        assert int(mask.sum()) == k and torch.equal(mask, keep(score, k))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_keep_breaks_ties_by_lowest_index(dtype):
    assert keep(torch.ones(7, dtype=dtype), 3).tolist() == [True] * 3 + [False] * 4
    score = torch.tensor([1, 2, 0, 2, 1, 1], dtype=dtype)
    assert keep(score, 4).tolist() == [True, True, False, True, True, False]
    barred = torch.full((4,), -torch.inf, dtype=dtype)
    assert keep(barred, 2).tolist() == [True, True, False, False]


def test_keep_is_exact_for_every_count():
    score = torch.randint(0, 9, (60,), generator=torch.Generator().manual_seed(0)).float()
    order = score.sort(descending=True, stable=True).indices
    for k in range(61):
        assert set(keep(score, k).nonzero()[:, 0].tolist()) == set(order[:k].tolist())
    for k in (-1, 61):
        with pytest.raises(ValueError, match=f"cannot keep {k} of 60"):
            keep(score, k)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_keep_is_exact_where_scores_are_no_numbers(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    score = torch.tensor([1, math.nan, 3, math.nan, math.inf, math.nan, -math.inf, 3], device=device)
    order = [1, 3, 5, 4, 2, 7, 0, 6]  # NaN is the largest
    for k in range(9):
        assert set(keep(score, k).nonzero()[:, 0].tolist()) == set(order[:k])


def test_keep_each_counts_within_each_piece():
    score = torch.tensor([1.0, 9, 8, 7, 3, 4, 5])
    assert keep_each(score, [1, 3, 0], [3, 3, 1]).tolist() == [False, True, False, True, True, True, False]


def test_what_is_counted_are_scores_of_float32_on_a_gpu_where_triton_works(monkeypatch):
    def counted(dtype, cuda=True, works=True, number=2**31 - 1):
        monkeypatch.setattr(counting, "triton_works", lambda: works)
        return counting.countable(SimpleNamespace(is_cuda=cuda, dtype=dtype, numel=lambda: number))

    assert counted(torch.float32) and not counted(torch.float32, number=2**31)  # a kernel's places have 32 bits
    assert not any(counted(dtype) for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int32))
    assert not counted(torch.float32, cuda=False) and not counted(torch.float32, works=False)


class Operators(TorchDispatchMode):
    """Notes the operators that a GPU would be asked for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names += [operator.__name__] * (not operator.is_view)
        return operator(*args, **(kwargs or {}))


@pytest.mark.parametrize("method, number", [("st3", 21), ("st3_sigma", 23), ("ste_soft", 11)])
def test_ranking_in_a_recording_makes_no_needless_passes(method, number, monkeypatch):
    """Besides `keep`: none to multiply by 1 or divide by it, to invert or copy masks and scores, or to add up lengths of filters."""
    model = SparseModel(models.build("resnet20", 10, width=0.5), method, 0.9)
    mask = keep(model.theta.abs(), 9000)
    monkeypatch.setattr(st3, "keep", lambda *_: mask)
    given = model.theta, torch.tensor(9000), torch.tensor(0.5)
    model.method.rank(*given)  # plans which filter each weight is of
    with Operators() as found:
        model.method.rank(*given)
    needless = {"bitwise_not.default", "logical_not.default", "cumsum.default"}
    assert len(found.names) <= number and not needless & {*found.names}, found.names

"""Connections as sorted keys: drawn without duplicates, and transposed."""
import pytest
import torch
from scipy.stats import chisquare

from methods.sparse.edges import by_counting, by_sorting, contains, distinct, none


@pytest.mark.parametrize("k, barred", [(5, 0), (5, 20), (36, 12), (40, 10), (80, 20), (0, 3)])
def test_distinct_draws_are_uniform_over_what_is_free(k, barred):
    generator = torch.Generator().manual_seed(0)
    closed = 1000 + torch.arange(0, 100, 100 // barred if barred else 200)[:barred]
    count = torch.zeros(1100)
    for _ in range(2000):
        keys = distinct(1000, 1100, k, torch.cat([torch.tensor([3]), closed, torch.tensor([5000])]), generator)
        assert len(keys) == k and (keys.diff() > 0).all() and not contains(keys, closed).any()
        count[keys] += 1
    free = torch.ones(1100, dtype=torch.bool)
    free[:1000] = free[closed] = False
    assert not count[~free].any()
    if 0 < k < int(free.sum()):
        assert chisquare(count[free].numpy()).pvalue > 0.001


def test_more_than_is_free_is_refused():
    with pytest.raises(ValueError, match="cannot draw 81 of 80 free connections"):
        distinct(1000, 1100, 81, torch.arange(990, 1020))


def test_edges_beyond_32_bits():
    keys = distinct(10**11, 2 * 10**11, 1000, none(), torch.Generator().manual_seed(0))
    assert len(keys) == 1000 and keys.min() >= 10**11 and keys.max() < 2 * 10**11


@pytest.mark.parametrize("rows, columns, count", [(5, 7, 0), (5, 7, 20), (1, 3, 100), (300, 2, 1000), (40, 3000, 2000)])
def test_a_transpose_is_sorted_by_column_then_row_and_keeps_the_order_of_equals(rows, columns, count):
    generator = torch.Generator().manual_seed(0)
    row = torch.randint(rows, (count,), generator=generator).sort().values
    column = torch.randint(columns, (count,), generator=generator).int()
    starts = torch.searchsorted(row, torch.arange(rows + 1), out_int32=True)
    order = sorted(range(count), key=lambda e: (column[e], row[e]))
    expected = order, row[order].tolist(), [sum(c < k for c in column.tolist()) for k in range(columns + 1)]
    for transposed in (by_counting, by_sorting):  # the latter is what a GPU takes
        found = transposed(starts, column, columns)
        assert [f.dtype for f in found] == 3 * [torch.int32]
        assert [f.tolist() for f in found] == [list(e) for e in expected]

"""How many seeds a difference that is not decided would need: against statsmodels, and by simulation."""
import numpy as np
import pytest
from scipy.stats import t
from statsmodels.stats.power import ttest_power
from test_stats import by_label, rows_of

from benchmarks.stats import compare, differences, resolution, seeds_needed, told_apart


def padded(accuracy):
    """{method: accuracies} as an array (methods, seeds), NaN where there is no seed."""
    most = max(map(len, accuracy.values()))
    return np.array([each + [np.nan] * (most - len(each)) for each in accuracy.values()])


def spreads(half, df):
    """The variance of each method's mean, from the halves of the intervals of its difference from itself."""
    return (np.diag(half) / t.ppf(0.975, np.diag(df))) ** 2 / 2


@pytest.mark.parametrize("apart, half, df, seeds, pairs", [(1.5, 2.0, 18.0, 3, 45), (-0.4, 0.9, 4.0, 5, 1), (0.6, 0.9, 170.0, 5, 903), (3.0, 3.2, 2.0, 3, 3)])
def test_seeds_that_are_needed_are_those_of_statsmodels(apart, half, df, seeds, pairs):
    deviation = half / t.ppf(0.975, df) * seeds**0.5  # of a difference of two seeds
    power = {n: ttest_power(abs(apart) / deviation, n, 0.05 / pairs, df + n - seeds) for n in range(2, 400)}
    assert seeds_needed(apart, deviation**2, df, seeds, pairs) == min(n for n, value in power.items() if value >= 0.8) > 2


@pytest.mark.parametrize("many", ["a", "b"])
def test_of_unequal_numbers_each_seed_counts_with_its_own_methods_spread(many):
    """Two methods alone: Welch's test, whose variances are each method's own."""
    accuracy = {"a": [90.0, 92.0], "b": [90.5, 90.8]}
    accuracy[many] = [*accuracy[many], *(np.mean(accuracy[many]) + np.array([-1, -1, 1, 1]) * np.ptp(accuracy[many]) / 2)]
    line = by_label(compare(rows_of(accuracy)))["b"]
    variance, df = sum(np.var(each, ddof=1) for each in accuracy.values()), differences(padded(accuracy), resolution("cifar10"))[3][0, 1]
    power = {n: ttest_power(-line["difference"] / variance**0.5, n, 0.05, df + n - 2) for n in range(2, 400)}
    assert line["seeds_needed"] == min(n for n, value in power.items() if value >= 0.8)


def test_nobody_makes_as_many_seeds_as_equal_methods_need():
    assert seeds_needed(0.0, 1.0, 20.0, 3, 10) == seeds_needed(1e-3, 1.0, 20.0, 3, 10) == np.inf


def test_as_many_seeds_as_are_needed_are_enough():
    """In 300 tables of ten methods, two of which lie 1.5 apart with a standard deviation of 1: told apart in four of five."""
    rng, df = np.random.default_rng(0), 9 * 2 + 2
    needed = seeds_needed(1.5, 2.0, df, 3, 45)

    def share(seeds):
        tables = (90 + np.linspace(0, 1.5, 10)[:, None] + rng.normal(size=(10, seeds)) for _ in range(300))
        return np.mean([told_apart(differences(table, 0.0)[2])[0, 9] < 0.05 for table in tables])

    assert 0.74 < share(needed) < 0.9 and share(needed // 2) < 0.5


def test_the_table_says_how_many_seeds_are_needed():
    """Of methods that are not told from the best; a method of fewer seeds counts with them."""
    rows = rows_of({"a": [90.0, 91.0, 92.0], "b": [89.0, 90.5, 91.0], "c": [50.0, 51.0, 52.0], "d": [90.0, 91.5], "e": [90.0], "dense": [95.0]})
    lines, accuracy = by_label(compare(rows)), np.array([[90, 91, 92], [90, 91.5, np.nan], [89, 90.5, 91], [90, np.nan, np.nan], [50, 51, 52]])
    apart, half, _, df = differences(accuracy, resolution("cifar10"))
    variance = spreads(half, df) * [3, 2, 3, 1, 3]
    assert lines["b"]["seeds_needed"] == seeds_needed(apart[2, 0], variance[2] + variance[0], df[2, 0], 3, 6)
    assert lines["d"]["seeds_needed"] == seeds_needed(apart[1, 0], variance[1] + variance[0], df[1, 0], 2, 6)
    assert all(np.isnan(lines[name]["seeds_needed"]) for name in ("a", "c", "e", "dense"))


def test_differences_to_a_reference_are_those_of_the_same_tests():
    """Only the column of all pairs that is shown is another; ranks stay, and Holm's correction is that of all pairs."""
    accuracy = {"a": [90.0, 91.0, 92.0], "b": [89.0, 90.5], "c": [50.0, 51.0, 52.0], "e": [90.0]}
    rows = rows_of(accuracy | {"dense": [95.0], "off": [80.0]}, achieved_sparsity={("off", 0): 0.5})
    usual, lines = by_label(compare(rows)), by_label(compare(rows, {"cifar10-resnet20": "b"}))
    apart, half, p, df = differences(padded(accuracy), resolution("cifar10"))
    for i, name in enumerate(accuracy):
        line, shown = lines[name], [lines[name][column] for column in ("difference", "difference_half", "p")]
        assert shown == pytest.approx([np.nan] * 3 if name == "b" else [apart[i, 1], half[i, 1], told_apart(p)[i, 1]], nan_ok=True)
        assert all(line[column] == usual[name][column] for column in ("mean", "rank_low", "rank_high", "front"))
    variance = spreads(half, df) * [3, 2, 3, 1]
    assert lines["a"]["seeds_needed"] == seeds_needed(apart[0, 1], variance[0] + variance[1], df[0, 1], 2, 3) and np.isnan(lines["b"]["seeds_needed"])
    assert [lines[name]["separable"] for name in accuracy] == [False, False, True, False]
    assert list(compare(rows, {"cifar10-resnet20": "c"}).set_index("label").separable[[*accuracy]]) == [True, True, False, False]
    assert {line["reference"] for line in lines.values()} == {"b"} and "reference" not in usual["a"]
    for absent in ({"cifar10-resnet20": "off"}, {"digits": "b"}):  # not ranked, or of another task
        table = compare(rows, absent)
        assert table[["difference", "difference_half", "p", "seeds_needed"]].isna().all(axis=None) and not table.separable.any()
        assert set(table.reference) == {""} and list(table.rank_low.dropna()) == [1, 1, 1, 3]

"""The leaderboard's statistics: against an independent computation, on simulated rows with known differences, and by hand."""
import numpy as np
import pandas as pd
import pytest
from scipy.special import polygamma
from scipy.stats import linregress, t, ttest_ind
from statsmodels.stats.multitest import multipletests

from benchmarks.stats import compare, differences, holm, interval, resolution, told_apart, typical


def rows_of(accuracy, sparsity=0.9, dataset="cifar10", task="cifar10-resnet20", **changes):
    """Rows as in runs.csv; accuracy: {method: [of each seed]}. changes: {column: {(method, seed): value}}."""
    rows = [dict(task=task, dataset=dataset, method=method, label=method, sparsity=0.0 if method == "dense" else sparsity,
                 seed=seed, status="ok", top1=value - 1, top1_best_val=value,
                 achieved_sparsity=0.0 if method == "dense" else sparsity, macs=1e6, dense_macs=1e7,
                 train_flops_fraction=0.5, cycles=1, seconds=10.0, step_ms=5.0, device="core",
                 finished_at="2026-01-01T00:00:00+00:00", code_version="a1b2c3d4e5")
            for method, values in accuracy.items() for seed, value in enumerate(values)]
    for row in rows:
        who = row["method"], row["seed"]
        row.update({column: values[who] for column, values in changes.items() if who in values})
    return pd.DataFrame(rows)


def by_label(table):
    return table.set_index("label").to_dict("index")


def test_against_an_independent_computation():
    """From rows to ranks, each pair by itself; only the spread of all methods (`typical`, below) is taken as it is."""
    rng = np.random.default_rng(0)
    accuracy = {f"m{i}": 90 + 0.8 * i + rng.normal(0, 0.3 + 0.2 * (i == 4), 5) for i in range(6)}
    accuracy["m2"][3] = np.nan  # failed
    rows = rows_of(accuracy, status={("m2", 3): "failed"})
    table = compare(rows)
    lines, best = by_label(table), table.label[0]
    values = {name: each[np.isfinite(each)] for name, each in accuracy.items()}
    assert best == max(values, key=lambda m: values[m].mean()) and list(table["mean"]) == sorted(table["mean"], reverse=True)
    own = {name: (each.var(ddof=1), len(each) - 1) for name, each in values.items()}
    expected, prior = typical(np.array([each.mean() for each in values.values()]), *np.array([*own.values()]).T)
    assert 1 < prior < 23

    def test(a, b):
        errors = [max(variance, (prior * expected(values[name].mean()) + df * variance) / (prior + df)) / (df + 1)
                  for name, (variance, df) in ((name, own[name]) for name in (a, b))]
        df, apart = prior + min(own[a][1], own[b][1]), values[a].mean() - values[b].mean()
        return apart, t.ppf(0.975, df) * sum(errors) ** 0.5, 2 * t.sf(abs(apart) / sum(errors) ** 0.5, df)

    pairs = [(a, b) for a in values for b in values if a < b]
    adjusted = dict(zip(pairs, multipletests([test(*pair)[2] for pair in pairs], method="holm")[1]))
    for name, line in lines.items():
        half = t.ppf(0.975, own[name][1]) * (own[name][0] / len(values[name])) ** 0.5
        assert (line["mean"], line["half"], line["seeds"]) == (pytest.approx(values[name].mean()), pytest.approx(half), len(values[name]))
        if name != best:
            assert (line["difference"], line["difference_half"]) == pytest.approx(test(name, best)[:2])
            assert line["p"] == pytest.approx(adjusted[tuple(sorted((name, best)))])
        found = [test(other, name)[0] for other in values if other != name and adjusted[tuple(sorted((name, other)))] < 0.05]
        better, worse = sum(x > 0 for x in found), sum(x < 0 for x in found)
        assert (line["rank_low"], line["rank_high"]) == (1 + better, 6 - worse)
    assert lines["m2"]["failed"] == "3"
    assert table.rank_low.nunique() > 1  # the data do separate some


@pytest.mark.parametrize("power", [0, 2])
def test_the_spread_of_methods_is_found_again(power):
    """Smyth's estimate, of many variances drawn from a scaled inverse chi-squared distribution, at `power` of the error; with one spread for
    all the degrees of freedom are many."""
    rng, df, mean = np.random.default_rng(0), np.full(4000, 2.0), np.linspace(20, 95, 4000)
    for shared, prior in ((0.5, 3.0), (4.0, 10.0)):
        true = shared * (100 - mean)**power * prior / rng.chisquare(prior, len(df))
        expected, found = typical(mean, true * rng.chisquare(df) / df, df)
        assert found == pytest.approx(prior, rel=0.2)
        assert expected(np.array([30.0, 90.0])) == pytest.approx(shared * np.array([70.0, 10.0])**power, rel=0.15)
    assert typical(mean, (100 - mean)**power * rng.chisquare(df) / df, df)[1] > 40


def test_how_little_few_methods_say_of_their_spread():
    def prior(variance, df):
        return typical(np.linspace(80, 90, len(df)), np.array(variance), np.array(df))[1]

    assert prior([1.0] * 4, [2.0, 4.0, 2.0, 2.0]) == 3  # equal: half of what the other methods' seeds hold, the line takes two of four
    assert prior([1.0], [2.0]) == prior([], []) == prior([1.0, 1.0], [4.0, 4.0]) == 0  # nothing
    assert prior([1.0, 1000.0, 0.01], [4.0, 4.0, 4.0]) < 1  # next to nothing: they are unlike
    assert typical(np.array([80.0]), np.ones(1), np.ones(1))[0](np.array([80.0, 90.0])).tolist() == [0, 0]


def test_what_methods_differ_in_is_counted_without_the_two_terms_of_the_line():
    """Smyth's equation for the degrees of freedom, trigamma(prior / 2) = variance of the logarithms about the line - trigamma(df / 2)."""
    mean, variance, df = np.array([80.0, 84.0, 88.0, 92.0, 95.0]), np.array([0.02, 4.0, 0.3, 0.01, 2.0]), np.full(5, 2.0)
    error, logs = np.log(100 - mean), np.log(variance)
    line = linregress(error, logs)
    rest = ((logs - line.intercept - line.slope * error)**2).sum()
    expected, prior = typical(mean, variance, df)
    assert polygamma(1, prior / 2) == pytest.approx(rest / 3 - polygamma(1, 1))
    expected = np.log(expected(mean))
    assert expected - expected[0] == pytest.approx(line.slope * (error - error[0]))


def test_a_method_that_is_never_wrong_counts_as_wrong_in_a_thousandth():
    """Of 100 % the logarithm of the error would be all that the line goes by."""
    variance, df = np.array([0.2, 0.1, 0.3, 0.05]), np.full(4, 2.0)
    (never, prior), (seldom, same) = (typical(np.array([90.0, 95.0, 98.0, best]), variance, df) for best in (100.0, 99.9))
    assert prior == same and never(np.array([92.0, 100.0])) == pytest.approx(seldom(np.array([92.0, 99.9])))


def test_holm_by_hand_and_against_statsmodels():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    p = np.random.default_rng(1).random(50) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([0.02, np.nan, 0.5])[[0, 2]] == pytest.approx([0.04, 0.5]) and np.isnan(holm([0.02, np.nan])[1])


SPREADS = {"equal": lambda rng, k: np.ones(k), "unlike": lambda rng, k: np.exp(rng.normal(0, 1, k)),
           "two kinds": lambda rng, k: np.where(np.arange(k) % 2, 4.0, 1.0), "one wild": lambda rng, k: np.where(np.arange(k), 1.0, 10.0)}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("methods, seeds, step", [(2, 3, 0), (2, 2, 0), (3, 3, 0), (4, 3, 0), (10, 3, 0), (10, 5, 0), (45, 3, 0), (8, 3, 1 / 3)])
def test_equal_methods_are_rarely_told_apart(methods, seeds, step, spread):
    """200 simulations: in at most 5 % is any of the equal methods told from another one, however unequally they spread; also in steps of
    300 test images."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(200):
        accuracy = 95 + 0.3 * SPREADS[spread](rng, methods)[:, None] * rng.normal(size=(methods, seeds)) + rng.normal(0, 0.1, seeds)
        accuracy = np.round(accuracy / step) * step if step else accuracy
        found += np.nanmin(told_apart(differences(accuracy, step / 6**0.5)[2])) < 0.05
    assert found <= 17  # a true 5 % is above this in less than 1 % of such sets of 200


def test_false_positives_of_the_whole_table():
    """The same from rows to ranks, 200 cells of 4 equal methods."""
    rng = np.random.default_rng(0)
    rows = [rows_of({f"m{i}": 95 + seeds + rng.normal(0, 0.2, 3) for i in range(4)}, sparsity=0.5 + cell / 1000)
            for cell, seeds in enumerate(rng.normal(0, 0.4, (200, 3)))]
    cells = compare(pd.concat(rows)).groupby("sparsity")
    assert len(cells) == 200 and (cells.separable.any()).sum() <= 10 and (cells.rank_low.max() > 1).sum() <= 17


def test_known_differences_are_found():
    """True order m0 < … < m4, 3 points apart, deviation 0.2 and 5 seeds: the ranks are right and almost always narrow."""
    rng, exact = np.random.default_rng(0), 0
    for _ in range(20):
        accuracy = {f"m{i}": 80 + 3 * i + rng.normal(0, 0.2, 5) for i in range(5)}
        lines = by_label(compare(rows_of(accuracy)))
        assert all(lines[f"m{i}"]["rank_low"] <= 5 - i <= lines[f"m{i}"]["rank_high"] for i in range(5))
        exact += all(line["rank_low"] == line["rank_high"] for line in lines.values())
    assert exact >= 18


def test_three_seeds_tell_what_is_far_apart():
    """A paired t-test of three seeds finds 3 points at a deviation of 0.3 in no table of 20 methods (p of 0.003 × 190)."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(20):
        accuracy = 90 + 3.0 * np.arange(20)[:, None] / 2 + rng.normal(0, 0.3, (20, 3))
        p = told_apart(differences(accuracy, 0)[2])
        found += (p[np.arange(18), np.arange(2, 20)] < 0.05).mean() / 20
    assert found > 0.95


def test_spread_of_its_own_is_kept_and_lent_to_the_quiet():
    steady = [[80.0, 80.1, 80.2], [81.0, 81.1, 81.2], [82.0, 82.1, 82.2], [83.0, 83.1, 83.2]]
    calm, _, p_calm, _ = differences(np.array([*steady, [70.0, 70.1, 70.2]]), 0)
    wild, half, p_wild, df = differences(np.array([*steady, [60.1, 70.1, 80.1]]), 0)
    assert calm[0, 4] == pytest.approx(wild[0, 4]) and p_calm[0, 4] < 1e-6 < 0.05 < p_wild[0, 4]
    assert half[0, 4] >= t.ppf(0.975, df[0, 4]) * (100 / 3) ** 0.5
    quiet = differences(np.array([*steady, [70.1, 70.1, 70.1]]), 0.01)[1]
    assert quiet[0, 4] > t.ppf(0.975, 10) * (0.01 / 3) ** 0.5  # three equal seeds are no proof of no spread


def test_the_spread_of_others_can_be_lent():
    """As in the report: a pair, judged with the spread of all that was run there."""
    everything = np.random.default_rng(0).normal(90, 0.5, (20, 3))
    pair = everything[:2]
    whole, lent, alone = differences(everything, 0), differences(pair, 0, everything), differences(pair, 0)
    assert [each[0, 1] for each in lent] == pytest.approx([each[0, 1] for each in whole]) and lent[3][0, 1] > alone[3][0, 1]


def test_two_methods_alone_are_compared_by_welchs_test():
    values = np.array([[90.0, 90.4, 90.9, 91.0, 90.1], [80.0, 95.0, 89.0, np.nan, np.nan]])
    apart, half, p, df = differences(values, 0)
    known = ttest_ind(*values, equal_var=False, nan_policy="omit")
    assert (p[0, 1], df[0, 1]) == pytest.approx((known.pvalue, known.df))
    assert (apart[0, 1] - half[0, 1], apart[0, 1] + half[0, 1]) == pytest.approx(tuple(known.confidence_interval()))


def test_all_seeds_of_each_count_and_one_is_not_tested():
    apart, half, p, df = differences(np.array([[90.0, 91.0, np.nan], [80.0, 82.0, 95.0], [np.nan, np.nan, 70.0]]), 0)
    assert apart[0, 1] == pytest.approx(90.5 - 257 / 3) and apart[0, 2] == 20.5
    assert np.isfinite(p[0, 1]) and np.isnan([p[0, 2], half[0, 2], p[1, 2], df[1, 2]]).all()


def test_equal_steps_are_no_proof_and_no_difference_is_p_1():
    third = 1 / 3
    lines = by_label(compare(rows_of({"a": [99, 99, 99], "b": [99 - third] * 3}, dataset="digits", task="digits")))
    # one image of 300 in each of three seeds: rounding alone spreads a difference by `resolution`, the two methods have 2 degrees of freedom each
    assert lines["b"]["p"] == pytest.approx(2 * t.sf(third / resolution("digits") * 3**0.5, 4)) and lines["b"]["p"] > 0.01
    assert lines["b"]["half"] == pytest.approx(t.ppf(0.975, 2) * resolution("digits") / 6**0.5)  # of one of the two
    assert by_label(compare(rows_of({"a": [99, 98], "b": [99, 98]})))["b"]["p"] == 1


def test_one_seed_separates_nothing():
    table = compare(rows_of({"a": [90.0], "b": [10.5]}))
    assert table.p.isna().all() and table.half.isna().all() and list(table.rank_high) == [2, 2] and not table.separable.any()


def test_interval_and_resolution():
    assert interval([90, 92]) == pytest.approx(12.7062, abs=1e-4) and np.isnan(interval([90]))
    assert interval([90, 91, 92]) == pytest.approx(4.302653 / 3 ** 0.5)
    # an accuracy of 300 images is rounded by up to a sixth of a point: uniform, so 1/3 / sqrt(12), and a difference sqrt(2) times that
    assert resolution("digits") == pytest.approx(100 / 300 / 12 ** 0.5 * 2 ** 0.5)


@pytest.mark.parametrize("diverged", [3, 1, 0])
def test_a_method_at_chance_with_every_seed_lends_the_others_no_spread(diverged):
    """As after divergence, or with a mask that leaves no path through the network: that says nothing of how seeds differ."""
    numbers = np.random.default_rng(0)
    accuracy = {f"m{i}": [*(70 - 2 * i + numbers.normal(0, 0.5, 3))] for i in range(8)}
    lost = rows_of(accuracy | {"lost": [10.0] * 3}, status={("lost", seed): "diverged" for seed in range(diverged)})
    alone, beside = by_label(compare(rows_of(accuracy))), by_label(compare(lost))
    assert beside["lost"]["diverged"] == " ".join("012"[:diverged]) and beside["lost"]["mean"] == 10
    for name in accuracy:
        assert beside[name]["difference_half"] == pytest.approx(alone[name]["difference_half"], nan_ok=True)
        assert beside[name]["rank_low"] == alone[name]["rank_low"]

"""The leaderboard's statistics: against an independent computation, on simulated rows with known differences, and by hand."""
import numpy as np
import pandas as pd
import pytest
from scipy.stats import t, ttest_rel
from statsmodels.stats.multitest import multipletests

from benchmarks.stats import compare, front, holm, interval, outcomes, paired, resolution


def rows_of(accuracy, sparsity=0.9, dataset="cifar10", task="cifar10-resnet20", **changes):
    """Rows as in runs.csv; accuracy: {method: [of each seed]}. changes: {column: {(method, seed): value}}."""
    rows = [dict(task=task, dataset=dataset, method=method, label=method, sparsity=0.0 if method == "dense" else sparsity,
                 seed=seed, status="ok", top1=value - 1, top1_best_val=value,
                 achieved_sparsity=0.0 if method == "dense" else sparsity, macs=1e6, dense_macs=1e7,
                 train_flops_fraction=0.5, cycles=1, seconds=10.0, finished_at="2026-01-01T00:00:00+00:00")
            for method, values in accuracy.items() for seed, value in enumerate(values)]
    for row in rows:
        who = row["method"], row["seed"]
        row.update({column: values[who] for column, values in changes.items() if who in values})
    return pd.DataFrame(rows)


def by_label(table):
    return table.set_index("label").to_dict("index")


def test_against_an_independent_computation():
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 0.5, 5)  # what a seed does to every method
    accuracy = {f"m{i}": 90 + 0.8 * i + seeds + rng.normal(0, 0.3, 5) for i in range(5)}
    accuracy["m2"][3] = np.nan  # failed
    rows = rows_of(accuracy, status={("m2", 3): "failed"})
    table = compare(rows)
    lines, best = by_label(table), table.label[0]
    assert best == max(accuracy, key=lambda m: np.nanmean(accuracy[m]))
    assert list(table["mean"]) == sorted(table["mean"], reverse=True)
    names = sorted(accuracy)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1:]]
    tests = [ttest_rel(accuracy[a], accuracy[b], nan_policy="omit") for a, b in pairs]
    adjusted = dict(zip(pairs, multipletests([test.pvalue for test in tests], method="holm")[1]))
    for name in names:
        values = accuracy[name][np.isfinite(accuracy[name])]
        half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
        line = lines[name]
        assert (line["mean"], line["half"], line["seeds"]) == (pytest.approx(values.mean()), pytest.approx(half), len(values))
        if name != best:
            test = tests[pairs.index(tuple(sorted((name, best))))]
            low, high = test.confidence_interval(0.95)
            assert line["difference"] == pytest.approx(np.nanmean(accuracy[name] - accuracy[best]))
            assert line["difference_half"] == pytest.approx((high - low) / 2)
            assert line["p"] == pytest.approx(adjusted[tuple(sorted((name, best)))])
        found = [o for o in names if o != name and adjusted[tuple(sorted((name, o)))] < 0.05]
        apart = [np.nanmean(accuracy[o] - accuracy[name]) for o in found]
        better, worse = sum(x > 0 for x in apart), sum(x < 0 for x in apart)
        assert (line["rank_low"], line["rank_high"]) == (1 + better, 5 - worse)
    assert lines["m2"]["failed"] == "3"
    assert table.rank_low.nunique() > 1  # the data do separate some


def test_holm_by_hand_and_against_statsmodels():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    p = np.random.default_rng(1).random(50) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([0.02, np.nan, 0.5])[[0, 2]] == pytest.approx([0.04, 0.5]) and np.isnan(holm([0.02, np.nan])[1])


@pytest.mark.parametrize("methods, seeds, step", [(2, 3, 0), (4, 3, 0), (10, 5, 0), (8, 3, 1 / 3)])
def test_equal_methods_are_rarely_told_apart(methods, seeds, step):
    """200 simulations: in at most 5 % is any of the equal methods told from the best; also in steps of 300 test images."""
    rng, from_best, any_pair = np.random.default_rng(0), 0, 0
    for _ in range(200):
        accuracy = 95 + rng.normal(0, 0.4, seeds) + rng.normal(0, 0.2, (methods, seeds))
        accuracy = np.round(accuracy / step) * step if step else accuracy
        _, _, p = paired(accuracy[np.argsort(-accuracy.mean(1))], step / 6**0.5)
        from_best += np.nanmin(p[0]) < 0.05
        any_pair += np.nanmin(p) < 0.05
    assert from_best <= 10
    assert any_pair <= 17  # a true 5 % is above this in less than 1 % of such sets of 200


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


def test_pairing_by_seed_counts():
    seeds = np.array([0.0, 4.0, -3.0, 7.0, 1.0])
    lines = by_label(compare(rows_of({"a": 80 + seeds, "b": 79 + seeds + [0.1, -0.1, 0, 0.1, -0.1]})))
    assert lines["b"]["half"] > 4 and lines["b"]["difference_half"] < 0.2 and lines["b"]["separable"]
    assert (lines["a"]["rank_low"], lines["a"]["rank_high"], lines["b"]["rank_low"]) == (1, 1, 2)


def test_only_the_seeds_that_both_have_are_paired():
    mean, half, p = paired(np.array([[90.0, 91.0, np.nan], [80.0, 82.0, 95.0], [np.nan, np.nan, 70.0]]))
    assert mean[0, 1] == 9.5 and np.isnan(p[0, 2]) and np.isnan(half[0, 2])
    assert p[0, 1] == pytest.approx(ttest_rel([90, 91], [80, 82]).pvalue)  # the one pair with two seeds


def test_equal_steps_are_no_proof_and_no_difference_is_p_1():
    third = 1 / 3
    lines = by_label(compare(rows_of({"a": [99, 99, 99], "b": [99 - third] * 3}, dataset="digits", task="digits")))
    assert 0.04 < lines["b"]["p"] < 0.06 and not np.isnan(lines["b"]["difference_half"])
    assert by_label(compare(rows_of({"a": [99, 98], "b": [99, 98]})))["b"]["p"] == 1


def test_one_seed_separates_nothing():
    table = compare(rows_of({"a": [90.0], "b": [10.5]}))
    assert table.p.isna().all() and table.half.isna().all() and list(table.rank_high) == [2, 2] and not table.separable.any()


def test_lost_seeds_count():
    rows = rows_of({"a": [90.0, 91, 92], "b": [93.0, 94, 95], "c": [90.0, 10.2, 95]},
                   status={("b", 1): "diverged", ("a", 2): "failed"}, top1={("b", 1): np.nan, ("a", 2): np.nan},
                   top1_best_val={("b", 1): np.nan, ("a", 2): np.nan},
                   train_flops_fraction={("b", 1): 0.01}, seconds={("b", 1): 1.0})
    lines = by_label(compare(rows))
    assert lines["b"]["mean"] == pytest.approx((93 + 10 + 95) / 3) and lines["b"]["seeds"] == 3 and lines["b"]["diverged"] == "1"
    assert lines["a"]["mean"] == 90.5 and lines["a"]["seeds"] == 2 and lines["a"]["failed"] == "2"
    assert lines["c"]["collapsed"] == "1" and lines["c"]["mean"] == pytest.approx((90 + 10.2 + 95) / 3)
    assert lines["b"]["train_flops"] == 0.5 and lines["b"]["seconds"] == 10  # of whole runs
    assert lines["a"]["macs"] == pytest.approx(0.1)  # of dense


def test_interval_and_resolution():
    assert interval([90, 92]) == pytest.approx(12.7062, abs=1e-4) and np.isnan(interval([90]))
    assert interval([90, 91, 92]) == pytest.approx(4.302653 / 3 ** 0.5)
    # an accuracy of 300 images is rounded by up to a sixth of a point: uniform, so 1/3 / sqrt(12), and a difference sqrt(2) times that
    assert resolution("digits") == pytest.approx(100 / 300 / 12 ** 0.5 * 2 ** 0.5)


def test_last_epoch_without_validation_and_an_unknown_data_set():
    rows = outcomes(rows_of({"a": [90.0, 91.0]}, top1_best_val={("a", 0): np.nan}))
    assert list(rows.accuracy) == [89, 91]
    with pytest.raises(ValueError, match="mnist"):
        outcomes(rows_of({"a": [90.0]}, dataset="mnist"))


def test_dense_and_another_sparsity_than_asked_for_are_not_ranked():
    rows = rows_of({"dense": [95.0, 96], "a": [90.0, 90.5], "b": [93.0, 93.5], "dnw": [80, 95]},
                   achieved_sparsity={("b", 0): 0.91, ("b", 1): 0.9, ("dnw", 0): 0.8988})
    table = compare(rows)
    lines = by_label(table)
    assert list(table.label) == ["a", "dnw", "b", "dense"]
    for name in ("b", "dense"):
        assert np.isnan(lines[name]["rank_low"]) and np.isnan(lines[name]["p"]) and not lines[name]["front"]
    assert lines["b"]["achieved"] == pytest.approx(0.905) and not lines["b"]["on_target"]
    assert (lines["a"]["rank_low"], lines["a"]["rank_high"]) == (1, 2) and lines["dnw"]["on_target"]  # off by rounding alone
    assert lines["dense"]["sparsity"] == 0.9 and lines["dense"]["mean"] == 95.5


def test_dense_alone_is_no_comparison_and_what_is_not_ranked_has_no_test():
    assert compare(rows_of({"dense": [95.0, 96]})).empty
    table = compare(rows_of({"dnw": [80.0, 95]}, achieved_sparsity={("dnw", 0): 0.5}))
    assert table[["difference", "difference_half", "p", "rank_low", "rank_high"]].isna().all(axis=None) and not table.separable[0]


def test_cells_do_not_touch_each_other():
    accuracy = {"a": [90.0, 91, 92], "b": [93.0, 94, 96]}
    alone = compare(rows_of(accuracy))
    both = compare(pd.concat([rows_of(accuracy), rows_of({"a": [50.0, 60], "c": [70, 80.0]}, sparsity=0.95),
                              rows_of({"a": [50.0, 60]}, task="digits", dataset="digits")]))
    pd.testing.assert_frame_equal(both[(both.sparsity == 0.9) & (both.task != "digits")].reset_index(drop=True), alone)
    assert len(both) == 5


def test_pareto_front():
    accuracy, cost = [90, 91, 89, 91, 95, np.nan, 99], [0.1, 0.2, 0.1, 0.3, 1.0, 0.01, np.nan]
    assert front(accuracy, cost).tolist() == [True, True, False, False, True, False, False]
    assert front([90, 90], [0.1, 0.1]).tolist() == [True, True]


def test_nothing_that_can_be_ranked_is_a_table_all_the_same():
    rows = rows_of({"dense": [93.0], "str": [90.0, 91]}).assign(achieved_sparsity=0.5)
    for table in (compare(rows), compare(rows_of({"a": [90.0]}, status={("a", 0): "failed"}))):
        assert table.rank_low.isna().all() and not table.separable.any() and not table.front.any()

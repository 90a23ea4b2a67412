"""Which rows the leaderboard ranks, and what it says of seeds that are lost, at chance, or alone."""
import numpy as np
import pandas as pd
import pytest
from test_stats import by_label, rows_of

from benchmarks.stats import compare, front, outcomes


def test_rows_of_several_contents_of_a_file_are_counted():
    mine = "a1b2c3d4e5, my file.py 0123456789"
    rows = rows_of({"my.py:A": [90.0, 91, 92], "my.py:B": [80.0, 81], "st3": [70.0, 71]}, code_version={
        ("my.py:A", 0): mine, ("my.py:A", 1): mine.replace("a1", "ff"), ("my.py:A", 2): mine.replace("0123", "ffff"),
        ("my.py:B", 0): mine, ("my.py:B", 1): mine, ("st3", 1): "unknown"})
    assert {label: line["contents"] for label, line in by_label(compare(rows)).items()} == {"my.py:A": 2, "my.py:B": 1, "st3": 1}


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


def test_a_network_at_the_limit_has_collapsed():
    """Of 20 % up to which, on ten classes, next to nothing is learned (`Dataset.collapsed`)."""
    rows = outcomes(rows_of({"a": [20.0, 20.01, 19.0]}))
    assert list(rows.outcome) == ["collapsed", "ok", "collapsed"] and list(rows.accuracy) == [20.0, 20.01, 19.0]


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


def test_a_method_that_lost_a_seed_is_not_on_the_front():
    rows = rows_of({"a": [90.0, 91, 92], "b": [80.0, 81, 82]}, status={("a", 1): "failed"})
    assert {name: line["front"] for name, line in by_label(compare(rows)).items()} == {"a": False, "b": True}


def test_seeds_that_are_not_the_first_ones_are_named():
    rows = rows_of({"a": [90.0, 91, 92, 93], "b": [80.0, 81, 82]}, status={("b", 1): "failed"})
    found = by_label(compare(rows.drop(rows.index[(rows.method == "a") & (rows.seed == 1)])))
    assert (found["a"]["chosen"], found["b"]["chosen"]) == ("0 2 3", "")  # a failed seed is there, too


def test_methods_of_one_mean_stand_by_their_names_whatever_its_last_bits():
    assert list(compare(rows_of({"b": [90.1, 90.2, 90.4], "a": [90.1, 90.4, 90.2]})).label) == ["a", "b"]


def test_pareto_front():
    accuracy, cost = [90, 91, 89, 91, 95, np.nan, 99], [0.1, 0.2, 0.1, 0.3, 1.0, 0.01, np.nan]
    assert front(accuracy, cost).tolist() == [True, True, False, False, True, False, False]
    assert front([90, 90], [0.1, 0.1]).tolist() == [True, True]
    assert front([98.13333333333334, 98.13333333333333], [0.441, 0.210]).tolist() == [False, True]  # the same three seeds, added in another order


def test_nothing_that_can_be_ranked_is_a_table_all_the_same():
    rows = rows_of({"dense": [93.0], "str": [90.0, 91]}).assign(achieved_sparsity=0.5)
    for table in (compare(rows), compare(rows_of({"a": [90.0]}, status={("a", 0): "failed"}))):
        assert table.rank_low.isna().all() and not table.separable.any() and not table.front.any()

"""What counts of rows: which accuracy and sparsity, as which training, and costs over seeds."""
import pandas as pd
import pytest
from test_stats import rows_of

from benchmarks.accuracy import off_target, trained_by, unusual
from benchmarks.stats import compare
from benchmarks.tasks import TASKS


def test_off_target_is_beyond_a_share_of_the_density():
    """.0015 of .1, either way."""
    assert off_target(pd.Series([0.9014, 0.9016, 0.8986, 0.8984]), 0.9).tolist() == [False, True, False, True]


def test_counting_switches_is_no_other_training_wherever_it_stands():
    options = pd.Series(["count_switches=True ramp_power=0.0", "ramp_power=0.0 count_switches=True", "a=1 count_switches=True b=2", "count_switches=True", ""])
    assert trained_by(options).tolist() == ["ramp_power=0.0", "ramp_power=0.0", "a=1 b=2", "", ""]


def test_a_row_without_a_precision_is_not_unusual():
    own = TASKS["digits"].precision
    assert unusual(pd.DataFrame({"task": ["digits"] * 2, "precision": [own, None]})) == []


def test_costs_are_means_over_seeds_and_lost_seeds_are_sorted():
    rows = rows_of({"a": [90.0, 91.0, 92.0, 93.0]}, train_flops_fraction={("a", 0): 0.3}, macs={("a", 0): 2e6}, cycles={("a", 1): 3},
                   status={("a", 2): "diverged", ("a", 3): "diverged"}).iloc[::-1]
    line, = compare(rows).to_dict("records")
    assert (line["train_flops"], line["macs"], line["cycles"]) == (pytest.approx(0.4), pytest.approx(0.15), 3) and line["diverged"] == "2 3"

"""Which comparisons count: of methods that have failed, of sparsities that no method of one cycle is given, of runs that miss their sparsity, of
verdicts among many. Rows here are made up, in tmp_path only."""
import math

import pytest
from test_claims import store
from test_evidence import SPREAD, stored
from test_report import report

from evidence import Evidence, Part, corrected

from benchmarks.grid import Spec

TASK, EPOCHS = "cifar10-resnet20", 20  # fewer than the papers', whose plan would add points


def evidence(folder, accuracies):
    """Of {(series, sparsity): mean accuracy}, three seeds each."""
    store(folder, TASK, {(series, sparsity, EPOCHS): [mean + d for d in SPREAD] for (series, sparsity), mean in accuracies.items()})
    return Evidence(report.all_runs(folder), TASK, EPOCHS, folder)


@pytest.mark.parametrize("first, second, failed", [(10.0, 10.0, True), (20.1, 10.0, False), (90.0, 10.0, False), (90.0, 90.0, False)])
def test_what_has_failed_is_as_good_as_nothing(tmp_path, first, second, failed):
    found = evidence(tmp_path, {("st3", 0.9): first, ("gmp", 0.9): second})
    part, = found.not_below("st3", "gmp")
    assert part.text.endswith(" (both have failed)") is failed and part.holds is (None if failed else True)
    assert part.claimed_p == 1 if failed else part.claimed_p < 0.05


def test_of_two_that_have_failed_one_may_still_be_above_the_other(tmp_path):
    part, = evidence(tmp_path, {("st3", 0.9): 11.0, ("gmp", 0.9): 10.0}).above("st3", "gmp")
    assert part.holds is True and "failed" not in part.text


def test_methods_are_compared_from_60_percent_on(tmp_path):
    found = evidence(tmp_path, {(series, sparsity): 90.0 for series in ("st3", "gmp") for sparsity in (0.5, 0.599, 0.6, 0.9)})
    assert found.sparsities("st3", "gmp") == [0.6, 0.9]


@pytest.mark.parametrize("status, off", [("ok", True), ("diverged", False)])
def test_of_finished_runs_alone_it_is_said_that_they_miss_the_sparsity(tmp_path, status, off):
    """One that diverged ends where it was."""
    stored(tmp_path, "cifar10", [Spec(TASK, "st3", 0.9, seed, EPOCHS) for seed in range(3)], precision=lambda spec: "bf16",
           status=lambda spec: status if spec.seed == 1 else "ok", achieved_sparsity=lambda spec: 0.2 if spec.seed == 1 else 0.9)
    assert bool(Evidence(report.all_runs(tmp_path), TASK, EPOCHS, tmp_path).not_lending) is off


def test_a_comparison_that_is_no_test_is_none_of_those_corrected_for():
    texts = [part.text for part in corrected([Part("", None, math.nan), Part("", None, missing=True), Part("", False, 0.04), Part("", None, 0.5)])]
    assert texts[2].endswith("(not against it among 2 comparisons: p = 0.080)")


@pytest.mark.parametrize("ps, against", [([0.06], [None]), ([0.04], [False]), ([0.04, 0.04], [None, None]), ([0.024, 0.9], [False, None])])
def test_a_verdict_against_a_claim_stays_at_5_percent_among_all(ps, against):
    assert [part.holds for part in corrected([Part("", False, p) for p in ps])] == against

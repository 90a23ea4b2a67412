"""The pages' tables of options and of lengths (`reproduce/accuracies.py`), from rows by hand."""
import importlib
import sys
from pathlib import Path

import pytest
from made_up import write_runs

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "reproduce"))
accuracies = importlib.import_module("accuracies")
COLUMNS = "key suite dataset task method options sparsity seed epochs cycles precision status top1 top1_best_val".split()
CIFAR, DIGITS = ("cifar10", "cifar10-resnet20w8", "bf16"), ("digits", "digits", "fp32")


@pytest.fixture
def results(tmp_path):
    """A function that stores lines (of a suite): (method, options, sparsity, seed, epochs, status, accuracy)."""
    def store(cifar, digits):
        for lines, (suite, task, precision) in ((cifar, CIFAR), (digits, DIGITS)):
            rows = [f"{suite}{number},{suite},{suite},{task},{method},{options},{sparsity},{seed},{epochs},1,{precision},{status},1,{accuracy}"
                    for number, (method, options, sparsity, seed, epochs, status, accuracy) in enumerate(lines)]
            write_runs(tmp_path / suite / "runs.csv", COLUMNS, rows)
        return tmp_path
    return store


def test_options_stand_beside_the_method_without(results):
    folder = results(
        [("st3", "", 0.9, seed, 6, "ok", 60 + seed) for seed in range(3)] +
        [("st3", "straight_through=False", 0.9, 0, 6, "ok", 70), ("st3", "straight_through=False", 0.9, 1, 6, "diverged", ""),
         ("st3", "straight_through=False", 0.95, 0, 24, "ok", 99),      # another length
         ("st3", "straight_through=False", 0.991, 0, 6, "ok", 99), ("set", "width=2.0", 0.995, 0, 6, "ok", 99),  # sparsities of no column
         ("st3", "ramp_power=0.0", 0.95, 0, 6, "failed", ""),           # no result
         ("rigl", "count_switches=True", 0.9, 0, 6, "ok", 50), ("rigl", "", 0.9, 0, 6, "ok", 50),  # the same training: nothing varied
         ("mine.py:Mine", "leak=1", 0.9, 0, 6, "ok", 50)],
        [("st3", "", 0.98, 0, 30, "ok", 55.5), ("gse_uniform", "gamma=2.0", 0.98, 0, 30, "ok", 44)])
    assert accuracies.variants(folder).splitlines() == [
        "| Method | CIFAR-10: 90 % | CIFAR-10: 95 % | CIFAR-10: 98 % | Digits: 90 % | Digits: 95 % | Digits: 98 % |", "|---|--:|--:|--:|--:|--:|--:|",
        "| `gse_uniform gamma=2.0` |  |  |  |  |  | 44.00 (1) |",
        "| `st3` | 61.00 ± 1.00 |  |  |  |  | 55.50 (1) |",
        "| `st3 straight_through=False` | 40.00 ± 42.43 (2) |  |  |  |  |  |"]  # chance, of ten classes, is 10


def test_lengths_are_multiples_of_the_suites(results):
    shared = "bn_momentum=0.99"
    folder = results(
        [("st3", shared, 0.98, seed, epochs, "ok", epochs + seed) for epochs in (6, 24) for seed in range(3)] +
        [("st3", f"{shared} straight_through=False", 0.98, 0, 96, "ok", 80), ("gmp", shared, 0.98, 0, 6, "ok", 50),  # of one length alone
         ("str", "", 0.98, 0, 24, "ok", 70)],                                                                       # other statistics
        [("static", "", 0.98, 0, 120, "ok", 90), ("static", "", 0.98, 0, 31, "ok", 91)])
    assert accuracies.lengths(folder).splitlines() == [
        "| Data | Sparsity | Method | 1 × | 4 × | 16 × |", "|---|--:|--:|--:|--:|--:|",
        "| CIFAR-10 | 98 % | `st3` | 7.00 ± 1.00 | 25.00 ± 1.00 |  |",
        "| CIFAR-10 | 98 % | `st3 straight_through=False` |  |  | 80.00 (1) |",
        "| Digits | 98 % | `static` |  | 90.00 (1) |  |"]

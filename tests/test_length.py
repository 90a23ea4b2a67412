"""The figure of accuracy against the length of training."""
import numpy as np
import pytest
from made_up import accuracy, fill, row
from matplotlib.figure import Figure
from test_figures import SCRIPTS, draw, drawn, no_files  # noqa: F401

from benchmarks.records import RUN_COLUMNS, write_table

LENGTH = SCRIPTS["length"]


def grown(spec):
    """A made-up row that is better by 1 % for each further epoch, and costs less the sparser it is."""
    made = row(spec)
    return made | {"top1_best_val": accuracy(spec) + made["epochs"] / 100, "train_flops_fraction": 1 - 0.9 * spec.sparsity}


@pytest.fixture
def results(tmp_path):
    for suite in ("digits", "cifar10"):
        write_table(tmp_path / suite / "runs.csv", RUN_COLUMNS, [grown(spec) for spec in LENGTH.lengths(suite, "paper")])
    return tmp_path


def own_length(spec):
    """Whether it is one of the runs of the methods that are sparse from the start, which are trained longer, as this is cheap: below."""
    return spec.epochs == 480 or spec.task != "digits" and spec.method == "gse_uniform"


@pytest.mark.parametrize("suite, profile, panels", [  # of each: sparsities, epochs, number of methods, seeds of the suite's own length
    ("digits", "paper", [({0.0, 0.98}, {None, 120}, 7, 3)]), ("cifar10", "paper", [({0.98}, {10, 40, None}, 2, 3)]),
    ("cifar10", "quick", [({0.95, 0.98}, {6, 24, 96}, 4, 1), ({0.99}, {6, 24, None}, 4, 3)]), ("digits", "quick", []), ("imagenet", "paper", [])])
def test_each_length_has_every_method_and_seed(suite, profile, panels):
    specs, made = ([spec for spec in grid(suite, profile) if not own_length(spec)] for grid in (LENGTH.lengths, LENGTH.grid))
    first = 6 if profile == "quick" else None  # a suite trains nothing longer than its own runs
    for sparsities, epochs, methods, own in panels:
        of_panel = [spec for spec in specs if spec.sparsity in sparsities]
        assert {spec.sparsity for spec in of_panel} == sparsities and {spec.epochs for spec in of_panel} == epochs
        assert len(of_panel) == len(epochs) * methods * 3 * len(sparsities - {0.0})
        assert [spec for spec in made if spec.sparsity in sparsities] == [spec for spec in of_panel if spec.epochs == first and spec.seed < own]
    assert {spec.sparsity for spec in specs} == set().union(*(sparsities for sparsities, *_ in panels))
    assert {dict(spec.options).get("bn_momentum") for spec in specs} == ({"0.99"} if suite == "cifar10" else {None} if panels else set())


def test_methods_that_are_sparse_from_the_start_have_more_lengths_and_make_only_the_suites():
    assert {(spec.sparsity, spec.method, spec.option_text, spec.seed) for spec in LENGTH.lengths("digits", "paper") if spec.epochs == 480} == {
        (0.98, method, "", seed) for method in ("rigl", "gse_uniform") for seed in range(3)}
    specs, made = ({(spec.sparsity, spec.epochs, spec.option_text, spec.seed) for spec in grid("cifar10", "quick") if spec.method == "gse_uniform"}
                   for grid in (LENGTH.lengths, LENGTH.grid))
    assert made == {(sparsity, 6, "", seed) for sparsity in (0.95, 0.98) for seed in range(3)}
    assert specs == made | {(sparsity, epochs, "", seed) for sparsity in (0.95, 0.98) for epochs in (12, 24) for seed in range(3)} | {
        (0.98, epochs, "storage=sparse", seed) for epochs in (6, 96) for seed in range(3)}


@pytest.mark.parametrize("suite, epochs", [("digits", [30, 120, 480]), ("cifar10", [10, 40, 160])])
def test_lines_go_along_the_epochs(results, suite, epochs):
    figure = Figure()
    table = LENGTH.draw(LENGTH.source(LENGTH.grid, suite, results, "paper")[0], figure)
    axes, below = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(map(str, epochs)) and axes.get_title() == {
        "digits": "ResNet-8, digits, 98 %", "cifar10": "ResNet-20, CIFAR-10, 98 %"}[suite]
    shown, costs = ({bars.get_label(): bars for bars in panel.containers} for panel in (axes, below))
    assert list(shown) == list(costs) == [LENGTH.METHODS[method] for method in LENGTH.METHODS if method in set(table.method)]
    for method, label in LENGTH.METHODS.items():
        if label in shown:
            x, y = np.asarray(shown[label].lines[0].get_data(), float)
            own = [length for length in epochs if length < 480 or method in ("rigl", "gse_uniform")]
            np.testing.assert_allclose(x, own, rtol=0.05)  # set apart
            mean = accuracy(next(spec for spec in LENGTH.lengths(suite, "paper") if spec.method == method and spec.seed == 1)) + 1 / 3
            np.testing.assert_allclose(y, [mean + length / 100 for length in own], atol=1e-3)
            assert bool(shown[label].has_yerr) == bool(costs[label].has_yerr) == (method != "dense")
            x, again = np.asarray(costs[label].lines[0].get_data(), float)
            np.testing.assert_allclose(x, [length * (1 if method == "dense" else 1 - 0.9 * 0.98) for length in own], atol=1e-3)
            np.testing.assert_array_equal(again, y)


def test_draws_what_is_stored_of_the_other_lengths(results, no_files, capsys):  # noqa: F811
    own = LENGTH.grid("cifar10", "quick")
    stored = [spec for spec in LENGTH.lengths("cifar10", "quick") if spec.epochs == 24 or spec in own]
    fill(results, "cifar10", stored)  # without FLOPs: the panels that would show them are empty
    assert draw("length", "--results", results, "--out", results) == 0
    said = capsys.readouterr().out
    assert "profile quick" in said and "Missing" not in said and "Reduced runs: 6 to 24 of 160 epochs." in said
    assert {(line["method"], line["sparsity"], line["epochs"], line["seeds"], line["dense_epochs"]) for line in drawn(results / "cifar10/length.csv")} == {
        (method, sparsity, *point, "") for sparsities, methods, seeds in ((("0.95", "0.98"), ("st3", "gmp", "str", "rigl"), "1"),
                                                                          (("0.95", "0.98"), ("gse_uniform",), "3"),
                                                                          (("0.99",), ("ste_hard", "ste_soft", "static", "st3"), "3"))
        for sparsity in sparsities for method in methods for point in (("6", seeds), ("24", "3"))}
    fill(results, "cifar10", [spec for spec in LENGTH.lengths("cifar10", "quick") if (spec.method, spec.epochs) != ("gmp", 6)])
    assert draw("length", "--results", results, "--out", results) == 0
    assert "Missing: 2 of 128 runs" in capsys.readouterr().out  # of the suite's own length


def test_each_sparsity_has_a_panel(tmp_path):
    kept = [spec for spec in LENGTH.lengths("cifar10", "quick") if (spec.sparsity, spec.epochs) in ((0.95, 6), (0.98, 6), (0.98, 24))]
    write_table(tmp_path / "cifar10" / "runs.csv", RUN_COLUMNS, [grown(spec) for spec in kept])
    figure = Figure()
    LENGTH.draw(LENGTH.source(LENGTH.grid, "cifar10", tmp_path, "quick")[0], figure)
    assert [axes.get_title().rpartition(", ")[2] for axes in figure.axes] == ["95 %", "98 %", "", ""]
    assert [[tick.get_text() for tick in axes.get_xticklabels()] for axes in figure.axes[:2]] == [["6", "24"]] * 2  # of both, so that they compare
    assert "Not every method has runs of every length." in figure.remarks
    assert figure.remarks[-2:] == ["With bn_momentum=0.99, except for GSE.", "GSE's 6 epochs with sparse storage."]


def test_a_run_that_diverged_costs_nothing(tmp_path):
    specs = [spec for spec in LENGTH.lengths("cifar10", "paper") if spec.method == "st3" and spec.epochs == 10]
    rows = [grown(spec) | ({"status": "diverged", "train_flops_fraction": 0.01} if spec.seed == 1 else {}) for spec in specs]
    write_table(tmp_path / "cifar10" / "runs.csv", RUN_COLUMNS, rows)
    table = LENGTH.draw(LENGTH.source(LENGTH.grid, "cifar10", tmp_path, "paper")[0], Figure())
    assert table.dense_epochs.tolist() == [round(10 * (1 - 0.9 * 0.98), 4)] and table.seeds.tolist() == [3]

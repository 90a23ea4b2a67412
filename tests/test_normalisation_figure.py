"""The figure of accuracy in training and in evaluation, epoch by epoch."""
import pandas as pd
from made_up import fill
from test_figures import SCRIPTS, draw
from test_marks import pages  # noqa: F401

from benchmarks import suites


def test_training_and_evaluation_are_drawn_apart_where_masks_have_their_own_statistics(tmp_path, pages):  # noqa: F811
    """Of 99 % what was run; a method without runs there is left out."""
    script = SCRIPTS["normalisation"]
    specs = list(script.grid("cifar10", "paper"))
    assert {spec.sparsity for spec in specs} == {0.98, 0.99} and not script.grid("cifar100", "paper")
    for profile in suites.PROFILES:  # no suite trains more for this figure
        assert not {spec.key for spec in script.grid("cifar10", profile)} - {
            spec.key for spec in suites.suite_grid("cifar10", profile, script.METHODS)}
    fill(tmp_path, "cifar10", [spec for spec in specs if spec.method != "gmp" or spec.sparsity == 0.98])
    draw("normalisation", "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path)
    first, second = pages[-1].axes
    assert [axes.get_title() for axes in (first, second)] == ["ResNet-20, CIFAR-10, 98 %", "ResNet-20, CIFAR-10, 99 %"]
    for axes, methods in ((first, 5), (second, 4)):
        lines = [line for line in axes.lines if len(line.get_xdata())]
        assert [list(line.get_ydata()) for line in lines] == methods * [[50, 51, 52], [60, 61, 62]]
        assert [line.get_linestyle() for line in lines] == methods * ["-", "--"] and list(lines[0].get_xdata()) == [1, 2, 3]
    table = pd.read_csv(tmp_path / "cifar10/normalisation.csv")  # which has all that is drawn
    assert len(table) == 3 * 2 * (5 + 4) and set(table.seeds) == {3} and (table.low == table["mean"]).all() and (table.high == table["mean"]).all()

"""The figure of the methods beyond the two papers, which shows those that are there, and which the papers' figures do not."""
import pytest
from made_up import fill, row
from matplotlib.figure import Figure
from test_figures import SCRIPTS, draw, drawn, no_files  # noqa: F401

import methods
from benchmarks.records import RUN_COLUMNS, write_table
from reproduce.marks import looks
from reproduce.rows import Trained


def of(module):
    return {name for name in methods.available() if methods.get(name).__module__.startswith("methods.beyond.") == module}


def test_shows_every_method_and_the_papers_show_none():
    beyond = SCRIPTS["beyond"]
    assert not (absent := of(True) - {*beyond.METHODS}), f"GROUPS of reproduce/beyond.py needs a label for {absent}"
    assert not {*beyond.METHODS} - of(True)
    assert {*beyond.NAMED, *beyond.OTHERS} < of(False)
    for name in SCRIPTS.keys() - {"beyond"}:
        for suite in ("digits", "cifar10"):
            assert not {spec.method for spec in SCRIPTS[name].grid(suite, "paper")} & of(True), name


def test_published_points_are_drawn_hollow_and_alone_where_nothing_was_run(tmp_path, no_files, capsys):  # noqa: F811
    assert draw("beyond", "--suite", "imagenet", "--results", tmp_path, "--out", tmp_path) == 0
    lines = {(line["method"], line["sparsity"]): line["mean"] for line in drawn(tmp_path / "imagenet/beyond.csv")}
    assert float(lines["feather", "0.9"]) == 76.93 and float(lines["acdc", "0.98"]) == 68.48 and float(lines["snfs", "0.9"]) == 72.9
    assert "No run of ours" in capsys.readouterr().out


def test_a_group_without_published_costs_says_so_in_its_panel():
    beyond, figure = SCRIPTS["beyond"], Figure()
    beyond.draw(beyond.source(Trained(beyond.grid, None, None), "imagenet", ".")[0], figure)
    assert [len([text for text in axes.texts if "no training FLOPs" in text.get_text()]) for axes in figure.axes] == [0, 0, 1, 0]


def test_published_values_beyond_reach_no_other_figure():
    from published import published
    assert not set(published().method) & of(True) and {"feather", "dpf"} <= set(published(beyond=True).method)


def test_draws_achieved_sparsity_and_training_flops(tmp_path, no_files):  # noqa: F811
    fill(tmp_path, "digits", SCRIPTS["beyond"].grid("digits", "paper"), achieved_sparsity=0.97, train_flops_fraction=0.4)
    assert draw("beyond", "--suite", "digits", "--results", tmp_path, "--out", tmp_path) == 0
    lines = [line for line in drawn(tmp_path / "digits/beyond.csv") if line["method"] == "srigl"]
    assert [float(line["achieved_sparsity"]) for line in lines] == pytest.approx([0.97] * 3)
    assert [float(line["train_flops"]) for line in lines] == pytest.approx([0.4] * 3)


def test_what_lies_below_the_axes_is_marked(tmp_path):
    """DPF and ST-3 alone fail at 98 %: an arrow of its colour at the end of the axis, at its sparsity and at its cost."""
    beyond, figure = SCRIPTS["beyond"], Figure()
    rows = [row(spec, train_flops_fraction=0.4, achieved_sparsity=spec.sparsity,
                top1_best_val=20.0 if spec.method in ("dpf", "st3") and spec.sparsity == 0.98 else 60.0 + 3 * spec.seed + len(spec.method))
            for spec in beyond.grid("digits", "paper")]
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, rows)
    beyond.draw(beyond.source(Trained(beyond.grid, None, None), "digits", tmp_path, "paper")[0], figure)
    found = looks([*beyond.NAMED, *beyond.GROUPS["Pruned while trained"]])
    colours = [found[method]["color"] for method in ("dpf", "st3")]
    found, named = ([[line for line in axes.lines if (line.get_marker(), line.get_color()) == (r"$\downarrow$", colour)] for axes in figure.axes]
                    for colour in colours)
    columns = len(figure.axes) // 2
    assert [len(lines) for lines in found] == [1, *[0] * (columns - 1)] * 2 and [len(lines) for lines in named] == [1] * 2 * columns
    for lines, x in zip((found[0], found[columns]), (0.02, 0.4)):
        assert lines[0].get_xdata()[0] == pytest.approx(x, rel=0.15) and lines[0].get_ydata()[0] == lines[0].axes.get_ylim()[0] > 20


def test_what_has_far_more_weights_than_asked_for_is_left_out_and_named(tmp_path, capsys, no_files):  # noqa: F811
    fill(tmp_path, "digits", SCRIPTS["beyond"].grid("digits", "paper"), achieved_sparsity=0.87, train_flops_fraction=0.4)
    draw("beyond", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    assert {float(line["sparsity"]) for line in drawn(tmp_path / "digits/beyond.csv") if line["method"] != "dense"} == {0.9}
    assert "Left out with more than twice the weights asked for: Feather at 95, 98 %; DPF at 95, 98 %; " in capsys.readouterr().out


def test_a_point_is_its_seeds_mean_and_a_training_is_drawn_once(tmp_path, capsys, no_files):  # noqa: F811
    """DST learns its sparsity: what is asked for changes nothing, and no seed is left out for where it ended."""
    rows = []
    for spec in SCRIPTS["beyond"].grid("digits", "paper"):
        ends = dict(achieved_sparsity=(0.79, 0.83, 0.84)[spec.seed], top1_best_val=90 + spec.seed) if spec.method == "dst_mask" else \
            dict(achieved_sparsity=spec.sparsity)
        rows.append(row(spec, train_flops_fraction=0.4, **ends))
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, rows)
    draw("beyond", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    points = [line for line in drawn(tmp_path / "digits/beyond.csv") if line["method"] == "dst_mask"]
    assert [(line["sparsity"], line["seeds"], float(line["mean"]), float(line["achieved_sparsity"])) for line in points] == [
        ("0.9", "3", 91, pytest.approx(0.82))]
    said = capsys.readouterr().out
    assert "Missing" not in said and "Left out" not in said and "The same training at every sparsity, one point: DST, thresholds." in said


def test_a_training_that_is_drawn_once_is_left_out_at_every_sparsity_that_it_misses(tmp_path, capsys, no_files):  # noqa: F811
    rows = [row(spec, train_flops_fraction=0.4, achieved_sparsity=0.14 if spec.method == "dst_mask" else spec.sparsity,
                **{"top1_best_val": 90 + spec.seed} if spec.method == "dst_mask" else {}) for spec in SCRIPTS["beyond"].grid("digits", "paper")]
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, rows)
    draw("beyond", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    said = capsys.readouterr().out
    assert "weights asked for: DST, thresholds at 90, 95, 98 %." in said and "one point" not in said


@pytest.mark.parametrize("ends", [(), ("dst_mask",)], ids=["others", "one that ends where it ends"])
def test_diverged_seeds_leave_no_mean(ends, tmp_path, capsys, no_files):  # noqa: F811
    """Though they are equal at every sparsity, with a mask of hardly any: those of a method that ends where it ends are drawn once."""
    rows, method = [], (*ends, "lamp_oneshot")[0]
    for spec in SCRIPTS["beyond"].grid("digits", "paper"):
        own = dict(achieved_sparsity=0.9 if spec.method in ends else spec.sparsity, top1_best_val=90)
        if spec.method == method and spec.seed == 1:
            own = dict(status="diverged", top1="", top1_best_val="", achieved_sparsity=0.0)
        rows.append(row(spec, train_flops_fraction=0.4, **own))
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, rows)
    draw("beyond", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    points = [line for line in drawn(tmp_path / "digits/beyond.csv") if line["method"] == method]
    assert [(float(line["sparsity"]), line["seeds"], float(line["mean"])) for line in points] == [
        (sparsity, "3", pytest.approx((90 + 90 + 10) / 3)) for sparsity in ((0.9,) if ends else (0.9, 0.95, 0.98))]
    assert "Left out" not in capsys.readouterr().out


def test_switches_that_a_diverged_run_has_counted_are_not_drawn(tmp_path, no_files):  # noqa: F811
    """They are those of a part of its training."""
    specs = list(SCRIPTS["figure6"].grid("cifar10", "paper"))
    fill(tmp_path, "cifar10", specs, precision="bf16")
    assert {spec.seed for spec in specs} == {0, 1, 2}
    write_table(tmp_path / "cifar10" / "runs.csv", RUN_COLUMNS, [
        row(spec, precision="bf16", **dict(status="diverged", top1="", top1_best_val="") if spec.seed == 1 else {}) for spec in specs])
    assert draw("figure6", "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path) == 0
    assert {line["seed"] for line in drawn(tmp_path / "cifar10/figure6.csv")} == {"0", "2"}


@pytest.mark.parametrize("name, column, usual, then", [("beyond", "train_flops", 0.4, dict(train_flops_fraction=0.1)), ("figure4", "macs", 5e8, dict(macs=9e8))])
def test_a_diverged_run_counts_with_chance_and_with_no_costs(name, column, usual, then, tmp_path, no_files):  # noqa: F811
    specs = [spec for spec in SCRIPTS[name].grid("digits", "paper") if spec.method != "dense"]
    ends = dict(status="diverged", top1="", top1_best_val="") | then
    rows = [row(spec, **dict(train_flops_fraction=0.4, macs=5e8, achieved_sparsity=spec.sparsity) | (ends if spec.seed == 1 else {})) for spec in specs]
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, rows)
    draw(name, "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    lines = [line for line in drawn(tmp_path / f"digits/{name}.csv") if line["source"] == "measured"]
    assert lines and {(int(line["seeds"]), float(line[column])) for line in lines} == {(3, usual)}
    assert all(float(line["mean"]) < 70 for line in lines)  # two of 70 and more and one of 10

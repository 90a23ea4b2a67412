"""Single figures of `reproduce/`: what their grids add, and published values beside ours."""
import pytest
from made_up import accuracy, fill, row
from test_figures import SCRIPTS, draw, drawn, no_files  # noqa: F401
from test_marks import pages  # noqa: F401

from benchmarks import suites
from benchmarks.grid import union
from benchmarks.levels import uncovered
from benchmarks.records import RUN_COLUMNS, TABLES, write_table


# ---- grids

@pytest.mark.parametrize("profile", suites.PROFILES)
def test_hard_thresholds_are_tried_where_the_paper_says_that_they_fail(profile):
    specs = list(SCRIPTS["figure1"].grid("cifar10", profile))
    assert {spec.method for spec in specs if spec.sparsity == 0.99} == {"ste_hard", "ste_soft"} and len(specs) == len(set(specs))


def test_levels_of_figure_3_cost_no_run_of_their_own():
    from methods import available
    board = suites.suite_grid("cifar10", "paper", available())
    added = uncovered(union(board, (spec for spec in SCRIPTS["figure3"].grid("cifar10", "paper") if spec.task == "cifar10-resnet20")))
    known = {spec.key for spec in board}
    assert {(spec.method, spec.epochs) for spec in added if spec.key not in known} == {("st3", 640)}


# ---- published beside measured

def test_each_own_number_stands_beside_the_published_one(tmp_path, capsys, no_files):  # noqa: F811
    fill(tmp_path, "cifar10", SCRIPTS["figure3"].grid("cifar10", "paper"))
    draw("figure3", "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path)
    lines = {tuple(line.split()[:4]): line.split() for line in capsys.readouterr().out.splitlines() if "epochs=640" in line}
    line = lines["cifar10-resnet20", "st3", "epochs=640", "0.672320"]
    own = 80 - 6.7232 + 0.3 + 1 / 3
    assert float(line[4]) == pytest.approx(own, abs=1e-3)
    assert "92.38" in line and float(line[-1]) == pytest.approx(own - 92.38, abs=0.01)


def test_the_vgg11_of_the_released_code_is_drawn_besides_where_it_was_run(tmp_path, monkeypatch):
    """Small, in the same panel; and where it was not, nothing is other than without it."""
    from matplotlib.figure import Figure

    script, pages, save = SCRIPTS["figure3"], [], Figure.savefig
    specs = script.grid("cifar10", "paper")
    coded = [spec for spec in specs if spec.options]
    assert {(spec.task, spec.method, spec.options) for spec in coded} == {
        ("cifar10-vgg11", method, (("model", "vgg11_st3code"),)) for method in ("st3", "gmp")} and len(coded) == 2 * 5 * 3
    assert not [spec for suite in ("digits", "cifar100") for spec in script.grid(suite, "paper") if spec.options]
    assert not [spec for spec in script.grid("cifar10", "quick") if spec.options]
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: pages.append(figure))
    fill(tmp_path, "cifar10", specs)
    draw("figure3", "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path)
    axes = next(axes for axes in pages[-1].axes if axes.get_title() == "VGG-11, CIFAR-10")
    lines = [line for line in axes.lines if (line.get_markersize(), line.get_linewidth()) == (2.5, 0.5) and line.get_marker() in tuple("osD^")]
    assert [list(line.get_ydata()) for line in lines if line.get_linestyle() != "None"] == [
        [pytest.approx(accuracy(spec) + 4 / 3, abs=1e-3) for spec in coded if (spec.method, spec.seed) == (method, 0)]
        for method in ("st3", "gmp")]
    colours = {label: handle.lines[0].get_color() for handle, label in zip(*axes.get_legend_handles_labels()) if label != "Dense"}
    assert all(colours[f"{name}, VGG-11 of its code"] == colours[name] for name in ("ST-3", "GMP"))
    found = drawn(tmp_path / "cifar10/figure3.csv")
    assert len([line for line in found if line["options"] == "model=vgg11_st3code"]) == 2 * 5

    monkeypatch.setattr(Figure, "savefig", save)
    fill(tmp_path, "cifar10", [spec for spec in specs if not spec.options])
    for folder in ("with", "without"):
        draw("figure3", "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path / folder)
        monkeypatch.setattr(script, "grid", lambda *words, grid=script.grid: [spec for spec in grid(*words) if not spec.options])
        monkeypatch.delattr(script, "source", raising=False)
    for kind in ("pdf", "png", "csv"):
        assert len({(tmp_path / folder / f"cifar10/figure3.{kind}").read_bytes() for folder in ("with", "without")}) == 1


def test_the_panel_of_augmentation_begins_below_lrr(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: pages.append(figure))
    specs = [spec for spec in SCRIPTS["figure3"].grid("digits", "paper") if spec.method in ("st3", "lrr", "lrr_aug_reset")]
    write_table(tmp_path / "digits/runs.csv", RUN_COLUMNS, [row(spec, top1_best_val=20.0 if spec.method == "st3" else 90.0) for spec in specs])
    draw("figure3", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    right = pages[0].axes[1]
    arrow, = (line for line in right.lines if line.get_marker() == r"$\downarrow$")
    assert right.get_ylim()[0] == 89.5 and len(arrow.get_xdata()) == 3
    assert "Below the axes (↓): ST-3 20.0 (90 %), 20.0 (95 %), 20.0 (98 %)." in pages[0]._supxlabel.get_text().replace("\n", " ")


def test_the_panel_of_augmentation_is_there_for_published_points_alone(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: pages.append(figure))
    specs = [spec for spec in SCRIPTS["figure3"].grid("cifar10", "paper") if spec.method in ("dense", "st3") and spec.task == "cifar10-resnet20"]
    fill(tmp_path, "cifar10", [spec for spec in specs if not spec.epochs])
    draw("figure3", "--suite", "cifar10", "--profile", "paper", "--results", tmp_path, "--out", tmp_path)
    right = pages[0].axes[1]
    assert right.get_title() == "ResNet-20, CIFAR-10: the augmentation of LRR"
    assert any(92.38 in line.get_ydata() for line in right.lines)


def test_published_points_never_enter_a_mean(tmp_path, capsys, no_files):  # noqa: F811
    from published import hollow
    from rows import runs_of, summary

    fill(tmp_path, "cifar10", SCRIPTS["gse_figure5"].grid("cifar10", "paper"))
    draw("gse_figure5", "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path)
    runs, _ = runs_of(SCRIPTS["gse_figure5"].grid, "cifar10", tmp_path)
    lines = drawn(tmp_path / "cifar10/gse_figure5.csv")
    measured = [line for line in lines if line["source"] == "measured"]
    assert len(measured) == len(summary(runs)) == 5 * 3 * 3 and {line["seeds"] for line in measured} == {"3"}
    published = [line for line in lines if line["source"] == "gse" and line["task"] == "cifar10-resnet56" and line["method"] == "set"]
    values = {(line["options"], line["sparsity"], line["mean"]) for line in published}
    assert values >= {("allocation=uniform", "0.9", "90.66"), ("", "0.9", "90.22")}
    assert set(hollow(runs, ["set"]).source) == {"gse"}


def test_hollow_points_are_hollow_and_cited(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: pages.append(figure))
    fill(tmp_path, "cifar10", SCRIPTS["gse_figure5"].grid("cifar10", "paper"))
    draw("gse_figure5", "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path)
    lines = [line for line in pages[0].axes[0].lines if line.get_marker() not in ("None", "", "|", "_", 2, 3)]
    own, other = ([line for line in lines if (line.get_markerfacecolor() in ("none", "white")) == hollow] for hollow in (False, True))
    assert len(own) == len(other) == 5
    assert {line.get_linewidth() for line in other} == {0.4} and all(line.get_linewidth() > 0.4 for line in own)
    assert {line.get_color() for line in own} == {line.get_color() for line in other}
    assert "Heddes et al. 2024 (results/published.csv)" in " ".join(text.get_text() for text in pages[0].texts).replace("\n", " ")


def test_a_method_with_published_points_alone_is_named_once(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: pages.append(figure))
    grid = SCRIPTS["figure3"].grid("cifar10", "paper")
    for own in ("st3", "lrr"):
        fill(tmp_path / own, "cifar10", [spec for spec in grid if spec.method in ("dense", own)])
        draw("figure3", "--suite", "cifar10", "--profile", "paper", "--results", tmp_path / own, "--out", tmp_path)
        named = [text.get_text() for text in pages.pop().legends[0].get_texts()]
        assert named.count(SCRIPTS["figure3"].METHODS["lrr"]) == 1


def test_figure_4_takes_macs_from_fractions_of_the_dense_network():
    rows = SCRIPTS["figure4"].literature("imagenet-resnet50").set_index(["source", "method", "sparsity"])
    assert rows.macs["st3", "st3", 0.9] == 764e6 and rows.macs["rigl", "rigl", 0.9] == pytest.approx(0.24 * 4.09e9)
    assert rows["mean"]["st3", "st3_sigma", 0.99] == 63.25 and (rows["mean"] > 0).all()
    assert not SCRIPTS["figure4"].literature("cifar10-resnet20").size


def test_figure_4_of_a_suite_has_its_own_data_alone(tmp_path):
    from rows import NoRows, Trained

    script = SCRIPTS["figure4"]
    fill(tmp_path, "cifar100", [spec for spec in script.grid("cifar100", "paper") if spec.method == "st3"])
    with pytest.raises(NoRows, match="bash run_all.sh cifar10 "):
        script.source(Trained(script.grid), "cifar10", tmp_path)
    assert {*script.source(Trained(script.grid), "cifar100", tmp_path)[0].task} == {"cifar100-wrn34x2"}


def test_macs_that_are_near_each_other_have_few_ticks(tmp_path):
    from matplotlib.figure import Figure
    from rows import Trained

    script, figure = SCRIPTS["figure4"], Figure()
    fill(tmp_path, "digits", script.grid("digits", "paper"), macs=62_000)
    runs, _ = script.source(Trained(script.grid), "digits", tmp_path)
    script.draw(runs.assign(macs=62_000 * (1.2 - 0.2 * runs.sparsity)), figure)
    figure.draw_without_rendering()
    axes = next(axes for axes in figure.axes if "MACs" in axes.get_xlabel())
    low, high = axes.get_xlim()
    assert 2 <= sum(low <= tick.get_position()[0] <= high and bool(tick.get_text()) for tick in axes.get_xticklabels(which="both")) <= 4


# ---- switches of weights

def test_figure_6_leaves_out_weights_that_switch_less_than_twice(tmp_path, no_files, capsys):  # noqa: F811
    fill(tmp_path, "digits", SCRIPTS["figure6"].grid("digits", "paper"))
    assert draw("figure6", "--suite", "digits", "--results", tmp_path, "--out", tmp_path) == 0
    lines = drawn(tmp_path / "digits/figure6.csv")
    assert {int(line["switches"]) for line in lines} == set(range(2, 30)) and {line["schedule"] for line in lines} == {"fixed", "cubic"}
    (tmp_path / "digits/switches.csv").unlink()
    assert draw("figure6", "--suite", "digits", "--results", tmp_path, "--out", tmp_path) == 2
    assert "python -m benchmarks collect" in capsys.readouterr().err


def test_figure_6_is_a_mean_over_seeds(tmp_path, no_files):  # noqa: F811
    specs = list(SCRIPTS["figure6"].grid("cifar10", "paper"))
    fill(tmp_path, "cifar10", specs)
    draw("figure6", "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path)
    lines = [line for line in drawn(tmp_path / "cifar10/figure6.csv") if (line["schedule"], line["group"], line["final_state"]) == ("cubic", "1", "zero")]
    weights = [float(line["weights"]) for line in lines if line["switches"] == "4"]
    assert len(weights) == len({spec.seed for spec in specs}) == 3 and sum(weights) == pytest.approx(100 // 5)


def test_figure_6_has_each_quarter_of_each_schedule_in_a_panel_of_its_own(tmp_path, pages):
    specs = list(SCRIPTS["figure6"].grid("digits", "paper"))
    assert [(spec.method, spec.sparsity, dict(spec.options).get("ramp_power", "")) for spec in specs] == [("st3", 0.9, "0.0"), ("st3", 0.9, "")]
    fill(tmp_path, "digits", specs)
    counts = {(column, group, state): 1 + state + 10 * group + 100 * column for column in range(2) for group in range(4) for state in range(2)}
    write_table(tmp_path / "digits/switches.csv", TABLES["switches"], [
        dict(key=specs[column].key, schedule=("fixed", "cubic")[column], group=group, final_state=("active", "zero")[state],
             switches=(5, 29)[state], weights=weights) for (column, group, state), weights in counts.items()])
    draw("figure6", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    assert [axes.get_title() for axes in pages[0].axes] == ["fixed sparsity", "cubic sparsity", *[""] * 6]
    for index, axes in enumerate(pages[0].axes):
        group, column = divmod(index, 2)
        found = {patch.get_label(): patch.get_xy()[:, 1].max() for patch in axes.patches}
        # 29 switches share a bin with 26 to 28
        assert found == {"active at the end": counts[column, group, 0], "zero at the end": pytest.approx(counts[column, group, 1] / 4)}
        assert axes.texts[0].get_text() == f"quarter {group + 1}"
    write_table(tmp_path / "digits/switches.csv", TABLES["switches"], [  # of short runs: no weight switches twice
        dict(key=spec.key, schedule="fixed", group=0, final_state="active", switches=1, weights=3) for spec in specs])
    draw("figure6", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    assert not any(axes.patches for axes in pages[-1].axes)


def test_pruning_of_resnet50_has_the_macs_that_rigls_authors_quote():
    rows = SCRIPTS["figure4"].literature("imagenet-resnet50").query("method == 'gmp'").set_index("sparsity")
    dense = SCRIPTS["figure4"].literature("imagenet-resnet50").query("method == 'dense'").macs.max()
    assert (rows.macs / dense).dropna().round(3).to_dict() == {0.8: 0.23, 0.9: 0.1, 0.95: 0.08} and rows["mean"][0.9] == 73.91


def test_arms_without_straight_through_gradients_are_missed_by_their_names(tmp_path, capsys, no_files):  # noqa: F811
    fill(tmp_path, "digits", [spec for spec in SCRIPTS["figure5"].grid("digits", "paper") if not spec.options])
    assert draw("figure5", "--suite", "digits", "--results", tmp_path, "--out", tmp_path) == 0
    assert "(all of Hard, no STE, Soft, no STE, " in capsys.readouterr().out.replace('"', "")


def test_a_quoted_number_is_named_so():
    from published import published

    quoted = published().query("source == 'gale2019' and method == 'gmp'").set_index(["variant", "sparsity"])["where"]
    assert quoted["Gale et al. 1x (quoted)", 0.8] == "quoted elsewhere, Fig 2" and quoted["standard", 0.8] == ""


def test_a_small_deviation_has_two_decimals():
    from gse import plus_minus
    assert [plus_minus(72.12, std) for std in (0.04, 0.05, 0.0, 0.3, float("nan"))] == ["72.1 ± 0.04", "72.1 ± 0.1", "72.1 ± 0.0", "72.1 ± 0.3", "72.1"]

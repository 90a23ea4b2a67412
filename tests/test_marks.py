"""What points and lines look like: one seed, the number of seeds in words, and sparsities that are stored beyond a figure's grid."""
import importlib
import math
from dataclasses import replace

import pytest
from made_up import fill, row
from matplotlib import rcParams
from matplotlib.figure import Figure
from pandas import DataFrame
from test_figures import SCRIPTS, draw, drawn, no_files  # noqa: F401

from benchmarks.records import RUN_COLUMNS, write_table


def test_a_mean_of_one_seed_is_hollow_in_front_of_its_line():
    from marks import mean_line

    figure = Figure()
    axes = figure.subplots()
    points = DataFrame({"mean": [90.0, 80.0, 70.0], "std": [1.0, float("nan"), 2.0], "seeds": [3, 1, 2]}).astype({"seeds": "Int64"})
    mean_line(axes, DataFrame({"x": [1, 2, 3]}).x, points, points["std"], marker="o", color="b", label="a")
    line, alone = (line for line in axes.lines if line.get_marker() == "o")
    assert list(line.get_ydata()) == [90, 80, 70] and line.get_markerfacecolor() == "b"
    assert alone.get_xydata().tolist() == [[2, 80]] and alone.get_markerfacecolor() == "white" and alone.get_linestyle() == "None"
    assert alone.get_zorder() > line.get_zorder() and figure.remarks == ["Hollow: one seed."]
    assert axes.get_legend_handles_labels()[1] == ["a"]
    mean_line(axes, points.seeds, points, points["std"], marker="o", color="g")
    assert figure.remarks == ["Hollow: one seed."]  # once


def test_no_line_joins_points_of_two_tasks():
    from marks import accuracy_lines

    runs = DataFrame({"task": ["digits", "digits-mlp"], "method": ["gmp", "gmp"], "sparsity": [0.9, 0.9]})
    with pytest.raises(ValueError, match=r"runs of digits and digits-mlp need axes each: runs\[runs.task == task\], as in gse_figure5.py"):
        accuracy_lines(Figure().subplots(), runs, {"gmp": "GMP"})


def test_a_method_looks_the_same_in_all_figures_and_no_two_of_a_figure_alike():
    from marks import PLACES, looks

    for name in ("figure1", "figure3", "figure4", "figure5", "gse_figure2", "gse_figure5", "gse_figure6", "length", "normalisation", "sparse_figure2"):
        script = SCRIPTS[name] if name != "sparse_figure2" else importlib.import_module(name)
        series = [method for method in getattr(script, "NAMES", None) or script.METHODS if method != "dense"]
        found = looks(series)
        assert list(found) == series and len({tuple(look.values()) for look in found.values()}) == len(series)
        for place, methods in enumerate(PLACES):
            assert [found[method] for method in methods if method in found] in ([], [looks([methods[0]])[methods[0]]]), (name, place)
    own = looks(["mine.py:A", "rigl", "mine.py:B", "st3", "mine.py:C"])
    assert own["st3"] == looks(["st3"])["st3"] and own["rigl"] == looks(["rigl"])["rigl"]
    assert len({look["color"] for look in own.values()}) == 5  # what is of nobody has the colours that are left
    assert looks(["st3", "synflow"])["synflow"] != looks(["st3"])["st3"]  # of one place: the first has it
    assert len({tuple(look.values()) for look in looks([*map(str, range(30))]).values()}) == 30
    beyond = SCRIPTS["beyond"]
    for group in beyond.GROUPS.values():  # beside the named ones, which look as everywhere, no method has their colours
        found = looks([*beyond.NAMED, *group])
        named, others = ({found[name]["color"] for name in names} for names in (beyond.NAMED, group))
        assert named == {looks([name])[name]["color"] for name in beyond.NAMED} and not named & others


def test_colours_that_are_alike_in_grey_have_other_lines():
    """Lightness (CIELAB) less than 10 apart."""
    from marks import COLOURS, look

    def lightness(colour):
        red, green, blue = ((int(colour[place:place + 2], 16) / 255) ** 2.2 for place in (1, 3, 5))
        return 116 * (0.2126 * red + 0.7152 * green + 0.0722 * blue) ** (1 / 3) - 16

    alike = [(one, other) for other in range(len(COLOURS)) for one in range(other) if abs(lightness(COLOURS[one]) - lightness(COLOURS[other])) < 10]
    assert len(alike) > 8 and all(look(one)["linestyle"] != look(other)["linestyle"] for one, other in alike)
    assert all(look(place)["linestyle"] != look(place, 1)["linestyle"] for place in range(len(COLOURS)))


def test_a_method_with_options_is_its_variant():
    from marks import looks

    found = looks(["set allocation=uniform", "set", "rigl allocation=uniform", "rigl", "a/b c.py:A x=1", "a/b c.py:A x=2 y=0"])
    assert found["set"] == looks(["set"])["set"] and "fillstyle" not in found["set"]
    for method, variant in (("set", "set allocation=uniform"), ("rigl", "rigl allocation=uniform"),
                            ("a/b c.py:A x=1", "a/b c.py:A x=2 y=0")):
        one, other = found[method], found[variant]
        assert (one["color"], one["marker"]) == (other["color"], other["marker"]) and one["linestyle"] != other["linestyle"]
        assert other["fillstyle"] != one.get("fillstyle") and other["markerfacecoloralt"] == "white"  # half: hollow is one seed


def test_dnw_is_told_from_the_others_without_red_or_green_cones():
    """Distances in CIELAB of the colours as Machado et al. (2009) simulate them."""
    import numpy as np
    from marks import COLOURS, DENSE, looks

    protan = [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
    deutan = [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    own = [*COLOURS, DENSE]
    light = (np.array([[int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)] for colour in own])) ** 2.2
    for seen in (protan, deutan):
        xyz = np.clip(light @ np.array(seen).T, 0, 1) @ np.array([[0.434, 0.213, 0.018], [0.376, 0.715, 0.109], [0.190, 0.072, 0.873]])
        x, y, z = xyz.T ** (1 / 3)
        lab = np.stack([116 * y, 500 * (x - y), 200 * (y - z)], axis=1)
        distance = np.linalg.norm(lab - lab[own.index(looks(["dnw"])["dnw"]["color"])], axis=1)
        assert sorted(distance)[1] > 25, distance


def test_an_axis_leaves_out_the_few_that_would_hide_the_others_and_names_them(tmp_path):
    from marks import BELOW, accuracy_lines, lowest, tell_cut
    from pandas import Series

    assert lowest(Series([99.0, 98, 97, 97, 96, 96, 50])) == pytest.approx(91.4 - 0.05 * 7.6)  # the quantile is at 0.9 of the first step
    assert lowest(Series([99.0, 98, 97, 97, 96, 96, 95])) == pytest.approx(95 - 0.05 * 4)
    assert lowest(Series([90.0, 70, 50, 30, 10])) == pytest.approx(10 - 0.05 * 80) and lowest(Series([90.0])) == 90  # nothing is hidden
    assert lowest(Series([90.0, math.nextafter(90, 91)])) == pytest.approx(90)
    # one of seven, as above
    points = {("st3", 0.9): 98, ("st3", 0.95): 97, ("st3", 0.98): 50, ("gmp", 0.9): 98, ("gmp", 0.95): 97, ("gmp", 0.98): 96, ("rigl x=1", 0.9): 97}
    runs = DataFrame([dict(task="digits", method=name.partition(" ")[0], options=name.partition(" ")[2], sparsity=s, seed=0, accuracy=mean,
                           epochs=30) for (name, s), mean in points.items()])
    figure = Figure()
    axes = figure.subplots()
    accuracy_lines(axes, runs, {"st3": "ST-3", "gmp": "GMP", "rigl x=1": "RigL, x"})
    arrow, = (line for line in axes.lines if line.get_marker() == BELOW["marker"])
    bottom = axes.get_ylim()[0]
    assert 50 < bottom < 96 and list(arrow.get_ydata()) == [bottom] and arrow.get_xdata()[0] == pytest.approx(0.02, rel=0.03)
    assert tell_cut(figure) == " Below the axes (↓): ST-3 50.0 (98 %)." and tell_cut(Figure()) == ""
    named = [*axes.lines]
    accuracy_lines(other := Figure().subplots(), runs, {"st3": "ST-3", "gmp": "GMP"}, bottom=96.5)
    assert named and other.get_ylim()[0] == 96.5 and tell_cut(other.figure) == " Below the axes (↓): ST-3 50.0 (98 %); GMP 96.0 (98 %)."


def test_what_a_user_sets_for_all_figures_of_his_does_not_change_these(monkeypatch):
    """By a matplotlibrc: with LaTeX, for one, a bare % ends the figure."""
    from drawing import styled

    monkeypatch.setitem(rcParams, "text.usetex", True)
    with styled():
        assert not rcParams["text.usetex"] and rcParams["legend.fontsize"] == 6
    assert rcParams["text.usetex"]


@pytest.fixture
def pages(monkeypatch):
    """The figures that are saved."""
    found = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: found.append(figure))
    return found


@pytest.mark.parametrize("seeds, said, hollow", [((0, 1, 2), "over 3 seeds", False), ((0,), "over one seed", True)])
@pytest.mark.parametrize("name", ["figure1", "figure4", "gse_figure2", "gse_figure3", "gse_figure5", "length", "beyond"])
def test_every_figure_says_how_many_seeds_and_which_points_are_of_one(name, seeds, said, hollow, tmp_path, pages):
    fill(tmp_path, "digits", [replace(spec, seed=seed) for spec in SCRIPTS[name].grid("digits", "paper") if spec.seed == 0 for seed in seeds],
         achieved_sparsity=0.9, train_flops_fraction=0.4)
    draw(name, "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    note = pages[0]._supxlabel.get_text().replace("\n", " ")
    assert said in note and ("Hollow: one seed." in note) == hollow and not ("± s.d." in note and hollow)
    faces = {line.get_markerfacecolor() for axes in pages[0].axes for line in axes.lines if line.get_marker() in tuple("osD^vPX*<>")}
    assert ("white" in faces) == hollow


def test_seeds_in_words():
    from notes import number_of

    assert [number_of(DataFrame({"seeds": seeds}).seeds) for seeds in ([1, 1], [3, 3], [1, 5])] == ["one seed", "3 seeds", "1 to 5 seeds"]


@pytest.mark.parametrize("name, method", [("figure3", "gmp"), ("figure4", "gmp"), ("figure5", "st3")])
def test_what_is_stored_at_the_papers_sparsities_is_drawn_and_not_planned(name, method, tmp_path, capsys, no_files):  # noqa: F811
    """In profile quick, which plans fewer of them."""
    specs = list(SCRIPTS[name].grid("cifar10", "quick"))
    assert max(spec.sparsity for spec in specs) == 0.98
    usual = next(spec for spec in specs if (spec.method, spec.options) == (method, ()))
    fill(tmp_path, "cifar10", [*specs, *(replace(usual, sparsity=s) for s in (0.99, 0.995))])
    draw(name, "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path)
    said = capsys.readouterr().out
    assert "Of 99 % only what was run." in said and "Missing" not in said
    assert ("In miniature; the paper: ResNet-50 and MobileNetV1 on ImageNet" in said) == (name == "figure4")
    assert ("WRN-34x2" in said) == (name == "figure3")
    lines = [line for line in drawn(tmp_path / f"cifar10/{name}.csv") if float(line["sparsity"]) > 0.98]
    assert [(line["method"], line["sparsity"], line["seeds"]) for line in lines] == [(method, "0.99", "1")]
    fill(tmp_path, "cifar10", specs)
    draw(name, "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path)
    assert "Of 99" not in capsys.readouterr().out


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name", ["figure1", "figure3", "figure4", "figure5", "gse_figure5"])
def test_a_single_run_is_drawn_without_a_warning(name, tmp_path):
    """As of somebody who tries one run first: one point has no limits of its own."""
    sparse = [spec for spec in SCRIPTS[name].grid("digits", "paper") if spec.sparsity and spec.seed == 0 and not spec.options]
    fill(tmp_path, "digits", sparse[:1])
    assert draw(name, "--suite", "digits", "--results", tmp_path, "--out", tmp_path) == 0
    assert len(drawn(tmp_path / "digits" / f"{name}.csv")) == 1


# ---- what the panels of ST-3's figures show

@pytest.mark.parametrize("method, label", [("ste_hard", "STE-hard"), ("ste_soft", "STE-soft")])
def test_figure_1_names_each_line_by_its_method(method, label, tmp_path, pages):
    fill(tmp_path, "digits", [spec for spec in SCRIPTS["figure1"].grid("digits", "paper") if spec.method in ("dense", method)])
    draw("figure1", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    assert set(pages[0].axes[0].get_legend_handles_labels()[1]) == {"Dense", label}


def test_figure_2_has_the_same_step_in_both_and_says_what_training_had(tmp_path, pages):
    """Steps of 100: a larger one is in the first half, a fall larger than the largest rise in the second. Threshold 0.5; the curve jumps."""
    columns = dict(task="digits", sparsity=0.9, seed=0, steps=100, weight=7)
    lines = []
    for method, scale in (("ste_hard", 1.0), ("ste_soft", 0.5)):
        lines += [columns | dict(panel="operator", method=method, stored=x, forward=scale * x * (x > 0.5), threshold=0.5)
                  for x in (0.3, 0.4, 0.6, 0.7)]
        forward = {step: 0.0 for step in range(1, 101)} | {20: 9.0} | {step: 0.3 for step in range(60, 80)} | {80: -0.4}
        lines += [columns | dict(panel="training", method=method, step=step, stored=scale + value, forward=value, threshold=0.5 if step > 2 else -1)
                  for step, value in forward.items()]
    (tmp_path / "digits").mkdir()
    DataFrame(lines).to_csv(tmp_path / "digits/trajectory.csv", index=False)
    draw("figure2", "--results", tmp_path, "--out", tmp_path)
    for column, (title, scale) in enumerate((("hard threshold", 1.0), ("soft threshold", 0.5))):
        upper, lower = pages[0].axes[column], pages[0].axes[2 + column]
        below, above, start = (line.get_xydata() for line in upper.lines)
        assert upper.get_title() == title and below.ravel().tolist() == pytest.approx([0.6, 0, 0.8, 0])
        assert above.ravel().tolist() == pytest.approx([1.2, 1.2 * scale, 1.4, 1.4 * scale])
        arrow, = upper.texts
        assert (arrow.xyann, arrow.xy) == (pytest.approx(tuple(start[0])), pytest.approx(tuple(above[0])))  # from, to
        assert tuple(start[0]) == pytest.approx((0.8, 0))
        drawn = {line.get_label(): line.get_ydata() for line in lower.lines if not line.get_label().startswith("_")}
        assert {label: values[79] for label, values in drawn.items()} == pytest.approx({"stored": scale - 0.4, "forward": -0.4})
        bounds = [line.get_ydata() for line in lower.lines if line.get_label().startswith("_")]
        assert [values[[0, -1]].tolist() for values in bounds] == [[0, -0.5], [0, 0.5]]  # none is below zero
    note = pages[0]._supxlabel.get_text().replace("\n", " ")
    assert "weight 7 of digits, sparsity 90 %, seed 0, one run each" in note and "in thresholds: hard 1.4, soft 1.4." in note


@pytest.mark.parametrize("suite, profile, panels", [("digits", "paper", 2), ("cifar10", "quick", 3), ("cifar10", "paper", 4)])
def test_figure_3_shows_lrr_by_its_augmentation_apart(suite, profile, panels, tmp_path, pages):
    script = SCRIPTS["figure3"]
    specs = list(script.grid(suite, profile))
    cycles = sorted({spec.sparsity for spec in specs if spec.method == "lrr" and "vgg11" not in spec.task and spec.task.startswith(suite)})
    most = max(spec.sparsity for spec in specs)
    vgg = {spec.sparsity for spec in specs if (spec.task, spec.method) == ("cifar10-vgg11", "lrr")}
    assert cycles[-1] == most and vgg >= ({*cycles} if (suite, profile) == ("cifar10", "paper") else set())
    assert suite == "digits" or cycles[:2] == [0.67232, 0.737856]
    for each in (suite, "cifar100"):
        fill(tmp_path, each, [spec for spec in specs if spec.task.startswith(each)] if each == suite else script.grid(each, profile))
    draw("figure3", "--suite", suite, "--profile", profile, "--results", tmp_path, "--out", tmp_path)
    named = [set(axes.get_legend_handles_labels()[1]) for axes in pages[0].axes if axes.get_visible()]
    longer = {"ST-3, 4× the epochs"} if suite == "cifar10" else set()
    usual = {*script.ONE_CYCLE.values(), *script.CYCLES.values()}
    assert len(named) == panels and named[0] == usual and named[1] == {"Dense", "ST-3", "LRR", "LRR, augmentation reset"} | longer
    assert all(usual <= names for names in named[2:])
    first, second = (axes.get_title().split(": ") for axes in pages[0].axes[:2])
    assert first[0] == second[0] and (first[1], second[1]) == ("all methods", "the augmentation of LRR")
    note = pages[0]._supxlabel.get_text().replace("\n", " ")
    assert ("Of ST-3 in the usual epochs there are no runs below" in note) == (suite == "cifar10")
    lines = [tuple(line.values()) for line in drawn(tmp_path / suite / "figure3.csv")]
    assert len(lines) == len(set(lines))  # what two panels show is there once


@pytest.mark.parametrize("method, panels", [("st3", 1), ("lrr", 2), ("lrr_aug_reset", 2)])
def test_figure_3_has_a_panel_of_augmentation_where_such_runs_are_stored(method, panels, tmp_path, pages):
    fill(tmp_path, "digits", [spec for spec in SCRIPTS["figure3"].grid("digits", "paper") if spec.method == method])
    draw("figure3", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    assert sum(axes.get_visible() for axes in pages[0].axes) == panels


def test_figure_4_has_macs_of_whole_runs_in_millions(tmp_path, pages):
    """Of one seed that diverged the accuracy is in the mean (here chance), its MACs of that time are not."""
    (tmp_path / "digits").mkdir()
    rows = [row(spec, **({"status": "diverged", "macs": 1.0} if (spec.method, spec.seed) == ("st3", 2) else {}))
            for spec in SCRIPTS["figure4"].grid("digits", "paper")]
    write_table(tmp_path / "digits/runs.csv", RUN_COLUMNS, rows)
    draw("figure4", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    left, right = pages[0].axes
    for axes, expected in ((left, [0.1, 0.05, 0.02]), (right, [100, 50, 20])):
        handles = dict(zip(*reversed(axes.get_legend_handles_labels())))
        for label in ("ST-3", "GMP"):
            assert list(handles[label].lines[0].get_xdata()) == pytest.approx(expected, rel=0.06 if axes is left else 1e-6)
    assert [text.get_text() for text in left.get_xticklabels()] == ["90", "95", "98"] and min(left.get_xlim()) == pytest.approx(0.02 / 1.25)


def test_figure_4_shows_the_literature_in_its_authors_settings(tmp_path, pages, capsys):
    found = {task: SCRIPTS["figure4"].literature(task) for task in SCRIPTS["figure4"].IMAGENET}
    large, small = found["imagenet-resnet50"], found["imagenet-mobilenetv1"]
    assert large[large.method == "gmp"]["mean"].tolist() == [76.38, 75.58, 73.91, 70.59, 57.9]  # Gale et al.'s standard, not the extended one
    assert set(large.options) == {""} and set(small[small.method == "rigl"].options) == {"epochs=500"}
    assert small.sparsity.min() == 0 and small.sparsity[small.sparsity > 0].min() == 0.742
    assert draw("figure4", "--suite", "imagenet", "--results", tmp_path, "--out", tmp_path) == 0
    assert "No numbers are at hand of ST-3 on MobileNetV1 and" in capsys.readouterr().out
    assert [axes.get_ylim()[0] for axes in pages[0].axes[::2]] == [60, pytest.approx(61.3, abs=0.1)]
    assert "Below the axes (↓): GMP 57.9 (98 %); STR 51.8 (98.98 %)." in pages[0]._supxlabel.get_text().replace("\n", " ")
    marked = [line for axes in pages[0].axes for line in axes.lines if line.get_marker() in tuple("osD^vPX*<>")]
    assert marked and {line.get_markerfacecolor() for line in marked} == {"white"}
    sigma = next(line for line in marked if min(line.get_ydata()) == 63.25)
    assert list(sigma.get_ydata()) == [76.44, 75.28, 73.69, 72.62, 69.75, 63.25]
    assert {len(rows.drop_duplicates(["method", "options", "sparsity", "variant"])) - len(rows) for rows in found.values()} == {0}


@pytest.mark.parametrize("profile, networks", [("paper", 2), ("quick", 1)])
def test_figure_4_asks_for_both_networks_of_the_paper(profile, networks):
    assert len({spec.task for spec in SCRIPTS["figure4"].grid("imagenet", profile)}) == networks


def test_figure_5_has_every_threshold_with_and_without_its_straight_through_gradient(tmp_path, pages):
    fill(tmp_path, "digits", SCRIPTS["figure5"].grid("digits", "paper"))
    draw("figure5", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    found = {label: len(handle.lines[0].get_xdata()) for handle, label in zip(*pages[0].axes[0].get_legend_handles_labels()) if label != "Dense"}
    assert found == dict.fromkeys((
        "STE-hard", "STE-soft", "STE-hard + rescale", "STE-soft + rescale (ST-3)", "Hard, no STE", "Soft, no STE", "Hard + rescale, no STE",
        "Soft + rescale, no STE"), 3)

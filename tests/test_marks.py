"""What points and lines look like: one seed, the number of seeds in words, and sparsities that are stored beyond a figure's grid."""
from dataclasses import replace

import pytest
from made_up import fill
from matplotlib.figure import Figure
from pandas import DataFrame
from test_figures import SCRIPTS, draw, drawn, no_files  # noqa: F401


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


@pytest.mark.parametrize("seeds, said, hollow", [((0, 1, 2), "over 3 seeds", False), ((0,), "over one seed", True)])
@pytest.mark.parametrize("name", ["figure1", "figure4", "gse_figure2", "gse_figure3", "gse_figure5", "length", "beyond"])
def test_every_figure_says_how_many_seeds_and_which_points_are_of_one(name, seeds, said, hollow, tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: pages.append(figure))
    fill(tmp_path, "digits", [replace(spec, seed=seed) for spec in SCRIPTS[name].grid("digits", "paper") if spec.seed == 0 for seed in seeds],
         achieved_sparsity=0.9, train_flops_fraction=0.4)
    draw(name, "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    note = pages[0].get_supxlabel().replace("\n", " ")
    assert said in note and ("Hollow: one seed." in note) == hollow
    faces = {line.get_markerfacecolor() for axes in pages[0].axes for line in axes.lines if line.get_marker() in tuple("osD^vP")}
    assert ("white" in faces) == hollow


def test_seeds_in_words():
    from drawing import number_of

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

"""The scripts of `reproduce/` beyond accuracy against sparsity: every one on every suite, published values, other tables, `--run`."""
import csv
import functools
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import accuracy, contents, fill, full

from benchmarks import suites
from benchmarks.grid import union
from benchmarks.levels import uncovered
from benchmarks.tasks import canonical

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = suites.scripts()
NEEDS_NO_RUNS = {"figure2", "gse_figure4", "gse_figure8", "packs", "sparse_figure1", "sparse_figure2", "speed"}
CASES = [(name, suite) for name, script in SCRIPTS.items() for suite in suites.SUITES if list(script.grid(suite, "paper"))]


def draw(name, *words):
    """Runs a script's command in this process; returns its exit status."""
    from drawing import main, runs_of

    script = SCRIPTS[name]
    return main(name, script.grid, script.draw, [str(word) for word in words], getattr(script, "source", runs_of))


def drawn(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def no_files(monkeypatch):
    """Saves the time of writing PDF and PNG: a figure is drawn once, which says whether all of it can be."""
    from matplotlib.figure import Figure
    once = functools.cache(Figure.draw_without_rendering)
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kwargs: once(figure))


# ---- grids

@pytest.mark.parametrize("suite", ("digits", "cifar10", "cifar100"))
@pytest.mark.parametrize("profile", suites.PROFILES)
def test_every_run_of_a_figure_is_named_as_the_commands_name_it(suite, profile):
    for script in SCRIPTS.values():
        for spec in script.grid(suite, profile):
            plain = canonical(spec)
            assert (plain.method, plain.options, plain.precision) == (spec.method, spec.options, spec.precision)
            assert spec.key == plain.key or plain.epochs is None  # a profile may name the recipe's own epochs


def test_figures_add_few_runs_to_the_miniature():
    from methods import available
    board = {spec.key for spec in suites.suite_grid("digits", "paper", available())}
    assert len({spec.key for spec in suites.grid("digits", "paper")} - board) <= 40


def test_quick_profile_of_cifar10_trains_one_network():
    specs = suites.grid("cifar10", "quick")
    assert {spec.task for spec in specs} == {"cifar10-resnet20w8"}
    longer = [spec for spec in specs if spec.epochs != 6]  # ST-3 with four times the epochs against LRR, in figure 3; GSE's table 3
    found = [(spec.method, spec.sparsity, spec.epochs) for spec in longer]
    assert sorted(found) == [("gse_uniform", 0.98, 9), ("gse_uniform", 0.98, 12), *[("st3", 0.67232, 24)] * 3]


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


# ---- every script

@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name, suite", CASES)
def test_draws_from_rows(name, suite, tmp_path, capsys, no_files):
    for each in ("cifar10", "cifar100") if suite == "cifar10" else (suite,):
        fill(tmp_path, each, SCRIPTS[name].grid(each, "paper"))
    assert draw(name, "--suite", suite, "--results", tmp_path, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert f"suite {suite}, profile paper" in said and "Missing" not in said
    own = {(spec.task, spec.method, spec.sparsity): accuracy(spec) for spec in SCRIPTS[name].grid(suite, "paper") if spec.seed == 0}
    for line in drawn(tmp_path / "out" / suite / f"{name}.csv"):
        if line.get("source") == "measured" and "std" in line:
            mean = own.get((line["task"], line["method"], float(line["sparsity"])))
            assert mean is None or float(line["mean"]) == pytest.approx(mean + (line["seeds"] == "3") * 4 / 3, abs=1e-3)


@pytest.mark.parametrize("name, suite", [case for case in CASES if case[1] != "imagenet"])
def test_draws_a_part_and_says_so(name, suite, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *args, **kwargs: None)
    specs = [spec for spec in SCRIPTS[name].grid(suite, "paper") if spec.seed == 0]
    fill(tmp_path, suite, specs[len(specs) // 2:])
    assert draw(name, "--suite", suite, "--results", tmp_path, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "Missing: " in said and "Fewer than 3 seeds" in said


@pytest.mark.parametrize("name", SCRIPTS)
def test_nothing_at_all_is_one_line_with_the_command(name, tmp_path, capsys, monkeypatch):
    import published

    monkeypatch.setattr(published, "PUBLISHED", tmp_path / "none.csv")
    published.published.cache_clear()
    try:
        with pytest.raises(SystemExit) as stop:
            draw(name, "--results", tmp_path)
    finally:
        published.published.cache_clear()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert ("python -m benchmarks." if name in NEEDS_NO_RUNS else "bash run_all.sh") in error


# ---- published beside measured

def test_each_own_number_stands_beside_the_published_one(tmp_path, capsys, no_files):
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
    lines = [line for line in axes.lines if line.get_markersize() == 2.5 and line.get_marker() in tuple("osD^")]
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


def test_a_profile_without_runs_of_the_figure(tmp_path, capsys):
    fill(tmp_path, "cifar100", SCRIPTS["gse_figure2"].grid("cifar100", "paper"))
    with pytest.raises(SystemExit):
        draw("gse_figure2", "--suite", "cifar100", "--profile", "quick", "--results", tmp_path)
    assert "profile quick of suite cifar100 has no runs of this figure" in capsys.readouterr().err


@pytest.mark.parametrize("name, suite", [("figure1", "cifar10"), ("gse_table4", "digits")])
def test_a_figure_that_cannot_be_written_leaves_the_old_one_whole(name, suite, tmp_path, monkeypatch, capsys):
    words, figures = ("--suite", suite, "--results", tmp_path, "--out", tmp_path / "figures"), tmp_path / "figures"
    fill(tmp_path, suite, SCRIPTS[name].grid(suite, "paper"))
    draw(name, *words)
    before = contents(figures)
    fill(tmp_path, suite, SCRIPTS[name].grid(suite, "paper"), top1=50.0, top1_best_val=50.0)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit) as end:
        draw(name, *words)
    assert end.value.code == 2 and capsys.readouterr().err.count("\n") == 1 and contents(figures) == before
    monkeypatch.undo()
    draw(name, *words)
    assert contents(figures).keys() == before.keys() and all(text != before[path] for path, text in contents(figures).items())


def test_published_points_never_enter_a_mean(tmp_path, capsys, no_files):
    from drawing import runs_of, summary
    from published import hollow

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
    own, other = ([line for line in lines if (line.get_linestyle() == "None") == hollow] for hollow in (False, True))
    assert len(own) == len(other) == 5
    assert all(line.get_markerfacecolor() in ("none", "white") for line in other)
    assert not any(line.get_markerfacecolor() in ("none", "white") for line in own)
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


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    for part in ("reproduce", "benchmarks"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "results").mkdir()
    shutil.copy(ROOT / "results/published.csv", folder / "results")
    return folder


@pytest.mark.parametrize("name", SCRIPTS)
def test_bare_clone_finds_itself_and_loads_nothing_heavy(name, clone):
    code = (f"import sys; sys.path.insert(0, 'reproduce'); import {name}; print(sys.modules['benchmarks'].__file__, "
            "[heavy for heavy in ('torch', 'pandas', 'seaborn', 'numpy') if heavy in sys.modules])")
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=clone, capture_output=True, text=True)
    assert done.stdout.strip() == f"{clone / 'benchmarks/__init__.py'} []", done.stderr


def test_bare_clone_draws_without_torch(clone):
    code = ("import runpy, sys; sys.path.insert(0, 'reproduce'); sys.argv = ['figure4.py']\n"
            "try: runpy.run_path('reproduce/figure4.py', run_name='__main__')\n"
            "except SystemExit as end: print(end.code, 'torch' in sys.modules, sys.modules['benchmarks'].__file__)")
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=clone, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"0 False {clone / 'benchmarks/__init__.py'}", done.stdout + done.stderr
    assert (clone / "figures/imagenet/figure4.pdf").exists() and "No run of ours" in done.stdout


# ---- other tables

def test_figure_6_leaves_out_weights_that_switch_less_than_twice(tmp_path, no_files, capsys):
    fill(tmp_path, "digits", SCRIPTS["figure6"].grid("digits", "paper"))
    assert draw("figure6", "--suite", "digits", "--results", tmp_path, "--out", tmp_path) == 0
    lines = drawn(tmp_path / "digits/figure6.csv")
    assert {int(line["switches"]) for line in lines} == set(range(2, 30)) and {line["schedule"] for line in lines} == {"fixed", "cubic"}
    (tmp_path / "digits/switches.csv").unlink()
    with pytest.raises(SystemExit):
        draw("figure6", "--suite", "digits", "--results", tmp_path, "--out", tmp_path)
    assert "python -m benchmarks collect" in capsys.readouterr().err


def test_figure_6_is_a_mean_over_seeds(tmp_path, no_files):
    specs = list(SCRIPTS["figure6"].grid("cifar10", "paper"))
    fill(tmp_path, "cifar10", specs)
    draw("figure6", "--suite", "cifar10", "--results", tmp_path, "--out", tmp_path)
    lines = [line for line in drawn(tmp_path / "cifar10/figure6.csv") if (line["schedule"], line["group"], line["final_state"]) == ("cubic", "1", "zero")]
    weights = [float(line["weights"]) for line in lines if line["switches"] == "4"]
    assert len(weights) == len({spec.seed for spec in specs}) == 3 and sum(weights) == pytest.approx(100 // 5)


def test_the_speed_of_growth_is_that_of_the_machine_whose_steps_are_drawn(tmp_path, no_files):
    """Another has measured more of it."""
    from benchmarks import overhead, scaling
    from benchmarks.measurements import store
    folder, at = tmp_path / "performance", {"measured_at": "2026-01-01"}
    store([dict.fromkeys(overhead.COLUMNS, 1) | at | {"task": "cifar10-resnet20", "method": "dense", "device": "a"}], folder / "overhead.csv",
          overhead.COLUMNS, overhead.IDENTITY)
    store([dict.fromkeys(scaling.COLUMNS, 1) | at | {"part": part, "device": device, "x": x}
           for device, part, x in (("a", "cores", 1), ("a", "width", 1), ("b", "cores", 1), ("b", "width", 1), ("b", "width", 2), ("b", "host", 43))],
          folder / "scaling.csv", scaling.COLUMNS, scaling.IDENTITY)
    assert draw("speed", "--results", tmp_path, "--out", tmp_path / "out") == 0
    lines = drawn(tmp_path / "out/performance/speed.csv")
    assert {line["device"] for line in lines} == {"a"} and [line["part"] for line in lines] == ["", "cores", "width"]


def test_packs_are_those_of_a_gpu_in_seconds_of_the_recipes_length(tmp_path, capsys, no_files):
    from benchmarks import throughput
    from benchmarks.measurements import store

    def row(task, loop, runs, rate, device="a GPU", precision="bf16"):
        return dict.fromkeys(throughput.COLUMNS, 1) | dict(task=task, loop=loop, runs=runs, images_per_second=rate, device=device,
                                                           precision=precision, peak_memory_mb=100 + 100 * runs, measured_at="2026-01-01")

    def kept(*rows):
        store(list(rows), tmp_path / "performance/throughput.csv", throughput.COLUMNS, throughput.IDENTITY)
    kept(*(row("cifar10-resnet20", "suite", runs, 50, "a processor (1 thread)") for runs in range(1, 9)))
    with pytest.raises(SystemExit) as stop:
        draw("packs", "--results", tmp_path, "--out", tmp_path / "out")
    assert stop.value.code == 2 and "no GPU has measured the packs" in capsys.readouterr().err
    kept(row("cifar10-resnet20", "plain", 1, 10, precision="tf32"), row("cifar10-resnet20", "suite", 1, 1000),
         row("cifar10-resnet20", "suite", 8, 2000), row("cifar10-resnet20", "suite", 8, 3, precision="fp32"), row("cifar10-vgg16", "suite", 1, 1000))
    assert draw("packs", "--results", tmp_path, "--out", tmp_path / "out") == 0
    lines = [(line["task"], line["runs"], float(line["seconds"]), float(line["memory_mb"])) for line in drawn(tmp_path / "out/performance/packs.csv")]
    # GSE's VGG-16 trains on all 50,000 images, ST-3's network on 45,000
    assert lines == [("cifar10-resnet20", "1", 160 * 45, 200), ("cifar10-vgg16", "1", 200 * 50, 200), ("cifar10-resnet20", "8", 160 * 22.5, 112.5)]


@pytest.mark.parametrize("name", sorted(NEEDS_NO_RUNS - {"packs"}))  # these need a GPU
def test_run_measures_what_has_no_runs(name, tmp_path, monkeypatch, no_files):
    module = importlib.import_module(SCRIPTS[name].source.module)
    little = ["--widths", "0.0625", "--rounds", "1", "--device", "cpu"]
    small = {"figure2": ["--epochs", "4"], "gse_figure8": ["--units", "16", "--repeats", "2", "--device", "cpu"],
             "speed": ["--task", "digits", "--methods", "st3", "--rounds", "1", "--steps", "1", "--device", "cpu"],
             "sparse_figure1": ["--tasks", "digits-mlp", "--sparsities", "0.9", "--update-rounds", "0", *little],
             "sparse_figure2": ["--nnz", "500", "--methods", "rigl", "gse_uniform", *little]}.get(name, [])
    original = module.main
    monkeypatch.setattr(module, "main", lambda words: original([*words, *small]))
    assert draw(name, "--run", "--results", tmp_path, "--out", tmp_path / "out") == 0
    assert drawn(tmp_path / "out" / SCRIPTS[name].source.suite / f"{name}.csv")


def test_over_the_width_the_speed_of_st3_is_a_ratio_to_dense():
    from matplotlib.figure import Figure
    from pandas import DataFrame

    axes, times = Figure().subplots(), {("dense", 1): 100, ("st3", 1): 102, ("dense", 4): 1000, ("st3", 4): 1060}
    SCRIPTS["speed"].over_width(axes, DataFrame([(*key, time) for key, time in times.items()], columns=["method", "x", "value"]), ["b", "k"])
    x, y = axes.lines[0].get_data()
    assert list(x) == [1, 4] and list(y) == pytest.approx([1.02, 1.06])
    SCRIPTS["speed"].over_width(axes, DataFrame(columns=["method", "x", "value"]), ["b", "k"])  # not measured


def test_run_makes_the_missing_runs_alone(tmp_path, monkeypatch, no_files):
    from benchmarks import launch
    from benchmarks.results import Store
    from made_up import row

    grid, made = SCRIPTS["gse_figure2"].grid, []

    def pretend(specs, store, folder, jobs=None, **_):
        made.extend(specs)
        for spec in specs:
            store.write({**row(spec), "nnz": 1})
        return []

    monkeypatch.setattr(launch, "launch", pretend)
    specs = list(grid("digits", "paper"))
    for spec in specs[:5]:
        Store(tmp_path).write(row(spec))
    assert draw("gse_figure2", "--run", "--suite", "digits", "--results", tmp_path, "--out", tmp_path / "out") == 0
    assert [spec.key for spec in made] == [spec.key for spec in specs[5:]]
    assert draw("gse_figure2", "--run", "--suite", "digits", "--results", tmp_path, "--out", tmp_path / "out") == 0
    assert len(made) == len(specs) - 5


def test_all_figures_of_a_suite_in_one_command(tmp_path, capsys, no_files):
    import reproduce.__main__ as command

    fill(tmp_path, "digits", suites.grid("digits", "paper"))
    assert command.main(["digits", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    missing = {name for name in SCRIPTS if f"\n{name}: wrote" not in "\n" + said}
    assert missing == NEEDS_NO_RUNS | {"gse_table2"} and "figure2: skipped, there is no" in said and "gse_figure8: skipped" in said

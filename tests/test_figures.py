"""The scripts of `reproduce/`: every one on every suite, in a bare clone, where nothing can be drawn or written, with `--run`."""
import csv
import functools
import importlib
import os
import shutil
import subprocess
import sys

import pytest
from copies import ROOT, copy_packages
from made_up import accuracy, contents, fill, full

from benchmarks import suites
from benchmarks.tasks import canonical

SCRIPTS = suites.scripts()
NEEDS_NO_RUNS = {"figure2", "gse_figure4", "gse_figure8", "packs", "sparse_figure1", "sparse_figure2", "speed"}
CASES = [(name, suite) for name, script in SCRIPTS.items() for suite in suites.SUITES if list(script.grid(suite, "paper"))]


def draw(name, *words):
    """Runs a script's command in this process; returns its exit status."""
    from drawing import main
    from rows import runs_of

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

@pytest.mark.parametrize("suite", suites.SUITES)
@pytest.mark.parametrize("profile", suites.PROFILES)
def test_every_run_of_a_figure_is_named_as_the_commands_name_it(suite, profile):
    for name, script in SCRIPTS.items():
        assert not [spec for spec in script.grid(suite, profile) if canonical(spec) != spec], name


def test_figures_add_few_runs_to_the_miniature():
    from methods import available
    board = {spec.key for spec in suites.suite_grid("digits", "paper", available())}
    more = len({spec.key for spec in suites.grid("digits", "paper")} - board)
    assert more <= 40, f"{more} runs, which each `run_all.sh digits` makes: give a new arm of a figure fewer seeds, or raise this limit"


def test_quick_profile_of_cifar10_trains_one_network():
    specs = suites.grid("cifar10", "quick")
    assert {spec.task for spec in specs} == {"cifar10-resnet20w8"}
    longer = [spec for spec in specs if spec.epochs != 6]  # ST-3 with four times the epochs against LRR, in figure 3; GSE's table 3
    found = [(spec.method, spec.sparsity, spec.epochs) for spec in longer]
    assert sorted(found) == [("gse_uniform", 0.98, 9), ("gse_uniform", 0.98, 12), *[("st3", 0.67232, 24)] * 3]


# ---- every script

@pytest.mark.filterwarnings("error::UserWarning", "ignore::DeprecationWarning")  # pyparsing's are both, and old matplotlib calls it
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


@pytest.mark.parametrize("name, suite", {name: (name, suite) for name, suite in CASES if suite != "imagenet"}.values())  # one suite of each script
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
        assert draw(name, "--results", tmp_path) == 2
    finally:
        published.published.cache_clear()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("python -m benchmarks." if name in NEEDS_NO_RUNS else "bash run_all.sh") in error


@pytest.mark.parametrize("name", ["beyond", "figure4", "gse_table2"])
def test_whose_settings_published_points_have_is_said_beside_runs_too(name, tmp_path, capsys, no_files):
    words = ("--suite", "imagenet", "--results", tmp_path, "--out", tmp_path)
    for own in False, True:
        if own:
            specs = SCRIPTS[name].grid("imagenet", "paper")
            fill(tmp_path, "imagenet", specs)
        assert draw(name, *words) == 0
        said = capsys.readouterr().out
        assert "each in its authors' setting" in said and ("No run of ours" in said) != own


def test_a_profile_without_runs_of_the_figure(tmp_path, capsys):
    fill(tmp_path, "cifar100", SCRIPTS["gse_figure2"].grid("cifar100", "paper"))
    assert draw("gse_figure2", "--suite", "cifar100", "--profile", "quick", "--results", tmp_path) == 2
    assert "profile quick of suite cifar100 has no runs of this figure" in capsys.readouterr().err


@pytest.mark.parametrize("name, suite", [("figure1", "cifar10"), ("gse_table4", "digits")])
def test_a_figure_that_cannot_be_written_leaves_the_old_one_whole(name, suite, tmp_path, monkeypatch, capsys):
    words, figures = ("--suite", suite, "--results", tmp_path, "--out", tmp_path / "figures"), tmp_path / "figures"
    fill(tmp_path, suite, SCRIPTS[name].grid(suite, "paper"))
    draw(name, *words)
    before = contents(figures)
    fill(tmp_path, suite, SCRIPTS[name].grid(suite, "paper"), top1=50.0, top1_best_val=50.0)
    monkeypatch.setattr(os, "fsync", full)
    assert draw(name, *words) == 2 and capsys.readouterr().err.count("\n") == 1 and contents(figures) == before
    monkeypatch.undo()
    draw(name, *words)
    assert contents(figures).keys() == before.keys() and all(text != before[path] for path, text in contents(figures).items())


# ---- in a bare clone

@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    copy_packages(folder, "reproduce", "benchmarks")
    (folder / "results").mkdir()
    shutil.copy(ROOT / "results/published.csv", folder / "results")
    return folder


def test_bare_clone_finds_itself_and_loads_nothing_heavy(clone):
    """Each script, after which modules are forgotten: the next one finds them by itself, too."""
    code = (f"import importlib, sys; sys.path.insert(0, 'reproduce')\nfor name in {[*SCRIPTS]}:\n"
            "    before = {*sys.modules}; importlib.import_module(name)\n"
            "    print(name, sys.modules['benchmarks'].__file__, *{'torch', 'pandas', 'seaborn', 'numpy'} & {*sys.modules})\n"
            "    for new in {*sys.modules} - before: del sys.modules[new]")
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=clone, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{name} {clone / 'benchmarks/__init__.py'}" for name in SCRIPTS], done.stdout + done.stderr


def test_bare_clone_draws_without_torch(clone):
    code = ("import runpy, sys; sys.path.insert(0, 'reproduce'); sys.argv = ['figure4.py']\n"
            "try: runpy.run_path('reproduce/figure4.py', run_name='__main__')\n"
            "except SystemExit as end: print(end.code, 'torch' in sys.modules, sys.modules['benchmarks'].__file__)")
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=clone, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"0 False {clone / 'benchmarks/__init__.py'}", done.stdout + done.stderr
    assert (clone / "figures/imagenet/figure4.pdf").exists() and "No run of ours" in done.stdout


# ---- with --run, and all of them

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

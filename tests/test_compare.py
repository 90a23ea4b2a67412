"""reproduce/compare.py: chosen methods, one's own among them, from made-up rows in tmp_path and from the stored ones."""
import pandas as pd
import pytest
from made_up import accuracy, fill, keyed, row
from test_reproduce import ROOT, run_here

from benchmarks.grid import Grid, union
from benchmarks.records import RUN_COLUMNS, TABLES, write_table
from benchmarks.tasks import TASKS

OWN = f"{ROOT}/examples/my_method.py:MyMethod"  # below the folder that the script works in: examples/my_method.py:MyMethod
NAMES = ("dense", "st3", "gmp", "examples/my_method.py:MyMethod")


def specs(task="digits", methods=NAMES, sparsities=(0.9, 0.95, 0.98), seeds=3, epochs=30, **options):
    return Grid((task,), methods, sparsities, tuple(range(seeds)), epochs, TASKS[task].precision, options)


def store(folder, *grids):
    """Rows of digits, in the precision of the task."""
    fill(folder, "digits", list(union(*grids)), precision="fp32", cycles=1)


def drawn(folder, *words, name="compare", suite="digits"):
    """The table that was drawn."""
    done = run_here("compare.py", *words, "--suite", suite, "--out", folder / "figures")
    assert done.returncode == 0, done.stderr
    assert all((folder / "figures" / suite / f"{name}.{ending}").exists() for ending in ("png", "pdf"))
    return pd.read_csv(folder / "figures" / suite / f"{name}.csv")


def test_points_and_curves(tmp_path):
    store(tmp_path, specs(), specs(sparsities=(0.2,), methods=("st3",)))
    table = drawn(tmp_path, "st3", OWN, "--results", tmp_path)
    points, curves = table[table.epoch.isna()], table[table.epoch.notna()]
    assert {*points.method} == {"dense", "st3", NAMES[3]} and {*points.sparsity[points.method == "st3"]} == {0.9, 0.95, 0.98}
    for method in ("st3", NAMES[3]):
        found = points[(points.method == method) & (points.sparsity == 0.95)].iloc[0]
        assert found["mean"] == pytest.approx(sum(accuracy(spec) for spec in specs(methods=(method,), sparsities=(0.95,))) / 3, abs=1e-4)
    assert {*curves.sparsity[curves.method != "dense"]} == {0.98} and {*curves.epoch} == {1, 2, 3}  # as `fill` has them
    assert [*curves["mean"][curves.method == "st3"]] == [50, 51, 52] and {*curves.seeds} == {3}


def test_the_sparsity_of_the_curves_and_a_variant(tmp_path):
    store(tmp_path, specs(), specs(methods=("st3",), straight_through=False))
    variant = "st3 straight_through=False"
    table = drawn(tmp_path, "st3", variant, "--sparsity", "0.9", "--name", "mine", "--results", tmp_path, name="mine")
    curves = table[table.epoch.notna()].fillna({"options": ""})
    assert {*curves.options} == {"", "straight_through=False"} and {*curves.sparsity[curves.method != "dense"]} == {0.9}


def test_a_method_that_misses_its_sparsity_is_drawn_where_it_ends(tmp_path):
    """As str_original, which trains the same network whatever was asked for; of a run that diverged the sparsity of that time says nothing."""
    rows = [row(spec, precision="fp32", cycles=1, achieved_sparsity=spec.sparsity) for spec in specs()]
    for one in rows:
        if one["method"] == "st3":
            all_of_it = one["sparsity"] == 0.98
            one.update(achieved_sparsity=[0.86, 0.87, 0.1][one["seed"]], top1_best_val=[97.0, 98.0, 10.0][one["seed"]],
                       status="diverged" if one["seed"] == 2 or all_of_it else "ok")
    (tmp_path / "digits").mkdir()
    write_table(tmp_path / "digits/runs.csv", RUN_COLUMNS, rows)
    write_table(tmp_path / "digits/curves.csv", TABLES["curves"], [
        dict.fromkeys(TABLES["curves"], 0) | dict(key=one["key"], val_top1=50) for one in rows])
    done = run_here("compare.py", "st3", "gmp", "--results", tmp_path, "--out", tmp_path / "figures")
    assert "At the sparsity they end at, not the one asked for: st3." in " ".join(done.stdout.split())
    points = pd.read_csv(tmp_path / "figures/digits/compare.csv").query("epoch.isna()")
    found = points[points.method == "st3"]
    assert found[["sparsity", "mean", "seeds"]].values.tolist() == [[0.865, 68.3333, 3], [0.98, 10, 2]]  # seed 2 is the same training there, too
    assert sorted(points.sparsity[points.method == "gmp"]) == [0.9, 0.95, 0.98]


def test_a_network_of_zeros_has_a_place_too(tmp_path):
    fill(tmp_path, "digits", specs(methods=("st3", "gmp")), precision="fp32", cycles=1, achieved_sparsity=1.0)
    points = drawn(tmp_path, "st3", "--results", tmp_path).query("epoch.isna()")
    assert points.sparsity.tolist() == [0.99999]  # the axis is logarithmic in what is left


def test_of_a_file_launched_from_two_folders_the_later_rows_count_and_another_content_is_named(tmp_path):
    rows = [keyed(row(spec, precision="fp32", cycles=1, finished_at=f"2026-01-0{day}", method=name, top1_best_val=80 + day,
                      achieved_sparsity=spec.sparsity, code_version="a, my_method.py 0123456789"))
            for day, name in ((1, f"/elsewhere/../{OWN}"), (2, NAMES[3])) for spec in specs(methods=NAMES[3:], sparsities=(0.9,))]
    (tmp_path / "digits").mkdir()
    write_table(tmp_path / "digits/runs.csv", RUN_COLUMNS, rows)
    write_table(tmp_path / "digits/curves.csv", TABLES["curves"], [
        dict.fromkeys(TABLES["curves"], 0) | dict(key=one["key"], val_top1=50) for one in rows])
    done = run_here("compare.py", OWN, "--results", tmp_path, "--out", tmp_path / "figures")
    assert done.returncode == 0 and "rows made with another content of examples/my_method.py: 3;" in done.stderr, done.stderr
    points = pd.read_csv(tmp_path / "figures/digits/compare.csv").query("epoch.isna()")
    assert points[["mean", "seeds"]].values.tolist() == [[82, 3]]


@pytest.mark.parametrize("words, said", [
    (["st4"], "no finished runs of 'st4' in "), (["st3", "--epochs", "7"], " (there are some of 30 epochs in fp32: --epochs, --precision)"),
    (["dense"], "dense is drawn beside others; name one"), (["st3", "--sparsity", "0.5"], "no finished runs of these methods at sparsity 0.5; at 0.9, 0.95, 0.98"),
    ([], "arguments are required: METHOD"), (["st3", "--suite", "cifar10"], "make them with: bash run_all.sh cifar10 --results "), (["gmp", "--epochs", "7"], "'gmp'")])
def test_what_is_not_there(words, said, tmp_path):
    store(tmp_path, specs())
    done = run_here("compare.py", *words, "--results", tmp_path)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1 and not (tmp_path / "figures").exists()


FAILED = dict(status="failed", error="no", top1="", top1_best_val="", achieved_sparsity="")


def test_of_a_method_whose_runs_all_failed_that_is_said(tmp_path):
    rows = [row(spec, precision="fp32", cycles=1, top1_best_val=80, achieved_sparsity=spec.sparsity) for spec in specs(methods=("st3", "gmp"))]
    rows = [one | (FAILED if one["method"] == "gmp" else {}) for one in rows]
    (tmp_path / "digits").mkdir()
    write_table(tmp_path / "digits/runs.csv", RUN_COLUMNS, rows)
    done = run_here("compare.py", "st3", "gmp", "--results", tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and (
        f"no finished runs of 'gmp': {sum(one['method'] == 'gmp' for one in rows)} runs of it failed, and why says python -m benchmarks "
        f"status digits --methods gmp --results {tmp_path}") in done.stderr, done.stderr


def test_runs_of_one_profile_and_of_tasks_that_have_all(tmp_path):
    """Stored rows of CIFAR-10: VGG-16 of the paper's length has SET and GSE, ResNet-20 of width 8 has most rows."""
    table = drawn(tmp_path, "set", "gse_uniform", suite="cifar10")
    assert {*table.task} == {"cifar10-resnet20w8"}
    table = drawn(tmp_path, "set", "gse_uniform", "--profile", "paper", suite="cifar10")
    assert {*table.task} == {"cifar10-vgg16"} and table.epoch.max() == 200

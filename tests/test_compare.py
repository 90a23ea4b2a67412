"""reproduce/compare.py: chosen methods, one's own among them, from made-up rows in tmp_path and from the stored ones."""
import csv

import pandas as pd
import pytest
from made_up import accuracy, fill, keyed, row
from test_reproduce import ROOT, run_here

from benchmarks.grid import Grid, union
from benchmarks.records import RUN_COLUMNS, TABLES, write_table
from benchmarks.tasks import TASKS
from methods import available, get

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
    store(tmp_path, specs())
    table = drawn(tmp_path, "st3", OWN, "--results", tmp_path)
    points, curves = table[table.epoch.isna()], table[table.epoch.notna()]
    assert {*points.method} == {"dense", "st3", NAMES[3]} and {*points.sparsity[points.method == "st3"]} == {0.9, 0.95, 0.98}
    for method in ("st3", NAMES[3]):
        found = points[(points.method == method) & (points.sparsity == 0.95)].iloc[0]
        assert found["mean"] == pytest.approx(sum(accuracy(spec) for spec in specs(methods=(method,), sparsities=(0.95,))) / 3, abs=1e-4)
    assert {*curves.sparsity[curves.method != "dense"]} == {0.98} and {*curves.epoch} == {1, 2, 3}  # as `fill` has them
    assert [*curves["mean"][curves.method == "st3"]] == [50, 51, 52] and {*curves.seeds} == {3}
    layers = table[table.layer.notna()]
    assert {*layers.method} == {"st3", NAMES[3]} and {*layers.sparsity} == {0.98} and {*layers.seeds} == {3}
    assert layers.set_index(["method", "index", "layer"]).density.to_dict() == {  # as `fill` has them, of 180 and 640 weights
        (name, *layer): pytest.approx(density) for name in ("st3", NAMES[3]) for layer, density in (((1, "conv"), 10 / 180), ((2, "fc"), 10 / 640))}


def test_the_sparsity_of_the_curves_and_a_variant(tmp_path):
    store(tmp_path, specs(), specs(methods=("st3",), straight_through=False))
    variant = "st3 straight_through=False"
    table = drawn(tmp_path, "st3", variant, "--sparsity", "0.9", "--name", "mine", "--results", tmp_path, name="mine")
    curves = table[table.epoch.notna()].fillna({"options": ""})
    assert {*curves.options} == {"", "straight_through=False"} and {*curves.sparsity[curves.method != "dense"]} == {0.9}


@pytest.mark.parametrize("stored, words", [
    ({"ramp_power": "0.0"}, "gmp ramp_power=0"), ({"ramp_power": "0.0"}, "gmp  ramp_power=0e1"), ({"ramp_power": "0.0", "a": "True"}, "gmp ramp_power=.0 a=true"),
    ({"a": "b c", "z": "False"}, "gmp z=false a=b c"), ({"leak": "0.5", "ways": "2"}, f"{OWN} ways=2.0 leak=.50")])
def test_options_are_found_by_what_they_mean(stored, words, tmp_path):
    method = NAMES[3] if words.startswith(OWN) else "gmp"
    store(tmp_path, specs(methods=("dense", "st3", method), seeds=1), specs(methods=(method,), seeds=1, **stored))
    table = drawn(tmp_path, "st3", words, "--results", tmp_path)
    of_it = table[table.method == method]
    assert {*of_it.options} == {" ".join(f"{name}={value}" for name, value in sorted(stored.items()))} and {*table.method} == {"dense", "st3", method}
    assert {*of_it.sparsity} == {0.9, 0.95, 0.98} and "epoch" in table and of_it.epoch.notna().any()


def test_the_other_names_of_methods_are_theirs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "reproduce")
    from compare import ALIASES, asked

    assert ALIASES == {alias: name for name in available() for alias in vars(get(name)).get("aliases", ())}
    assert asked(["gse gamma=2", "ste_soft_rescale::soft"]) == {"gse_uniform gamma=2": "gse_uniform gamma=2", "st3": "soft"}
    assert asked(["st3::Dense", "gmp::GMP", "dense"]) == {"st3": "st3", "gmp": "GMP"}  # as dense is called, which is drawn beside them


def test_of_two_texts_of_one_meaning_that_are_stored_the_one_that_is_named_is_drawn(tmp_path):
    store(tmp_path, specs(seeds=1, methods=("dense", "gmp"), ramp_power="0.0"), specs(seeds=1, methods=("gmp",), ramp_power="0"))
    for text in ("0", "0.0"):
        table = drawn(tmp_path, f"gmp ramp_power={text}", "--results", tmp_path)
        assert {*pd.read_csv(tmp_path / "figures/digits/compare.csv", dtype=str).options.dropna()} == {f"ramp_power={text}"} and len(table)


def test_the_legend_and_the_table_to_paste_have_the_labels(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    pages = []
    store(tmp_path, specs(), specs(sparsities=(0.99,), seeds=1), specs(methods=("gmp",), sparsities=(0.9,), leak="0.5"))
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: pages.append(self))
    done = run_here("compare.py", "st3::ST-3, ours", OWN, "gmp leak=.5::GMP_x", "--results", tmp_path, "--out", tmp_path / "figures")
    assert done.returncode == 0 and done.stdout.rstrip().endswith(".pdf .png .csv .md .tex"), done.stderr
    assert [text.get_text() for text in pages[0].legends[0].get_texts()] == ["Dense", "ST-3, ours", "my_method.py:MyMethod", "GMP_x"]
    page, paper = ((tmp_path / f"figures/digits/compare.{ending}").read_text() for ending in ("md", "tex"))
    head, _, *lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    assert head == ["ResNet-8, digits", "0 %", "90 %", "95 %", "98 %", "99 %"]
    means = {spec.sparsity: accuracy(spec) for spec in specs(methods=("st3",), sparsities=(0.9, 0.95, 0.98, 0.99), seeds=1)}
    assert lines[1] == ["ST-3, ours", "–", *(f"{means[s] + 4 / 3:.1f} ± 1.5" for s in (0.9, 0.95, 0.98)), f"{means[0.99]:.1f}"]
    assert [line[0] for line in lines] == ["Dense", "ST-3, ours", r"my\_method.py:MyMethod", r"GMP\_x"] and lines[3][3:] == ["–"] * 3
    assert "Mean ± s.d. over 1 to 3 seeds; test accuracy" in page and "side by side" not in page + paper and r"GMP\_x & -- & " in paper


def test_labels_that_are_alike_give_way_to_the_names(tmp_path):
    store(tmp_path, specs(seeds=1), specs(seeds=1, methods=("gmp",), leak="0.5"))
    drawn(tmp_path, "gmp::GMP", "gmp leak=0.5::GMP", "st3", "--results", tmp_path)
    lines = (tmp_path / "figures/digits/compare.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")][2:] == ["| Dense", "| gmp", "| gmp leak=0.5", "| st3"]


def test_every_sparsity_of_methods_that_train_once_is_drawn_and_no_level_on_the_way_of_others(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: pages.append(self))
    rows = [row(spec, precision="fp32", cycles=cycles, achieved_sparsity=spec.sparsity) for methods, cycles, sparsities in (
        (("dense", "st3"), 1, (0.2, 0.9)), (("lrr",), 1, (0.0,)), (("lrr",), 2, (0.2,)), (("lrr",), 4, (0.9,)))
        for spec in specs(methods=methods, sparsities=sparsities, seeds=1)]
    (tmp_path / "digits").mkdir()
    write_table(tmp_path / "digits/runs.csv", RUN_COLUMNS, rows)
    write_table(tmp_path / "digits/curves.csv", TABLES["curves"], [dict.fromkeys(TABLES["curves"], 0) | dict(key=one["key"], val_top1=50) for one in rows])
    done = run_here("compare.py", "st3", "lrr::LRR", "--sparsity", "0.2", "--results", tmp_path, "--out", tmp_path)
    assert done.returncode == 0 and any("In up to 4 cycles: LRR." in text.get_text().replace("\n", " ") for text in pages[0].texts), done.stderr
    table = pd.read_csv(tmp_path / "digits/compare.csv")
    points, curves = table[table.epoch.isna()], table[table.epoch.notna()]
    assert sorted(zip(points.method, points.sparsity)) == [("dense", 0.0), ("lrr", 0.9), ("st3", 0.2), ("st3", 0.9)]
    assert {*zip(curves.method, curves.sparsity)} == {("dense", 0.0), ("st3", 0.2)}


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
    done = run_here("compare.py", "st3::ST", "gmp", "--results", tmp_path, "--out", tmp_path / "figures")
    assert "At the sparsity they end at, not the one asked for: ST." in (tmp_path / "figures/digits/compare.md").read_text()
    assert "At the sparsity they end at, not the one asked for: ST." in " ".join(done.stdout.split())
    points = pd.read_csv(tmp_path / "figures/digits/compare.csv").query("epoch.isna()")
    found = points[points.method == "st3"]
    assert found[["sparsity", "mean", "seeds"]].values.tolist() == [[0.865, 68.3333, 3], [0.98, 10, 2]]  # seed 2 is the same training there, too
    assert sorted(points.sparsity[points.method == "gmp"]) == [0.9, 0.95, 0.98]


def test_a_diverged_seed_of_a_method_that_ends_where_it_ends_is_drawn_once(tmp_path):
    """And one of a method that goes on to each sparsity, or to one near it, at each, though it has the same mask there."""
    ends = {"dst_mask": dict.fromkeys((0.9, 0.95, 0.98), 0.8), "gradual": {0.9: 0.85, 0.95: 0.9, 0.98: 0.93}, "lamp_oneshot": {}}
    rows = [row(spec, precision="fp32", cycles=1, **dict(achieved_sparsity=ends.get(spec.method, {}).get(spec.sparsity, spec.sparsity), top1_best_val=90.0)
                | (dict(status="diverged", top1="", top1_best_val="", achieved_sparsity=0.0) if spec.seed and spec.method in ends else {}))
            for spec in specs(methods=("dense", "st3", *ends), seeds=2)]
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, rows)
    write_table(tmp_path / "digits" / "curves.csv", TABLES["curves"], [
        dict.fromkeys(TABLES["curves"], 0) | dict(key=one["key"], val_top1=50) for one in rows])
    points = drawn(tmp_path, "st3", *ends, "--results", tmp_path)
    points = points[points.epoch.isna()].set_index(["method", "sparsity"])
    assert points.loc["lamp_oneshot"].index.tolist() == [0.9, 0.95, 0.98] and points.loc["dst_mask"].index.tolist() == [0.8]
    assert points.loc["gradual"].index.tolist() == [0.85, 0.9, 0.93]
    for method in ends:
        assert [*points.loc[method, "mean"]] == pytest.approx([50.0] * len(points.loc[method])) and {*points.loc[method].seeds} == {2}


def test_a_network_of_zeros_has_a_place_too(tmp_path):
    fill(tmp_path, "digits", specs(methods=("st3", "gmp")), precision="fp32", cycles=1, achieved_sparsity=1.0)
    points = drawn(tmp_path, "st3", "--results", tmp_path).query("epoch.isna() and layer.isna()")
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
    page = tmp_path / "figures/digits/compare.md"
    assert "contents" not in page.read_text()
    rows[-1]["code_version"] = "a, my_method.py 9876543210"
    write_table(tmp_path / "digits/runs.csv", RUN_COLUMNS, rows)
    done = run_here("compare.py", OWN, "--results", tmp_path, "--out", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    assert "method.py:MyMethod has runs of 2 contents of its file." in page.read_text()


def test_accuracy_against_training_flops(tmp_path):
    """Each length is a point, at the mean of its seeds' costs, in epochs of dense training; runs that diverged have none."""
    rows = [row(spec, precision="fp32", cycles=1, achieved_sparsity=spec.sparsity, train_flops_fraction=1 if spec.method == "dense" else share + spec.seed / 10,
                top1_best_val=80 + spec.seed + epochs / 10) | (dict(status="diverged", top1_best_val="", top1="") if (spec.method, epochs) == ("gmp", 20) else {})
            for epochs, share in ((10, 0.2), (20, 0.3)) for spec in specs(methods=NAMES[:3], epochs=epochs)]
    rows += [keyed(row(spec, precision="bf16", cycles=1, train_flops_fraction=0.5)) for spec in specs(methods=("st3",), epochs=40)]
    rows += [row(spec, precision="fp32", cycles=1) | FAILED for spec in specs(methods=("st3",), epochs=15)]
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, rows)
    done = run_here("compare.py", "gmp::GMP", "st3", "--costs", "--sparsity", "0.95", "--results", tmp_path, "--out", tmp_path / "figures")
    assert done.returncode == 0 and "compare_costs.pdf .png .csv .md .tex" in done.stdout, done.stderr
    table = pd.read_csv(tmp_path / "figures/digits/compare_costs.csv")
    assert {*table.sparsity[table.method != "dense"]} == {0.95} and not (tmp_path / "figures/digits/compare.csv").exists()
    found = {(each.method, each.epochs): (each.mean, each.dense_epochs, each.seeds) for each in table.itertuples()}
    assert found == {("dense", 10): (82, 10, 3), ("dense", 20): (83, 20, 3), ("st3", 10): (82, 3, 3), ("st3", 20): (83, 8, 3), ("gmp", 10): (82, 3, 3),
                     ("gmp", 20): (10, pytest.approx(float("nan"), nan_ok=True), 3)}
    page = (tmp_path / "figures/digits/compare_costs.md").read_text()
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert "Failed runs, not in the mean: 3." in page  # at this sparsity; their length is not the profile's
    assert lines[0] == ["ResNet-8, digits", "Epochs", "Training FLOPs (epochs of dense training)", "Test accuracy (%)"]
    assert [line[:3] for line in lines[2:]] == [["st3", "10", "3"], ["GMP", "10", "3"], ["st3", "20", "8"], ["Dense", "10", "10"], ["Dense", "20", "20"],
                                                ["GMP", "20", "–"]]


def test_a_line_joins_the_lengths_of_a_method(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: pages.append(self))
    rows = [row(spec, precision="fp32", cycles=1, achieved_sparsity=spec.sparsity, train_flops_fraction=0.1, top1_best_val=epochs)
            for epochs in (40, 10, 20) for options in ({}, {"ramp_power": "0.0"}) for spec in specs(methods=("gmp",), epochs=epochs, **options)]
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, rows)
    done = run_here("compare.py", "gmp", "gmp ramp_power=0::fixed", "--costs", "--results", tmp_path, "--out", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    axes = pages[0].axes[0]
    assert axes.get_title() == "ResNet-8, digits, 98 %" and {bars.get_label() for bars in axes.containers} == {"gmp", "fixed"}
    for bars in axes.containers:
        assert bars.lines[0].get_xydata().tolist() == [[1, 10], [2, 20], [4, 40]]


@pytest.mark.parametrize("words, said", [
    (["st3", "--costs", "--epochs", "7"], "error: --costs draws all lengths: no --epochs"),
    (["st4"], "no finished runs of 'st4' in "), ([":"], "no finished runs of ':' in "),
    (["gmp ramp_end=0.7"], "; make them with: python -m benchmarks launch digits --methods gmp --set ramp_end=0.7 "),
    (["nofile.py:X"], "no finished runs of 'nofile.py:X': there is no file nofile.py"),
    (["st3", "--epochs", "7"], " (there are some of 30 epochs in fp32: --epochs, --precision)"),
    (["st3 epochs=7"], "epochs is the same for all that are compared: --epochs"),
    (["st3 precision=bf16 ramp_end=0.7"], "precision is the same for all that are compared: --precision"),
    (["dense"], "dense is drawn beside others; name one"), (["st3", "--sparsity", "0.5"], "no finished runs of these methods at sparsity 0.5; at 0.9, 0.95, 0.98"),
    ([], "arguments are required: METHOD"), (["st3", "--suite", "cifar10"], "make them with: bash run_all.sh cifar10 --results "), (["gmp", "--epochs", "7"], "'gmp'")])
def test_what_is_not_there(words, said, tmp_path):
    store(tmp_path, specs())
    done = run_here("compare.py", *words, "--results", tmp_path)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1 and not (tmp_path / "figures").exists()


FAILED = dict(status="failed", error="no", top1="", top1_best_val="", achieved_sparsity="")


def test_failed_seeds_are_said_and_how_missing_runs_are_made(tmp_path):
    store(tmp_path, specs(methods=("dense", "st3", "gmp")))
    with open(tmp_path / "digits/runs.csv", newline="") as file:
        rows = [one | (FAILED if (one["seed"], one["method"]) == ("1", "gmp") else {}) for one in csv.DictReader(file)]
    write_table(tmp_path / "digits/runs.csv", RUN_COLUMNS, rows)
    for words, failed in ((["st3", "gmp"], True), (["st3"], False)):
        done = run_here("compare.py", *words, "--results", tmp_path, "--out", tmp_path / "figures")
        said = (tmp_path / "figures/digits/compare.md").read_text(encoding="utf-8")
        assert done.returncode == 0 and ("Failed runs, not in the mean: 3." in said) == failed, (said, done.stderr)
    done = run_here("compare.py", "st3", OWN, "--results", tmp_path)
    assert f"make them with: python -m benchmarks launch digits --methods {NAMES[3]} --results {tmp_path}\n" in done.stderr, done.stderr


def test_of_a_method_whose_runs_all_failed_that_is_said(tmp_path):
    rows = [row(spec, precision="fp32", cycles=1, top1_best_val=80, achieved_sparsity=spec.sparsity) for spec in specs(methods=("st3", "gmp"))]
    rows = [one | (FAILED if one["method"] == "gmp" else {}) for one in rows]
    (tmp_path / "digits").mkdir()
    write_table(tmp_path / "digits/runs.csv", RUN_COLUMNS, rows)
    done = run_here("compare.py", "st3", "gmp", "--results", tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and (
        f"no finished runs of 'gmp': {sum(one['method'] == 'gmp' for one in rows)} runs of it failed, and why says python -m benchmarks "
        f"status digits --methods gmp --results {tmp_path}") in done.stderr, done.stderr
    variants = specs(methods=("gmp",), a="1.0", b="c d")
    rows = [one for one in rows if one["method"] != "gmp"] + [row(spec, precision="fp32", cycles=1) | FAILED for spec in variants]
    write_table(tmp_path / "digits/runs.csv", RUN_COLUMNS, rows)
    done = run_here("compare.py", "st3", "gmp b=c d a=1", "--results", tmp_path)
    assert f"status digits --methods gmp --set a=1.0 --set 'b=c d' --results {tmp_path}" in done.stderr, done.stderr


def test_runs_of_one_profile_and_of_tasks_that_have_all(tmp_path):
    """Stored rows of CIFAR-10: VGG-16 of the paper's length has SET and GSE, ResNet-20 of width 8 has most rows."""
    table = drawn(tmp_path, "set", "gse_uniform", suite="cifar10")
    assert {*table.task} == {"cifar10-resnet20w8"}
    table = drawn(tmp_path, "set", "gse_uniform", "--profile", "paper", suite="cifar10")
    assert {*table.task} == {"cifar10-vgg16"} and table.epoch.max() == 200

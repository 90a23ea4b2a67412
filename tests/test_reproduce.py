"""The figures drawn from the rows of their grids. Rows here are made up, in tmp_path only."""
import contextlib
import csv
import io
import os
import re
import runpy
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from benchmarks import suites
from benchmarks.grid import Spec
from benchmarks.records import RUN_COLUMNS

ROOT = Path(__file__).resolve().parent.parent
SHIFT = {0: -1.0, 1: 0.0, 2: 2.0}  # of seeds 0, 1, 2


def figure(name):
    return suites.scripts()[name]


def accuracy(spec):
    return 90 - 10 * spec.sparsity + SHIFT[spec.seed]


def row(spec, **changes):
    """A finished row, whose last epoch is 5 points below the best validation epoch."""
    return {"key": spec.key, "task": spec.task, "dataset": spec.task.partition("-")[0], "method": spec.method, "sparsity": spec.sparsity,
            "options": spec.option_text, "seed": spec.seed, "epochs": spec.epochs or 160, "precision": spec.precision or "",
            "status": "ok", "top1": accuracy(spec) - 5, "top1_best_val": accuracy(spec), **changes}


def store(folder, suite, rows):
    (folder / suite).mkdir(parents=True, exist_ok=True)
    with open(folder / suite / "runs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, RUN_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def run(*words, hash_seed="0"):
    """Runs a drawing command as a user does, in the repository root."""
    env = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True)


def run_here(script, *words):
    """The same of a script of reproduce/ in this process, which has the libraries already."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", [script, *map(str, words)])
        patch.chdir(ROOT)
        patch.syspath_prepend(ROOT / "reproduce")
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / "reproduce" / script), run_name="__main__")
    return SimpleNamespace(returncode=end.value.code, stdout=out.getvalue(), stderr=err.getvalue())


def drawn(path):
    with open(path) as file:
        return {(line["method"], float(line["sparsity"])): line for line in csv.DictReader(file)}


def note_of(name, suite, results, profile=None):
    from notes import note
    from rows import runs_of

    runs, taken = runs_of(figure(name).grid, suite, results, profile)
    return note(runs), taken


def test_figure_has_the_right_numbers_and_the_same_bytes_again(tmp_path):
    store(tmp_path, "cifar10", [row(spec) for spec in suites.grid("cifar10", "paper")])
    for out, hash_seed in (("a", "1"), ("b", "2")):
        done = run("reproduce/figure5.py", "--results", tmp_path, "--out", tmp_path / out, hash_seed=hash_seed)
        assert done.returncode == 0, done.stderr
        for word in ("suite cifar10, profile paper", "best validation epoch", "ste_hard_rescale"):
            assert word in done.stdout
    for kind in ("pdf", "png", "csv"):
        one, other = ((tmp_path / out / "cifar10" / f"figure5.{kind}").read_bytes() for out in "ab")
        assert one == other and one
    table = drawn(tmp_path / "a/cifar10/figure5.csv")
    assert len(table) == 1 + 4 * 5
    point = table["st3", 0.98]
    assert float(point["mean"]) == pytest.approx(90 - 9.8 + 1 / 3, abs=1e-4)
    assert float(point["std"]) == pytest.approx(statistics.stdev(SHIFT.values()), abs=1e-4)  # n - 1
    assert point["seeds"] == "3" and point["epochs"] == "160"


def test_lines_have_their_means_and_deviations_and_dense_is_a_line_across(tmp_path):
    script = figure("figure1")
    from marks import accuracy_lines
    from matplotlib.figure import Figure
    from rows import runs_of

    store(tmp_path, "digits", [row(spec, epochs=30) for spec in script.grid("digits", "paper")])
    runs, _ = runs_of(script.grid, "digits", tmp_path)
    axes = Figure().subplots()
    accuracy_lines(axes, runs, script.METHODS)
    deviation = statistics.stdev(SHIFT.values())
    assert len(axes.containers) == 2
    for line, _, (bars,) in (container.lines for container in axes.containers):
        assert list(line.get_ydata()) == pytest.approx([90 - 10 * s + 1 / 3 for s in (0.9, 0.95, 0.98)], abs=1e-3)
        assert [high - low for (_, low), (_, high) in bars.get_segments()] == pytest.approx([2 * deviation] * 3, abs=1e-3)
    dense, = (line for line in axes.lines if line.get_label() == "Dense")
    assert list(dense.get_ydata()) == pytest.approx([90 + 1 / 3] * 2, abs=1e-3)


def test_last_epoch_where_there_was_no_validation(tmp_path):
    rows = [row(spec, top1_best_val="") for spec in suites.grid("digits", "paper")]
    store(tmp_path, "digits", [dict(rows[0], status="diverged", top1=""), *rows[1:]])
    text, _ = note_of("figure1", "digits", tmp_path)
    assert "at the last epoch" in text
    assert run_here("figure1.py", "--results", tmp_path, "--out", tmp_path).returncode == 0  # digits, as cifar10 has no rows
    assert float(drawn(tmp_path / "digits/figure1.csv")["ste_soft", 0.9]["mean"]) == pytest.approx(90 - 9 + 1 / 3 - 5, abs=1e-4)


def test_collapsed_seed_is_in_the_mean(tmp_path):
    specs = list(figure("figure1").grid("cifar10", "paper"))
    fallen = next(spec for spec in specs if (spec.method, spec.sparsity, spec.seed) == ("ste_hard", 0.99, 2))
    store(tmp_path, "cifar10", [row(s, status="diverged", top1="", top1_best_val="") if s == fallen else row(s) for s in specs])
    from rows import runs_of, summary

    table = summary(runs_of(figure("figure1").grid, "cifar10", tmp_path)[0]).set_index(["method", "sparsity"])
    assert table.loc[("ste_hard", 0.99), "mean"] == pytest.approx((80.1 - 1 + 80.1 + 10) / 3, abs=1e-4)
    assert table.loc[("ste_hard", 0.99), "seeds"] == 3
    text, _ = note_of("figure1", "cifar10", tmp_path)
    assert "Diverged runs in the mean: 1." in text and "validation epoch" in text and "last epoch" not in text


@pytest.mark.parametrize("options, said", [({"ramp_power": 2}, "ramp_power=2 is stored as ramp_power=2.0: write that"),
                                           ({"straight_through": True}, "straight_through=True is the default: leave it out")])
def test_runs_that_would_be_stored_under_another_name_are_not_made(options, said, tmp_path, capsys):
    figure("figure1")  # whose folder is on the path then
    from drawing import main

    def grid(suite, profile):
        return [Spec("digits", "st3", 0.9, 0, options=options)] * (suite == "digits")
    assert main("my_figure", grid, None, ["--run", "--results", str(tmp_path), "--epochs", "1"]) == 2
    assert capsys.readouterr().err == f"error: {said}\n" and not list(tmp_path.rglob("*.json"))


def test_profiles_are_never_mixed(tmp_path):
    paper, quick = (list(figure("figure1").grid("cifar10", profile)) for profile in suites.PROFILES)
    store(tmp_path, "cifar10", [row(spec) for spec in quick])
    text, profile = note_of("figure1", "cifar10", tmp_path)
    assert profile == "quick" and "Reduced runs: 6 of 160 epochs." in text
    store(tmp_path, "cifar10", [row(spec) for spec in quick + paper[:1]])
    text, profile = note_of("figure1", "cifar10", tmp_path, "paper")
    assert profile == "paper" and "Missing: 32 of 33 runs" in text and "Reduced" not in text
    for more, expected in ((len(quick) - 1, "quick"), (len(quick), "paper")):  # the one with more finished runs, paper if as many
        store(tmp_path, "cifar10", [row(spec) for spec in quick + paper[:more]] + [row(paper[-1], status="failed", top1="", top1_best_val="")])
        text, profile = note_of("figure1", "cifar10", tmp_path)
        assert profile == expected and ("Reduced runs" in text) == (profile == "quick")
    assert f"Missing: {33 - len(quick)} of 33 runs (1 failed; all of ste_soft at 98, 99 %)" in text
    assert note_of("figure1", "cifar10", tmp_path, "quick")[1] == "quick"


def test_stored_runs_of_more_seeds_are_drawn_and_none_is_missed(tmp_path):
    """What a figure needs is its grid's; whoever made more seeds of the same runs sees them."""
    own = Spec("digits", "st3", 0.9, 0)
    others = [replace(own, seed=1), replace(own, seed=2), replace(own, seed=1, sparsity=0.8), replace(own, seed=1, options={"gamma": 2})]
    store(tmp_path, "digits", [row(own), row(others[0], top1_best_val=90.0), row(others[1], status="failed"), *map(row, others[2:])])
    figure("figure1")  # whose folder is on the path then
    from notes import note
    from rows import runs_of

    runs, _ = runs_of(lambda suite, profile: [own] if profile == "paper" else (), "digits", tmp_path)
    assert list(runs.seed) == [0, 1] and set(runs.key) == {own.key, others[0].key} and list(runs.accuracy)[1] == 90
    assert "Missing" not in note(runs)


def test_a_task_without_runs_is_named_and_its_runs_are_not_counted(tmp_path):
    script = figure("figure4")
    from notes import note
    from rows import runs_of

    store(tmp_path, "cifar10", [row(spec) for spec in script.grid("cifar10", "quick") if spec.method != "gmp"])
    text = note(runs_of(script.grid, "cifar10", tmp_path)[0])
    assert re.search(r"Missing: \d+ of 75 runs \(all of gmp\)\. No runs of WRN-34x2, CIFAR-100\.", text)


def test_sparsities_that_only_cycles_reach_have_ticks(tmp_path):
    from matplotlib.figure import Figure

    script = figure("figure3")
    from rows import runs_of

    store(tmp_path, "cifar10", [row(spec) for spec in script.grid("cifar10", "quick") if spec.method in ("lrr", "st3")])
    drawing = Figure()
    script.draw(runs_of(script.grid, "cifar10", tmp_path)[0], drawing)
    names = [label.get_text() for label in drawing.axes[0].get_xticklabels()]
    assert sorted(names) == ["70", "80", "90", "95", "98"]


def test_curves_of_a_run_are_whole_whatever_its_sparsity_was_then(tmp_path):
    """A run at 98 % passes lower sparsities on its way; what ended badly has no lines."""
    done, failed = Spec("digits", "st3", 0.98, 0), Spec("digits", "st3", 0.98, 1)
    store(tmp_path, "digits", [row(done), row(failed, status="failed")])
    figure("figure1")  # whose folder is on the path then
    from rows import lines_of, runs_of

    from benchmarks.records import TABLES, write_table
    curves = [dict.fromkeys(TABLES["curves"], 1) | dict(key=spec.key, epoch=epoch, sparsity=sparsity, val_top1=50 + epoch)
              for spec in (done, failed) for epoch, sparsity in enumerate((0.0, 0.6, 0.98))]
    write_table(tmp_path / "digits" / "curves.csv", TABLES["curves"], curves)
    runs, _ = runs_of(lambda suite, profile: [done, failed] if profile == "paper" else (), "digits", tmp_path)
    lines = lines_of(runs, "curves")
    assert list(lines.epoch) == [0, 1, 2] and list(lines.val_top1) == [50, 51, 52] and set(lines.seed) == {0}
    assert list(lines.sparsity) == [0.98] * 3 and list(lines.sparsity_then) == [0.0, 0.6, 0.98] and runs.attrs["out"] == ""


def test_times_are_of_the_machine_that_measured_most_and_of_two_such_the_last():
    figure("figure1")  # whose folder is on the path then
    from rows import of_one_machine

    days = ["2026-01-02", "2026-01-01", "2026-01-01", "2026-01-03", "2026-01-04"]
    measured = pd.DataFrame({"device": list("aabbc"), "measured_at": days})
    assert set(of_one_machine(measured).device) == {"b"} and set(of_one_machine(measured[:3]).device) == {"a"}
    assert set(of_one_machine(measured.assign(measured_at=days[::-1])).device) == {"a"}

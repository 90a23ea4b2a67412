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


def test_note_says_what_is_missing_or_failed(tmp_path):
    specs = list(figure("figure1").grid("cifar10", "paper"))
    rows = [row(spec) for spec in specs if (spec.method, spec.sparsity) != ("ste_soft", 0.95) or spec.seed == 0]  # without two
    rows[0].update(status="failed", top1="", top1_best_val="")
    store(tmp_path, "cifar10", rows)
    text, _ = note_of("figure1", "cifar10", tmp_path)
    assert "Missing: 3 of 33 runs (1 failed)." in text and "Fewer than 3 seeds: 2 of 11 points." in text and "Reduced" not in text


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


def test_a_figure_that_leaves_out_diverged_runs_says_so(tmp_path):
    specs = list(figure("figure6").grid("digits", "paper"))
    store(tmp_path, "digits", [row(specs[0], status="diverged", top1="", top1_best_val=""), *map(row, specs[1:])])
    from notes import noted
    from rows import runs_of

    assert "Diverged runs left out: 1." in noted(runs_of(figure("figure6").grid, "digits", tmp_path)[0], figure("figure6").draw)


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


def test_the_note_says_at_which_sparsities_a_method_has_no_run():
    from notes import absent

    there = {("st3", 0.9): 90, ("st3", 0.98): None, ("gmp", 0.9): None, ("gmp", 0.98): 80, ("str", 0.9): 90, ("str", 0.98): None,
             ("dnw", 0.9): None, ("dnw", 0.98): None, ("set", 0.9): 90, ("set", 0.98): 80}
    runs = pd.DataFrame([dict(method=method, options="", sparsity=s, accuracy=mean) for (method, s), mean in there.items()])
    runs = runs.astype({"accuracy": float})
    seed = runs.assign(accuracy=float("nan"))  # a second one, which has no run
    assert absent(pd.concat([runs, seed]), {"st3": "ST-3", "dnw": "DNW, all"}) == [
        "all of ST-3, str at 98 %", "all of gmp at 90 %", 'all of "DNW, all"']
    assert absent(runs[runs.method == "set"], {}) == []
    own = runs[runs.method == "set"].assign(options="allocation=uniform storage=sparse", accuracy=[90.0, float("nan")])  # a series that a figure names
    assert absent(pd.concat([runs, own]), {"set": "SET", "set allocation=uniform": "SET, uniform"})[0] == 'all of st3, str, "SET, uniform" at 98 %'
    assert absent(pd.concat([runs, own]), {"set": "SET"})[0] == 'all of st3, str, SET (allocation=uniform) at 98 %'
    many = pd.DataFrame(dict(method=[*"abcdefgh"], options="", sparsity=0.9, accuracy=float("nan")))
    assert absent(many, {}) == ["all of a, b, c, d, e, f and 2 more"]


def test_the_note_names_the_task_on_which_a_series_misses_its_sparsity():
    from notes import missed

    runs = pd.DataFrame([dict(task=task, method="set", options="allocation=uniform", sparsity=0.9, achieved_sparsity=ends, status="ok")
                         for task, ends in (("cifar10-vit", 0.902), ("cifar10-vgg16", 0.9))])
    labels = {"set allocation=uniform": "SET, uniform"}
    assert missed(runs, labels) == " Not at the sparsity asked for: SET, uniform on ViT, CIFAR-10 at 90 % (ends at 90.2 %)."
    assert missed(runs[:1], labels) == " Not at the sparsity asked for: SET, uniform at 90 % (ends at 90.2 %)."


def test_no_line_of_a_note_is_wider_than_the_figure(tmp_path):
    """However many capitals it has; lines of few are as long as ever."""
    from drawing import styled, write_figure
    from matplotlib.figure import Figure

    for word in ("WWWW MMMM", "a few words of a note that is long enough for lines", "$x$ MMMM $y$"):
        with styled():
            figure = Figure(figsize=(3.4, 2.8), layout="constrained", dpi=300)
            write_figure(figure, tmp_path / "note", " ".join([word] * 20))
            lines = figure._supxlabel.get_text().splitlines()
            assert figure._supxlabel.get_window_extent().x1 <= figure.bbox.x1 and max(map(len, lines)) <= 81
            assert max(map(len, lines)) > 70 or word[0] != "a"


def test_what_all_runs_have_in_common_is_said():
    figure("figure1")  # whose folder is on the path then
    from notes import in_common
    from pandas import DataFrame

    def said(*points):
        return in_common(DataFrame(points, columns=["sparsity", "options"]))
    assert said((0.0, ""), (0.98, ""), (0.98, "gamma=2")) == " 98 % sparsity." and said((0.9, ""), (0.98, "")) == ""
    assert said((0.98, ""), (0.995, "width=2.0")) == " 98 % sparsity at width 1."
    assert said((0.9, "count_switches=True ramp_power=0.0"), (0.9, "count_switches=True")) == " 90 % sparsity."
    assert said((0.9, "lr=1 gamma=2"), (0.8, "lr=1")) == " With lr=1."


def test_sparsities_that_only_cycles_reach_have_ticks(tmp_path):
    from matplotlib.figure import Figure

    script = figure("figure3")
    from rows import runs_of

    store(tmp_path, "cifar10", [row(spec) for spec in script.grid("cifar10", "quick") if spec.method in ("lrr", "st3")])
    drawing = Figure()
    script.draw(runs_of(script.grid, "cifar10", tmp_path)[0], drawing)
    names = [label.get_text() for label in drawing.axes[0].get_xticklabels()]
    assert sorted(names) == ["70", "80", "90", "95", "98"]


def test_the_note_is_on_the_figure(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    script = figure("figure1")  # whose folder is on the path then
    from drawing import save
    from rows import runs_of

    store(tmp_path, "digits", [row(spec) for spec in suites.grid("digits", "quick") if spec.method != "dense"])
    runs, _ = runs_of(script.grid, "digits", tmp_path)
    pages = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: pages.append(self))
    save("figure1", script.draw, runs, "digits", tmp_path)
    text = " ".join(text.get_text() for text in pages[0].texts).replace("\n", " ")
    assert "Missing: 3 of 21 runs (all of Dense)." in text and "Reduced runs: 10 of 30 epochs." in text and "Miniature" in text


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


def test_the_note_says_which_runs_have_no_curve_to_the_end(tmp_path):
    specs = [Spec("digits", "st3", 0.98, seed) for seed in range(3)]
    store(tmp_path, "digits", [row(spec, status=status) for spec, status in zip(specs, ("ok", "ok", "diverged"))])
    figure("figure1")  # whose folder is on the path then
    from notes import note
    from rows import lines_of, runs_of

    from benchmarks.records import TABLES, write_table
    write_table(tmp_path / "digits" / "curves.csv", TABLES["curves"], [
        dict.fromkeys(TABLES["curves"], 1) | dict(key=specs[seed].key, epoch=epoch) for seed, epochs in ((0, 3), (2, 1)) for epoch in range(epochs)])
    runs, _ = runs_of(lambda suite, profile: specs if profile == "paper" else (), "digits", tmp_path)
    assert len(lines_of(runs, "curves")) == 4
    assert note(runs).endswith(" curves.csv lacks 1 of these runs. A run that diverged is in the means until it did.")


def test_times_are_of_the_machine_that_measured_most_and_of_two_such_the_last():
    figure("figure1")  # whose folder is on the path then
    from rows import of_one_machine

    days = ["2026-01-02", "2026-01-01", "2026-01-01", "2026-01-03", "2026-01-04"]
    measured = pd.DataFrame({"device": list("aabbc"), "measured_at": days})
    assert set(of_one_machine(measured).device) == {"b"} and set(of_one_machine(measured[:3]).device) == {"a"}
    assert set(of_one_machine(measured.assign(measured_at=days[::-1])).device) == {"a"}


def test_a_note_names_methods_as_the_legend_does():
    from notes import note

    runs = pd.DataFrame([dict(task="digits", method=method, options="", sparsity=0.9, seed=0, accuracy=90.0 if method != "str" else None, epochs=30,
                           cycles=cycles, precision="fp32", status="ok", last=False) for method, cycles in (("imp", 19), ("gmp", 1), ("str", 1))])
    text = note(runs, labels={"imp": "Lottery", "str": "STR"})
    assert "In up to 19 cycles: Lottery." in text and "(all of STR)" in text.replace("1 ok; ", "") and text.startswith("Mean over one seed;")


def test_a_note_names_runs_that_end_at_another_sparsity(tmp_path):
    dense = {("gradual", 0.98): 0.0, ("set", 0.9): 0.9 + 0.0014}  # within 1.5 % of the density
    store(tmp_path, "cifar10", [row(spec, achieved_sparsity=dense.get((spec.method, spec.sparsity), spec.sparsity))
                                for spec in figure("gse_table1").grid("cifar10", "paper")])
    done = run("reproduce/gse_table1.py", "--results", tmp_path, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    said = "Not at the sparsity asked for: Gradual at 98 % (ends at 0 %)."
    assert said in done.stdout and said in (tmp_path / "cifar10/gse_table1.md").read_text()

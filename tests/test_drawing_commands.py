"""The commands that draw: what they refuse in one line, where they write, all figures of a suite at once. Rows are made up, in tmp_path only."""
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys

import made_up
import pytest
from test_reproduce import ROOT, figure, row, run_here, store

from benchmarks import __main__ as commands
from benchmarks import suites
from benchmarks.results import Store

patched = pytest.mark.skipif(sys.platform != "linux", reason="only a fork takes the patched figure along")


def test_figures_refuse_what_the_commands_refuse(tmp_path):
    """Two rows of one run, what a merge left, a number that none is: nothing is drawn of them, and nothing judged."""
    specs = list(figure("figure1").grid("digits", "paper"))
    path = tmp_path / "digits" / "runs.csv"
    store(tmp_path, "digits", [row(spec) for spec in specs])
    whole = path.read_text()
    twice = whole + whole.splitlines()[-1] + "\n"
    merged = whole.replace("\n", "\n<<<<<<< HEAD\n", 1)
    for text, said in ((twice, "is in row"), (merged, "row 2: git has left the marks of a merge"), (whole.replace(",digits,", ",digits", 1), "row 2")):
        path.write_text(text)
        for script in ("figure1.py", "report.py"):
            done = run_here(script, "--results", tmp_path)
            assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"{path}, row" in done.stderr and said in done.stderr, done.stderr
    assert not (tmp_path / "REPORT.md").exists() and not (tmp_path / "figures").exists()


@pytest.mark.parametrize("script, table, column", [("figure6.py", "switches", "weights"), ("report.py", "switches", "switches"),
                                                   ("gse_figure6.py", "curves", "test_top1"), ("gse_figure9.py", "layers", "nnz")])
def test_damaged_lines_of_runs_are_refused_too(tmp_path, capsys, script, table, column):
    """A table that ends in the middle of a line, text where a number belongs: one line, from who draws as from who collects."""
    name = script.removesuffix(".py").replace("report", "figure6")
    made_up.fill(tmp_path, "digits", figure(name).grid("digits", "paper"), precision="fp32")
    path, words = tmp_path / f"digits/{table}.csv", ["--suite", "digits"] * (script != "report.py")
    head, first, *rest = path.read_text().splitlines()
    assert run_here(script, *words, "--results", tmp_path).returncode == 0
    cells = first.split(",")
    cells[head.split(",").index(column)] = "many"
    for lines, said in (([head, first, *rest[:2], rest[2].rpartition(",")[0]], "row 5: it has more or fewer cells than columns"),
                        ([head, ",".join(cells), *rest], f"row 2: {column} is 'many', not a number")):
        path.write_text("\n".join(lines))
        done = run_here(script, *words, "--results", tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and f"{path}, {said}" in done.stderr, done.stderr
        assert commands.main(["collect", "digits", "--results", str(tmp_path)]) == 2 and said in capsys.readouterr().err


def test_figures_of_other_results_lie_beside_them(tmp_path, monkeypatch):
    """They draw over none of the repository's."""
    store(tmp_path, "digits", [row(spec) for spec in figure("figure1").grid("digits", "paper")])
    assert run_here("figure1.py", "--results", tmp_path).returncode == 0
    assert sorted(path.name for path in (tmp_path / "figures" / "digits").iterdir()) == ["figure1.csv", "figure1.pdf", "figure1.png"]


def test_folders_below_the_home_folder(tmp_path, monkeypatch):
    """A shell leaves the ~ of --results=~/rows to the command, and one of nobody as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    store(tmp_path / "rows", "digits", [row(spec) for spec in figure("figure1").grid("digits", "paper")])
    for words, folder in (((), "rows/figures"), (("--out=~/out",), "out")):
        done = run_here("figure1.py", "--results=~/rows", *words)
        assert done.returncode == 0 and (tmp_path / folder / "digits/figure1.pdf").exists(), done.stderr
    assert run_here("report.py", "--results=~/rows").returncode == 0 and (tmp_path / "rows/REPORT.md").exists()


@pytest.mark.parametrize("script", ["figure1.py", "leaderboard.py", "compare.py"])
@pytest.mark.parametrize("words, said", [(("--results", "~nobody-here/x"), "--results ~nobody-here/x begins with a home"),
                                         (("--out", "~nobody-here/x"), "--out ~nobody-here/x begins with a home"),
                                         (("--out", ""), "--out has no name")])
def test_folders_that_are_none(script, words, said):
    done = run_here(script, *["st3"] * (script == "compare.py"), "--suite", "digits", *words)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and said in done.stderr, done.stderr


@pytest.mark.parametrize("words, said", [
    (("--results", "{tmp}"), "bash run_all.sh digits --results {tmp}\n"),
    (("--results", "{tmp}", "--suite", "cifar10"), "bash run_all.sh cifar10 --results {tmp}\n"),
    (("--results", "{tmp}", "--suite", "digits", "--profile", "quick"), "bash run_all.sh digits --profile quick --results {tmp}\n"),
    (("--results", "{tmp}/nowhere"), "there is no results folder {tmp}/nowhere; make it with: bash run_all.sh digits --results {tmp}/nowhere\n"), (("--suite", "mnist"), "--suite"),
    (("--suite", "imagenet"), "--suite"),
    (("--results", "{tmp}/bad", "--suite", "digits"), "lacks the columns achieved_sparsity, "),
])
def test_nothing_to_draw_is_one_line_and_status_2(tmp_path, capsys, words, said):
    store(tmp_path / "bad", "digits", [])
    (tmp_path / "bad/digits/runs.csv").write_text("a,b\n1,2\n")
    script = figure("figure5")  # which finds drawing.py
    from drawing import main

    assert main("figure5", script.grid, script.draw, [word.format(tmp=tmp_path) for word in words]) == 2
    error = capsys.readouterr().err
    assert said.format(tmp=tmp_path) in error and error.count("\n") == 1


def test_a_reader_that_has_seen_enough_ends_a_figure_without_a_word(tmp_path):
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "reproduce/length.py", "--suite", "digits", "--out", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "") and (tmp_path / "digits/length.png").exists()


def test_all_figures_of_a_suite(tmp_path, monkeypatch, capsys):
    """By processes that are started anew, as everywhere but on Linux."""
    import reproduce.__main__ as command

    context = multiprocessing.get_context
    specs = figure("figure1").grid("digits", "paper")
    store(tmp_path, "digits", [row(spec) for spec in specs])
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(multiprocessing, "get_context", lambda method: context("spawn"))
        patch.setattr("benchmarks.workers.places.cores", lambda: 1)
        patch.delitem(sys.modules, "reproduce.__main__")
        patch.setattr(sys, "argv", ["reproduce", "digits", "--results", str(tmp_path), "--out", str(tmp_path / "out")])
        runpy.run_module("reproduce", run_name="__main__", alter_sys=True)
    said = capsys.readouterr()
    assert ended.value.code == 0 and "figure1: wrote" in said.out, said.err
    assert (tmp_path / "out/digits/figure1.pdf").exists()
    assert command.main(["cifar10", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    skipped, = (line for line in capsys.readouterr().out.splitlines() if ": skipped, no finished runs" in line)  # one line for all
    assert {"figure1", "figure5", "leaderboard"} < set(skipped.partition(":")[0].split(", "))
    assert not (tmp_path / "out/cifar10").exists()


@patched
def test_a_broken_figure_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    import reproduce.__main__ as command

    store(tmp_path, "digits", [row(spec) for spec in suites.grid("digits", "paper")])
    monkeypatch.setattr(command, "scripts", {name: figure(name) for name in ("figure1", "figure3", "figure4", "figure5")}.copy)
    monkeypatch.setattr(figure("figure1"), "draw", lambda runs, figure: 1 / 0)
    monkeypatch.setattr(figure("figure3"), "draw", lambda runs, figure: None)
    monkeypatch.setattr(figure("figure4"), "draw", lambda runs, figure: sys.exit())
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *args, **kwargs: None)
    assert command.main(["digits", "--results", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "figure1: failed, ZeroDivisionError" in said.err and "figure5: wrote" in said.out
    assert "figure4: failed, SystemExit" in said.err
    assert "draw of figure3 must return the table of what it has drawn, a DataFrame, not NoneType" in said.err + said.out


@patched
def test_a_killed_process_does_not_hang_the_command(tmp_path, monkeypatch, capsys):
    import reproduce.__main__ as command

    store(tmp_path, "digits", [row(spec) for spec in suites.grid("digits", "paper")])
    monkeypatch.setattr(command, "scripts", {name: figure(name) for name in ("figure1", "figure5")}.copy)
    monkeypatch.setattr(figure("figure1"), "draw", lambda runs, figure: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(SystemExit) as ended:
        command.main(["digits", "--results", str(tmp_path), "--out", str(tmp_path / "out")])
    assert ended.value.code == 1 and capsys.readouterr().err.splitlines()[-1].startswith("a process that drew was killed")


def test_a_folder_that_cannot_be_written_and_a_damaged_table_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    for script in ("figure1.py", "leaderboard.py"):
        done = run_here(script, "--suite", "digits", "--out", tmp_path / "file")
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and "file" in done.stderr
    (tmp_path / "performance").mkdir()
    (tmp_path / "performance/sparse_speed.csv").write_text("a,b\n1,2\n")
    done = run_here("sparse_figure1.py", "--results", tmp_path, "--out", tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "not as its program wrote it" in done.stderr
    assert "sparse_figure1.py, line" in done.stderr


def test_finished_runs_that_are_not_collected_are_named(tmp_path, capsys):
    """As after jobs of a cluster, which leave that to whoever looks at them."""
    runs, specs = Store(tmp_path), [*figure("figure1").grid("digits", "paper")]
    store(tmp_path, "digits", [row(spec) for spec in specs[1:]])
    said = (f"1 run of digits in {tmp_path}/runs not in its tables yet, which are drawn: "
            f"python -m benchmarks collect digits --results {tmp_path}\n")
    for spec, words in ((specs[0], said), (specs[1], said.replace("1 run ", "2 runs "))):  # the second is made again, later
        runs.write(made_up.row(spec, finished_at="2026-01-01T00:00:00+00:00"))
        done = run_here("figure1.py", "--suite", "digits", "--results", tmp_path)
        assert (done.returncode, done.stderr) == (0, words)
    assert importlib.import_module("drawing").Parser(prog="p").standard().running().read(["--results", str(tmp_path), "--run"]) and not capsys.readouterr().err
    (runs.runs / f"{specs[0].key}.json").write_text("{")  # damaged: it is none
    done = run_here("figure1.py", "--suite", "digits", "--results", tmp_path)
    assert (done.returncode, done.stderr) == (0, said)

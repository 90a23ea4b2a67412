"""The leaderboard command, and what README.md walks through."""
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from stored import ROOT

from benchmarks import launch as launcher
from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.comparison import tables
from benchmarks.records import RUN_COLUMNS
from benchmarks.results import Store

METHODS = '''
from methods.base import Ramped, option

class Good(Ramped):
    amount = option(1.0, help="multiplies the weights")
    def forward(self, theta):
        return self.amount * theta * self.mask

class Picky(Good):
    @classmethod
    def skip(cls, task):
        return f"cannot do {task}"
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(METHODS)
    return tmp_path


def board(*words):
    return main(["leaderboard", "digits", *words])


@pytest.fixture
def in_process(monkeypatch):
    """Runs are made here, without the launcher's processes; returns the list of what was launched."""
    launched = []

    def launch(specs, store, folder, jobs=None, report=print):
        launched.extend(specs)
        return [row for row in [runner.run(spec, store, folder) for spec in specs] if row["status"] != "ok"]

    monkeypatch.setattr(launcher, "launch", launch)
    return launched


@pytest.mark.parametrize("words, part", [
    (["--set", "amount=2"], "--method"), (["--method", "mine.py:Good", "--set", "amount"], "NAME=VALUE"),
    (["--method", "mine.py:Good", "--set", "amont=2"], "amount"),
    (["--method", "mine.py:Good", "--set", "amount=x"], "amount"),
    (["--method", "mine.py:Good", "--set", "lr=2"], "lr is a setting of the task, "),
    (["--method", "mine.py:Good", "--set", "lr=2"], "`launch` takes both, and reproduce/compare.py draws"),
    (["--keep-models"], "--keep-models belong to --method"), (["--method", "rgil"], "rigl"), (["--jobs", "0"], "--jobs"),
    (["--method", "mine.py:Good", "--sparsity", "1.5"], "1.5"), (["--against", "rgil"], "rigl"), ([], "bash run_all.sh digits"),
    (["--format", "word"], "word"),
    (["--against", "rigl drop_fracton=1"], "nearest: drop_fraction"), (["--against", "rigl drop_fraction=x"], "drop_fraction takes a number"),
    (["--against", "rigl", "drop_fraction=0.1"], 'drop_fraction=0.1 comes after its method, both in quotes: "rigl drop_fraction=0.1"'),
    (["--against", "rigl epochs=3"], "epochs is the same for all that are compared: --epochs"), (["--reference", "rgil"], "nearest: rigl"),
    (["--reference", "dense"], "--reference dense: it has another sparsity"), (["--reference", "gmp"], "launch digits --methods gmp"),
])
def test_bad_arguments(mine, words, part, capsys):
    assert board(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and part in err and len(err.splitlines()) == 1


def test_a_method_skips_a_task(mine, in_process, capsys):
    assert board("--method", "mine.py:Picky") == 2  # nothing else to compare
    assert "mine.py:Picky skips digits: cannot do digits" in capsys.readouterr().err
    words = ["digits", "--methods", "mine.py:Picky", "mine.py:Good", "--sparsities", "0.9", "--seeds", "1", "--epochs", "1"]
    assert main(["launch", *words]) == 0
    assert {row["method"] for row in Store("results").rows("digits").values()} == {"mine.py:Good"}


def test_older_rows_of_other_options_are_told_of_too(mine, in_process, capsys):
    words = ["--method", "mine.py:Good", "--epochs", "1", "--sparsity", "0.9", "--seeds", "1"]
    assert board(*words, "--set", "amount=0.5") == 0
    with open("mine.py", "a") as file:
        file.write("# changed\n")
    assert board(*words) == 0 and len(in_process) == 2  # its own row is of today's content
    assert capsys.readouterr().err.count("rows made with another content of mine.py: 1;") == 1


def test_a_method_too_many_is_refused(capsys):
    assert board("--method", "st3", "--method", "gmp") == 2
    assert capsys.readouterr().err.startswith("error: argument --method: given twice, and names one (st3, gmp); `launch --methods` makes")


def test_only_missing_cells_are_run(mine, in_process, capsys):
    words = ["--method", "./mine.py:Good", "--epochs", "1", "--sparsity", "0.9"]
    assert board(*words, "--seeds", "1") == 0
    assert [(spec.method, spec.seed) for spec in in_process] == [("mine.py:Good", 0)]
    capsys.readouterr()
    assert board(*words, "--seeds", "2") == 0 and [spec.seed for spec in in_process] == [0, 1]
    out, err = capsys.readouterr()
    assert "1 run done, 1 to do" in err and re.search(r"mine.py:Good +\d+\.\d\d ± \d+\.\d\d +2 +best", out)
    assert board(*words, "--seeds", "2") == 0 and len(in_process) == 2
    unchanged = capsys.readouterr()
    assert unchanged.out == out and "another content" not in unchanged.err
    with open("mine.py", "a") as file:
        file.write("# changed\n")
    assert board(*words, "--seeds", "2") == 0 and len(in_process) == 2
    assert "rows made with another content of mine.py: 2; `launch` with --outdated and what names these runs (--methods, --set, …) makes them again" in capsys.readouterr().err
    assert board("--epochs", "1", "--format", "csv") == 0 and len(in_process) == 2
    out, err = capsys.readouterr()
    assert out.startswith("task,sparsity,method") and "rows made with another content of mine.py: 2;" in err
    assert board("--method", "static", "--epochs", "1", "--sparsity", "0.95", "--seeds", "1") == 0 and len(in_process) == 3
    assert "another content" not in capsys.readouterr().err  # its rows are at 0.9
    assert board("--epochs", "1", "--format", "html") == 0 and ">Published</h2>" in capsys.readouterr().out
    assert board(*words, "--seeds", "1", "--set", "amount=0.5") == 0 and len(in_process) == 4
    assert "mine.py:Good amount=0.5" in capsys.readouterr().out
    assert board(*words, "--seeds", "1", "--keep-models") == 0 and len(in_process) == 4
    assert "of 1 run that is done no network was kept; --again makes it again" in capsys.readouterr().err
    assert board(*words, "--seeds", "1", "--again", "--keep-models") == 0 and len(in_process) == 5
    assert len(Store("results").rows("digits")) == 4 and len([*Path("results/models").iterdir()]) == 1


def test_other_tasks_of_the_suite(mine, in_process, capsys):
    words = ["--epochs", "1", "--seeds", "1", "--sparsities", "0.9", "--method", "mine.py:Good"]
    assert board(*words) == board(*words, "--tasks", "digits-mlp") == 0
    assert [spec.task for spec in in_process] == ["digits", "digits-mlp"]
    assert re.findall(r"(\S+), sparsity 0.9\n", capsys.readouterr().out) == ["digits", "digits-mlp"]  # of one command each
    assert board("--epochs", "1", "--sparsities", "0.9") == 0 and capsys.readouterr().out.count(", sparsity 0.9\n") == 2
    assert board("--epochs", "1", "--sparsities", "0.9", "--tasks", "digits-mlp") == 0
    assert re.findall(r"(\S+), sparsity 0.9\n", capsys.readouterr().out) == ["digits-mlp"]
    assert board("--tasks", "cifar10-vgg16") == 2
    assert "cifar10-vgg16 is no task of suite digits; its tasks: digits, digits-mlp\n" in capsys.readouterr().err
    words = ["digits", "--methods", "mine.py:Good", "gmp", "--tasks", "digits-mlp", "--sparsities", "0.9", "--seeds", "1", "--epochs", "1"]
    assert main(["launch", *words]) == 0
    assert [(spec.task, spec.method) for spec in in_process[2:]] == [("digits-mlp", "gmp")]
    assert main(["status", *words]) == 0 and "2 runs: 2 done" in capsys.readouterr().out


def test_rows_at_other_sparsities_are_named(mine, in_process, capsys):
    words = ["--epochs", "1", "--seeds", "1", "--method", "mine.py:Good", "--sparsities"]
    assert board(*words, "0.9") == board(*words, "0.5", "0.93") == 0 and "not shown" not in capsys.readouterr().err  # as was asked
    assert board("--epochs", "1") == 0 and "rows at 0.5, 0.93 are not shown: --sparsities\n" in capsys.readouterr().err


def test_again_begins_anew_once_the_file_is_accepted(mine, in_process, capsys):
    words = ["--method", "mine.py:Good", "--epochs", "1", "--sparsity", "0.9", "--seeds", "1"]
    assert board(*words) == 0
    store = Store("results")
    checkpoint, rows = store.checkpoint(in_process[0].key), store.rows("digits")
    checkpoint.write_text("of before the change")
    (mine / "mine.py").write_text(METHODS.replace("return self.amount", "return 1 / 0"))
    assert board(*words, "--again") == 2 and "ZeroDivisionError" in capsys.readouterr().err
    assert checkpoint.read_text() == "of before the change" and store.rows("digits") == rows
    (mine / "mine.py").write_text(METHODS)
    assert board(*words, "--again") == 0 and len(in_process) == 2
    assert not checkpoint.exists() and "is damaged" not in capsys.readouterr().out


def test_compared_with_chosen_methods_alone(mine, in_process, capsys):
    words = ["--epochs", "1", "--sparsity", "0.9", "--seeds", "1", "--method"]
    assert board(*words, "set") == board(*words, "static") == 0
    capsys.readouterr()
    assert board(*words, "mine.py:Good", "--against", "static") == 0
    assert set(re.findall(r"^1\S* +(\S+)", capsys.readouterr().out, re.M)) == {"mine.py:Good", "static"}
    assert board("--epochs", "1", "--against", "static", "gse") == 2
    launch = "error: there are no rows of gse_uniform; make them with: python -m benchmarks launch digits --epochs 1"
    assert capsys.readouterr().err == f"{launch} --methods gse_uniform\n"
    said = f"{launch} --sparsities 0.9 --seeds 1 --methods gse_uniform\n".replace("uniform;", "uniform at sparsity 0.9;")
    made = len(in_process)
    assert board(*words, "rigl", "--against", "rigl", "gse") == 2 and capsys.readouterr().err == said and len(in_process) == made  # before it runs
    assert board("--against", "static") == 2 and "no rows of static;" in capsys.readouterr().err
    assert board("--epochs", "1", "--sparsity", "0.95", "--against", "static") == 2  # has one at 0.9
    assert "no rows of static at sparsity 0.95;" in capsys.readouterr().err
    assert board("--profile", "quick", "--epochs", "30", "--method", "gmp", "--seeds", "1", "--sparsity", "0.9") == 0
    assert board("--profile", "quick", "--against", "gmp") == 2
    assert "no rows of gmp of profile quick; compare those of --profile paper, or make them with" in capsys.readouterr().err


def test_a_profile_with_many_more_rows_is_named(capsys):
    words = ["leaderboard", "cifar10", "--results", str(ROOT / "results"), "--format", "csv", "--sparsities", "0.98", "--profile"]
    assert main([*words, "paper"]) == 0 and re.search(r"^profile paper has \d+ rows, quick \d+: --profile quick compares those$", capsys.readouterr().err, re.M)
    assert main([*words, "quick"]) == 0 and "compares those" not in capsys.readouterr().err


def test_only_methods_that_train_once(mine, in_process, capsys):
    words = ["--epochs", "1", "--sparsities", "0.36", "--seeds", "1", "--method"]
    assert board(*words, "lrr") == 0
    capsys.readouterr()
    for more, names in (([], {"lrr", "static"}), (["--one-cycle"], {"static"})):
        assert board(*words, "static", *more) == 0
        assert set(re.findall(r"^1\S* +(\S+)", capsys.readouterr().out, re.M)) == names


def test_a_failed_run_is_named_and_made_again(mine, in_process, capsys, monkeypatch):
    words = ["--method", "mine.py:Good", "--epochs", "1", "--sparsities", "0.9", "--seeds", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(runner.Trainer, "percent", lambda self, hits, split: 1 / 0 if self.seed else 50.0)
        assert board(*words) == 1
    out, err = capsys.readouterr()
    assert "failed: seed 1" in out
    assert err.endswith("failed: digits mine.py:Good sparsity 0.9 seed 1: ZeroDivisionError: division by zero\n")  # in this process: without a log
    assert board(*words) == 0 and len(in_process) == 3
    assert "failed" not in capsys.readouterr().out


# ---- the README's walk

def test_what_the_readme_walks_through(tmp_path):
    section = (ROOT / "README.md").read_text().split("## Your own method")[1].split("\n## ")[0]
    shown = re.search(r"```python\n(.*?)```", section, re.S)[1]
    template = (ROOT / "examples" / "my_method.py").read_text()
    assert shown.strip() in template
    assert sum(bool(line.strip()) for line in template.splitlines()) <= 20
    command = shlex.split(re.search(r"```bash\n(.*?)\n```", section, re.S)[1], comments=True)
    assert command[:3] == ["python", "-m", "benchmarks"]
    quick = ["--epochs", "2", "--seeds", "1", "--sparsity", "0.9", "--jobs", "1", "--results", str(tmp_path)]
    done = subprocess.run([sys.executable, *command[1:], *quick], cwd=ROOT, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    assert re.search(r"^1 +my_method.py:MyMethod +\d+\.\d\d", done.stdout, re.M)


def test_a_file_has_one_name_wherever_it_was_launched_from(mine):
    rows = pd.DataFrame([{**row, "finished_at": f"2026-01-0{day}T00:00:00+00:00"} for day, name in enumerate(
        ("mine.py:Good", f"{mine}/mine.py:Good", "/elsewhere/mine.py:Good"), 1) for row in made_up(name, day)])
    found = tables.select(rows, "digits", "paper")
    assert sorted(zip(found.method, found.top1)) == [("/elsewhere/mine.py:Good", 93.0), ("mine.py:Good", 92.0)]


def made_up(name, day):
    return [{**dict.fromkeys(RUN_COLUMNS, ""), "suite": "digits", "task": "digits", "dataset": "digits", "method": name, "sparsity": 0.9,
             "seed": 0, "epochs": 30, "precision": "fp32", "status": "ok", "top1": 90.0 + day, **dict.fromkeys(
                 "top1_best_val achieved_sparsity macs dense_macs train_flops_fraction cycles seconds".split(), 1.0)}]

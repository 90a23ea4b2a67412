"""A method's file that a launch or a job cannot load, that goes away, or that changes while its runs are made."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stored import timeless
from test_runs import interrupted

from benchmarks import run as runner
from benchmarks.grid import Spec
from benchmarks.launch import launch
from benchmarks.results import Store
from benchmarks.slurm import cluster
from benchmarks.tasks import canonical, settle
from methods import get


def test_a_launch_whose_method_cannot_be_loaded_makes_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import beside\n")
    store, good = Store(tmp_path / "results"), Spec("digits", "static", 0.9, 0, epochs=1)
    bad, = launch([Spec("digits", "mine.py:Mine", 0.9, 0, epochs=1), good], store, "data", report=lambda line: None)
    assert bad["status"] == "failed" and "No module named 'beside'" in bad["error"] and store.row(good.key)["status"] == "ok"


def test_what_a_job_made_before_its_method_went_away_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from methods import get\n\n\nclass Mine(get('static')):\n    pass\n")
    made, begun = (Spec("digits", "mine.py:Mine", 0.9, seed, epochs=1) for seed in (0, 1))
    store = Store(tmp_path / "results")
    row = runner.run(made, store)
    store.checkpoint(begun.key).write_text("what it has done")
    (tmp_path / "mine.py").unlink()
    bad, = launch([made, begun], Store(tmp_path / "results"), "data", report=lambda line: None)
    assert bad["key"] == begun.key and store.row(made.key) == row and store.checkpoint(begun.key).exists()


def test_a_method_that_jobs_cannot_load_is_not_sent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "mine.py").write_text("import beside\nfrom methods import get\n\n\nclass Mine(get('static')):\n    pass\n")
    with pytest.raises(ValueError, match="in a job, which has a copy of the method's file alone: .*No module named 'beside'"):
        cluster.snapshot(Store(tmp_path / "results"), {"mine.py:Mine", "static"})
    (tmp_path / "mine.py").write_text("from methods import get\n\n\nclass Mine(get('static')):\n    pass\n")
    assert (cluster.snapshot(Store(tmp_path / "results"), {"mine.py:Mine"}) / "mine.py").exists()


@pytest.mark.parametrize("harm", ["rm mine.py", "echo >> mine.py", "touch json.py", "ln -sf ../../../../mine.py mine.py", "mkfifo new",
                                  "cd ..; mv $1 ../moved; ln -s ../moved $1"])
def test_what_jobs_run_is_the_code_as_it_was_copied(harm, tmp_path, monkeypatch, capsys):
    """A clean-up may have removed a file, somebody changed or added one; what has that copy already keeps it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "load_there", lambda *rest: None)
    (tmp_path / "mine.py").write_text("the method")

    def copied():
        return cluster.snapshot(Store(tmp_path / "results"), {"mine.py:Mine"})
    first = copied()
    assert copied() == first and not capsys.readouterr().out
    subprocess.run(["sh", "-c", harm, "sh", first.name], cwd=first, check=True)
    second = copied()
    assert second == first.with_name(f"{first.name}-2") and (second / "mine.py").read_text() == "the method"
    assert capsys.readouterr().out == f"{first} is not the code as it was copied, or is another user's: jobs get another copy\n"
    assert copied() == second and {path.name for path in first.parent.iterdir()} == {first.name, second.name}


def test_bytecode_that_was_put_beside_the_copy_is_not_run(tmp_path, monkeypatch):
    """Python would take it for that of a file of the same size and time. What numba is just writing there for a job stays."""
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "results")
    folder = cluster.snapshot(store, {"static"})
    planted = folder / "methods" / "__pycache__" / "seeds.pyc"
    planted.parent.mkdir(exist_ok=True)
    planted.touch()
    (written := planted.with_name("blocks.kernel.nbi.tmp.1")).touch()
    assert cluster.snapshot(store, {"static"}) == folder and not planted.exists() and written.exists()


def test_a_method_may_have_modules_of_its_own_named_as_the_suite_s(tmp_path):
    """report.py is in reproduce/, too; the working folder comes first. The suite's scripts find their own notes.py all the same."""
    (tmp_path / "report.py").write_text("helper = 3\n")
    (tmp_path / "notes.py").write_text("groceries = []\n")
    (tmp_path / "mine.py").write_text("from methods import get\nfrom report import helper\n\n\nclass Mine(get('static')):\n    assert helper == 3\n")
    done = subprocess.run([sys.executable, "-m", "benchmarks", "plan", "digits", "--methods", "static", "mine.py:Mine", "--results", "results"],
                          cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}, capture_output=True, text=True)
    assert done.returncode == 0 and "cannot be loaded" not in done.stderr, done.stderr


def test_a_checkpoint_of_another_version_of_the_method_is_left(tmp_path, monkeypatch, capsys):
    """Its row would be of two methods."""
    monkeypatch.chdir(tmp_path)
    file, spec = tmp_path / "mine.py", Spec("digits", "mine.py:Mine", 0.9, 0, 2)
    versions = [f"from methods import get\n\n\nclass Mine(get({name!r})):\n    pass\n" for name in ("static", "gmp")]
    rows = []
    for first, then in ((1, 1), (0, 1), (0, 0)):  # as it is, changed meanwhile, changed back
        store = Store(tmp_path / f"{first}{then}")
        file.write_text(versions[first])
        interrupted(store, spec, 19)
        file.write_text(versions[then])
        rows.append(timeless(runner.run(spec, store)))
        said = capsys.readouterr().out
        assert ("is of the method's file before it was changed; the run starts anew" in said) == (first != then), said
    assert rows[0] == rows[1] != rows[2]


def test_a_file_is_loaded_as_it_is_though_its_size_and_time_are_those_of_another(tmp_path, monkeypatch):
    """Python keeps bytecode beside a file, and knows it by these."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for number in (1, 2):
        (tmp_path / "mine.py").write_text(f"from methods.base import Sparsifier\n\n\nclass Mine(Sparsifier):\n    number = {number}\n")
        os.utime(tmp_path / "mine.py", (1e9, 1e9))
        assert get(f"{tmp_path}/mine.py:Mine").number == number


def test_a_signal_while_a_class_is_made_is_no_mistake_of_its_file(tmp_path):
    """Which Python before 3.12 hides in a RuntimeError: its runs would be failed ones."""
    path = tmp_path / "mine.py"
    path.write_text("from methods import get\n\n\nclass Signal:\n    def __set_name__(self, *_):\n        raise KeyboardInterrupt\n\n\n"
                    "class Mine(get('static')):\n    option = Signal()\n")
    with pytest.raises(KeyboardInterrupt):
        get(f"{path}:Mine")


def test_a_notebook_is_no_file_of_a_method(tmp_path):
    (tmp_path / "mine.ipynb").write_text('{"cells": [], "metadata": null}')
    with pytest.raises(ValueError, match=r"mine.ipynb is a notebook: put the class into a .py file\Z"):
        get(f"{tmp_path}/mine.ipynb:Mine")


def test_a_file_is_loaded_a_few_times_for_any_number_of_runs_and_anew_when_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = ("from methods import get\nfrom methods.base import option\nopen('loads', 'a').write('x')\n\n\n"
            "class Mine(get('static')):\n    leak = option(0.1, help='')\n    retained = {'digits': {'leak': 0.5}}\n")
    (tmp_path / "mine.py").write_text(text)
    specs = [Spec("digits", "mine.py:Mine", 0.9, seed, options={"leak": "0.5"}) for seed in range(50)]
    assert {canonical(spec).options for spec in specs} == {()} and len((tmp_path / "loads").read_text()) < 5
    (tmp_path / "mine.py").write_text(text.replace("0.5", "0.7"))
    assert {canonical(spec).options for spec in specs} == {(("leak", "0.5"),)} and settle(specs[0])[1]["leak"] == 0.5

"""Numbers of a method's own at each epoch: stored with the row, collected, kept over a stop, and looked at before any run."""
from pathlib import Path

import pytest
import torch
from stored import table
from test_every_method import EPOCHS, make, read, saved

from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.records import sealed
from benchmarks.results import Store
from benchmarks.trial.checks import unlogged

EXAMPLE = f"{Path(__file__).parent.parent / 'examples' / 'my_running_mean.py'}:RunningMean"
NAME = "smallest active mean"


def test_each_epoch_has_its_line_and_other_rows_stay(tmp_path):
    specs, store = [Spec("digits", method, 0.9, 0, epochs=2) for method in (EXAMPLE, "static")], Store(tmp_path)
    for spec in specs:
        runner.run(spec, store)
    assert store.collect("digits") == 2
    lines = table(store, "logged")
    assert [(line["key"], line["epoch"], line["name"]) for line in lines] == [(specs[0].key, "0", NAME), (specs[0].key, "1", NAME)]
    assert all(float(line["value"]) > 0 for line in lines)
    assert set(table(store, "curves")[0]) == {*"key epoch train_loss train_top1 val_top1 test_top1 sparsity lr".split()}
    for path in store.runs.glob("*.json"):
        path.unlink()
    assert store.collect("digits") == 2 and table(store, "logged") == lines


def test_another_folder_takes_them(tmp_path):
    here, there = Store(tmp_path / "a"), Store(tmp_path / "b")
    runner.run(Spec("digits", EXAMPLE, 0.9, 0, epochs=1), here)
    here.collect("digits")
    there.take("digits", here)
    assert table(there, "logged") == table(here, "logged") != []


def test_a_level_has_those_of_its_own_cycle(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from methods import get\nclass Counts(get('lrr')):\n    def logged(self): return {'active': self.mask.sum()}\n")
    store = Store(tmp_path / "r")
    row = runner.run(Spec("digits", f"{tmp_path}/mine.py:Counts", 0.36, 0, epochs=1), store)
    store.collect("digits")
    lines, rows = table(store, "logged"), {line["key"]: line for line in table(store, "runs")}
    assert len(rows) > 1 and [line["key"] for line in lines].count(row["key"]) == 1
    assert all(float(line["value"]) == float(rows[line["key"]]["nnz"]) for line in lines) and {*rows} == {line["key"] for line in lines}


def test_what_was_logged_before_a_stop_stays(tmp_path):
    method = "from methods import get\nimport torch\nclass Two(get('static')):\n"
    (tmp_path / "mine.py").write_text(method + "    def logged(self): return {'a': 0.1, 'b': torch.ones(1, requires_grad=True)}\n")
    trainer = make(f"{tmp_path}/mine.py:Two")
    next(share for share in trainer.steps() if trainer.progress.index == 2 and trainer.progress.done == 1)
    other = make(f"{tmp_path}/mine.py:Two")
    other.load_state_dict(read(saved(trainer)))
    assert [line["logged"] for line in other.run().progress.curves] == [{"a": 0.1, "b": 1.0}] * EPOCHS


def test_records_without_them_are_read(tmp_path):
    """Those of earlier versions."""
    store, spec = Store(tmp_path), Spec("digits", "static", 0.9, 0, epochs=1)
    runner.run(spec, store)
    path = store.runs / f"{spec.key}.json"
    record = store._record(spec.key, only_row=False)
    assert record.pop("logged") == []
    record.pop("checksum", None)
    path.write_text(sealed(record))
    assert store.row(spec.key)["status"] == "ok" and store.collect("digits") == 1


@pytest.mark.parametrize("found", [None, [1.0], {1: 2.0}, {"a": "1"}, {"a": torch.ones(2)}, {"a": None}])
def test_what_is_no_number_with_a_name_is_said(found):
    assert unlogged(found).startswith(f"logged returns {str(found)[:60]}, not numbers with their names")
    assert unlogged({"a": 1, "b": 0.5, "c": torch.ones(()), "d": torch.ones(1, 1)}) is None


def test_the_trial_names_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("from methods import get\nclass Forgets(get('static')):\n    def logged(self): {'a': 1}\n")
    assert main("launch digits --methods mine.py:Forgets --sparsities 0.9 --seeds 1 --epochs 1 --results r".split()) == 2
    error = capsys.readouterr().err
    assert "mine.py:Forgets on digits" in error and "logged returns None" in error and error.count("\n") == 1

"""What the tests of faults share: runs that note their steps, what they give undisturbed, and the table of what was lost.

FAULT_TRIALS=40 kills that often and flips that many bytes; FAULT_TABLE=FILE.csv is where the counts are added.
"""
import csv
import json
import os

import pytest
from stored import ROOT, SPEC, table, timeless

from benchmarks import checkpoint
from benchmarks import run as runner
from benchmarks.grid import Spec
from benchmarks.results import Store

TRIALS = int(os.environ.get("FAULT_TRIALS", 2))
STEPS, EPOCHS = 19, 4
METHODS = '''
import os
import time

import torch

from benchmarks import checkpoint
from methods import Sparsifier, get

checkpoint.CHECKPOINT_SECONDS = 0  # one at every step


class Noted(get("st3")):
    """Notes each step but those of the dry run, and is slow where WAIT says so."""

    def after_step(self, training):
        super().after_step(training)
        if training.epochs == 1:
            return
        with open(f"steps-{type(self).__name__}-{self.sparsity}", "a") as file:
            file.write(f"{training.step}\\n")
        time.sleep(float(os.environ.get("WAIT", 0)))


class Other(Noted):
    pass


class DeviceFull(Sparsifier):
    def after_step(self, training):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class MemoryFull(Sparsifier):
    def after_step(self, training):
        torch.empty(2**55)
'''
SPECS = [Spec("digits", f"mine.py:{name}", sparsity, 0, epochs=EPOCHS) for name in ("Noted", "Other") for sparsity in (0.9, 0.95)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(METHODS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", 60)  # which the method file changes
    return tmp_path


@pytest.fixture(scope="module")
def tally():
    """Counts (fault, trials, rows lost, rows twice), which must be none."""
    lines = []

    def count(fault, trials, lost=0, twice=0):
        lines.append((fault, trials, lost, twice))
        assert (lost, twice) == (0, 0)
    yield count
    if "FAULT_TABLE" in os.environ:
        path = ROOT / os.environ["FAULT_TABLE"]
        head = [] if path.exists() else [("fault", "trials", "rows_lost", "rows_twice")]
        with open(path, "a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(head + lines)


def content(store, spec):
    """All of a run's record but the clock's."""
    record = json.loads((store.runs / f"{spec.key}.json").read_text())
    return timeless(record["runs"][0]), str(record["curves"]), record["layers"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """{key: content} of the runs, made here one after the other."""
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store.folder)
        patch.setattr(checkpoint, "CHECKPOINT_SECONDS", 60)
        patch.setattr(checkpoint.Saver, "__call__", lambda *_: None)  # nothing goes on from here
        (store.folder / "mine.py").write_text(METHODS)
        for spec in (*SPECS, SPEC):
            runner.run(spec, store)
    return {spec.key: content(store, spec) for spec in (*SPECS, SPEC)}


def losses(store, undisturbed, before=(), specs=SPECS):
    """(rows that are not there or not the same as undisturbed, those there or made twice). `before`: stamps that must not change."""
    lost = [spec for spec in specs if not store.row(spec.key) or content(store, spec) != undisturbed[spec.key]]
    store.collect("digits")
    keys = [row["key"] for row in table(store, "runs")]
    again = [key for key in before if store.stamp(key) != before[key]]
    return len(lost), len(keys) - len(set(keys)) + len(again)

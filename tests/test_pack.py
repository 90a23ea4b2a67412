"""Several runs that take turns in one process: the same rows as alone, whatever the order, and nobody's fault ends another's run."""
from pathlib import Path

import pytest
import torch
from stored import timeless

from benchmarks import launch as launcher
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.run import run

METHODS = '''
import os

import torch
from methods import get


class Dropping(get("static")):
    """Draws from the global generator at every step, as dropout does."""

    def forward(self, theta):
        return super().forward(theta) * (torch.rand(()) < 0.9 if self.training else 1)


class Bad(get("static")):
    def after_step(self, run):
        if run.step == 3:
            raise RuntimeError("broken on purpose")


class Large(get("static")):
    """Finds no memory where other runs are at work."""

    def before_step(self, run):
        if run.step == 2 and len(list(STORE.glob("*.claim"))) > 1:
            raise torch.OutOfMemoryError("no memory on purpose")


class Deadly(get("static")):
    """Takes its process with it."""

    def before_step(self, run):
        if run.step == 2:
            os.kill(os.getpid(), 9)
'''


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Launches Specs on one "GPU", three at a time; returns (store, what the launcher said)."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(METHODS + f"\n\nfrom pathlib import Path\nSTORE = Path({str(tmp_path)!r}) / 'results' / 'runs'\n")
    monkeypatch.setattr(launcher, "gpus", lambda: ["0"])

    def launch(*specs):
        store, lines = Store("results"), []
        launcher.launch(specs, store, "data", jobs=3, report=lines.append)
        return store, "\n".join(lines)
    return launch


def spec(method, seed=0, epochs=2):
    return Spec("digits", method, 0.9, seed, epochs=epochs)


def test_the_same_rows_as_alone(packed):
    specs = [spec("mine.py:Dropping", 0), spec("mine.py:Dropping", 1), spec("probmask"), spec("st3"), spec("gse_graest"), spec("lrr", epochs=1)]
    store, _ = packed(*specs)
    alone = Store("alone")
    for one in reversed(specs):
        torch.manual_seed(7)
        assert timeless(run(one, alone)) == timeless(store.row(one.key))


def test_a_failure_is_its_own(packed):
    good, bad = spec("st3"), spec("mine.py:Bad")
    store, _ = packed(bad, good)
    assert store.row(good.key)["status"] == "ok" and store.row(bad.key)["error"] == "RuntimeError: broken on purpose"
    assert "broken on purpose" in store.log(bad.key).read_text() and not store.log(good.key).exists()


def test_a_run_without_memory_is_made_alone(packed):
    specs = [spec("mine.py:Large"), spec("static", epochs=3), spec("static", 1, epochs=3)]
    store, said = packed(*specs)
    assert [store.row(one.key)["status"] for one in specs] == ["ok"] * 3
    assert "no memory for digits mine.py:Large" in said and "2 at a time from now on" in said


def test_a_dead_process_is_the_fault_of_one(packed):
    specs = [spec("st3", 0), spec("mine.py:Deadly"), spec("st3", 1), spec("st3", 2)]
    store, said = packed(*specs)
    assert [store.row(one.key)["status"] for one in specs] == ["ok", "failed", "ok", "ok"]
    assert "signal SIGKILL" in store.row(specs[1].key)["error"] and "it will be tried again" in said

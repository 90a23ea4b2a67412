"""Several runs that take turns in one process: the same rows as alone, whatever the order, and nobody's fault ends another's run."""
import contextlib
import os
import re
from pathlib import Path

import pytest
import torch
from stored import timeless

from benchmarks import checkpoint
from benchmarks import launch as launcher
from benchmarks import run as runner
from benchmarks.gpu import pack
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.run import run
from benchmarks.workers import places
from benchmarks.workers.worker import Output

METHODS = '''
import gc
import os
import warnings

import torch
from benchmarks import checkpoint
from benchmarks import run as runner
from methods import get

checkpoint.CHECKPOINT_SECONDS = 0  # one at every step


class Dropping(get("static")):
    """Draws from the global generator at every step, as dropout does."""

    def forward(self, theta):
        return super().forward(theta) * (torch.rand(()) < 0.9 if self.training else 1)


class Bad(get("static")):
    def after_step(self, run):
        if run.step == 3:
            raise RuntimeError("broken on purpose")


class Talks(get("static")):
    """Says who it is at every step, in three ways, and at last in an error."""

    def after_step(self, run):
        print(f"printed by {run.seed}, step {run.step}")
        os.write(1, f"written by {run.seed}, step {run.step}\\n".encode())
        warnings.warn(f"warned of by {run.seed}, step {run.step}")
        if run.step == 3 + run.seed:
            raise RuntimeError(f"broken by {run.seed}")


class Large(get("static")):
    """Finds no memory where other runs are at work."""

    def before_step(self, run):
        if run.step == 2 and len(list(STORE.glob("*.claim"))) > 1:
            raise torch.OutOfMemoryError("no memory on purpose")


class Crowded(get("static")):
    """Finds none for what a library of CUDA keeps for itself."""

    def before_step(self, run):
        if run.step == 2 and len(list(STORE.glob("*.claim"))) > 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


class Scoring(get("snip")):
    """Finds none while it scores."""

    def score(self, run, batches):
        if len(list(STORE.glob("*.claim"))) > 1:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return super().score(run, batches)


class Witness(get("static")):
    """Looks for runs of Large."""

    def before_step(self, run):
        gc.disable()
        if run.epoch_ends:
            (STORE / "witness").write_text(f"{sum(type(thing).__name__ == 'Large' for thing in gc.get_objects())} left")


class Spoils(get("static")):
    """Is saved with a mistake while it runs."""

    def before_step(self, run):
        if run.step == 2:
            open("mine.py", "w").write("def f(:")
            raise RuntimeError("spoilt on purpose")


class Lost(get("static")):
    """Loses its device."""

    def before_step(self, run):
        if run.step == 2:
            runner.lost = lambda device: True
            raise RuntimeError("no device on purpose")


class Orphaned(get("static")):
    """Ends the process that its own was forked from."""

    def before_step(self, run):
        if run.step == 1 and not (STORE / "orphaned").exists():
            (STORE / "orphaned").touch()
            os.kill(os.getppid(), 9)


class Deadly(get("static")):
    """Takes its process with it."""

    def before_step(self, run):
        if run.step == 2:
            os.kill(os.getpid(), 9)
'''

FULL = '''
import torch
from benchmarks import run as runner
from methods import get


def resident(*which):
    raise torch.OutOfMemoryError("no room on purpose")


runner.resident = resident


class Full(get("static")):
    pass
'''


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Launches Specs on one "GPU", three at a time; returns (store, what the launcher said). No GPU has that number."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", 60)  # which the method file changes
    Path("mine.py").write_text(METHODS + f"\n\nfrom pathlib import Path\nSTORE = Path({str(tmp_path)!r}) / 'results' / 'runs'\n")
    monkeypatch.setattr(places, "gpus", lambda: ["-1"])

    def launch(*specs, jobs=3):
        store, lines = Store("results"), []

        def report(line):
            lines.append(line)
            assert len(lines) < 20, lines  # a launch that tries the same for ever
        launcher.launch(specs, store, "data", jobs=jobs, report=report)
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


def test_what_a_run_prints_is_in_its_own_log(packed, capfd):
    """Whoever's turn is next, and when another has ended."""
    specs = [spec("mine.py:Talks", seed) for seed in range(3)]
    store, _ = packed(*specs)
    for seed, one in enumerate(specs):
        log = store.log(one.key).read_text()
        for way in ("printed", "written", "warned of"):
            assert re.findall(rf"{way} by (\d), step (\d)\n", log) == [(str(seed), str(step)) for step in range(4 + seed)]
        assert re.findall(r"RuntimeError: broken by (\d)", log) == [str(seed)] and store.row(one.key)["error"] == f"RuntimeError: broken by {seed}"
    assert " by " not in "".join(capfd.readouterr())


def test_a_place_to_print_to_costs_two_calls_where_it_is_another(tmp_path, monkeypatch, capfd):
    calls, dup2 = [], os.dup2
    monkeypatch.setattr(os, "dup2", lambda *places: calls.append(places) or dup2(*places))
    with open(tmp_path / "one", "w") as one, open(tmp_path / "two", "w") as two, Output() as output:
        for place, made in ((None, 0), (one, 2), (one, 2), (two, 4), (None, 6), (None, 6), (two, 8)):
            output.to(place)
            assert len(calls) == made
            os.write(1, b"to %s\n" % (place.name[-3:].encode() if place else b"own"))
    os.write(1, b"ended\n")
    assert (tmp_path / "one").read_text() == "to one\n" * 2 and (tmp_path / "two").read_text() == "to two\n" * 2
    assert capfd.readouterr().out == "to own\n" * 3 + "ended\n"


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_file_saved_with_a_mistake_fails_its_own_runs_alone(packed, jobs):
    """One of them waits for room in a full process, which looks at none of the files."""
    specs = [spec("mine.py:Spoils"), spec("static"), spec("static", 1), spec("mine.py:Spoils", 1)]
    store, _ = packed(*specs, jobs=jobs)
    rows = [store.row(one.key) for one in specs]
    assert [row["status"] for row in rows] == ["failed", "ok", "ok", "failed"]
    assert rows[0]["error"] == "RuntimeError: spoilt on purpose" and "mine.py cannot be loaded: SyntaxError, line 1" in rows[3]["error"]
    assert {(row["epochs"], row["precision"], row["dataset"]) for row in rows} == {(2, "fp32", "digits")}


@pytest.mark.parametrize("name", ["Large", "Crowded", "Scoring"])
def test_a_run_without_memory_is_made_alone(packed, name):
    specs = [spec(f"mine.py:{name}"), spec("static", epochs=3), spec("static", 1, epochs=3)]
    store, said = packed(*specs)
    assert [store.row(one.key)["status"] for one in specs] == ["ok"] * 3
    assert f"no memory for digits mine.py:{name}" in said and "2 at a time from now on" in said


@pytest.mark.parametrize("jobs", [1, 3])
def test_without_memory_for_the_data_set_a_run_fails(packed, monkeypatch, jobs):
    monkeypatch.setattr(runner, "resident", runner.resident)  # which the method's file changes wherever it is loaded
    Path("full.py").write_text(FULL)
    store, said = packed(spec("full.py:Full"), jobs=jobs)
    row, = store.rows("digits").values()
    assert (row["status"], row["error"]) == ("failed", "OutOfMemoryError: no room on purpose")
    assert ("this one alone" in said) == (jobs > 1)


def test_a_run_without_memory_leaves_nothing_in_its_process(packed):
    store, said = packed(spec("mine.py:Large"), spec("mine.py:Witness"))
    assert "no memory for digits mine.py:Large" in said and (store.runs / "witness").read_text() == "0 left"


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_lost_device_ends_the_process_and_the_checkpoint_stays(packed, jobs):
    specs = [spec("mine.py:Lost"), spec("st3", 0), spec("st3", 1)]
    store, said = packed(*specs, jobs=jobs)
    assert [store.row(one.key)["status"] for one in specs] == ["failed", "ok", "ok"]
    assert store.row(specs[0].key)["error"] == "RuntimeError: no device on purpose"
    assert [store.checkpoint(one.key).exists() for one in specs] == [True, False, False]
    assert ("it will be tried again" in said) == (jobs > 1)


def test_a_dead_process_is_the_fault_of_one(packed):
    specs = [spec("st3", 0), spec("mine.py:Deadly"), spec("st3", 1), spec("st3", 2)]
    store, said = packed(*specs)
    assert [store.row(one.key)["status"] for one in specs] == ["ok", "failed", "ok", "ok"]
    assert "signal SIGKILL" in store.row(specs[1].key)["error"] and "it will be tried again" in said


def test_runs_outlive_the_process_they_were_forked_from(packed):
    """And another takes its place: Deadly ends their process twice."""
    specs = [spec("mine.py:Orphaned"), spec("mine.py:Deadly"), spec("st3")]
    store, said = packed(*specs)
    assert [store.row(one.key)["status"] for one in specs] == ["ok", "failed", "ok"] and (store.runs / "orphaned").exists()
    assert "signal SIGKILL" in store.row(specs[1].key)["error"] and said.count("it will be tried again") == 3


def test_a_run_on_a_gpu_has_the_stream_of_one_that_has_ended(monkeypatch):
    made, device = [], torch.device("cuda", 7)
    monkeypatch.setattr(pack, "FREE", {})
    monkeypatch.setattr(pack, "random_numbers", lambda *_, **__: None)
    monkeypatch.setattr(pack, "set_random_numbers", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: made.append(len(made)) or f"stream {len(made)}")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    long, short = (pack.Lane(iter(range(count)), device) for count in (9, 1))
    for _ in range(5):
        while not short.ended:
            short.turn(), long.turn()
        short = pack.Lane(iter(()), device)
        assert short.stream == "stream 2" and long.stream == "stream 1"
    pack.Lane(iter(()), "cpu").turn()
    assert len(made) == 2 and [*pack.FREE] == [device]

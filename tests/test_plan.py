"""`plan`: what is missing and what it costs, and nothing is run or stored. No time is tested."""
import gc
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stored import SPEC

from benchmarks import checkpoint, plan
from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.workers import places
from methods.st3 import ST3


def test_plan_names_every_kind_and_stores_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(places, "crowded", lambda workers: f"crowded by {workers}")
    words = ["digits", "--methods", "static", "lrr", "--sparsities", "0.9", "0.95", "--seeds", "2", "--results", str(tmp_path)]
    assert main(["plan", *words, "--jobs", "3"]) == 0
    said = capsys.readouterr().out
    assert "0 runs done, 8 missing" in said
    time = r"[\d,]+(\.\d+)? (s|minutes)"
    # with an estimate of the plan's own end; the levels of a run are rows of one run
    assert re.search(rf"^\[1/2, 0:\d\d:\d\d to go\] digits static: 4 runs of {time}\n\[2/2, 0:00:00 to go\] digits lrr: 2 runs of {time}$", said, re.M)
    assert re.search(rf"^about {time} on this machine with 3 processes \({time} of all runs together\); crowded by 3$", said, re.M)
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("*.csv"))


def test_a_plan_tells_of_other_programs(monkeypatch):
    monkeypatch.setattr(places.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(places.os, "getloadavg", lambda: (3.25, 0, 0))
    assert places.crowded(5) == "" and places.crowded(6) == "other programs keep 3.2 of 8 cores busy, with which it can take longer"
    monkeypatch.delattr(places.os, "getloadavg")
    assert places.crowded(6) == ""


def test_a_plan_estimates_its_own_end(monkeypatch):
    """Kinds that took 10 s on average have two more of 10 s before them, then one."""
    now, lines = [1000.0], []
    monkeypatch.setattr(plan.time, "monotonic", lambda: now[0])

    def timed(*_):
        now[0] += 10
        return 7200
    monkeypatch.setattr(plan, "seconds_of", timed)
    specs = [Spec("digits", method, 0.9, 0) for method in ("static", "set", "rigl")]
    assert plan.estimate(specs, "data", report=lines.append) == 3 * 7200
    assert lines == ["[1/3, 0:00:20 to go] digits static: 1 run of 2.00 hours", "[2/3, 0:00:10 to go] digits set: 1 run of 2.00 hours",
                     "[3/3, 0:00:00 to go] digits rigl: 1 run of 2.00 hours"]


def test_a_plan_times_as_many_runs_at_a_time_as_fit_into_memory(monkeypatch):
    """A launch makes fewer at a time then, too."""
    lines = []

    def timed(spec, folder, device, pack):
        if pack > 2:
            raise torch.OutOfMemoryError("of the device")
        return 3600.0 / pack
    monkeypatch.setattr(plan, "seconds_of", timed)
    assert plan.estimate([SPEC], "data", 8, report=lines.append) == 1800
    assert lines == ["[1/1, 0:00:00 to go] digits st3 epochs=2: 1 run of 30.0 minutes; no memory for 8 at a time, but for 2"]
    monkeypatch.setattr(plan, "seconds_of", lambda *_: torch.empty(2**60))
    with pytest.raises(ValueError, match="digits st3 epochs=2 cannot be timed: "):
        plan.estimate([SPEC], "data", report=lines.append)


def test_plan_counts_the_runs_on_each_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(places, "gpus", lambda: ["0", "1"])
    assert main(["plan", "digits", "--methods", "static", "--sparsities", "0.9", "--jobs", "2", "--results", str(tmp_path)]) == 0
    assert "with 2 GPUs, 2 runs at a time on each" in capsys.readouterr().out


def test_all_epochs_of_all_cycles_are_counted(monkeypatch):
    """With a clock that counts its readings, time is the number of epochs and steps alone, and the start once."""
    ticks = iter(range(10**6))
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(plan.time, clock, lambda: float(next(ticks)))
    short, long, longer = (plan.seconds_of(Spec("digits", "static", 0.9, 0, epochs=epochs), "data", torch.device("cpu")) for epochs in (2, 4, 6))
    assert longer - long == pytest.approx(long - short) and 0 < short - (long - short) < 0.02 * short


def test_runs_that_take_turns_share_their_time(monkeypatch):
    """A turn of two makes two steps: by the clock above one run takes as long as alone."""
    ticks = iter(range(10**6))
    for clock in ("monotonic", "perf_counter"):
        monkeypatch.setattr(plan.time, clock, lambda: float(next(ticks)))
    alone, of_two = (plan.seconds_of(Spec("digits", "static", 0.9, 0, epochs=4), "data", torch.device("cpu"), pack) for pack in (1, 2))
    assert of_two == pytest.approx(alone, rel=0.2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_steps_that_are_timed_rank(epochs, monkeypatch):
    """Those of the first epochs do not, where the ramp has not begun."""
    ranked, rank = [], ST3.rank
    monkeypatch.setattr(ST3, "rank", lambda method, *rest: ranked.append(method) or rank(method, *rest))
    plan.seconds_of(Spec("digits", "st3", 0.9, 0, epochs=epochs, options={"ramp_start": 0.3}), "data", torch.device("cpu"))
    assert len(ranked) > plan.LEAST


def test_what_is_begun_is_subtracted(tmp_path, capsys, monkeypatch):
    """Of a run its first 24 steps of 38 are in a checkpoint; another one's is of older code, which does not say how far it was."""
    store, asked, specs = Store(tmp_path), [], [replace(SPEC, method="static", seed=seed) for seed in (0, 1)]
    for spec in specs:
        with pytest.raises(checkpoint.Stopped):
            runner.run(spec, store, stop=lambda: asked.append(1) or len(asked) % 26 == 0)  # between the epochs, too
    state = torch.load(store.checkpoint(specs[1].key), weights_only=True)
    del state["share"]
    torch.save(state, store.checkpoint(specs[1].key))
    words = ["digits", "--methods", "static", "--sparsities", "0.9", "--seeds", "3", "--epochs", "2", "--results", str(tmp_path)]
    monkeypatch.setattr(plan, "seconds_of", lambda *_: 3800.0)
    assert main(["plan", *words, "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "digits static epochs=2: 3 runs of 63.3 minutes; 40.0 minutes of them are done\n" in said
    assert "about 2.50 hours on this machine with 1 process (2.50 hours of all runs together)" in said
    assert main(["status", *words]) == 0
    said = capsys.readouterr().out
    assert "2 started, 1 not started" in said and said.count("in its checkpoint") == 1
    assert "  started: digits static sparsity 0.9 seed 0: 63 % in its checkpoint\n" in said


def test_a_checkpoint_from_which_a_run_would_start_anew_spares_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from methods import get\nclass Mine(get('static')):\n    pass\n")
    spec, store, asked = Spec("digits", "mine.py:Mine", 0.9, 0, epochs=2), Store("results"), []
    path = store.checkpoint(spec.key)
    assert checkpoint.share_done(path, spec) == 0  # there is none
    with pytest.raises(checkpoint.Stopped):
        runner.run(spec, store, stop=lambda: asked.append(1) or len(asked) > 25)
    assert checkpoint.share_done(path, spec) == pytest.approx(24 / 38)
    Path("half.pt").write_bytes(path.read_bytes()[:1000])
    assert checkpoint.share_done("half.pt", spec) == 0
    with open("mine.py", "a") as file:
        file.write("# changed\n")
    assert checkpoint.share_done(path, spec) == 0


METHOD = '''
from methods import get


class Circle(get("static")):
    """Keeps its run alive."""

    def start(self, run, cycle):
        super().start(run, cycle)
        self.run = run
'''


def test_the_runs_of_a_kind_are_gone_before_the_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(METHOD)
    left = []
    gc.disable()
    try:
        plan.estimate([Spec("digits", "mine.py:Circle", 0.9, 0, epochs=epochs) for epochs in (1, 2)], "data",
                      report=lambda line: left.append([thing for thing in gc.get_objects() if type(thing).__name__ == "Circle"]))
    finally:
        gc.enable()
    assert left == [[], []]


def test_a_sparsity_that_no_method_takes_is_refused_before_anything_is_timed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "estimate", lambda *rest, **more: pytest.fail("was timed"))
    assert main(["plan", "digits", "--methods", "st3", "dense", "--sparsities", "0.9", "0.999999", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == ("error: sparsity 0.999999 leaves 1 weights for 7 layers; each needs one "
                                       "at least\n")


FAILS = '''
from methods.base import Ramped


class Fails(Ramped):
    def start(self, run, cycle):
        raise RuntimeError("on purpose")
'''


def test_a_method_that_fails_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FAILS)
    assert main(["plan", "digits", "--methods", "mine.py:Fails", "--sparsities", "0.9", "--epochs", "2", "--seeds", "1"]) == 2
    assert capsys.readouterr().err == ("error: digits mine.py:Fails epochs=2 cannot be timed: RuntimeError in start (mine.py, line 7): "
                                       "on purpose\n")

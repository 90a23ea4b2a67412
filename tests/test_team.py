"""Runs that several processes make together: the same as in one process, stopped and gone on with, failures, what is refused."""
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from jpegs import make_folder, of_images
from stored import ROOT, timeless
from test_every_method import difference, lasting, make, read, saved

from benchmarks import run as runner
from benchmarks.checkpoint import Stopped
from benchmarks.gpu import team
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.workers.worker import Worker, preload
from methods import available
from methods.processes import mean_of_processes

STEPS = 3        # of every method; masks are updated in the third
PAUSE = 6        # three steps, two turns of the end of an epoch, and one step more


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("data"))


def steps(trainer, count):
    """The trainer after as many steps and ends of epochs."""
    list(itertools.islice(trainer.steps(), count))
    return trainer


def together(rank, place, folder):
    """What each of two processes does: some steps of every method, and a run on images, saved within an epoch and gone on with."""
    torch.set_num_threads(1)
    result = {}
    with team.joined(rank, 2, place):
        own = torch.tensor([1.0 + rank, 4.0])
        result["mean"], result["own"] = mean_of_processes(own), own
        result["agreed"], result["scored"] = team.agreed(rank == 0, rank == 1), make("snip").batches(2)
        for name in available():
            trainer = make(name)
            steps(trainer, STEPS)
            result[name] = read(saved(trainer))["model"]
        result["epoch"] = lasting(steps(of_images(folder), PAUSE - 1))
        state = saved(steps(of_images(folder), PAUSE))
        resumed = of_images(folder)
        resumed.load_state_dict(read(state))
        result["images"], result["resumed"] = lasting(of_images(folder).run()), lasting(resumed.run())
    torch.save(result, Path(place) / f"result{rank}")


@pytest.fixture(scope="module")
def two(folder, tmp_path_factory):
    """The results of two processes."""
    preload()
    place, context = tmp_path_factory.mktemp("two"), multiprocessing.get_context(Worker.method)
    helpers = [context.Process(target=together, args=(rank, str(place), folder)) for rank in range(2)]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    assert [helper.exitcode for helper in helpers] == [0, 0]
    return [torch.load(place / f"result{rank}", weights_only=True) for rank in range(2)]


def test_the_mean_of_the_processes_leaves_each_its_own(two):
    assert [result["mean"].tolist() for result in two] == [[1.5, 4.0]] * 2 and [result["own"].tolist() for result in two] == [[1.0, 4.0], [2.0, 4.0]]


def test_all_processes_stop_where_the_first_does(two):
    assert [result["agreed"] for result in two] == [(True, False)] * 2


def test_each_process_scores_whole_batches(two):
    for result in two:
        for (x, y), (own_x, own_y) in zip(make("snip").batches(2), result["scored"], strict=True):
            assert torch.equal(x, own_x) and torch.equal(y, own_y)


@pytest.mark.parametrize("name", available())
def test_every_method_is_the_same_in_both_processes_and_as_in_one(two, name):
    assert difference(*(result[name] for result in two)) is None
    trainer = steps(make(name), STEPS)
    alone, joined = trainer.model.state_dict(), two[0][name]
    # rounding may rank a few weights otherwise, most of all among new ones, whose gradients are next to nothing
    assert (alone["method.mask"] != joined["method.mask"]).float().mean() < 0.01
    assert (alone["theta"] - joined["theta"]).abs().quantile(0.98) < 1e-3


def test_images_in_two_processes_as_in_one(two, folder):
    assert difference(two[0]["epoch"], two[1]["epoch"]) is None
    alone, joined = lasting(steps(of_images(folder), PAUSE - 1)), two[0]["epoch"]
    for name, value in alone["model"].items():
        assert torch.allclose(value.double(), joined["model"][name].double(), rtol=1e-4, atol=1e-5), name
    for one, other in zip(alone["progress"]["curves"], joined["progress"]["curves"]):
        assert one.pop("logged") == other.pop("logged") == {}
        assert one == pytest.approx(other, rel=1e-3, nan_ok=True)


def test_resumed_within_an_epoch(two, folder):
    for result in two:
        assert difference(result["images"], result["resumed"]) is None
    paused = steps(of_images(folder), PAUSE)
    assert (paused.progress.epoch, paused.progress.index) == (1, 1)
    resumed = of_images(folder)
    resumed.load_state_dict(read(saved(paused)))
    assert difference(lasting(resumed.run()), lasting(of_images(folder).run())) is None


def test_run_of_two_processes_is_stopped_and_goes_on(tmp_path, monkeypatch):
    spec, store, asked = Spec("digits", "static", 0.9, 0, epochs=2), Store(tmp_path / "two"), []
    one = runner.run(spec, Store(tmp_path / "one"))
    monkeypatch.setattr(team, "wanted", lambda task, device: 2)
    with pytest.raises(Stopped):
        runner.run(spec, store, stop=lambda: asked.append(1) or len(asked) > 25)
    assert store.checkpoint(spec.key).exists() and not store.rows("digits")
    two = runner.run(spec, store)
    assert {name for name, value in timeless(one).items() if two[name] != value} <= {"loss", "top1", "top1_best_val", "val_top1"}
    assert two["loss"] == pytest.approx(one["loss"], rel=0.01) and abs(two["top1"] - one["top1"]) < 3


FAILING = '''
import torch.distributed as dist
from methods import Sparsifier


class Failing(Sparsifier):
    def after_step(self, run):
        if dist.get_rank() == 1:
            raise RuntimeError("broken in the second process")
'''


def test_failure_in_another_process_ends_the_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FAILING)
    monkeypatch.setattr(team, "wanted", lambda task, device: 2)
    row = runner.run(Spec("digits", "mine.py:Failing", 0.0, 0, epochs=1), Store("results"))
    assert row["status"] == "failed" and "broken in the second process" in capfd.readouterr().err


KILLED = '''
import sys
from benchmarks import checkpoint, run
from benchmarks.grid import Spec
from benchmarks.gpu import team
from benchmarks.results import Store

spec, store, begun, popen = Spec("digits", "static", 0.9, 0, epochs=2), Store(sys.argv[1]), [], team.subprocess.Popen
checkpoint.CHECKPOINT_SECONDS, team.wanted = 0, lambda task, device: 2
team.subprocess.Popen = lambda *words, **options: begun.append(popen(*words, **options)) or begun[-1]


def stop():
    if begun and store.checkpoint(spec.key).exists():
        begun[0].kill()
    return False


assert run.run(spec, store, stop=stop)["status"] == "failed"
'''


def test_a_process_that_is_killed_costs_no_checkpoint(tmp_path):
    """In a process of its own, which `team` ends if gloo does not notice within GRACE seconds that the other is gone."""
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0 or "another process of this run ended (exit status -9)" in done.stderr, done
    assert [*tmp_path.glob("runs/*.pt")]


STUCK = '''
import ctypes
import torch.distributed as dist
from methods import get


class Stuck(get("static")):
    def after_step(self, run):
        if dist.get_rank() == 1:
            dist.destroy_process_group = lambda: ctypes.PyDLL(None).sleep(600)  # which no other thread of the process interrupts
'''


def test_a_process_that_hangs_when_the_run_has_ended_is_killed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(STUCK)
    monkeypatch.setattr(team, "wanted", lambda task, device: 2)
    monkeypatch.setattr(team, "GRACE", 0.2)
    begun, popen = [], subprocess.Popen
    monkeypatch.setattr(team.subprocess, "Popen", lambda *words, **options: begun.append(popen(*words, **options)) or begun[-1])
    row = runner.run(Spec("digits", "mine.py:Stuck", 0.9, 0, epochs=1), Store("results"))
    assert row["status"] == "ok" and [helper.returncode for helper in begun] == [-signal.SIGKILL]


@pytest.mark.parametrize("options, text", [({"batch_size": 63}, "batch of 63"), ({"storage": "sparse"}, "storage=sparse")])
def test_what_processes_cannot_share_is_refused(tmp_path, monkeypatch, options, text):
    monkeypatch.setattr(team, "wanted", lambda task, device: 2)
    with pytest.raises(ValueError, match=text):
        runner.run(Spec("digits", "static", 0.9, 0, epochs=1, options=options), Store(tmp_path))


@pytest.mark.parametrize("kind, count, ends", [("cuda", 2, True), ("cuda", 1, False), ("cpu", 2, False)])
def test_with_nccl_a_process_whose_part_fails_ends(kind, count, ends, monkeypatch):
    """Once its row is written: the end of the group would wait for the others, which wait for this process."""
    done = []
    monkeypatch.setattr(runner, "lost", lambda device: False)
    monkeypatch.setattr(runner, "store_failure", lambda *_: done.append("row"))
    monkeypatch.setattr(team, "world_size", lambda: count)
    monkeypatch.setattr(runner.os, "_exit", lambda status: done.append(status))
    spec = SimpleNamespace(key="key")
    run = SimpleNamespace(device=torch.device(kind), alone=True, stop=int, spec=spec, store=None, before={"key": None}, code=None)
    runner.Attempt.failed(run, RuntimeError("broken on purpose"))
    assert done == ["row", *[1] * ends]


def test_a_process_without_an_image_of_a_batch_sends_as_many_bytes(monkeypatch):
    monkeypatch.setattr(team, "world_size", lambda: 2)
    net = team.join_norms(torch.nn.Sequential(torch.nn.SyncBatchNorm(4), torch.nn.BatchNorm2d(4), torch.nn.ReLU()))
    assert [type(module) for module in net] == [team.SyncedBatchNorm, team.JoinedBatchNorm, torch.nn.ReLU]
    given = []
    monkeypatch.setattr(torch.nn.SyncBatchNorm, "forward", lambda module, x: given.append(x.dtype) or x)
    for images in (0, 2):
        net[0](torch.zeros(images, 4, 3, 3, dtype=torch.bfloat16))
    assert given == [torch.float32, torch.bfloat16]

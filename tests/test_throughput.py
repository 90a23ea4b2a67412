"""The measurements of throughput and of scaling, in miniature. No time is tested."""
import csv
import os
import sys
import threading
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import data as datasets
from benchmarks import scaling, throughput
from benchmarks.gpu.capture import WARM
from benchmarks.grid import Spec
from benchmarks.machine import slow_bf16
from benchmarks.tasks import settle
from benchmarks.train import Trainer
from benchmarks.workers.worker import Worker

real = pytest.mark.skipif(not Path(os.environ.get("DATA_DIR", "data"), "cifar-10-batches-py").is_dir(), reason="CIFAR-10 is not in DATA_DIR")


@pytest.fixture(autouse=True)
def all_cores():
    """The measurement keeps to one core, this process does not stay there."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None  # as on macOS
    yield
    if before:
        os.sched_setaffinity(0, before)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@real
def test_throughput_of_both_loops(tmp_path):
    precision = "fp32" if slow_bf16() else "bf16"
    words = ["--results", str(tmp_path), "--rounds", "1", "--steps", "1", "--workers", "0", "--device", "cpu", "--precisions", precision]
    assert throughput.main(words) == throughput.main([*words, "--packs", "2"]) == 0
    rows = rows_of(tmp_path / "performance" / "throughput.csv")
    assert [(row["loop"], row["method"], row["precision"], row["runs"]) for row in rows] == [
        ("plain", "static", "fp32", "1"), ("suite", "st3", precision, "1"), ("suite", "st3", precision, "2")]
    assert all(float(row["images_per_second"]) > 0 for row in rows) and float(rows[0]["ratio"]) == 1


@real
def test_both_loops_train_one_network():
    folder, spec = os.environ.get("DATA_DIR", "data"), Spec("cifar10-resnet20w8", "static", 0.9, 0, precision="fp32")
    plain = throughput.Plain(spec, folder, torch.device("cpu"), 0)
    task, options = settle(spec)
    suite = Trainer(task, spec.method, spec.sparsity, spec.seed, options, datasets.load_for(task, folder)).model.plain()
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (plain.net, suite)]
    assert shapes[0] == shapes[1]


@real
def test_steps_that_do_not_fit_into_an_epoch_are_refused(tmp_path, capsys):
    """Its evaluation would be measured as steps."""
    words = ["--results", str(tmp_path), "--device", "cpu", "--data", os.environ.get("DATA_DIR", "data")]
    assert throughput.main([*words, "--rounds", "8", "--steps", "40"]) == 2
    assert "9 rounds of 40 steps do not fit into an epoch of cifar10-resnet20, which has 352" in capsys.readouterr().err


class Loop:
    """Takes memory when it is made and at its first step, and notes the arithmetic of its steps."""

    batch_size = 1

    def __init__(self, device, arithmetic, precision, runs):
        self.device, self.arithmetic, self.precision, self.runs, self.steps, self.repeatable = device, arithmetic, precision, runs, [], True
        device["reserved"] += 2 ** 20

    def train(self, steps):
        if not self.steps:
            self.device["reserved"] += 15 * self.runs * 2 ** 20
        self.steps += steps * [self.arithmetic()]


def test_loops_of_a_gpu_are_made_one_after_the_other(monkeypatch, arithmetic):
    """Warmed up until their steps are recorded, with the memory of each and the arithmetic of its precision."""
    device = {"reserved": 1000}
    monkeypatch.setattr(throughput, "forget_workspaces", lambda: None)
    for name, call in dict(synchronize=lambda _: None, empty_cache=lambda: None, memory_reserved=lambda _: device["reserved"]).items():
        monkeypatch.setattr(torch.cuda, name, call)
    made = {}

    def make(precision, runs):
        made[precision] = Loop(device, arithmetic, precision, runs)
        return made[precision]
    makers = {"fp32": lambda: make("fp32", 1), "tf32": lambda: make("tf32", 4)}
    rates, memory, failed = throughput.measure(makers, torch.device("cuda"), rounds=2, steps=3)
    assert not failed and memory == {"fp32": 16, "tf32": 61} and all(len(rate) == 2 for rate in rates.values())
    assert made["fp32"].steps == [(False, False, True)] * (WARM + 2 + 3 * 3)
    assert made["tf32"].steps == [(True, True, True)] * (WARM + 2 + 3 * 3)


def test_what_was_measured_stays_when_a_loop_fails(tmp_path, monkeypatch, capsys):
    """One cannot be made, one fails in its last round: the others have their rows, and that one the rounds before."""
    class Fake:
        batch_size, repeatable, precision = 128, True, "fp32"

        def __init__(self, spec, folder, device, runs):
            self.runs, self.turns = runs, 0
            if runs == 2:
                raise torch.OutOfMemoryError("no memory on purpose")

        def train(self, steps):
            self.turns += 1
            if self.runs == 3 and self.turns == 4:
                raise RuntimeError("lost on purpose")
    monkeypatch.setattr(throughput, "Plain", lambda spec, folder, device, workers: Fake(spec, folder, device, 1))
    monkeypatch.setattr(throughput, "Suite", Fake)
    monkeypatch.setattr(throughput, "data_folder", lambda args: tmp_path)
    monkeypatch.setattr(throughput.datasets, "load_for", lambda task, folder: SimpleNamespace(train=range(45_000)))
    words = ["--results", str(tmp_path), "--device", "cpu", "--precisions", "fp32", "--rounds", "3", "--steps", "1", "--packs", "1", "2", "3", "4"]
    assert throughput.main(words) == 1
    rows = rows_of(tmp_path / "performance" / "throughput.csv")
    assert [(row["loop"], row["runs"], row["rounds"]) for row in rows] == [
        ("plain", "1", "3"), ("suite", "1", "3"), ("suite", "3", "2"), ("suite", "4", "3")]
    assert all(float(row["ratio"]) > 0 for row in rows)
    said = capsys.readouterr().err
    assert said.endswith("failed: suite st3 fp32, 2 at a time\nfailed: suite st3 fp32, 3 at a time\n")
    assert "no memory on purpose" in said and "lost on purpose" in said


@pytest.mark.parametrize("words", [["--task", "digits"], ["--device", "cuda:99"], ["--sparsity", "2"], ["--data", "nowhere"],
                                   ["--rounds", "x"], ["--rounds", "0"], []])
def test_bad_arguments_of_throughput(words, capsys, tmp_path, monkeypatch):
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)  # no data set, and nothing is downloaded
    assert throughput.main(["--results", str(tmp_path), "--device", "cpu", "--data", str(tmp_path / "data"), *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("words", [["--rounds", "x"], ["--rounds", "0"], ["--parts", "depth"], []])
def test_bad_arguments_of_scaling(words, capsys, tmp_path):
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    assert scaling.main(["--results", str(tmp_path), "--device", "cpu", "--data", str(tmp_path / "data"), *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_parts_that_were_measured_stay_when_another_fails(tmp_path, monkeypatch, capsys):
    def fails(folder, device, rounds):
        yield "", 1, 2.0, "ms"
        raise ValueError("no such width")
    parts = {"cores": lambda *_: [("dense", 1, 3.0, "images/s")], "selection": lambda *_: [("", 10, 1.0, "ms")], "width": fails}
    monkeypatch.setattr(scaling, "PARTS", parts)
    monkeypatch.setattr(scaling, "measured_on", lambda device: dict(dict.fromkeys(scaling.COLUMNS[6:]), device=device.type))
    for device, expected in (("cpu", ["cores", "selection"]), ("cuda", ["selection"])):  # the default
        monkeypatch.setattr(scaling, "usable_device", torch.device)
        assert scaling.main(["--results", str(tmp_path), "--device", device]) == 2
        assert capsys.readouterr().err.splitlines() == ["error: no such width"]
        rows = rows_of(tmp_path / "performance" / "scaling.csv")
        assert [row["part"] for row in rows if row["device"] == device] == expected


@pytest.mark.parametrize("part", ["cores", "start", "host"])
def test_what_is_not_a_gpus(part, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "usable_device", torch.device)
    monkeypatch.setattr(scaling, "measured_on", lambda device: dict(dict.fromkeys(scaling.COLUMNS[6:]), device=device.type))
    assert scaling.main(["--results", str(tmp_path), "--device", "cuda", "--parts", "selection", part]) == 2
    assert capsys.readouterr().err == f"error: part {part} is measured on the CPU: --device cpu, or --parts width selection\n"
    assert not list(tmp_path.rglob("*.csv"))


@real
def test_scaling_of_width_and_selection(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "WIDTHS", (0.125, 0.25))
    monkeypatch.setattr(scaling, "SIZES", (100, 1000))
    assert scaling.main(["--results", str(tmp_path), "--rounds", "1", "--parts", "width", "selection", "--device", "cpu"]) == 0
    assert scaling.main(["--results", str(tmp_path), "--rounds", "1", "--parts", "selection", "--device", "cpu"]) == 0
    rows = rows_of(tmp_path / "performance" / "scaling.csv")
    assert [(row["part"], row["method"], float(row["x"])) for row in rows] == [
        ("selection", "", 100), ("selection", "", 1000), ("width", "dense", 0.125), ("width", "dense", 0.25),
        ("width", "st3", 0.125), ("width", "st3", 0.25)]
    assert all(float(row["value"]) > 0 for row in rows)


@real
def test_the_host_is_measured_without_the_work_of_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "NETWORKS", ("cifar10-resnet20",))
    passes, made = [], Trainer.forward_backward
    monkeypatch.setattr(Trainer, "forward_backward", lambda self, *batch: passes.append(len(batch[1])) or made(self, *batch))
    assert scaling.main(["--results", str(tmp_path), "--rounds", "2", "--parts", "host", "--device", "cpu"]) == 0
    rows = rows_of(tmp_path / "performance" / "scaling.csv")
    assert [(row["part"], row["method"], row["x"], row["unit"]) for row in rows] == [("host", "dense", "43", "us"), ("host", "st3", "43", "us")]
    assert passes == [2] * 2 * (WARM + 1)  # of two images, and none when it is measured


def dies(*_):
    os._exit(1)


def test_a_process_that_dies_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(scaling, "entrant", lambda *_: None)
    monkeypatch.setattr(scaling, "_train", dies)
    with pytest.raises(BrokenProcessPool):
        next(scaling.measure_cores("data", torch.device("cpu"), 1))


def test_whoever_fails_lets_the_others_go(monkeypatch):
    barrier = threading.Barrier(2)
    monkeypatch.setattr(scaling, "entrant", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scaling._train("data", 1.0, barrier)
    assert barrier.broken


def test_the_start_of_workers(monkeypatch):
    """They have begun as a launch's do, and have ended."""
    made = []
    monkeypatch.setattr(scaling.Worker, "method", "to be set")
    monkeypatch.setattr(scaling.Worker, "ask", lambda self, ask=scaling.Worker.ask: made.append(self) or ask(self))
    assert scaling._start("forkserver", 2) > 0
    assert [worker.process.exitcode for worker in made] == [0, 0] and scaling.Worker.method == "forkserver"


def test_launches_fork_where_that_is_safe():
    assert Worker.method == ("forkserver" if sys.platform == "linux" else "spawn")

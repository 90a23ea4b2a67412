"""Where the time of a packed step goes, in miniature and without a GPU. No time is tested."""
import contextlib
import csv
from dataclasses import replace

import pytest
import torch

from benchmarks import replays, train
from benchmarks.gpu import pack


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The measurement on a CPU, of batches of 8 images: (its exit status, its rows)."""
    monkeypatch.setattr(pack, "Trainer", lambda task, *given: train.Trainer(replace(task, batch_size=8), *given))

    def measured(*words):
        status = replays.main(["--results", str(tmp_path), "--device", "cpu", "--task", "cifar10-resnet20w8", "--rounds", "1", *words])
        with open(tmp_path / "performance" / "replays.csv", newline="") as file:
            return status, list(csv.DictReader(file))
    return measured


def test_each_part_of_a_packed_step_has_a_row(small):
    status, rows = small("--packs", "1", "2")
    assert status == 0 and [(row["part"], row["loop"], row["method"], row["runs"]) for row in rows] == [
        (part, "compiled", "st3", runs) for part in ("apply", "forward_backward", "rank", "step") for runs in "12"]
    assert all(float(row["us"]) >= float(row["host_us"]) - 0.1 > 0 for row in rows)


def test_densities_are_read_as_often_as_in_a_run(monkeypatch):
    """Every 44th step of an epoch of 45,000 images; it takes some 40 launches. In an epoch of the measured steps alone it was every third."""
    read = []
    monkeypatch.setattr(train, "computed_with", lambda model: read.append(made) or torch.zeros(len(model.layout.sizes)))
    steps, made = train.Trainer.step, 0

    def step(trainer, x, y):
        nonlocal made
        made += 1
        return steps(trainer, x[:2], y[:2])
    monkeypatch.setattr(train.Trainer, "step", step)
    rounds = 90
    spec = replays.Spec("cifar10-resnet20w8", "static", 0.95, 0)
    assert next(replays.steps(spec, 1, torch.device("cpu"), rounds))["part"] == "step"
    assert made == replays.FIRST + 1 + rounds and read == [0, 44, 88]


def test_what_was_measured_before_a_failure_is_stored(small, monkeypatch, capsys):
    def steps(spec, runs, device, rounds):
        yield dict(part="step", us=2.0, host_us=1.0)
        if runs == 2:
            raise torch.OutOfMemoryError("no memory on purpose")
        yield dict(part="apply", us=1.0, host_us=0.5)
    monkeypatch.setattr(replays, "steps", steps)
    status, rows = small("--packs", "1", "2", "4")
    assert status == 1 and [row["part"] + row["runs"] for row in rows] == ["apply1", "apply4", "step1", "step2", "step4"]
    said = capsys.readouterr()
    assert "no memory on purpose" in said.err and said.out.endswith(", without steps 2\n")


def test_single_kernels_are_recorded_for_each_stream_and_replayed_in_turns(monkeypatch):
    made = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: len(made))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

    def record(function):
        number = len(made)
        made.append([f"recorded {number}, {len(function())} kernels"])
        return None, lambda: made[number].append("replayed")
    monkeypatch.setattr(replays, "cuda_graph", record)
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *shape, device: zeros(*shape))
    monkeypatch.setattr(replays, "now", lambda device: replays.time.perf_counter())
    row, = replays.launches(2, torch.device("cuda"), 3)
    assert made == [[f"recorded {number}, {replays.KERNELS} kernels", *["replayed"] * 4] for number in range(2)]
    assert row["part"] == "launches" and 0 < row["us"] < row["host_us"]


def test_a_gpu_is_asked_for_all_parts(small, monkeypatch):
    """Of a GPU that is not there: which measurements would be made."""
    asked = []
    monkeypatch.setattr(replays, "usable_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(replays, "measured_on", lambda device: {"device": "a GPU"})
    monkeypatch.setattr(replays, "launches", lambda streams, *_: iter([dict(part="launches", us=1.5)]))
    monkeypatch.setattr(replays, "steps", lambda spec, runs, *_: asked.append(runs) or iter([dict(part="step", us=500.0)]))
    for _ in range(2):  # the second time in the places of the first
        status, rows = small()
        assert status == 0 and [(row["part"], row["loop"], row["runs"]) for row in rows] == [
            *(("launches", "", str(streams)) for streams in (1, 2, 4, 8)), *(("step", "compiled", runs) for runs in "18")]
    assert asked == [1, 8] * 2


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--packs", "8", "0"], ["--task", "digits"], ["--method", "nothing"], ["--parts", "launches"],
                                   ["--parts", "step"]])
def test_bad_arguments(words, tmp_path, capsys):
    assert replays.main(["--results", str(tmp_path), "--device", "cpu", *words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1

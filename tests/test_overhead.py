"""The bookkeeping of `benchmarks.overhead`, on digits. No time is tested."""
import csv

import numpy as np
import pytest
import torch

import methods
from benchmarks import overhead
from benchmarks.data import load
from benchmarks.grid import Spec
from methods.dynamic import RigL
from methods.layout import Layout


def measured(folder, *words, named=("st3", "rigl"), sparsity="0.9"):
    """Rows of the file after a measurement of one round, as dicts of text."""
    assert overhead.main(["--task", "digits", "--methods", *named, "--sparsity", sparsity, "--rounds", "1", "--steps", "2",
                          "--device", "cpu", "--results", str(folder), *words]) == 0
    with open(folder / "performance" / "overhead.csv", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == overhead.COLUMNS
    return rows


def test_rows_are_complete_and_a_new_measurement_replaces_them(tmp_path, capsys):
    rows = measured(tmp_path, named=("st3", "ste_soft_rescale", "rigl"))  # the second is another name of the first
    assert [(row["method"], row["sparsity"]) for row in rows] == [("dense", "0.0"), ("rigl", "0.9"), ("st3", "0.9")]
    printed = capsys.readouterr().out
    for row in rows:
        assert row["method"] in printed and all(row.values()) and row["precision"] == "fp32" and row["threads"] == "1"
        assert float(row["images_per_second"]) == pytest.approx(64e3 / float(row["step_ms"]), rel=1e-2)
        assert all(float(row[f"{part}_ms"]) > 0 for part in ("forward", "backward", "optimizer"))
        assert (row["rounds"], row["batch_size"], row["passes"]) == ("1", "64", "1")
    assert [rows[0][name] for name in ("ratio", "ratio_low", "ratio_high")] == ["1.0"] * 3
    assert float(rows[1]["ratio"]) == pytest.approx(float(rows[1]["step_ms"]) / float(rows[0]["step_ms"]), rel=1e-2)

    path = tmp_path / "performance" / "overhead.csv"
    for row in rows:  # a second may have begun between two of them
        path.write_text(path.read_text().replace(row["measured_at"], "long ago"))
    measured(tmp_path, named=("st3",))
    measured(tmp_path, named=("st3",), sparsity="0.8")
    rows = measured(tmp_path, "--precision", "bf16", named=("st3",))
    assert [(row["precision"], row["method"], row["sparsity"], row["measured_at"] == "long ago") for row in rows] == [
        ("bf16", "dense", "0.0", False), ("bf16", "st3", "0.9", False),
        ("fp32", "dense", "0.0", False), ("fp32", "st3", "0.8", False), ("fp32", "rigl", "0.9", True),
        ("fp32", "st3", "0.9", False)]


def test_ratios_are_to_the_dense_steps_of_the_same_round(monkeypatch):
    """A machine that becomes four times slower in between changes no ratio; the first round only warms up."""
    def entrant(spec, *_):
        speed = iter([9, 1, 4, 4, 1])
        factor = {"dense": 1, "st3": 1.5}[spec.method]
        fake = real(spec, *_)
        fake.step_seconds = lambda: factor * 0.01 * next(speed)
        return fake

    real = overhead.Entrant
    monkeypatch.setattr(overhead, "Entrant", entrant)
    specs = [Spec("digits", "dense", 0, 0), Spec("digits", "st3", 0.9, 0)]
    dense, st3 = overhead.measure(specs, "data", overhead.usable_device("cpu"), rounds=4, steps=1)
    assert (st3["ratio"], st3["ratio_low"], st3["ratio_high"]) == (1.5, 1.5, 1.5) and dense["ratio"] == 1
    assert (dense["step_ms"], st3["step_ms"], st3["rounds"]) == (25.0, 37.5, 4)


@pytest.mark.parametrize("method, parts", [("dense", 2), ("st3", 3), ("rigl", 2), ("probmask", 3)])
def test_steps_are_recorded_before_the_first_round(method, parts):
    recorded = []

    def record(function):
        recorded.append(function)
        return function(), lambda: None  # the replays are not looked at

    entrant = overhead.Entrant(Spec("digits", method, 0.9, 0), load("digits", "data"), overhead.usable_device("cpu"), 3, record)
    assert len(recorded) == parts  # the passes, clipping with the optimiser's step, and ranking at every step
    for _ in range(2):
        entrant.step_seconds()
    assert len(recorded) == parts


def test_runs_in_turns_are_those_alone(tmp_path):
    """Each has its own seed, weights and random numbers, and makes the same steps; a step's time is that of one of them."""
    data, cpu = load("digits", "data"), overhead.usable_device("cpu")
    pack = overhead.Entrant(Spec("digits", "st3", 0.9, 0), data, cpu, 3, runs=3)
    pack.step_seconds()
    for seed, (_, trainer) in enumerate(pack.pack):
        alone = overhead.Entrant(Spec("digits", "st3", 0.9, 0), data, cpu, 3)
        alone.pack = overhead.Entrant(Spec("digits", "st3", 0.9, seed), data, cpu, 3).pack
        alone.step_seconds()
        assert torch.equal(alone.pack[0][1].model.theta, trainer.model.theta)
    assert len({float(trainer.model.theta.detach().sum()) for _, trainer in pack.pack}) == 3
    clock = iter([10.0, 16.0])
    pack.now = lambda: next(clock)
    assert pack.step_seconds() == pytest.approx(6 / 3 / 3)
    rows = measured(tmp_path, "--runs", "2") + measured(tmp_path, named=("st3",))
    assert [(row["method"], row["runs"]) for row in rows] == [
        ("dense", "2"), ("rigl", "2"), ("st3", "2"), ("dense", "1"), ("dense", "2"), ("st3", "1"), ("rigl", "2"), ("st3", "2")]


@pytest.mark.parametrize("interval, expected", [
    (None, [(250, 3, 1 / 3)]),
    (1, [(250, 3, 1 / 3)]),
    (2, [(249, 2, 1 / 2)]),
    (4, [(247, 2, 1 / 4), (249, 2, 1 / 4)]),
    (100, [(199, 2, 1 / 100), (201, 3, 0.98 / 3)]),
    (1000, [(999, 2, 1 / 1000), (1001, 3, 0.998 / 3)]),
])
def test_updates_weigh_as_often_as_they_happen(interval, expected):
    found = overhead.groups(interval, middle=250, steps=3)
    assert np.allclose(found, expected)
    assert sum(number * weight for _, number, weight in found) == pytest.approx(1)


@pytest.mark.parametrize("method, middle", [("dense", 0), ("probmask", 0), ("lamp_oneshot", 1), ("lrr", 6)])
def test_the_middle_of_training(method, middle):
    """Not ProbMask's fine-tuning, an epoch after twenty; LRR's seventh cycle of twelve."""
    assert overhead.middle_of(methods.get(method)(Layout(torch.nn.Linear(100, 100)), 0.9).cycles(20)) == middle


@pytest.mark.parametrize("epochs", [25, 30, 37])
def test_what_is_done_once_in_some_epochs_is_left_out(monkeypatch, epochs):
    """Where MIDDLE falls on the first step of an epoch, too."""
    monkeypatch.setattr(methods.get("mest"), "update", lambda *_: pytest.fail("MEST changes its mask"))
    spec = Spec("digits", "mest", 0.9, 0, epochs, options={"every": "1"})
    entrant = overhead.Entrant(spec, load("digits", "data"), overhead.usable_device("cpu"), 3)
    entrant.step_seconds()
    assert abs(entrant.training.step / entrant.training.total_steps - overhead.MIDDLE) < 1 / epochs


def test_each_turn_has_one_update_of_the_mask(monkeypatch):
    steps = []
    update = RigL.update
    monkeypatch.setattr(RigL, "update", lambda self, run, fraction: (steps.append(run.step), update(self, run, fraction)))
    specs = [Spec("digits", "dense", 0, 0), Spec("digits", "rigl", 0.9, 0)]
    overhead.measure(specs, "data", overhead.usable_device("cpu"), rounds=2, steps=3)
    assert len(steps) == 2 * (1 + 2) and len(set(steps)) == 1  # warm-up and rounds, of the steps and of the profile
    assert (steps[0] + 1) % 10 == 0  # the interval of digits


@pytest.mark.parametrize("words, texts", [
    (["--methods", "rgl"], ["'rgl'", "rigl"]),
    (["--sparsity", "1.2"], ["1.2", "[0, 1)"]),
    (["--rounds", "0"], ["--rounds", "0"]),
    (["--runs", "0"], ["--runs", "0"]),
    (["--data", "nowhere"], ["nowhere", "--data"]),
    (["--device", "cudo"], ["'cudo'"]),
    (["--precision", "fp8"], ["fp8", "bf16"]),
])
def test_bad_arguments_give_one_line(words, texts, tmp_path, capsys):
    assert overhead.main(["--task", "cifar10-resnet20", "--results", str(tmp_path), *words]) == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and all(text in line for text in texts)


def test_file_of_another_version_is_not_overwritten(tmp_path, capsys):
    path = tmp_path / "performance" / "overhead.csv"
    path.parent.mkdir()
    path.write_text("method,ratio\nst3,1.05\n")
    assert overhead.main(["--task", "digits", "--methods", "st3", "--results", str(tmp_path)]) == 2
    assert str(path) in capsys.readouterr().err and path.read_text() == "method,ratio\nst3,1.05\n"

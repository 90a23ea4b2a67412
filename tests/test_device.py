"""Runs whose device fails them, and the dry run of what a GPU records."""
import pytest
import torch
from stored import SPEC, timeless
from test_capture import recorder, state_of
from test_runs import finished, interrupted  # noqa: F401

from benchmarks import machine
from benchmarks import run as runner
from benchmarks.grid import Spec
from benchmarks.machine import DEVICE_ERRORS
from benchmarks.results import Store
from benchmarks.train import Trainer
from benchmarks.trial import dry_run as dry
from benchmarks.workers.worker import Job

METHODS = '''
import torch

from methods import get


class Good(get("static")):
    pass


class Grows(get("rigl")):
    pass


class Waits(Good):
    def forward(self, theta):
        return super().forward(theta) * (1 if theta.abs().sum() > 0 else 2)


class Moves(Good):
    """A buffer that changes in place."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.register_buffer("scale", torch.ones(()))

    def after_step(self, run):
        self.scale.fill_(min(1, 0.1 + run.step / 10))

    def forward(self, theta):
        return super().forward(theta) * self.scale


class Freezes(Moves):
    """A number of Python."""

    now = 1.0

    def after_step(self, run):
        self.now = min(1, 0.1 + run.step / 10)

    def forward(self, theta):
        return super().forward(theta) * self.now
'''


@pytest.mark.parametrize("error", DEVICE_ERRORS)
def test_a_checkpoint_that_the_device_cannot_take_is_not_damaged(finished, tmp_path, monkeypatch, capsys, error):
    def failing(trainer, state):
        raise error("the device's fault on purpose")
    store = Store(tmp_path)
    interrupted(store, SPEC, 19)
    with monkeypatch.context() as patch:
        patch.setattr(runner.Trainer, "load_state_dict", failing)
        row = runner.run(SPEC, store)
    assert row["status"] == "failed" and "on purpose" in row["error"] and "damaged" not in capsys.readouterr().out
    assert store.checkpoint(SPEC.key).exists()
    assert timeless(runner.run(SPEC, store)) == timeless(finished[1])


def test_a_device_that_cannot_be_opened_leaves_the_checkpoint(tmp_path, monkeypatch):
    store = Store(tmp_path)
    interrupted(store, SPEC, 19)
    monkeypatch.setattr(machine, "default_device", lambda: "nowhere")
    job = Job(SPEC, None, True, [], store, "data", lambda: False)
    while (said := job.turn()) is None:
        pass
    assert said["status"] == "failed" and "nowhere" in said["error"] and store.checkpoint(SPEC.key).exists()


def test_a_device_that_is_neither_is_refused_though_torch_has_it(monkeypatch):
    monkeypatch.setattr(machine.torch, "empty", lambda *size, device: None)
    with pytest.raises(ValueError, match=r"^there is no device 'mps' here \(a device is cpu, cuda or cuda:N\)$"):
        machine.usable_device("mps")


def test_steps_that_are_recorded_are_dry_run_too(tmp_path, monkeypatch):
    """And compared with those that are not: what a recording cannot know of is said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(METHODS)
    made, recorded = [], []

    def trainer(*arguments):
        made.append(Trainer(*arguments))
        return made[-1]

    def record(function):
        recorded.append(function)
        return recorder(lambda: state_of(made[-1]))(function)
    monkeypatch.setattr(dry, "Trainer", trainer)
    monkeypatch.setattr(dry, "recorder", lambda task, device: record)
    for method, half in (("Good", 4), ("Moves", 4), ("Grows", 8)):
        dry.dry_run(Spec("digits", f"mine.py:{method}", 0.9, 0), "data")
        # the passes, and the optimiser's step; with a recording, twice without, and once stopped in the middle and gone on
        assert len(recorded) == 2 and len(made) == 5
        stopped = made.pop(3)
        assert all(torch.equal(trainer.model.theta, made[0].model.theta) for trainer in made)
        assert stopped.training.step == half and not torch.equal(stopped.model.theta, made[0].model.theta)
        made.clear(), recorded.clear()
    with pytest.raises(ValueError, match=r"in forward \(mine.py, line \d+\): a recorded part waits for the device"):
        dry.dry_run(Spec("digits", "mine.py:Waits", 0.9, 0), "data")
    with pytest.raises(ValueError, match="recorded steps differ from those made anew: a number of Python that forward"):
        dry.dry_run(Spec("digits", "mine.py:Freezes", 0.9, 0), "data")

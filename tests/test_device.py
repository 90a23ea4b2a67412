"""Runs whose device fails them, and the dry run of what a GPU records."""
import pytest
from stored import SPEC, timeless
from test_capture import Notes
from test_runs import finished, interrupted  # noqa: F401

from benchmarks import dry_run as dry
from benchmarks import machine
from benchmarks import run as runner
from benchmarks.grid import Spec
from benchmarks.machine import DEVICE_ERRORS
from benchmarks.results import Store
from benchmarks.worker import Job

METHODS = '''
from methods import get


class Good(get("static")):
    pass


class Waits(Good):
    def forward(self, theta):
        return super().forward(theta) * (1 if theta.abs().sum() > 0 else 2)
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


def test_steps_that_are_recorded_are_dry_run_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(METHODS)
    recorded = []

    def record(function):
        with Notes():
            recorded.append(function())
        return recorded[-1], int
    monkeypatch.setattr(dry, "recorder", lambda task, device: record)
    dry.dry_run(Spec("digits", "mine.py:Good", 0.9, 0), "data")
    assert len(recorded) == 2  # the passes, and the optimiser's step
    with pytest.raises(ValueError, match=r"in forward \(mine.py, line \d+\): a recorded part waits for the device"):
        dry.dry_run(Spec("digits", "mine.py:Waits", 0.9, 0), "data")

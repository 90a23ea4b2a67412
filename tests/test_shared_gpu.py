"""Runs that share a GPU, without one: the generator states that each has for itself, and what its row leaves out."""
import pytest
import torch

from benchmarks import describe
from benchmarks.checkpoint import random_state, set_random_state
from benchmarks.data import load
from benchmarks.gpu.pack import Lane
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.tasks import settle
from benchmarks.train import Trainer


class Generator:
    """Of a GPU, as torch's: its state is a thing of its own, which what is recorded with it reads."""

    def __init__(self, state=(0, 0)):
        self.state = list(state)

    def clone_state(self):
        return Generator(self.state)

    def graphsafe_get_state(self):
        other = Generator()
        other.state = self.state
        return other

    def graphsafe_set_state(self, other):
        self.state = other.state

    def get_state(self):
        return torch.tensor(self.state, dtype=torch.uint8)

    def set_state(self, numbers):
        self.state[:] = numbers.tolist()


@pytest.fixture
def generator(monkeypatch):
    """The one of a GPU that is not there."""
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda.random, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda.random, "_lazy_call", lambda call: call())
    monkeypatch.setattr(torch.cuda, "default_generators", (Generator((7, 0)),))
    return torch.cuda.default_generators[0]


def test_runs_on_a_gpu_have_generator_states_of_their_own(generator):
    device, used, saved = torch.device("cuda", 0), {}, {}

    def run(seed):
        generator.state[:] = seed, 0
        for step in range(3):
            used.setdefault(seed, []).append(generator.state)  # the very one, as a recording has it
            generator.state[1] += 1
            yield step
        saved[seed] = random_state(device)
        set_random_state([*saved[seed][:3], torch.tensor([seed, 9], dtype=torch.uint8)], device)
        assert generator.state == [seed, 9] and generator.state is used[seed][0]

    outside = generator.state
    lanes = [Lane(run(seed), device) for seed in (1, 2)]
    for _ in range(4):
        for lane in lanes:
            lane.turn()
            assert generator.state is outside and outside == [7, 0]
    assert all(state is used[seed][0] for seed in used for state in used[seed]) and used[1][0] is not used[2][0]
    assert [saved[seed][3].tolist() for seed in (1, 2)] == [[1, 3], [2, 3]]


def test_a_checkpoint_of_a_cpu_has_no_state_for_a_gpu(generator):
    set_random_state(random_state(torch.device("cpu")), torch.device("cuda", 0))
    assert generator.state == [7, 0]


@pytest.mark.parametrize("device, alone, memory, expected", [("cpu", False, 7.4, "7"), ("cuda", True, 7.4, "7"), ("cuda", False, 7.4, ""),
                                                             ("cpu", True, None, "")])
def test_what_a_gpu_says_is_not_of_one_run_where_others_share_it(device, alone, memory, expected, tmp_path, monkeypatch):
    """Nor what a process says that cannot forget its peak."""
    monkeypatch.setattr(describe, "peak_memory", lambda device: memory)
    spec, store = Spec("digits", "static", 0.9, 0, 1), Store(tmp_path)
    task, options = settle(spec)
    trainer = Trainer(task, spec.method, spec.sparsity, spec.seed, options, load("digits", "data")).run()
    trainer.progress.cycle, trainer.device = 0, torch.device(device)
    trainer.progress.seconds, trainer.progress.step_seconds, trainer.progress.steps = 10.0, 3.0, 4  # the rest in evaluations
    row, layers = describe.describe(spec, task, trainer, 1, "ok", "", alone)
    store.write(row, trainer.progress.curves, layers)
    assert store.collect("digits") == 1
    kept, = store.read("digits")
    assert kept["step_ms"] == ("" if memory and not expected else "750.0")
    assert kept["peak_memory_mb"] == expected and float(kept["top1"]) == row["top1"]

"""Several runs on one device at a time: they take turns, a step each, with streams and random numbers of their own.

One small network fills only a part of a GPU. A single process issues the runs' steps one after another, which costs it little because they are
recorded (`capture`); on the GPU they run in parallel.
"""
from contextlib import contextmanager, nullcontext

import torch

from benchmarks.tasks import settle
from benchmarks.train import Trainer


FREE = {}  # {device: streams of runs that have ended}. Torch has 32: with a new one for each, a long run would share its stream with a later one


class Lane:
    """One run of a pack, given as a generator `run`; `turn()` makes one step. `row` is what the generator returned, once it has `ended`."""

    def __init__(self, run, device):
        self.run, self.device, self.row, self.ended = run, torch.device(device), None, False
        self.stream = None
        if self.device.type == "cuda":  # not the default stream, which cannot be recorded
            self.stream = free.pop() if (free := FREE.get(self.device)) else torch.cuda.Stream(self.device)
        self.numbers = random_numbers(self.device, own=True)

    def turn(self):
        """Makes one step; returns the share of the run that is done."""
        with self.alone():
            try:
                return next(self.run)
            except StopIteration as end:
                self.row, self.ended = end.value, True
                if self.stream:
                    FREE.setdefault(self.device, []).append(self.stream)
                return 1.0

    @contextmanager
    def alone(self):
        """A context on the stream of this run, with the states of the global generators as its last turn left them."""
        outside = random_numbers(self.device)
        set_random_numbers(self.numbers, self.device)
        try:
            with torch.cuda.stream(self.stream) if self.stream else nullcontext():
                yield
        finally:
            self.numbers = random_numbers(self.device)
            set_random_numbers(outside, self.device)


def lanes_of(spec, runs, data, device, record):
    """(Lanes of so many runs of a Spec, with seeds from 0; the list of their Trainers, each of them made in its lane's first turn, on its stream).
    For measurements: nothing is stored."""
    (task, options), trainers = settle(spec), []

    def steps(seed):
        trainers.append(Trainer(task, spec.method, spec.sparsity, seed, options, data, device, record))
        yield from trainers[-1].steps()
    return [Lane(steps(seed), device) for seed in range(runs)], trainers


def random_numbers(device, own=False):
    """The states of torch's global generators that a run on `device` may draw from (dropout does).

    A GPU's is the state object itself, which changes while it is in use, or with `own` a copy. Recorded steps read their seed and offset from
    memory that belongs to the state object and is written at each replay, so runs in parallel need states of their own.
    """
    if device.type != "cuda":
        return torch.get_rng_state(), None
    generator = generator_of(device)
    return torch.get_rng_state(), generator.clone_state() if own else generator.graphsafe_get_state()


def set_random_numbers(states, device):
    torch.set_rng_state(states[0])
    if states[1] is not None:
        generator_of(device).graphsafe_set_state(states[1])


def generator_of(device):
    """The global generator of a GPU."""
    torch.cuda.init()
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]

"""Several runs on one device at a time: they take turns, a step each, with streams and random numbers of their own.

One small network fills a part of a GPU. Their steps are issued one after another by one process, whose recorded steps (`capture`)
cost it little, and are at work side by side.
"""
from contextlib import contextmanager, nullcontext

import torch


class Lane:
    """A run, as the generator `run`, in a pack; `turn()` makes one step of it. `row` is what it returned, once it has `ended`."""

    def __init__(self, run, device):
        self.run, self.device, self.row, self.ended = run, torch.device(device), None, False
        # not the default stream, on which nothing can be recorded
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.numbers = random_numbers(self.device, own=True)

    def turn(self):
        """One step; returns the share of the run that is done."""
        with self.alone():
            try:
                return next(self.run)
            except StopIteration as end:
                self.row, self.ended = end.value, True
                return 1.0

    @contextmanager
    def alone(self):
        """On the stream of this run, and with the state of the global generators that its own last turn left."""
        outside = random_numbers(self.device)
        set_random_numbers(self.numbers, self.device)
        try:
            with torch.cuda.stream(self.stream) if self.stream else nullcontext():
                yield
        finally:
            self.numbers = random_numbers(self.device)
            set_random_numbers(outside, self.device)


def random_numbers(device, own=False):
    """The states of torch's global generators that a run on `device` may draw from (dropout does).

    That of a GPU is itself, which goes on changing while it is in use; own: a copy. Its recorded steps read their seed and place from
    memory that belongs to the state and is written at each replay, so that runs at work side by side need states of their own.
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

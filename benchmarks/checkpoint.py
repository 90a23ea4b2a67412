"""Checkpoints of a run: when one is due, how it is written whole or not at all, and how a run goes on from it."""
import contextlib
import math
import random
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import torch

from benchmarks.files import UnreadableCheckpoint, replacing
from benchmarks.gpu import team
from benchmarks.machine import DEVICE_ERRORS
from methods.seeds import stable_seed

CHECKPOINT_SECONDS = 60  # a run that dies loses about this much work at most
CHECKPOINT_SHARE = 0.01  # of the time of a run, at most
ZIP = b"PK\x03\x04"  # how a file of torch.save begins


@dataclass
class Progress:
    """How far a run is: everything besides the tensors that a checkpoint keeps."""

    cycle: int = 0
    epoch: int = 0                  # of the cycle
    index: int = 0                  # steps trained of the epoch
    done: int = 0                   # epochs trained so far, over all cycles
    curves: list = field(default_factory=list)
    started: bool = False           # the cycle has begun
    best_val: float = -1.0          # best validation accuracy of the cycle after its final sparsity was reached
    test_at_best: float = math.nan
    seconds: float = 0.0
    step_seconds: float = 0.0
    steps: int = 0
    samples: int = 0                # steps of which the layers' weights were counted, and their passes
    passes: int = 0
    origins: dict = field(default_factory=dict)  # what it was made on and with (machine.note_origin)


class Stopped(BaseException):
    """The run was asked to stop, and what it has done is in its checkpoint."""


class Saver:
    """Writes a checkpoint if the last is older than CHECKPOINT_SECONDS, and old enough that writing takes CHECKPOINT_SHARE of the time at most,
    or if `stop()` is true (then it raises Stopped). A full disk ends no run: the last checkpoint stays."""

    def __init__(self, path, seconds=None, stop=lambda: False):
        self.path, self.seconds, self.stop = Path(path), CHECKPOINT_SECONDS if seconds is None else seconds, stop
        self.last, self.took = time.monotonic(), 0.0

    def before_the_first_step(self):
        """Raises Stopped where `stop()` is true already: there is nothing new to write."""
        if team.agreed(self.stop())[0]:
            raise Stopped

    def __call__(self, trainer):
        stopping, began = self.stop(), time.monotonic()
        due = began - self.last >= (max(self.seconds, self.took / CHECKPOINT_SHARE) if self.seconds else 0)
        stopping, due = team.agreed(stopping, due)
        if not stopping and not due:
            return
        state = trainer.state_dict()  # which all processes of a run make together
        if team.rank() == 0:
            self.write(state)
        self.last = time.monotonic()
        self.took = self.last - began
        if stopping:
            raise Stopped

    def write(self, state):
        try:  # one process at a time has the run (run_claims.py), but one that was suspended may still write when another has it
            with replacing(self.path) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch says RuntimeError where a write fails
            with contextlib.suppress(OSError):  # the log may be on that disk
                print(f"no checkpoint could be written to {self.path} ({' '.join(str(error).split())[:100]}); the run goes on")


def loaded(path, device):
    """What torch.save has written at `path`. Raises ValueError for a file of another kind, which torch before 2.6 may run code of though it is
    asked for weights alone (CVE-2025-32434)."""
    with open(path, "rb") as file:
        if file.read(len(ZIP)) != ZIP:
            raise ValueError("no file of torch.save")
        file.seek(0)
        return torch.load(file, map_location=device, weights_only=True)


def restored(make, path):
    """The Trainer that `make()` makes, gone on from the checkpoint at `path` if there is a whole one; one that is damaged, or of
    what the method's file was before it was changed, is named. Raises UnreadableCheckpoint."""
    trainer = make()
    if Path(path).exists():
        try:
            with zipfile.ZipFile(path) as parts:  # torch does not look at the checksums that it writes
                if parts.testzip():
                    raise ValueError("checksum")
            state = loaded(path, trainer.device)
            if state.get("method", trainer.method_digest) != trainer.method_digest:  # a state of older code has none
                print(f"the checkpoint {path} is of the method's file before it was changed; the run starts anew")
                return trainer
            trainer.load_state_dict(state)
        except DEVICE_ERRORS:  # which say nothing of what is in it
            raise
        except OSError as error:  # nor does this, of another user's file, say
            raise UnreadableCheckpoint(f"the checkpoint {path} cannot be read ({error.strerror or error}): make it readable, or move it away "
                                       "and the run starts anew") from None
        except Exception as error:  # whatever is wrong with the file, the run can start anew
            why = f"{error}".split("\n")[0] if isinstance(error, ValueError) else type(error).__name__
            print(f"the checkpoint {path} is damaged, or not of this method ({why}); the run starts anew")
            trainer = make()
    return trainer


def seed_all(*parts):
    """Seeds the global generators, torch's, NumPy's and Python's, by `stable_seed(*parts)`."""
    seed = stable_seed(*parts)
    torch.manual_seed(seed)
    numpy.random.seed(seed % 2**32)
    random.seed(seed)


def random_state(device):
    """The states of the global generators: Python's, NumPy's, torch's, which dropout draws from, and a GPU's."""
    name, keys, *rest = numpy.random.get_state()
    return [random.getstate(), (name, keys.tolist(), *rest), torch.get_rng_state(),
            *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(states, device):
    if not torch.is_tensor(states[0]):  # a state of older code has torch's alone
        python, numpys, *states = states
        random.setstate(python), numpy.random.set_state(numpys)
    torch.set_rng_state(states[0].cpu())
    if device.type == "cuda" and len(states) > 1:  # a run that began on a CPU has no other
        torch.cuda.set_rng_state(states[1].cpu(), device)

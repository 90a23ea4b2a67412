"""Checkpoints of a run: when one is due, how it is written whole or not at all, and how a run resumes from it."""
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
from benchmarks.machine import DEVICE_ERRORS, lacks_memory
from benchmarks.method_files import digest
from benchmarks.tasks import get_task
from methods.seeds import stable_seed

CHECKPOINT_SECONDS = 60  # a run that dies loses about this much work at most
CHECKPOINT_SHARE = 0.01  # share of a run's time that writing checkpoints may take
ZIP = b"PK\x03\x04"  # how a file of torch.save begins


@dataclass
class Progress:
    """How far a run is: all that a checkpoint keeps besides tensors."""

    cycle: int = 0
    epoch: int = 0                  # within the cycle
    index: int = 0                  # steps done in the epoch
    done: int = 0                   # epochs trained so far, over all cycles
    curves: list = field(default_factory=list)
    started: bool = False           # whether the cycle has begun
    best_val: float = -1.0          # best validation accuracy of the cycle after its final sparsity was reached
    test_at_best: float = math.nan
    seconds: float = 0.0
    step_seconds: float = 0.0
    steps: int = 0
    samples: int = 0                # steps at which the layers' active weights were counted; passes in these steps
    passes: int = 0
    origins: dict = field(default_factory=dict)  # devices and versions it was trained with (machine.note_origin)


class Stopped(BaseException):
    """The run was asked to stop; its work is in its checkpoint."""


class Saver:
    """Each call writes a checkpoint if the last one is older than CHECKPOINT_SECONDS, and old enough that writing takes at most CHECKPOINT_SHARE of
    the time; also if `stop()` is true, and then raises Stopped. A full disk does not end a run: the last checkpoint stays."""

    def __init__(self, path, seconds=None, stop=lambda: False):
        self.path, self.seconds, self.stop = Path(path), CHECKPOINT_SECONDS if seconds is None else seconds, stop
        self.last, self.took = time.monotonic(), 0.0

    def before_the_first_step(self):
        """Raises Stopped if `stop()` is already true, without writing, because there is nothing new."""
        if team.agreed(self.stop())[0]:
            raise Stopped

    def __call__(self, trainer):
        stopping, began = self.stop(), time.monotonic()
        due = began - self.last >= (max(self.seconds, self.took / CHECKPOINT_SHARE) if self.seconds else 0)
        stopping, due = team.agreed(stopping, due)
        if not stopping and not due:
            return
        state = trainer.state_dict()  # all processes of a run must take part
        if team.rank() == 0:
            self.write(state)
        self.last = time.monotonic()
        self.took = self.last - began
        if stopping:
            raise Stopped

    def write(self, state):
        try:  # one process at a time makes a run (run_claims.py), but a suspended one may wake up and write while another makes it
            with replacing(self.path) as file:
                torch.save(state, file)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError if a write fails
            with contextlib.suppress(OSError):  # the log may be on the same full disk
                print(f"no checkpoint could be written to {self.path} ({' '.join(str(error).split())[:100]}); the run goes on")


def loaded(path, device, mmap=False):
    """Loads what torch.save has written at `path`; with mmap, tensors are read only where they are used. Raises ValueError for a file of another
    format, because torch before 2.6 may execute code in these even with weights_only=True (CVE-2025-32434)."""
    with open(path, "rb") as file:
        if file.read(len(ZIP)) != ZIP:
            raise ValueError("no file of torch.save")
        file.seek(0)
        return torch.load(str(path) if mmap else file, map_location=device, weights_only=True, mmap=mmap)


def restored(make, path):
    """The Trainer that `make()` returns, resumed from the checkpoint at `path` if there is a valid one. A checkpoint that is damaged, or was made
    before the method's or the suite's file changed, is named and not used. Raises UnreadableCheckpoint."""
    trainer = make()
    try:
        if Path(path).exists():
            with zipfile.ZipFile(path) as parts:  # torch does not verify the checksums that it writes
                if parts.testzip():
                    raise ValueError("checksum")
            state = loaded(path, trainer.device)
            if state["method"] != trainer.sources:
                whose = "method's or the suite's" if trainer.task.source else "method's"
                print(f"the checkpoint {path} is of the {whose} file before it was changed; the run starts anew")
                return trainer
            trainer.load_state_dict(state)
    except DEVICE_ERRORS:  # these say nothing about the file
        raise
    except OSError as error:  # nor does this error, for example for another user's file
        raise UnreadableCheckpoint(f"the checkpoint {path} cannot be read ({error.strerror or error}): make it readable, or move it away "
                                   "and the run starts anew") from None
    except Exception as error:  # whatever is wrong with the file, the run can start anew
        if lacks_memory(error):
            raise
        why = f"{error}".split("\n")[0] if isinstance(error, ValueError) else type(error).__name__
        print(f"the checkpoint {path} is damaged, or not of this method ({why}); the run starts anew")
        trainer = make()
    return trainer


def share_done(path, spec):
    """The share of its run (of this Spec) after which the checkpoint at `path` was written; 0.0 where the run would start anew, too (but damage
    within tensors, which are not read, only `restored` notices)."""
    try:
        state = loaded(path, "cpu", mmap=True)  # a thousandth of the time that its tensors would take
        return state["share"] * (state["method"] == digest(spec.method) + get_task(spec.task).source)
    except Exception:  # there is none, or it is damaged
        return 0.0


def seed_all(*parts):
    """Seeds the global generators of torch, NumPy and Python with `stable_seed(*parts)`."""
    seed = stable_seed(*parts)
    torch.manual_seed(seed)
    numpy.random.seed(seed % 2**32)
    random.seed(seed)


def random_state(device):
    """States of the global generators: Python's, NumPy's, torch's (from which dropout draws) and the GPU's."""
    name, keys, *rest = numpy.random.get_state()
    return [random.getstate(), (name, keys.tolist(), *rest), torch.get_rng_state(),
            *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_random_state(states, device):
    python, numpys, *states = states
    random.setstate(python), numpy.random.set_state(numpys)
    torch.set_rng_state(states[0].cpu())
    if device.type == "cuda" and len(states) > 1:  # a run that began on a CPU has no state of a GPU
        torch.cuda.set_rng_state(states[1].cpu(), device)

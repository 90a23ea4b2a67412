"""One run: a Spec becomes a stored row."""
import contextlib
import math
import os
import sys
import time
import traceback
from dataclasses import replace
from functools import cache

import torch

from benchmarks import data as datasets
from benchmarks import kept
from benchmarks.batches import DataError
from benchmarks.checkpoint import Saver, restored
from benchmarks.describe import code_of, describe, identity, macs_of
from benchmarks.files import StoreError
from benchmarks.gpu import capture, team
from benchmarks.gpu.pack import Lane
from benchmarks.levels import levels_of
from benchmarks.machine import DEVICE_ERRORS, causes, lacks_memory, note_origin, numerics, one_core, reset_peak_memory, usable_device
from benchmarks.method_files import file_of
from benchmarks.progress import title
from benchmarks.records import unreadable
from benchmarks.switches import schedule_of
from benchmarks.tasks import get_task, settle, suite_of
from benchmarks.train import Trainer
from benchmarks.workers.run_claims import Taken

OUTSIDE = "{} weights that the mask says are zero are not: forward must leave them out"
BESIDES = ("the plain network with these weights {} the trained one{}: what the method adds to the network, or changes in how it is evaluated, is in "
           "no number of a row")


def run(spec, store, folder="data", device=None, tick=lambda share: None, stop=lambda: False, begun=lambda epochs: None):
    """Trains what `spec` names, stores its row and returns it. Raises Stopped about a second after `stop()` has become true.

    `begun(epochs of all cycles)` is called before the first step, `tick(share of the run done)` after it and about once a second. If the
    loss becomes infinite or NaN, the row has status `diverged`, and a line on stderr says so; after an error it has status `failed`, and the
    traceback goes to stderr. Raises ValueError, in one line, for what cannot be started at all, and StoreError for a row that cannot be
    written (its checkpoint stays). If `stop` raises Taken, so does the run, and stores nothing more.
    """
    device = usable_device(device)
    lane, told = Lane(steps(spec, store, folder, device, stop, begun=begun), device), -math.inf
    while not lane.ended:
        share = lane.turn()
        if time.monotonic() - told > 1:
            told = time.monotonic()
            tick(share)
    return lane.row


@cache
def resident(dataset, folder, validation, normalisation, device):
    """A data set on a device, one copy for all runs of this process there."""
    data = datasets.load(dataset, folder, validation, normalisation).to(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # because other streams will read it
    return data


def steps(spec, store, folder, device, stop=lambda: False, alone=True, begun=lambda epochs: None, branches=()):
    """`run` as a generator, so that runs can take turns. Yields the share done before the first step, after each step, and twice at the end of
    an epoch; returns the row.

    alone: whether the run has the device to itself; then lack of memory is its own failure, else OutOfMemoryError is raised. branches: Specs
    whose runs part from this one (`levels.branches`); it leaves a checkpoint for each at the point where they part.
    """
    with team.assembled(spec, store, folder, settle(spec)[0], device) as device:
        return (yield from Attempt(spec, store, folder, device, stop, alone, begun, branches).steps())


class Attempt:
    """A run from its Spec to its row; the arguments are those of `steps`."""

    def __init__(self, spec, store, folder, device, stop, alone, begun, branches):
        one_core()
        self.spec, self.store, self.folder, self.device = spec, store, folder, device
        self.stop, self.alone, self.begun, self.branches = stop, alone, begun, branches
        self.task, self.options = settle(spec)
        numerics(self.task.precision, device)
        self.levels = levels_of(spec)
        self.before = {other.key: store.stamp(other.key) for other in (*self.levels, *branches)}
        # asked now, while the method's own file is what the run was begun with: an edit of it must not end a training
        self.cycles_shared, self.code = {other: len(levels_of(other)) - 1 for other in branches}, code_of(spec)
        self.unmade = self.levels
        with contextlib.suppress(StoreError):  # a table that cannot be read does not stop the run
            self.unmade = unmade(self.levels, store)

    def prepared(self):
        """The Trainer with its data, new or resumed from a checkpoint."""
        task, spec, device = self.task, self.spec, self.device
        data = resident(task.dataset, str(self.folder), task.validation, task.normalisation, device)
        macs_of(task, data)  # raises ValueError if the network does not take such images
        reset_peak_memory(device)
        record = capture.recorder(task, device)
        trainer = restored(lambda: Trainer(task, spec.method, spec.sparsity, spec.seed, self.options, data, device, record),
                           self.store.checkpoint(spec.key))
        note_origin(trainer.progress.origins, device, self.code)
        return trainer

    def steps(self):
        """The generator behind `steps`."""
        try:
            self.trainer = trainer = self.prepared()
        except ValueError:  # the run cannot be started at all: the caller reports it
            raise
        except (Exception, SystemExit) as problem:  # a method's hook may call sys.exit
            return self.failed(problem)
        try:
            self.begun(trainer.training.all_epochs)
            save = Saver(self.store.checkpoint(self.spec.key), stop=self.stop)
            yield trainer.share()  # the process may have been asked to stop meanwhile
            save.before_the_first_step()
            yield from trainer.steps(save, self.cycle_done, save)
            return self.finish(self.spec, curves_of(trainer, trainer.training.cycles[-1]) if len(self.levels) > 1 else trainer.progress.curves)
        except (StoreError, Taken):
            raise
        except (Exception, SystemExit) as problem:
            if not isinstance(problem, FloatingPointError) and not trainer.diverged():
                return self.failed(problem)
            text = in_words(problem)
            print(f"{title(self.spec)} diverged: {text}", file=sys.stderr)
            for level in (*lacking(self.levels, self.store), self.spec):
                row = self.finish(level, trainer.progress.curves, "diverged", text)
            return row

    def cycle_done(self, trainer):
        """At the end of a cycle, a run of several levels stores that level's row, and leaves checkpoints for the runs that part from it there."""
        cycle, cycles = trainer.progress.cycle, trainer.training.cycles
        if len(self.levels) == len(cycles) and cycle < len(cycles) - 1:
            level = self.levels[cycle]
            made = level not in self.unmade or self.store.since(level.key, self.before[level.key])
            if not made or any(self.store.again(each.key).exists() for each in (level, self.spec)):  # finished runs stay as they are
                self.finish(level, curves_of(trainer, cycles[cycle]))
            for other in self.branches if team.world_size() == 1 else ():  # several processes would have to agree on which files exist
                path = self.store.checkpoint(other.key)
                if self.cycles_shared[other] == cycle + 1 and not path.exists() and not self.store.since(other.key, self.before[other.key]):
                    state = trainer.state_dict()
                    progress = state["progress"] | {"cycle": cycle + 1, "started": False}
                    Saver(path).write(state | {"progress": progress, "share": (cycle + 1) / (cycle + 2)})  # the other has one cycle more

    def finish(self, level, curves, status="ok", error=""):
        """Stores and returns the row of a level. Raises RuntimeError if the status is ok but the network is not what the row says."""
        self.stop()  # which may raise Taken
        trainer, store = self.trainer, self.store
        method, cycle = trainer.model.method, trainer.progress.cycle
        if status == "ok" and method.exact and int(method.mask.sum()) != method.budget_at(cycle):
            raise RuntimeError(f"{int(method.mask.sum())} weights are active, the budget is {method.budget_at(cycle)}")
        outside = trainer.model.outside() if status == "ok" else 0
        if outside:
            raise RuntimeError(OUTSIDE.format(outside))
        if status == "ok" and file_of(level.method) and team.world_size() == 1:
            self.compare_plain()
        if status == "ok" and store.keep_models:
            kept.save(store.model(level.key), level, trainer)
        cycles = len(trainer.training.cycles) if level == self.spec else self.levels.index(level) + 1  # also of a run that has diverged before
        row, layers = describe(level, self.task, trainer, cycles, status, error, self.alone)
        switches = trainer.switches.lines(schedule_of(method), method.mask) if trainer.switches else ()
        if status == "ok" and (problem := unreadable(row)):
            raise RuntimeError(f"the row would say that {problem}")
        store.write(row, curves, layers, switches)
        return row

    def compare_plain(self):
        """Raises RuntimeError if the plain network's accuracy differs by more than a point (more than rounding explains) from the trained one's: then
        a user's own method adds something besides the network's weights."""
        trainer, split = self.trainer, self.trainer.data.val or self.trainer.data.test
        plain, trained = (trainer.percent(hits, split) for hits in (trainer.hits_on(split, kept.plain(trainer)), trainer.hits_on(split)))
        if abs(plain - trained) > max(1, 200 / len(split)):
            raise RuntimeError(BESIDES.format(f"has {plain:.1f} % where", f" has {trained:.1f}"))

    def failed(self, problem):
        """Stores and returns the row of a run that an error has ended. Raises OutOfMemoryError if others share the device, and ends the process
        if the device is lost, or if it is one of several with NCCL: the others wait for it in a collective, and the end of its group for them."""
        if lacks_memory(problem) and not self.alone:
            raise torch.OutOfMemoryError(str(problem)) from problem
        gone = lost(self.device)
        if gone and not self.alone:  # the launcher tries each of the process's runs again, alone
            traceback.print_exception(problem)
            os._exit(1)
        self.stop()
        # what fails in one process of several need not fail in the others
        keep = gone or lacks_memory(problem) or of_the_machine(problem) or team.world_size() > 1
        row = store_failure(self.spec, problem, self.store, self.before[self.spec.key], keep, self.code)
        if gone or self.device.type == "cuda" and team.world_size() > 1:  # the launcher finds the row and makes its other runs in a new process
            os._exit(1)
        return row


def curves_of(trainer, cycle):
    """The curves of the cycle that has just ended."""
    return trainer.progress.curves[cycle.first - cycle.epochs:]


def of_the_machine(problem):
    """Whether an error may be temporary (of a device, a file, memory), so that the checkpoint is worth keeping."""
    passing = (*DEVICE_ERRORS, OSError, MemoryError, DataError)
    return any(isinstance(error, passing) or "DataLoader worker" in str(error) for error in causes(problem))


def lost(device):
    """Whether this process cannot use its device any more: after an error that stays, or with a graph capture that cannot be ended."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return bool(capture.UNENDED)


def lacking(levels, store):
    """As `unmade`; none if it is not known, for a table that cannot be read does not stop the other runs."""
    with contextlib.suppress(StoreError):
        return unmade(levels, store)
    return []


def unmade(levels, store):
    """The lower levels of a run that have no row, or only one of a failed attempt."""
    *lower, last = levels
    rows = store.rows(suite_of(last.task), note=False) if lower else ()
    return [level for level in lower if level.key not in rows or rows[level.key]["status"] == "failed"]


def in_words(problem):
    """An error, or a text, as the one line that goes into a row. Its traceback goes to stderr, unless the run diverged."""
    if isinstance(problem, BaseException) and not isinstance(problem, FloatingPointError):
        traceback.print_exception(problem)
        problem = f"{type(problem).__name__}: {problem}"
    return " ".join(str(problem).split()).encode("utf-8", "backslashreplace").decode()[:300]  # a file's name in it may not be UTF-8


def store_failure(spec, problem, store, before, keep=False, code=None):
    """Stores and returns the row of a run that ended with an error (an exception, whose traceback goes to stderr, or a text).

    Its lower levels that are `unmade` get such rows, too. before: the stamp that its row had; if it has been written since, by another
    process or as a level of a longer run, that row stays and is returned. keep: the fault may be temporary, so the checkpoint stays for
    `--retry-failed`; and if the run was being made `--again`, its earlier row stays, and the new one is only returned. code: the `code_of` with
    which the run was begun, if it was: only another content of the method's file may have mended it.
    """
    if row := store.since(spec.key, before):
        return row
    text = in_words(problem)
    try:
        task, levels = settle(spec)[0], levels_of(spec)
    except Exception:  # the method's own file has been changed since the launch, and cannot be loaded any more
        task, levels = get_task(spec.task), [spec]
        task = replace(task, epochs=spec.epochs or task.epochs, precision=spec.precision or task.precision)
    stays = keep and store.again(spec.key).exists()
    with contextlib.suppress(StoreError):  # of a table that cannot be read: the row of before may be in it
        earlier = store.rows(suite_of(spec.task), note=False).get(spec.key) if stays else None
        stays = bool(earlier) and earlier["status"] != "failed"
    for level in (*lacking(levels, store), spec):
        row = {**identity(level, task), "status": "failed", "error": text, **({"code_version": code} if code else {})}
        if stays:
            row["error"] += "; the row of before stays, and the same command tries again"
        else:
            store.write(row, keep=keep)
    return row

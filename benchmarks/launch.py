"""The local launcher, for one machine or inside a cluster job: one single-threaded process per core, if memory allows; stores each row as its run
ends."""
import sys
import time
from collections import deque
from functools import cache
from multiprocessing import connection

from benchmarks.command import CAME
from benchmarks.files import UnreadableCheckpoint
from benchmarks.levels import branches, levels_of, uncovered
from benchmarks.method_files import file_of
from benchmarks.progress import Bar, title
from benchmarks.tasks import DATASETS, get_task, settle
from benchmarks.workers import places
from benchmarks.workers.worker import CROWDED, Worker, preload, undisturbed, wait_for_preload

ATTEMPTS = 2  # a run whose process died (killed, out of memory) is tried again from its checkpoint, then becomes a failed row
WORKERS = []  # the workers of the launch in progress, which a signal has to stop


def tell_slow(specs, report, device=None):
    """Reports if these runs are in a precision that is slow on this machine."""
    from benchmarks.machine import default_device, slow_bf16
    on_cpu, tasks = (device or default_device()) == "cpu", [settle(spec)[0] for spec in specs]
    # not with sparse storage: its loops are faster in bf16 on every processor, and what it leaves dense takes little time, but for attention
    dense = [task for task in tasks if task.storage != "sparse" or task.model.startswith("vit")]
    if on_cpu and any(task.precision == "bf16" for task in dense) and (said := slow_bf16()):
        report(said)


def refuse_unsuited(specs, device=None, here=True):
    """Raises ValueError, in one line, for runs that would all fail: because of their precision (if they are made `here`, on this machine), or of
    a sparsity or options that their method does not take on their network. Methods from users' own files are tried by
    `own_methods.rehearse` instead."""
    from benchmarks.machine import default_device, refuse_precision
    for precision in {settle(spec)[0].precision for spec in specs} if here else ():
        refuse_precision(precision, device or default_device())
    for name in {spec.task for spec in specs}:
        refuse_unknown_defaults(name)
    cells = {(spec.task, spec.method, spec.options, spec.sparsity): spec for spec in specs if not file_of(spec.method)}
    for spec in cells.values():
        refuse_method(spec)


def load_data(specs, folder):
    """Fails here, once, rather than in every run, if data are missing or a network or the batches do not fit them. Returns the folder."""
    from benchmarks import data
    from benchmarks.describe import macs_of
    for task in {settle(spec)[0] for spec in specs}:
        loaded = data.load_for(task, folder)
        tell_part(folder, task.dataset, loaded.classes, len(loaded.test))
        macs_of(task, loaded)
        if task.drop_last and task.batch_size > len(loaded.train):
            raise ValueError(f"drop_last leaves no step: a batch of {task.batch_size} is larger than the {len(loaded.train)} training images")
    return folder


@cache
def tell_part(folder, dataset, classes, test_images):
    """Says once that a folder has not all images of a data set."""
    whole = DATASETS[dataset]
    if (classes, test_images) != (whole.classes, whole.test_images):
        print(f"{folder} has {classes} classes and {test_images} test images of {whole.title}'s {whole.classes} and {whole.test_images}: its rows count "
              f"as {whole.title}'s all the same", file=sys.stderr)


def refuse_unknown_defaults(name):
    """Raises ValueError if `defaults` of a task (its name) that is of a user's file have an option that is no method's."""
    from methods import available, get
    from methods.options import nearest
    task = get_task(name)
    if not task.source:
        return
    known = {option for method in available() for option in get(method).options()}
    for option in task.defaults.keys() - known:
        raise ValueError(nearest(option, known, f"option in defaults of {name}"))


def refuse_method(spec):
    """Raises ValueError if its method cannot be made for the network or this number of epochs. Without memory (meta device); a millisecond."""
    import torch

    from benchmarks.cost import layout_of
    from methods import get
    from methods.sparse.forms import of
    task, options = settle(spec)
    method = get(spec.method) if task.storage == "masked" else of(get(spec.method))
    layout = layout_of(task, DATASETS[task.dataset].classes)
    try:
        with torch.device("meta"):
            method(layout, spec.sparsity, **options).cycles(task.epochs)
    except ValueError:
        raise
    except (Exception, SystemExit):  # it reads weights, which the meta device does not have: the run itself will say what is wrong
        pass


def launch(specs, store, folder, jobs=None, report=print, wait=True, grace=10.0):
    """Make the rows of `specs`, `jobs` at a time on each GPU (default: PACK), or in all without one (default: `places.spread`).

    Returns the rows that did not end with status ok.

    A run that another process is making is left to that process; this one waits for its row, unless `wait` is false. A run that shares its
    first cycles with a longer run waits until that has reached the point where they part. Rows that were written since `store` last read
    its rows are used as they are. A run whose checkpoint cannot be read is among those returned, but gets no row. When the launch is
    interrupted, its runs have `grace` seconds to end their step and write a checkpoint; a second interruption ends them at once. Raises
    StoreError if rows cannot be written, and Ended after `ask_to_stop`.
    """
    if CAME:
        raise KeyboardInterrupt
    specs, unusable = usable(specs, store)
    specs = uncovered(specs)
    tell_slow(specs, report)
    runs = Launch(specs, store, folder, report, wait)
    runs.bad += unusable
    preload()
    wait_for_preload()
    with undisturbed():  # or a signal could come when only some of them are in WORKERS
        WORKERS[:] = [Worker(store, folder, *place) for place in places.spread(specs, places.gpus(), jobs)]
    try:
        runs.make()
    finally:
        runs.progress.close()
        stop(grace)
    return runs.bad


def usable(specs, store):
    """Returns (the Specs whose method can be loaded here, failed rows of the others): in a job, a method's file may have changed since the launch,
    or lack a file that it imports."""
    from benchmarks.run import store_failure
    good, bad = [], []
    for spec in specs:
        try:
            levels_of(spec)
            good.append(spec)
        except ValueError as problem:
            if CAME:  # submitit ends a job that it has requeued by a SystemExit, which looks like the file's own if it was just being loaded
                raise Ended("stopped; the job goes on where this one ended") from None
            row = store_failure(spec, problem, store, store.seen.get(spec.key), keep=True)
            bad += [row] if row["status"] != "ok" else []
    return good, bad


class Launch:
    """The unfinished runs of a launch, and how they proceed as its workers (WORKERS) report."""

    def __init__(self, specs, store, folder, report, wait):
        self.store, self.folder, self.report, self.wait = store, folder, report, wait
        self.precisions = {spec: settle(spec)[0].precision for spec in specs}
        self.trunks = branches(specs)
        self.waiting = dict(self.trunks)  # {run: the longer one that makes the cycles they have in common}
        self.queue = deque((spec, 1) for spec in specs if spec not in self.trunks)  # (run, which attempt)
        self.elsewhere = {}  # {run: the process of another launch that is making it}
        self.bad, self.look = [], 0.0  # rows that are not ok; when to check again what other launches have done
        self.warned = set()  # warnings that were already reported
        costs = {spec: settle(spec)[0].epochs * (1 if spec in self.trunks else len(levels_of(spec))) for spec in specs}
        self.progress = Bar(costs, report, {spec: 1 - 1 / len(levels_of(spec)) for spec in self.trunks})

    def make(self):
        """Works until every run has ended or, with `wait` false, is being made elsewhere."""
        while self.queue or any(worker.jobs for worker in WORKERS) or (self.elsewhere and self.wait):
            if time.monotonic() > self.look:
                under_way = {spec for spec, _ in self.queue} | {spec for worker in WORKERS for spec in worker.jobs}
                self.queue.extend((spec, 1) for spec in self.elsewhere if spec not in under_way)  # by now its row may exist, or its process be gone
                self.part(lambda branch: self.store.checkpoint(branch.key).exists())
                self.look = time.monotonic() + 2
            self.hand_out()
            for ready in connection.wait([w.pipe for w in WORKERS if w.jobs], timeout=1):
                self.hear(next(w for w in WORKERS if w.pipe is ready))

    def hand_out(self):
        """Gives queued runs, in order, to workers that have room for them."""
        while self.queue:
            free = [worker for worker in WORKERS if worker.takes(*self.queue[0], self.precisions)]
            if not free:
                return
            spec, attempt = self.queue.popleft()
            parting = [branch for branch in self.waiting if self.trunks[branch] == spec]  # branches that parted earlier have been made
            min(free, key=lambda worker: len(worker.jobs)).give(spec, attempt, self.store.seen.get(spec.key), parting)

    def hear(self, worker):
        """Handles a worker's message: how far a run is, its row, or why it has none."""
        said = worker.receive()
        if said is None and worker.asked:
            raise Ended("stopped; the same command goes on where this one ended")
        if said is None:
            return self.replace(worker)
        spec, message = said
        if isinstance(message, float):
            return self.progress.tick(spec, message)
        if isinstance(message, list):
            return self.warn(spec, message)
        if isinstance(message, UnreadableCheckpoint):  # reported as failed but not stored, so that the next launch tries it again
            message = dict(key=spec.key, task=spec.task, method=spec.method, options=spec.option_text, sparsity=spec.sparsity, seed=spec.seed,
                           status="failed", error=str(message))
        if isinstance(message, Exception):
            raise message
        del worker.jobs[spec]
        if isinstance(message, str):
            if spec not in self.elsewhere:
                self.report(f"{title(spec)} is being made by {message}")
            self.elsewhere[spec] = message
            self.part(lambda branch: self.waiting[branch] == spec and not self.wait)
        elif message == CROWDED:
            worker.room = max(1, worker.room - 1)
            self.queue.append((spec, ATTEMPTS))
            self.report(f"no memory for {title(spec)} besides the others; {worker.room} at a time from now on, and this one alone")
        else:
            self.finish(spec, message)

    def replace(self, worker):
        """Starts a new process for a worker whose own has died, and gives its runs another attempt."""
        WORKERS[WORKERS.index(worker)] = Worker(self.store, self.folder, worker.gpu, worker.room)
        for spec, attempt in worker.jobs.items():
            before = self.store.seen.get(spec.key)
            if row := self.store.since(spec.key, before):  # written before the process died
                self.finish(spec, row)
            elif attempt < ATTEMPTS:
                self.queue.append((spec, attempt + 1))
                self.report(f"the process of {title(spec)} died ({worker.end()}); it will be tried again")
            else:
                from benchmarks.run import store_failure
                self.finish(spec, store_failure(spec, f"its process died ({worker.end()})", self.store, before, keep=True))

    def part(self, ready):
        """Queues the branches that need not wait any longer."""
        for branch in [branch for branch in self.waiting if ready(branch)]:
            del self.waiting[branch]
            self.queue.append((branch, 1))

    def finish(self, spec, row):
        self.elsewhere.pop(spec, None)
        self.part(lambda branch: self.waiting[branch] == spec)
        self.progress.done(spec, row)
        if row["status"] != "ok":
            self.bad.append(row)

    def warn(self, spec, texts):
        """Reports the warnings of a run, each once, however many runs it applies to."""
        for text in texts:
            if text not in self.warned:
                self.warned.add(text)
                self.report(f"warning, {title(spec)}: {text}")


class Ended(SystemExit):
    """The launch was asked to stop and its runs have written checkpoints."""


def ask_to_stop():
    """Ask the workers of the launch in progress to write a checkpoint at the end of their step and to end."""
    for worker in WORKERS:
        worker.ask()


def stop(grace):
    """Asks the workers to stop, gives them `grace` seconds, and kills those that are left."""
    try:
        ask_to_stop()
        deadline = time.monotonic() + grace
        for worker in WORKERS:
            worker.process.join(max(deadline - time.monotonic(), 0))
    finally:
        for worker in WORKERS:
            worker.process.kill()

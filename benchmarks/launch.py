"""The local launcher, on a machine or within a job of a cluster: a process a core where memory allows, one thread each, whole rows as runs end."""
import time
from collections import deque
from functools import cache
from multiprocessing import connection

from benchmarks.files import UnreadableCheckpoint
from benchmarks.levels import branches, levels_of, uncovered
from benchmarks.method_files import file_of
from benchmarks.progress import Bar, title
from benchmarks.tasks import DATASETS, settle
from benchmarks.workers import places
from benchmarks.workers.worker import CROWDED, Worker, preload, undisturbed, wait_for_preload

ATTEMPTS = 2  # a run whose process died (killed, out of memory) is tried again from its checkpoint, then becomes a failed row
WORKERS = []  # of the launch in progress: what a signal has to stop


def tell_slow(specs, report, device=None):
    """Reports where these runs are in a precision that is a poor one for this machine."""
    from benchmarks.machine import default_device, slow_bf16
    on_cpu, tasks = (device or default_device()) == "cpu", [settle(spec)[0] for spec in specs]
    # loops of sparse storage read 16 bits faster everywhere; what it leaves dense takes little
    if on_cpu and any(task.precision == "bf16" and task.storage != "sparse" for task in tasks) and (said := slow_bf16()):
        report(said)


def refuse_unsuited(specs, device=None, here=True):
    """Raises ValueError in one line for runs that would become failed rows, one after the other: for their precision, where they are made
    `here`; for a sparsity or options that their method does not take on their network. Methods of somebody's own files are tried otherwise
    (`own_methods.rehearse`)."""
    from benchmarks.machine import default_device, refuse_precision
    for precision in {settle(spec)[0].precision for spec in specs} if here else ():
        refuse_precision(precision, device or default_device())
    cells = {(spec.task, spec.method, spec.options, spec.sparsity): spec for spec in specs if not file_of(spec.method)}
    for spec in cells.values():
        refuse_method(spec)


def load_data(specs, folder):
    """Missing data, and networks that cannot be made for them, end here, not in every run. Returns the folder."""
    from benchmarks import data
    from benchmarks.describe import macs_of
    for task in {settle(spec)[0] for spec in specs}:
        macs_of(task, data.load_for(task, folder))
    return folder


def refuse_method(spec):
    """Raises ValueError where its method cannot be made for the network, which takes a millisecond where neither has memory."""
    import torch

    from methods import get
    from methods.sparse.growth import of
    task, options = settle(spec)
    method = get(spec.method) if task.storage == "masked" else of(get(spec.method))
    layout = _layout(task.model, DATASETS[task.dataset].classes, task.width, task.first_dense, task.last_dense)
    try:
        with torch.device("meta"):
            method(layout, spec.sparsity, **options)
    except ValueError:
        raise
    except Exception:  # a number that it reads, of which shapes have none: what is wrong with it the run will say
        pass


@cache
def _layout(model, classes, width, first_dense, last_dense):
    """The prunable weights of a network, as a Trainer has them."""
    from benchmarks.cost import shapes_of
    from methods.layout import Layout
    net = shapes_of(model, classes, width)
    names = [entry.name for entry in Layout(net).entries]
    return Layout(net, names[:1] * first_dense + names[-1:] * last_dense)


def get_ready(specs):
    """What these runs' workers need begins to be loaded, beside what this process does before it launches them."""
    preload({settle(spec)[0].dataset for spec in specs})


def launch(specs, store, folder, jobs=None, report=print, wait=True, grace=3.0):
    """Make the rows of `specs`, `jobs` at a time on each GPU (default: PACK), or in all without one (default: `places.spread`).

    Returns the rows that did not end with status ok.

    A run that another process is making is left to it: its row is waited for, or, with `wait` false, not even that. A run that has its
    first cycles in common with a longer one waits until that has come to where they part. A row that was written since `store` has last
    read its rows is taken as it is. A run whose checkpoint cannot be read is among those returned, but has no row. When the launch is
    interrupted, its runs have `grace` seconds to end their epoch and to write a checkpoint. Raises StoreError if rows cannot be written,
    Ended after `ask_to_stop`.
    """
    specs, unusable = usable(specs, store)
    specs = uncovered(specs)
    tell_slow(specs, report)
    runs = Launch(specs, store, folder, report, wait)
    runs.bad += unusable
    get_ready(specs)
    wait_for_preload()
    with undisturbed():  # or a signal would find some of them
        WORKERS[:] = [Worker(store, folder, *place) for place in places.spread(specs, places.gpus(), jobs)]
    try:
        runs.make()
    finally:
        runs.progress.close()
        stop(grace)
    return runs.bad


def usable(specs, store):
    """(the Specs whose method can be loaded here, failed rows of the others): a job may find a method's file changed, or alone."""
    from benchmarks.run import store_failure
    good, bad = [], []
    for spec in specs:
        try:
            levels_of(spec)
            good.append(spec)
        except ValueError as problem:
            row = store_failure(spec, problem, store, store.seen.get(spec.key), keep=True)
            bad += [row] if row["status"] != "ok" else []
    return good, bad


class Launch:
    """The runs of a launch that are not ended, and what becomes of them as its workers (WORKERS) report."""

    def __init__(self, specs, store, folder, report, wait):
        self.store, self.folder, self.report, self.wait = store, folder, report, wait
        self.precisions = {spec: settle(spec)[0].precision for spec in specs}
        self.trunks = branches(specs)
        self.waiting = dict(self.trunks)  # {run: the longer one that makes the cycles they have in common}
        self.queue = deque((spec, 1) for spec in specs if spec not in self.trunks)  # (run, which attempt)
        self.elsewhere = {}  # {run: the process, of another launch, that makes it}
        self.bad, self.look = [], 0.0  # rows that are not ok; when to look again for what others have done
        self.warned = set()  # what runs were warned of
        costs = {spec: settle(spec)[0].epochs * (1 if spec in self.trunks else len(levels_of(spec))) for spec in specs}
        self.progress = Bar(costs, report, {spec: 1 - 1 / len(levels_of(spec)) for spec in self.trunks})

    def make(self):
        """Until every run has ended, or (`wait` false) is made elsewhere."""
        while self.queue or any(worker.jobs for worker in WORKERS) or (self.elsewhere and self.wait):
            if time.monotonic() > self.look:
                under_way = {spec for spec, _ in self.queue} | {spec for worker in WORKERS for spec in worker.jobs}
                self.queue.extend((spec, 1) for spec in self.elsewhere if spec not in under_way)  # its row may be there, or its process gone
                self.part(lambda branch: self.store.checkpoint(branch.key).exists())
                self.look = time.monotonic() + 2
            self.hand_out()
            for ready in connection.wait([w.pipe for w in WORKERS if w.jobs], timeout=1):
                self.hear(next(w for w in WORKERS if w.pipe is ready))

    def hand_out(self):
        """Queued runs to workers that have room for them, in order."""
        while self.queue:
            free = [worker for worker in WORKERS if worker.takes(*self.queue[0], self.precisions)]
            if not free:
                return
            spec, attempt = self.queue.popleft()
            parting = [branch for branch in self.waiting if self.trunks[branch] == spec]  # those that parted before have been made
            min(free, key=lambda worker: len(worker.jobs)).give(spec, attempt, self.store.seen.get(spec.key), parting)

    def hear(self, worker):
        """What a worker says: how far a run is, its row, or why it has none."""
        said = worker.receive()
        if said is None and worker.asked:
            raise Ended("stopped; the same command goes on where this one ended")
        if said is None:
            return self.replace(worker)
        spec, message = said
        if isinstance(message, float):
            return self.progress.tick(spec, message)
        if isinstance(message, UnreadableCheckpoint):  # it is named as failed, but no row says so: the next launch tries it again
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
        """Another process for a worker whose own is gone, and another attempt for its runs."""
        WORKERS[WORKERS.index(worker)] = Worker(self.store, self.folder, worker.gpu, worker.room)
        for spec, attempt in worker.jobs.items():
            before = self.store.seen.get(spec.key)
            if row := self.store.since(spec.key, before):  # written before the process ended
                self.finish(spec, row)
            elif attempt < ATTEMPTS:
                self.queue.append((spec, attempt + 1))
                self.report(f"the process of {title(spec)} died ({worker.end()}); it will be tried again")
            else:
                from benchmarks.run import store_failure
                self.finish(spec, store_failure(spec, f"its process died ({worker.end()})", self.store, before, keep=True))

    def part(self, ready):
        """Queue the branches that need to wait no longer."""
        for branch in [branch for branch in self.waiting if ready(branch)]:
            del self.waiting[branch]
            self.queue.append((branch, 1))

    def finish(self, spec, row):
        self.elsewhere.pop(spec, None)
        self.part(lambda branch: self.waiting[branch] == spec)
        self.progress.done(spec, row)
        for text in row.get("warned", ()):
            if text not in self.warned:  # once, however many runs it is true of
                self.warned.add(text)
                self.report(f"warning, {title(spec)}: {text}")
        if row["status"] != "ok":
            self.bad.append(row)


class Ended(SystemExit):
    """The launch was asked to stop and its runs have written checkpoints."""


def ask_to_stop():
    """Ask the workers of the launch in progress to write a checkpoint at the end of their epoch and to end."""
    for worker in WORKERS:
        worker.ask()


def stop(grace):
    """Ask them, give them `grace` seconds, and end those that are left."""
    try:
        ask_to_stop()
        deadline = time.monotonic() + grace
        for worker in WORKERS:
            worker.process.join(max(deadline - time.monotonic(), 0))
    finally:
        for worker in WORKERS:
            worker.process.kill()

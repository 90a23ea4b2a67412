"""The local launcher, on a machine or within a job of a cluster: as many processes as cores, one thread each, whole rows as runs end."""
import contextlib
import os
import time
from collections import deque
from multiprocessing import connection
from pathlib import Path

from benchmarks.progress import Bar, title
from benchmarks.tasks import branches, levels_of, settle, uncovered
from benchmarks.worker import CROWDED, Worker

PACK = 8      # runs at a time on a GPU
ATTEMPTS = 2  # a run whose process died (killed, out of memory) is tried again from its checkpoint, then becomes a failed row
WORKERS = []  # of the launch in progress: what a signal has to stop


def cores(limit=Path("/sys/fs/cgroup/cpu.max")):
    """Cores that this process may use: those of its affinity, and no more than a container's share of time (cgroup 2) keeps busy."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # no such file; "max" is no number
        quota, period = map(int, limit.read_text().split())
        count = min(count, max(1, -(-quota // period)))
    return count


def gpus():
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return [name.strip() for name in named.split(",")][:count] if named else [str(number) for number in range(count)]


def places(specs, gpus, jobs=None):
    """(GPU or None, runs at a time) of each worker: `jobs` runs in turns on each GPU, or without one a worker for each.

    Where a run takes all GPUs (team.py), they are one place for one run.
    """
    if gpus and any(settle(spec)[0].on_all_gpus for spec in specs):
        return [(",".join(gpus), 1)]
    if gpus:
        return [(gpu, jobs or PACK) for gpu in gpus[:len(specs)]]
    return [(None, 1)] * min(jobs or cores(), len(specs))


def launch(specs, store, folder, jobs=None, report=print, wait=True, grace=3.0):
    """Make the rows of `specs`, `jobs` at a time on each GPU (default: PACK), or in all without one (default: one per core).

    Returns the rows that did not end with status ok.

    One thread per process: with more, torch can be twenty times slower where a quota limits the CPU. A run that another process is
    making is left to it: its row is waited for, or, with `wait` false, not even that. A run that has its first cycles in common with a
    longer one waits until that has come to where they part. A row that was written since `store` has last read its rows is taken as it
    is. When the launch is interrupted, its runs have `grace` seconds to end their epoch and to write a checkpoint. Raises StoreError if
    rows cannot be written, Ended after `ask_to_stop`.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    specs = uncovered(specs)
    precisions = {spec: settle(spec)[0].precision for spec in specs}
    trunks = branches(specs)
    waiting, queue = dict(trunks), deque((spec, 1) for spec in specs if spec not in trunks)
    elsewhere, bad, look = {}, [], 0.0
    costs = {spec: settle(spec)[0].epochs * (1 if spec in trunks else len(levels_of(spec))) for spec in specs}
    progress = Bar(costs, report, {spec: 1 - 1 / len(levels_of(spec)) for spec in trunks})

    def finish(spec, row):
        elsewhere.pop(spec, None)
        part(lambda branch: waiting[branch] == spec)
        progress.done(spec, row)
        if row["status"] != "ok":
            bad.append(row)

    def part(ready):
        """Queue the branches that need to wait no longer."""
        for branch in [branch for branch in waiting if ready(branch)]:
            del waiting[branch]
            queue.append((branch, 1))

    WORKERS[:] = [Worker(store, folder, *place) for place in places(specs, gpus(), jobs)]
    try:
        while queue or any(worker.jobs for worker in WORKERS) or (elsewhere and wait):
            if time.monotonic() > look:
                # its row may be there, or its process gone
                queue.extend((spec, 1) for spec in elsewhere if spec not in {s for s, _ in queue} and not _made(spec))
                part(lambda branch: store.checkpoint(branch.key).exists())
                look = time.monotonic() + 2
            while queue:
                free = [worker for worker in WORKERS if worker.takes(*queue[0], precisions)]
                if not free:
                    break
                spec, attempt = queue.popleft()
                parting = [branch for branch, trunk in trunks.items() if trunk == spec]
                min(free, key=lambda worker: len(worker.jobs)).give(spec, attempt, store.seen.get(spec.key), parting)
            for ready in connection.wait([w.pipe for w in WORKERS if w.jobs], timeout=1):
                worker = next(w for w in WORKERS if w.pipe is ready)
                said = worker.receive()
                if said is None and worker.asked:
                    raise Ended("stopped; the same command goes on where this one ended")
                if said is None:  # the process is gone
                    place = WORKERS.index(worker)
                    WORKERS[place] = Worker(store, folder, worker.gpu, worker.room)
                    for spec, attempt in worker.jobs.items():
                        row = store.row(spec.key) if store.stamp(spec.key) != store.seen.get(spec.key) else None
                        if row:  # written before the process ended
                            finish(spec, row)
                        elif attempt < ATTEMPTS:
                            queue.append((spec, attempt + 1))
                            report(f"the process of {title(spec)} died ({worker.end()}); it will be tried again")
                        else:
                            from benchmarks.run import store_failure
                            finish(spec, store_failure(spec, f"its process died ({worker.end()})", store, keep=True))
                    continue
                spec, message = said
                if isinstance(message, float):
                    progress.tick(spec, message)
                    continue
                if isinstance(message, Exception):
                    raise message
                del worker.jobs[spec]
                if isinstance(message, str):
                    if spec not in elsewhere:
                        report(f"{title(spec)} is being made by {message}")
                    elsewhere[spec] = message
                    part(lambda branch: waiting[branch] == spec and not wait)
                elif message == CROWDED:
                    worker.room = max(1, worker.room - 1)
                    queue.append((spec, ATTEMPTS))
                    report(f"no memory for {title(spec)} besides the others; {worker.room} at a time from now on, and this one alone")
                else:
                    finish(spec, message)
    finally:
        progress.close()
        stop(grace)
    return bad


class Ended(SystemExit):
    """The launch was asked to stop and its runs have written checkpoints."""


def _made(spec):
    """Whether a worker of this launch is at the run."""
    return any(spec in worker.jobs for worker in WORKERS)


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

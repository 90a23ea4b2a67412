"""The worker processes of the local launcher: each makes runs, one after another on a CPU core, or several that take turns on a GPU."""
import contextlib
import functools
import gc
import math
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from multiprocessing import forkserver, resource_tracker, util

from benchmarks.files import StoreError
from benchmarks.workers.run_claims import Claim, Taken

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
# imports what takes longest to load: torch, what torch's optimizers import at their first use, and the reader of CIFAR. Nothing here may initialise
# CUDA, which could then not be used in a forked process
PRELOADED = ["torchvision.datasets"]
WARNED = re.compile(r"^\S.*?:\d+: UserWarning: (.*)$", re.MULTILINE)  # the form in which Python prints one
LONGEST = 70  # characters of the temporary folder's path; a socket's path in it may have 107
CROWDED = ("crowded",)  # the answer of a run that did not fit into the device's memory beside the others


@contextlib.contextmanager
def undisturbed():
    """Blocks signals until it ends. Processes started inside inherit the block, so they never receive these signals."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # starting it later would unblock them
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def place_for_sockets():
    """If the name of the temporary folder is too long for a socket in it, multiprocessing gets a folder of its own in /tmp (as it does from
    Python 3.14 on)."""
    usual = tempfile.gettempdir()
    if len(usual) > LONGEST and os.path.isdir("/tmp"):
        tempfile.tempdir = "/tmp"
        util.get_temp_dir()  # which asks only once
        tempfile.tempdir = usual


def preload():
    """Starts the fork server, which imports what workers need while this process goes on. Only the first call counts. Sets one thread per process:
    with more, torch can be twenty times slower where a quota limits the CPU."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    multiprocessing.set_forkserver_preload(PRELOADED)
    if Worker.method == "forkserver":
        place_for_sockets()
        with undisturbed():
            forkserver.ensure_running()


@functools.cache
def wait_for_preload():
    """Waits, the first time, until workers can be forked. This takes seconds, in which Ctrl-C works; it does not while
    they are forked (`undisturbed`)."""
    if Worker.method == "forkserver":
        first = multiprocessing.get_context(Worker.method).Process(target=int, daemon=True)
        first.start()
        first.join()


class Worker:
    """A process that makes up to `room` runs at a time, on one GPU. Signals are for the launcher alone, which stops its workers itself.

    `jobs`: {Spec: which attempt it is}.
    """

    # workers are forked from a server that has imported what takes long, so that they share about half of their memory; forking is safe only
    # on Linux
    method = "forkserver" if sys.platform == "linux" else "spawn"

    def __init__(self, store, folder, gpu=None, room=1):
        context = multiprocessing.get_context(self.method)
        place_for_sockets()
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, store, folder, gpu), daemon=True)
        with undisturbed():
            self.process.start()
        theirs.close()
        self.jobs, self.asked, self.gpu, self.room = {}, False, gpu, room

    def takes(self, spec, attempt, precisions):
        """Whether there is room for the run. A run whose process died runs alone the next time; runs in one process share a precision.

        precisions: {Spec: precision}, given because a method's file must not be loaded again here: it may have changed since the launch.
        """
        if not self.jobs:
            return True
        together = {precisions[other] for other in (*self.jobs, spec)}
        return len(self.jobs) < self.room and max(attempt, *self.jobs.values()) == 1 and len(together) == 1

    def give(self, spec, attempt, before, branches):
        self.jobs[spec] = attempt
        with contextlib.suppress(OSError):  # a dead process is noticed when it is read from
            self.pipe.send((spec, before, attempt > 1 or self.room == 1, branches))

    def ask(self):
        if not self.asked:
            self.asked = True
            with contextlib.suppress(OSError):
                self.pipe.send(None)

    def receive(self):
        """(Spec, what its `Job.turn` says: its share done (float), warnings (list), its row (dict), who else makes it (str), CROWDED or a
        StoreError), or None if the process is gone."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return None

    def end(self):
        self.process.join()
        code = self.process.exitcode
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _work(pipe, store, folder, gpu):
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # CUDA reads this at its first use
    from benchmarks import run  # noqa: F401  for what it imports
    from benchmarks.checkpoint import Stopped
    gc.freeze()  # what is imported need not be searched for garbage after every run
    jobs, asked = [], []
    try:
        with Output() as output:
            while jobs or not asked:
                output.to(None)  # once per round is enough: nothing is printed between turns
                while pipe.poll(0 if jobs else None):
                    message = pipe.recv()
                    if message is None:
                        asked.append(True)
                        break
                    jobs.append(Job(*message, store, folder, lambda: bool(asked)))
                for job in list(jobs):
                    output.to(job.log)
                    try:
                        said = job.turn()
                    except Stopped:
                        jobs.remove(job)
                        continue
                    if said is None:
                        continue
                    if not isinstance(said, (float, list)):
                        output.to(None)  # the launcher may read the log
                        jobs.remove(job)
                        if gpu is not None:
                            gc.collect()  # frees memory held by reference cycles, such as an error and its traceback
                    pipe.send((job.spec, said))
    except (EOFError, OSError):  # the launcher is gone
        os._exit(1)
    os._exit(0)


class Job:
    """A run in a worker's process."""

    def __init__(self, spec, before, alone, branches, store, folder, stopping):
        self.spec, self.store, self.folder, self.log = spec, store, folder, None
        self.read, self.warned = 0, set()  # bytes of the log that were searched for warnings; those found
        self.run = self._make(before, alone, branches, stopping)

    def turn(self):
        """Takes one step of the run. Returns what to tell the launcher: its share done, a list of warnings, or None; anything else ends the run. Its
        output belongs in `log`."""
        try:
            return next(self.run)
        except StopIteration as end:
            return end.value

    def _make(self, before, alone, branches, stopping):
        spec, store = self.spec, self.store
        try:
            with Claim(store, spec.key) as claim:
                if row := store.since(spec.key, before):  # another process has already made it
                    return row
                store.log(spec.key).unlink(missing_ok=True)  # writing to a link would change the file that it points to
                with open(store.log(spec.key), "x") as self.log:
                    yield None  # output goes there from the next turn on
                    row = yield from self._train(claim, before, alone, branches, stopping)
                    yield self.warnings()
                if row != CROWDED and row["status"] == "ok":
                    store.log(spec.key).unlink(missing_ok=True)
                return row
        except Taken as other:
            return str(other)
        except StoreError as error:
            return error
        except OSError as error:
            return StoreError(f"{store.folder} cannot be written ({error.strerror})")

    def _train(self, claim, before, alone, branches, stopping):
        """Makes the run, one step per turn; yields its share done (once a second) or None; returns its row, or CROWDED."""
        import torch

        from benchmarks.gpu.pack import Lane
        from benchmarks.machine import usable_device
        from benchmarks.run import steps, store_failure
        told = -math.inf
        try:
            device = usable_device()
            run = steps(self.spec, self.store, self.folder, device, lambda: claim.check() or stopping(), alone, claim.begun, branches)
            lane = Lane(run, device)
            while not lane.ended:
                share = float(lane.turn())
                note = time.monotonic() - told > 1
                if note:
                    told = time.monotonic()
                    claim.note(share)
                    yield self.warnings()
                yield share if note else None
            return lane.row
        except StoreError:
            raise
        except torch.OutOfMemoryError as error:
            if not alone:
                return CROWDED
            problem = error  # the run had the device to itself
        except ValueError as error:  # it cannot be started at all, or its device cannot be opened
            problem = error
        return store_failure(self.spec, problem, self.store, before, keep=True)

    def warnings(self):
        """The texts of the warnings in its log that were not told yet, each once; None if there are none."""
        with contextlib.suppress(OSError), open(self.store.log(self.spec.key), "rb") as log:  # if somebody removed it, the run goes on all the same
            log.seek(self.read)
            texts = WARNED.findall(log.read().decode(errors="replace"))
            self.read, new = log.tell(), [text for text in dict.fromkeys(texts) if text not in self.warned]
            self.warned.update(new)
            return new or None
        return None


class Output:
    """Redirects everything that this process prints, also from compiled code. Before and after, it goes where it went at first."""

    def __enter__(self):
        self.own, self.file = (os.dup(1), os.dup(2)), None
        return self

    def __exit__(self, *error):
        self.to(None)
        for place in self.own:
            os.close(place)

    def to(self, file):
        """From now on output goes to this open file; None: where it went at first. Costs two system calls if that is a change."""
        if file is self.file:
            return
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        for number, place in zip((1, 2), (file.fileno(), file.fileno()) if file else self.own):
            os.dup2(place, number)
        self.file = file

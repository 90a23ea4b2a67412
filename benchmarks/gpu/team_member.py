"""The program of a run's other processes (team.py): the run is read from stdin, whose end means that the first process is gone."""
import contextlib
import os
import pickle
import sys
import threading
import time

import torch

from benchmarks.checkpoint import Stopped
from benchmarks.gpu import team
from benchmarks.results import Store
from benchmarks.run import steps


def help_out():
    """Takes part in the run that is read from stdin, as the first process does; returns the exit status."""
    number, count, place, kind, spec, results, folder = pickle.load(sys.stdin.buffer)

    def watch():
        sys.stdin.buffer.read()
        time.sleep(5)  # time for an end that comes in all processes at once
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()
    device = torch.device(kind, number) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    store = Store(results, write=False)
    store.write = lambda *record, keep=False: None
    with team.joined(number, count, place), contextlib.suppress(Stopped):
        run = steps(spec, store, folder, device)
        while True:
            try:
                next(run)
            except StopIteration as end:
                return int(end.value["status"] == "failed")
    return 0


if __name__ == "__main__":
    status = help_out()
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(status)  # a normal exit would wait for the thread that reads stdin

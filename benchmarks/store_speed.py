"""`python -m benchmarks.store_speed`: what storing costs, compared with set targets.

Measured are: a checkpoint (a run writes one a minute, or fewer, so that they take at most 1 % of its time); `status` and `collect` over 10,000 stored
rows of 30 epochs (copies of one real run under other keys, in a temporary folder); and, if SLURM answers, the submission of 1,000
runs, which are then cancelled. Commands are processes of their own: both the time that a user waits (best of three) and the CPU time are stored,
which other programs on the machine disturb less. `load` is the machine's load average, to be compared with `cores`.
Writes RESULTS/performance/store.csv.
"""
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import data as datasets
from benchmarks.__main__ import parser
from benchmarks.batches import AUGMENTATION, DataError, epoch_batches
from benchmarks.checkpoint import Saver
from benchmarks.chosen import chosen
from benchmarks.command import Parser, command, data_folder
from benchmarks.grid import Spec
from benchmarks.machine import device_name
from benchmarks.records import sealed, write_table
from benchmarks.results import Store
from benchmarks.run import run
from benchmarks.slurm import jobs
from benchmarks.tasks import get_task, settle
from benchmarks.train import Trainer
from benchmarks.workers.places import cores

COLUMNS = "what count seconds cpu_seconds load cores bytes target device".split()
ROWS, RUNS, ROUNDS = 10_000, 1_000, 3
MODEL = Spec("digits", "st3", 0.9, 0)


def checkpoint(spec, folder):
    """The line for a checkpoint of this run: the median of ten."""
    task, options = settle(spec)
    data = datasets.load_for(task, folder)
    trainer = Trainer(task, spec.method, spec.sparsity, 0, options, data)
    trainer.training.start()
    trainer.step(*next(epoch_batches(data.train, data, task.batch_size, 0, 0, **AUGMENTATION[task.augmentation])))
    times = []
    with tempfile.TemporaryDirectory() as place:
        save = Saver(Path(place) / "checkpoint.pt", seconds=0)
        for _ in range(10):
            began = time.perf_counter()
            save(trainer)
            times.append(time.perf_counter() - began)
        size = save.path.stat().st_size
    return dict(what=f"checkpoint {spec.task}", count=1, seconds=statistics.median(times), bytes=size)


def fill(store):
    """Writes ROWS rows of runs that `status digits --seeds K` asks for; returns K."""
    row = run(MODEL, store)
    record = json.loads((store.runs / f"{row['key']}.json").read_text())
    del record["checksum"]
    seeds = 1
    while len(specs := chosen(parser().parse_args(["status", "digits", "--seeds", str(seeds)]))) < ROWS:
        seeds = max(seeds + 1, seeds * ROWS // len(specs))
    for spec in specs[:ROWS]:
        record["runs"][0].update(key=spec.key, task=spec.task, method=spec.method, sparsity=spec.sparsity, seed=spec.seed,
                                 epochs=spec.epochs or get_task(spec.task).epochs, options=spec.option_text)
        for table in ("curves", "layers"):
            record[table] = [{**line, "key": spec.key} for line in record[table]]
        (store.runs / f"{spec.key}.json").write_text(sealed(record))
    return seeds


def timed(what, count, target, *words, rounds=ROUNDS):
    """The line for a command: the shortest wait over the rounds, and the CPU time of that round."""
    best = None
    for _ in range(rounds):
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "benchmarks", *words], capture_output=True, text=True)
        seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(done.stderr)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = min(best or (seconds, cpu), (seconds, cpu))
    return dict(what=what, count=count, seconds=best[0], cpu_seconds=best[1], target=target)


def measure(folder):
    """Yields the lines of the table."""
    for task in ("digits", "cifar10-resnet20", "cifar10-vgg11"):
        with contextlib.suppress(DataError):
            yield checkpoint(Spec(task, "st3", 0.9, 0), folder)
    with tempfile.TemporaryDirectory() as place:
        seeds = fill(Store(place))
        words = ["digits", "--results", place]
        yield timed("collect", ROWS, "10 s", "collect", *words)
        yield timed("collect again", ROWS, "10 s", "collect", *words)
        yield timed("status", ROWS, "2 s", "status", *words, "--seeds", str(seeds))
    try:
        jobs.queue(Store(write=False))
    except ValueError as error:
        print(f"no submission: {error}", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:  # jobs that have begun write to it until they are ended
        words = ["digits", "--results", place]
        yield timed("submission", RUNS, "20 s", "launch", *words, "--methods", "snip", "--sparsity", "0.9", "--seeds", str(RUNS),
                    "--launcher", "slurm", rounds=1)
        subprocess.run([sys.executable, "-m", "benchmarks", "cancel", *words, "--running"], check=True)


@command
def main(words=None):
    options = Parser(prog="benchmarks.store_speed", description=__doc__.partition("\n")[0])
    options.common("results")
    options.add_argument("--data", metavar="DIR", help="folder of the data sets; what is not there is left out")
    args = options.parse_args(words)
    path, lines = Store(args.results).folder / "performance" / "store.csv", []
    for line in measure(data_folder(args)):
        line |= dict(load=round(os.getloadavg()[0], 1), cores=cores())
        lines.append({**dict.fromkeys(COLUMNS), **line, "device": device_name(torch.device("cpu"))})
        print(", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                        for name, value in line.items()), flush=True)
    write_table(path, COLUMNS, lines)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())

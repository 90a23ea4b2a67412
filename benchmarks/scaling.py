"""`python -m benchmarks.scaling`: how the cost of the suite grows, into RESULTS/performance/scaling.csv.

- `cores`: total images per second of 1, 2, ... processes that train at once, with one thread each (dense, the recipe's precision).
- `start`: seconds until so many workers of a launch could take a run. Each is a process that loads everything itself (`spawn`), or is
  forked from one that has (`forkserver`, which launches use on Linux).
- `width`: milliseconds of a training step of dense and of ST-3 at 1 to 8 times the width, in turns.
- `selection`: milliseconds of choosing exactly 5 % of N scores (`methods.ranking.keep`), N from 10^4 to 10^8.
- `host`: microseconds that this program takes to launch a step on a GPU, measured on a CPU where the parts that a GPU records do nothing. The
  time of the GPU's driver is not included.

x is the number of processes, the width, N, or the number of the network's parameter tensors. A row has the median of the rounds; `cores` is measured
once, for three seconds a round. A part is stored when it ends, in place of its former rows. `cores`, `start` and `host` are measured on CPUs only.
"""
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import data as datasets
from benchmarks.command import Parser, at_least_one, command, data_folder
from benchmarks.gpu.capture import recorder
from benchmarks.grid import Spec
from benchmarks.machine import measured_on, one_core, usable_device
from benchmarks.measurements import in_turns, store, table_path
from benchmarks.overhead import Entrant, timed_together
from benchmarks.tasks import settle
from benchmarks.workers.places import cores
from benchmarks.workers.worker import Worker, preload
from methods.ranking import keep

TASK, STARTED, WIDTHS, SIZES = "cifar10-resnet20", (1, 4), (1, 2, 4, 8), tuple(10 ** e for e in range(4, 9))
SPAWNED = multiprocessing.get_context("spawn")  # each process loads everything itself
NETWORKS, HOST_STEPS = ("cifar10-resnet20", "cifar10-resnet56"), 200
COLUMNS = "part method x value unit rounds device threads torch_version code_version measured_at".split()
IDENTITY = "part method x device threads".split()


def entrant(folder, device, method="dense", task=TASK, steps=1, record=recorder, **options):
    """The Entrant of a method at 95 % on a task, with the recipe's batches and, where `recorder` records on the device, recorded steps."""
    spec = Spec(task, method, 0.95, 0, options=options)
    task, _ = settle(spec)
    return Entrant(spec, datasets.load_for(task, folder).to(device), device, steps, record(task, device))


def compared(rounds, folder, device, **options):
    """[(method, its Entrant, median seconds of a step over the rounds)] for dense and ST-3."""
    entrants = {method: entrant(folder, device, method, **options) for method in ("dense", "st3")}
    seconds = in_turns({method: one.step_seconds for method, one in entrants.items()}, rounds)
    return [(method, one, float(np.median(seconds[method]))) for method, one in entrants.items()]


def _train(folder, seconds, together):
    """One process of part `cores`: its images per second while all processes train."""
    one_core()
    try:
        mine = entrant(folder, torch.device("cpu"))
        mine.step_seconds()
    except BaseException:
        together.abort()  # the others must not wait for this process
        raise
    together.wait()
    began, steps = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        mine.step_seconds()
        steps += 1
    return steps * mine.trainer.task.batch_size / (time.perf_counter() - began)


def measure_cores(folder, device, rounds):
    """Yields (method, number of processes, their images per second together, unit)."""
    entrant(folder, device)  # fails here, rather than in a process, if it cannot be trained
    for processes in range(1, cores() + 1):
        with SPAWNED.Manager() as manager, ProcessPoolExecutor(processes, SPAWNED) as pool:
            all_of_them = [(folder, 3.0 * rounds, manager.Barrier(processes))] * processes
            yield "dense", processes, sum(pool.map(_train, *zip(*all_of_them))), "images/s"


def _start(method, count):
    """The process of part `start`: seconds that a launch takes before its first run."""
    Worker.method, began = method, time.perf_counter()
    preload()
    workers = [Worker(None, None) for _ in range(count)]
    for worker in workers:
        worker.ask()
        worker.process.join()
    return time.perf_counter() - began


def measure_start(folder, device, rounds):
    """Yields (how processes are started, number of workers, median seconds before the first run, unit)."""
    def started(method, count):
        with ProcessPoolExecutor(1, SPAWNED) as launch:
            return launch.submit(_start, method, count).result()

    for count in STARTED:
        times = in_turns({method: partial(started, method, count) for method in ("spawn", "forkserver")}, rounds)
        yield from ((method, count, float(np.median(of)), "s") for method, of in times.items())


def measure_width(folder, device, rounds):
    """Yields (method, multiple of the network's width, median milliseconds of a step, unit)."""
    for width in WIDTHS:
        for method, _, seconds in compared(rounds, folder, device, steps=timed_together(device, 1), width=float(width)):
            yield method, width, 1e3 * seconds, "ms"


def measure_selection(folder, device, rounds):
    """Yields ("", number of scores, median milliseconds of choosing 5 % of them, unit)."""
    for n in SIZES:
        score = torch.rand(n, generator=torch.Generator().manual_seed(0)).to(device)

        def chosen():
            began = time.perf_counter()
            keep(score, n // 20)[0].item()  # waits for the device
            return time.perf_counter() - began
        yield "", n, 1e3 * float(np.median(in_turns({n: chosen}, rounds)[n])), "ms"


def measure_host(folder, device, rounds):
    """Yields (method, number of parameters, microseconds of Python in a recorded step, unit)."""
    def recorded(function):
        return function(), lambda: None

    for task in NETWORKS:
        # only two images, because what is not recorded, such as copying a batch, is work for the CPU here
        for method, one, seconds in compared(rounds, folder, device, task=task, steps=HOST_STEPS, record=lambda *_: recorded, batch_size=2):
            yield method, len(one.training.parameters), 1e6 * seconds, "us"


PARTS = {"cores": measure_cores, "start": measure_start, "width": measure_width, "selection": measure_selection, "host": measure_host}
ON_CPUS = ("cores", "start", "host")


@command
def main(words=None):
    """Measures, prints and stores. Raises ValueError for bad arguments or missing data."""
    parser = Parser(prog="benchmarks.scaling", description="How the cost of the suite grows with cores, width and weights.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all; on a GPU without cores, start and host")
    parser.add_argument("--rounds", type=int, default=5)
    parser.common("data", "results", "device")
    args = parser.parse_args(words)
    at_least_one(args, "rounds")
    device, folder = usable_device(args.device), data_folder(args)
    path = table_path(args.results, "scaling.csv", COLUMNS)
    one_core()
    parts = args.parts or [part for part in PARTS if device.type == "cpu" or part not in ON_CPUS]
    for part in ON_CPUS:
        if device.type != "cpu" and part in parts:
            raise ValueError(f"part {part} is measured on the CPU: --device cpu, or --parts width selection")
    for part in parts:
        lines = []
        for method, x, value, unit in tqdm(PARTS[part](folder, device, args.rounds), part, disable=not sys.stderr.isatty()):
            lines.append(dict(part=part, method=method, x=x, value=round(value, 4), unit=unit, rounds=args.rounds, **measured_on(device)))
            print(f"{part} {method} {x:g}: {value:.4g} {unit}")
        store(lines, path, COLUMNS, IDENTITY)
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())

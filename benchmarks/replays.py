"""`python -m benchmarks.replays`: where the time goes in the steps of runs that take turns on a GPU, on random images. The parts, each with its rows
in RESULTS/performance:

- `launches` (replays.csv): recorded sequences of kernels on a single number, on several streams: how fast the GPU starts kernels.
- `steps` (replays.csv): a `step` of one of several runs in turns, whose networks are compiled ("compiled") or use kernels/residual.py ("fused");
  `forward_backward`, `apply`, `rank` and so on: its recorded parts, each replayed alone: the passes, the optimiser's part, what the method repeats.
- `operations` (operations.csv): each convolution and each other kernel of these passes alone, and how often a step has it (`operations.py`).
- `profile` (profile.csv): the kernels in one replay of each of these parts, as CUPTI sees them. Comes last, because it may slow down what follows.

us: microseconds of a step, a replay or a kernel until the device has done all, divided by K if K runs take turns; host_us: microseconds that this
program takes to launch a step, a replay or all kernels of a stream. A row is stored as soon as it is measured, in place of an older one. Failures
are named and give exit status 1. On a CPU nothing is replayed, and only steps are measured, which just shows that they run.
"""
import sys
import traceback
from functools import cache

import torch

from benchmarks import models
from benchmarks.batches import random_images, steps_per_epoch
from benchmarks.command import Parser, at_least_one, command
from benchmarks.gpu.capture import WARM, cuda_graph
from benchmarks.gpu.pack import lanes_of, refuse_unfused
from benchmarks.grid import Spec
from benchmarks.machine import measured_on, now, numerics, one_core, usable_device
from benchmarks.measurements import store, table_path
from benchmarks.operations import GIVEN, measured, on_a_stream, operations, profiled, timed
from benchmarks.tasks import settle
from methods import get

ORIGIN = "device threads torch_version code_version measured_at".split()
TABLES = {  # {file: (columns, the columns that identify a row, which a later row replaces)}
    "replays.csv": ("part task loop method precision runs us host_us rounds".split() + ORIGIN, "part device task loop method precision runs".split()),
    "operations.csv": ("task loop kernel shape calls runs us step_us host_us rounds".split() + ORIGIN, "device task loop kernel shape runs".split()),
    "profile.csv": ("task loop method precision runs part kernel calls us".split() + [*GIVEN] + ORIGIN,
                    "device task loop method precision runs part".split())}
STREAMS, KERNELS = (1, 2, 4, 8), 300
FIRST = 2 * WARM + 3  # steps until all is recorded: the first one creates the momentum, which restarts the count
IMAGES = 45_000  # of an epoch, as in a run, so that the layers' densities are read once in 44 steps
PARTS, LOOPS = ("launches", "steps", "operations", "profile"), ("compiled", "fused")


def launches(streams, device, rounds):
    """Yields the row of part `launches`."""
    numbers = torch.zeros(streams, 1, device=device)
    calls = [on_a_stream(lambda x=x: [x.add_(1) for _ in range(KERNELS)], device) for x in numbers]
    us, host_us = timed(calls, device, rounds)
    yield [dict(part="launches", us=round(us / KERNELS, 3), host_us=round(host_us, 1))]


@cache
def images(dataset, device):
    """Random images for one epoch."""
    return random_images(dataset, IMAGES, 1, 1).to(device)


def pack(spec, fused, runs, device, rounds=0):
    """(lanes, trainers) of so many runs in turns, whose steps are recorded already, with at least `rounds` steps left in the epoch."""
    task, _ = settle(spec)
    numerics(task.precision, device)
    data = images(task.dataset, device)
    if FIRST + 1 + rounds > (steps := steps_per_epoch(data.train, task.batch_size, task.drop_last)):  # an evaluation must not come between
        raise ValueError(f"{rounds} rounds do not fit into an epoch of {steps} steps")
    now(device)  # waits, because other streams will read the data
    record = cuda_graph if device.type == "cuda" else lambda function: (function(), lambda: None)
    lanes, trainers = lanes_of(spec, runs, data, device, record, fused)
    timed([(None, lane.turn) for lane in lanes], device, FIRST - 1)
    if fused:
        refuse_unfused(trainers)
    return lanes, trainers


def recorded(lanes, trainers):
    """{part: [(stream, function that replays it)]} for the recorded parts of a step."""
    parts = [dict(forward_backward=trainer.forward_backward, apply=trainer.training.apply,
                  **{name: captured for (name, _), (captured, *_) in trainer.repeated.recorded.items()}) for trainer in trainers]
    return {part: [(lane.stream, of[part].replay) for lane, of in zip(lanes, parts)] for part, captured in parts[0].items() if captured.replay}


def steps(spec, fused, runs, device, rounds):
    """Yields the rows of part `steps`."""
    lanes, trainers = pack(spec, fused, runs, device, rounds)
    for part, calls in {"step": [(None, lane.turn) for lane in lanes], **recorded(lanes, trainers)}.items():
        us, host_us = timed(calls, device, rounds)
        yield [dict(part=part, us=round(us, 3), host_us=round(host_us, 1))]


def profile(spec, fused, runs, device):
    """Yields the rows of part `profile`."""
    lanes, trainers = pack(spec, fused, runs, device)
    for part, calls in recorded(lanes, trainers).items():
        if rows := profiled(calls, device):
            yield [dict(part=part) | row for row in rows]
        else:
            print(f"the profiler saw no kernels of {part}")


def single(spec, loops, packs, device, rounds):
    """Yields the rows of part `operations`, and prints the time of each kernel in a step."""
    total, (task, _) = {}, settle(spec)
    numerics(task.precision, device)
    for operation in operations(models.build(task.model, 10, **models.options_of(task.model, task.width)), task.batch_size):
        if operation.loop in (*loops, "torch"):
            for row in measured(operation, packs, device, rounds):
                key = row["loop"], row["kernel"], row["runs"]
                total[key] = total.get(key, 0) + row["step_us"]
                yield [row]
    for (loop, kernel, runs), us in sorted(total.items(), key=lambda item: item[0][2:] + item[0][:2]):
        print(f"of a step of {runs}: {loop} {kernel} {us:.1f} us")


def asked(args, spec, device):
    """{part: [(its name if it fails, file, columns with fixed values, generator of lists of rows)]} for the arguments."""
    names, rounds = dict(task=args.task, method=args.method, precision=settle(spec)[0].precision), args.rounds
    every = [(f"{loop} {runs}", names | {"loop": loop, "runs": runs}, (spec, loop == "fused", runs, device))
             for loop in args.loops for runs in args.packs]
    return {
        "launches": [(f"launches {streams}", "replays.csv", {"runs": streams}, launches(streams, device, rounds)) for streams in STREAMS],
        "steps": [(name, "replays.csv", of, steps(*given, rounds)) for name, of, given in every],
        "operations": [("operations", "operations.csv", dict(task=args.task), single(spec, args.loops, args.packs, device, rounds))],
        "profile": [(f"profile {name}", "profile.csv", of, profile(*given)) for name, of, given in every]}


@command
def main(words=None):
    """Measures, prints and stores. Raises ValueError for bad arguments."""
    parser = Parser(prog="benchmarks.replays", description="Where the time of steps in turns goes on a GPU.")
    parser.add_argument("--task", default="cifar10-resnet20")
    parser.add_argument("--method", default="st3", help="default: %(default)s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all; on a CPU steps")
    parser.add_argument("--loops", nargs="+", choices=LOOPS, help="default: both; on a CPU compiled")
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 8], metavar="K", help="runs at a time (default: 1 8)")
    parser.add_argument("--rounds", type=int, default=44, help="default: %(default)s, in one of which the layers' densities are read")
    parser.common("results", "device")
    args = parser.parse_args(words)
    at_least_one(args, "rounds", "packs")
    device, failed = usable_device(args.device), []
    on_gpu = device.type == "cuda"
    args.loops, args.parts = args.loops or LOOPS[:1 + on_gpu], args.parts or (PARTS if on_gpu else ["steps"])
    if not on_gpu and {"launches", "operations"} & {*args.parts}:
        raise ValueError("launches and operations are for a GPU")
    paths = {name: table_path(args.results, name, columns) for name, (columns, _) in TABLES.items()}
    if not args.task.startswith("cifar"):
        raise ValueError("the random images are those of CIFAR")
    one_core()
    at_once = {"ramp_power": "0"} if "ramp_power" in get(args.method).options() else {}
    parts = asked(args, Spec(args.task, args.method, 0.95, 0, options=at_once), device)
    for name, file, of, rows in [each for part in args.parts for each in parts[part]]:
        (columns, identity), stored = TABLES[file], dict(rounds=args.rounds) | measured_on(device)
        try:
            for found in rows:
                lines = [dict.fromkeys(columns, "") | of | row | {key: value for key, value in stored.items() if key in columns} for row in found]
                store(lines, paths[file], columns, identity)
                for line in lines:
                    print(" ".join(f"{line[key]}" for key in columns if key not in ("task", "method", "precision", *stored)), flush=True)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    print(f"wrote {paths['replays.csv'].parent}" + f", without {', '.join(failed)}" * bool(failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

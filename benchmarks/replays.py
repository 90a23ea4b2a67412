"""`python -m benchmarks.replays`: where the time goes in the steps of runs that take turns on a GPU, on random images. The parts, whose rows are in
RESULTS/performance/replays.csv:

- `launches`: recorded sequences of kernels on a single number, on several streams: how fast the GPU starts kernels.
- `steps`: a `step` of one of several runs in turns, whose networks are compiled; `forward_backward`, `apply`, `rank` and so on: its recorded parts,
  each replayed alone: the passes, the optimiser's part, what the method repeats.

us: microseconds of a step, a replay or a kernel until the device has done all, divided by K if K runs take turns; host_us: microseconds that this
program takes to launch a step, a replay or all kernels of a stream. A row is stored as soon as it is measured, in place of an older one. Failures
are named and give exit status 1. On a CPU nothing is replayed, and only steps are measured, which just shows that they run.
"""
import sys
import time
import traceback
from contextlib import nullcontext
from functools import cache

import torch

from benchmarks.batches import random_images, steps_per_epoch
from benchmarks.command import Parser, at_least_one, command
from benchmarks.gpu.capture import WARM, cuda_graph
from benchmarks.gpu.pack import lanes_of
from benchmarks.grid import Spec
from benchmarks.machine import measured_on, now, numerics, one_core, usable_device
from benchmarks.measurements import store, table_path
from benchmarks.tasks import settle
from methods import get

COLUMNS = "part task loop method precision runs us host_us rounds device threads torch_version code_version measured_at".split()
IDENTITY = "part device task loop method precision runs".split()
STREAMS, KERNELS = (1, 2, 4, 8), 300
FIRST = 2 * WARM + 3  # steps until all is recorded: the first one creates the momentum, which restarts the count
IMAGES = 45_000  # of an epoch, as in a run, so that the layers' densities are read once in 44 steps
PARTS = "launches", "steps"


def timed(calls, device, rounds):
    """(microseconds per call until the device has done all, microseconds per call for only launching it). calls: [(stream or None, function, ...)],
    which take turns; a first round does not count."""
    for number in range(1 + rounds):
        if number == 1:
            began = now(device)
        for stream, function, *_ in calls:
            with torch.cuda.stream(stream) if stream else nullcontext():
                function()
    asked = time.perf_counter() - began
    return [1e6 * seconds / rounds / len(calls) for seconds in (now(device) - began, asked)]


def on_a_stream(function, device):
    """(stream, function that replays function() on it, function, to keep its tensors alive)."""
    function()  # compiles and loads kernels, which is not allowed while recording
    torch.cuda.synchronize(device)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        return stream, cuda_graph(function)[1], function


def launches(streams, device, rounds):
    """Yields the row of part `launches`."""
    numbers = torch.zeros(streams, 1, device=device)
    calls = [on_a_stream(lambda x=x: [x.add_(1) for _ in range(KERNELS)], device) for x in numbers]
    us, host_us = timed(calls, device, rounds)
    yield dict(part="launches", us=round(us / KERNELS, 3), host_us=round(host_us, 1))


@cache
def images(dataset, device):
    """Random images for one epoch."""
    return random_images(dataset, IMAGES, 1, 1).to(device)


def pack(spec, runs, device, rounds):
    """(lanes, trainers) of so many runs in turns, whose steps are recorded already, with at least `rounds` steps left in the epoch."""
    task, _ = settle(spec)
    numerics(task.precision, device)
    data = images(task.dataset, device)
    if FIRST + 1 + rounds > (steps := steps_per_epoch(data.train, task.batch_size, task.drop_last)):  # an evaluation must not come between
        raise ValueError(f"{rounds} rounds do not fit into an epoch of {steps} steps")
    now(device)  # waits, because other streams will read the data
    record = cuda_graph if device.type == "cuda" else lambda function: (function(), lambda: None)
    lanes, trainers = lanes_of(spec, runs, data, device, record)
    timed([(None, lane.turn) for lane in lanes], device, FIRST - 1)
    return lanes, trainers


def recorded(lanes, trainers):
    """{part: [(stream, function that replays it)]} for the recorded parts of a step."""
    parts = [dict(forward_backward=trainer.forward_backward, apply=trainer.training.apply,
                  **{name: captured for (name, _), (captured, *_) in trainer.repeated.recorded.items()}) for trainer in trainers]
    return {part: [(lane.stream, of[part].replay) for lane, of in zip(lanes, parts)] for part, captured in parts[0].items() if captured.replay}


def steps(spec, runs, device, rounds):
    """Yields the rows of part `steps`."""
    lanes, trainers = pack(spec, runs, device, rounds)
    for part, calls in {"step": [(None, lane.turn) for lane in lanes], **recorded(lanes, trainers)}.items():
        us, host_us = timed(calls, device, rounds)
        yield dict(part=part, us=round(us, 3), host_us=round(host_us, 1))


@command
def main(words=None):
    """Measures, prints and stores. Raises ValueError for bad arguments."""
    parser = Parser(prog="benchmarks.replays", description="Where the time of steps in turns goes on a GPU.")
    parser.add_argument("--task", default="cifar10-resnet20")
    parser.add_argument("--method", default="st3", help="default: %(default)s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: both; on a CPU steps")
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 8], metavar="K", help="runs at a time (default: 1 8)")
    parser.add_argument("--rounds", type=int, default=44, help="default: %(default)s, in one of which the layers' densities are read")
    parser.common("results", "device")
    args = parser.parse_args(words)
    at_least_one(args, "rounds", "packs")
    device, failed = usable_device(args.device), []
    args.parts = args.parts or (PARTS if device.type == "cuda" else ["steps"])
    if device.type == "cpu" and "launches" in args.parts:
        raise ValueError("launches are for a GPU")
    path = table_path(args.results, "replays.csv", COLUMNS)
    if not args.task.startswith("cifar"):
        raise ValueError("the random images are those of CIFAR")
    one_core()
    at_once = {"ramp_power": "0"} if "ramp_power" in get(args.method).options() else {}
    spec = Spec(args.task, args.method, 0.95, 0, options=at_once)
    names = dict(task=args.task, loop="compiled", method=args.method, precision=settle(spec)[0].precision)
    parts = {"launches": [(f"launches {streams}", {"runs": streams}, launches(streams, device, args.rounds)) for streams in STREAMS],
             "steps": [(f"steps {runs}", names | {"runs": runs}, steps(spec, runs, device, args.rounds)) for runs in args.packs]}
    for name, of, rows in [each for part in args.parts for each in parts[part]]:
        try:
            for row in rows:
                line = dict.fromkeys(COLUMNS, "") | of | row | dict(rounds=args.rounds) | measured_on(device)
                store([line], path, COLUMNS, IDENTITY)
                print(" ".join(f"{line[key]}" for key in ("part", "runs", "us", "host_us")), flush=True)
        except Exception:
            traceback.print_exc()
            failed.append(name)
    print(f"wrote {path}" + f", without {', '.join(failed)}" * bool(failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

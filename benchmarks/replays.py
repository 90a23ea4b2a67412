"""`python -m benchmarks.replays`: where the time of steps in turns goes on a GPU, on random images, into RESULTS/performance/replays.csv.

- `launches`: kernels of one number each, recorded one after the other on each of so many streams: how fast the GPU begins them.
- `step`: a step of one of so many runs in turns, whose networks are compiled ("compiled"), or by kernels/residual.py ("fused").
- `forward_backward`, `apply`, `rank` and so on: what is recorded of it, replayed alone: the passes, the optimiser's part, what the method repeats.

us: microseconds of a step, a replay or a kernel until the device has done all of them; host_us: those that this program takes to ask for a step, a
replay or all kernels of a stream. A row is stored as soon as it is measured, in place of an older one; what fails is named, and ends with status 1.
On a CPU nothing is replayed: that only shows that it would run.
"""
import sys
import time
import traceback
from contextlib import nullcontext

import torch

from benchmarks import compiled
from benchmarks.batches import random_images, steps_per_epoch
from benchmarks.capture import WARM, cuda_graph
from benchmarks.command import Parser, at_least_one, command
from benchmarks.grid import Spec
from benchmarks.machine import measured_on, now, numerics, one_core, usable_device
from benchmarks.measurements import store, table
from benchmarks.pack import Lane
from benchmarks.tasks import settle
from benchmarks.train import Trainer
from methods import get

COLUMNS = "part task loop method precision runs us host_us rounds device threads torch_version code_version measured_at".split()
IDENTITY = "part device task loop method precision runs".split()
STREAMS, KERNELS = (1, 2, 4, 8), 300
FIRST = 2 * WARM + 3  # steps until all is recorded: the momentum that the first one makes begins the count anew
IMAGES = 45_000  # of an epoch, as in a run: its layers' densities are read once in 44 steps


def timed(calls, device, rounds):
    """(microseconds of a call until the device has done all, microseconds that asking for one takes) of [(stream or None, function)], which take
    turns, once before it counts."""
    for number in range(1 + rounds):
        if number == 1:
            began = now(device)
        for stream, function in calls:
            with torch.cuda.stream(stream) if stream else nullcontext():
                function()
    asked = time.perf_counter() - began
    return [1e6 * seconds / rounds / len(calls) for seconds in (now(device) - began, asked)]


def launches(streams, device, rounds):
    """Yields what `launches` measures."""
    numbers, calls = torch.zeros(streams, 1, device=device), []
    for x in numbers:
        x.add_(1)  # loads the kernel, which nothing that is recorded may do
        torch.cuda.synchronize(device)
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            calls.append((stream, cuda_graph(lambda: [x.add_(1) for _ in range(KERNELS)])[1]))
    us, host_us = timed(calls, device, rounds)
    yield "launches", us / KERNELS, host_us


def pack(spec, fused, runs, device, rounds):
    """Yields (part, us, host_us) of a step of so many runs in turns, and of what is replayed of it."""
    (task, options), trainers = settle(spec), []
    numerics(task.precision, device)
    data = random_images(task.dataset, IMAGES, 1, 1).to(device)
    if FIRST + 1 + rounds > (steps_of_epoch := steps_per_epoch(data.train, task.batch_size, task.drop_last)):  # an evaluation is no step
        raise ValueError(f"{rounds} rounds do not fit into an epoch of {steps_of_epoch} steps")
    now(device)  # other streams will read it
    record = cuda_graph if device.type == "cuda" else lambda function: (function(), lambda: None)

    def steps(seed):
        with compiled.fusing(fused):
            trainers.append(Trainer(task, spec.method, spec.sparsity, seed, options, data, device, record))
        yield from trainers[-1].steps()
    lanes = [Lane(steps(seed), device) for seed in range(runs)]
    timed([(None, lane.turn) for lane in lanes], device, FIRST - 1)
    if fused and not all(getattr(trainer.network, "fused", None) for trainer in trainers):
        raise ValueError(f"the kernels of kernels/residual.py are not for {spec.task}")
    yield "step", *timed([(None, lane.turn) for lane in lanes], device, rounds)
    parts = [dict(forward_backward=trainer.forward_backward, apply=trainer.training.apply,
                  **{name: captured for (name, _), (captured, *_) in trainer.repeated.recorded.items()}) for trainer in trainers]
    for part in [part for part, captured in parts[0].items() if captured.replay]:
        yield part, *timed([(lane.stream, of[part].replay) for lane, of in zip(lanes, parts)], device, rounds)


@command
def main(words=None):
    """Measures, prints and stores. Raises ValueError for bad arguments."""
    parser = Parser(prog="benchmarks.replays", description="Where the time of steps in turns goes on a GPU.")
    parser.add_argument("--task", default="cifar10-resnet20")
    parser.add_argument("--method", default="st3", help="default: %(default)s")
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 8], metavar="K", help="runs at a time (default: 1 8)")
    parser.add_argument("--rounds", type=int, default=44, help="default: %(default)s, of which one reads the layers' densities")
    parser.common("results", "device")
    args = parser.parse_args(words)
    at_least_one(args, "rounds", "packs")
    device, path, failed = usable_device(args.device), table(args.results, "replays.csv", COLUMNS), []
    if not args.task.startswith("cifar"):
        raise ValueError("the random images are those of CIFAR")
    one_core()
    at_once = {"ramp_power": "0"} if "ramp_power" in get(args.method).options() else {}
    spec, on_gpu = Spec(args.task, args.method, 0.95, 0, options=at_once), device.type == "cuda"
    names = dict(task=args.task, method=args.method, precision=settle(spec)[0].precision)
    asked = [({"runs": number}, launches(number, device, args.rounds)) for number in STREAMS if on_gpu]
    asked += [(names | {"loop": loop, "runs": number}, pack(spec, loop == "fused", number, device, args.rounds))
              for loop in ("compiled", "fused")[:1 + on_gpu] for number in args.packs]
    for of, measured in asked:
        try:
            for part, us, host_us in measured:
                numbers = dict(part=part, us=round(us, 3), host_us=round(host_us, 1), rounds=args.rounds)
                store([dict.fromkeys(COLUMNS, "") | of | numbers | measured_on(device)], path, COLUMNS, IDENTITY)
                print(f"{part} {of.get('loop', '')} {of['runs']}: {us:.4g} us, the host {host_us:.4g}", flush=True)
        except Exception:
            traceback.print_exc()
            failed.append(f"{of.get('loop', 'launches')} {of['runs']}")
    print(f"wrote {path}" + f", without {', '.join(failed)}" * bool(failed))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

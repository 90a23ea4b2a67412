"""`python -m benchmarks.throughput`: images per second in training, the suite's loop against a plain, well-written PyTorch loop.

The plain one is built like typical public implementations: torchvision's data set and transforms, a DataLoader with workers, an eager step
in fp32, and a mask for each layer that is multiplied into the weights after the step. Network, batch size, optimiser and sparsity are the same.

- Measured in turns in one process: in every round each loop makes some steps, in a shuffled order; its ratio is to the plain steps of the
  same round. A row has the rounds' median and quartiles. The first round only warms up. On a GPU the plain loop uses TF32, in convolutions
  (PyTorch's default) and in matrix products, and any of cuDNN's algorithms; the suite's loop has the arithmetic of its runs
  (`machine.numerics`), with the same bits every time.
- If the suite's method raises its sparsity along a ramp, the ramp is at its end from the first step on; otherwise nothing would be ranked yet.
- On a CPU everything is on one core, including the loader's workers, as if every core had a run of its own. The workers prepare two batches each
  while another loop is measured, which favours the plain loop; with the 8 workers on a GPU, these are the smaller part with --steps 40.
- On a GPU the suite's loop also runs in packs of 1, 2, 4, ... runs (`benchmarks.gpu.pack`); their images are added up. peak_memory_mb is
  what torch's allocator reserves for a loop while it is made and warmed up alone, including its data, its recorded steps and cuBLAS's workspaces
  (`CUBLAS_WORKSPACE_CONFIG=:4096:2:16:8` makes them small): one for each recording or, before torch 2.12, one for each stream (of torch's
  32), counted for the first loop that uses it.
"""
import gc
import math
import os
import sys
import traceback
from functools import partial
from itertools import count, islice

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torchvision import transforms

from benchmarks import data as datasets
from benchmarks import models
from benchmarks.batches import steps_per_epoch
from benchmarks.command import Parser, at_least_one, command, data_folder
from benchmarks.gpu.capture import WARM, forget_workspaces, recorder
from benchmarks.gpu.pack import lanes_of
from benchmarks.grid import Spec
from benchmarks.machine import measured_on, now, numerics, one_core, usable_device
from benchmarks.measurements import in_turns, quartiles, store, table_path
from benchmarks.tasks import DATASETS, get_task, settle
from methods import get
from methods.layout import Layout

COLUMNS = ("task loop method sparsity precision workers runs device threads images_per_second ratio ratio_low ratio_high peak_memory_mb rounds "
           "torch_version code_version measured_at").split()
IDENTITY = "device task loop method sparsity precision workers runs".split()


class Plain:
    """The plain loop."""

    runs, repeatable = 1, False

    def __init__(self, spec, folder, device, workers):
        task, _ = settle(spec)
        mean, std = DATASETS[task.dataset].normalisation[task.normalisation]
        padding = "edge" if task.augmentation == "st3" else "constant"
        change = transforms.Compose([transforms.RandomCrop(32, 4, padding_mode=padding), transforms.RandomHorizontalFlip(),
                                     transforms.ToTensor(), transforms.Normalize(mean, std)])
        images = datasets.cifar(task.dataset)(folder, transform=change)
        self.loader = torch.utils.data.DataLoader(images, task.batch_size, shuffle=True, drop_last=True, num_workers=workers,
                                                  pin_memory=device.type == "cuda", persistent_workers=workers > 0)
        self.batches = (batch for _ in count() for batch in self.loader)
        options = models.options_of(task.model, task.width, bn_momentum=task.bn_momentum)
        self.net = models.build(task.model, len(images.classes), **options).to(device).train()
        layout = Layout(self.net)
        self.masks = [(self.net.get_parameter(e.name), torch.rand(self.net.get_parameter(e.name).shape, device=device) > spec.sparsity)
                      for e in layout.entries]
        self.optimizer = torch.optim.SGD(self.net.parameters(), task.lr, task.momentum, weight_decay=task.weight_decay)
        self.device, self.clip, self.batch_size = device, task.clip, task.batch_size
        self.precision = plain_precision(device)

    def train(self, steps):
        for x, y in islice(self.batches, steps):
            x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            self.optimizer.zero_grad()
            cross_entropy(self.net(x), y).backward()
            if self.clip:
                torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
            self.optimizer.step()
            with torch.no_grad():
                for weight, mask in self.masks:
                    weight.mul_(mask)


def plain_precision(device):
    """The precision of the plain loop, in which weights and activations are float32: PyTorch's default for convolutions."""
    return "tf32" if device.type == "cuda" else "fp32"


class Suite:
    """The suite's loop: `runs` runs in turns."""

    repeatable = True

    def __init__(self, spec, folder, device, runs=1):
        task, _ = settle(spec)
        data = datasets.load_for(task, folder).to(device)
        self.lanes, _ = lanes_of(spec, runs, data, device, recorder(task, device))
        self.runs, self.batch_size, self.precision = runs, task.batch_size, task.precision

    def train(self, steps):
        for _ in range(steps):
            for lane in self.lanes:
                lane.turn()


def train(loop, device, steps):
    """The seconds that a loop takes for so many steps, in the arithmetic of its precision."""
    numerics(loop.precision, device)
    torch.backends.cudnn.deterministic = loop.repeatable
    began = now(device)
    loop.train(steps)
    return now(device) - began


def ready(make, device):
    """(the loop that `make()` returns, on a GPU with its steps recorded; the device memory that it takes in MB, 0 on a CPU).

    The memory is what the allocator reserves while the loop is made and warmed up alone, because recordings' memory is reserved, not allocated.
    """
    if device.type != "cuda":
        return make(), 0.0
    torch.cuda.synchronize(device)
    forget_workspaces()  # frees those of earlier loops, which a recording would free, too
    torch.cuda.empty_cache()
    before, loop = torch.cuda.memory_reserved(device), make()
    train(loop, device, WARM + 2)
    return loop, (torch.cuda.memory_reserved(device) - before) / 2**20


def measure(loops, device, rounds, steps):
    """({name: images per second of each round, (rounds,)}, {name: the device's memory in MB}, names of what failed). loops: {name: how to make it}.

    If a loop fails, its traceback goes to stderr and it gives NaN from then on; the others go on. Only making the first loop must not fail.
    """
    one_core()
    failed = []

    def tried(name, call, *arguments):
        if name in failed:
            return math.nan
        try:
            return call(*arguments)
        except Exception:
            traceback.print_exc()
            failed.append(name)
        gc.collect()  # frees memory in reference cycles, for the loops that are made next
        return math.nan
    first, *others = loops  # all are compared with the first
    made = {first: ready(loops[first], device), **{name: tried(name, ready, loops[name], device) for name in others}}
    made = {name: one for name, one in made.items() if name not in failed}
    seconds = in_turns({name: partial(tried, name, train, loop, device, steps) for name, (loop, _) in made.items()}, rounds)
    rates = {name: steps * loop.batch_size * loop.runs / np.array(seconds[name]) for name, (loop, _) in made.items()}
    return rates, {name: memory for name, (_, memory) in made.items()}, failed


@command
def main(words=None):
    """Measures, prints and stores RESULTS/performance/throughput.csv. Raises ValueError for bad arguments or missing data."""
    parser = Parser(prog="benchmarks.throughput", description="Images per second: the suite's loop against a plain PyTorch loop.")
    parser.add_argument("--task", default="cifar10-resnet20")
    parser.add_argument("--method", default="st3", help="of the suite's loop (default: %(default)s)")
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="of each loop in a round (default: %(default)s)")
    parser.add_argument("--workers", type=int, help="of the plain loop's loader (default: 1, on a GPU 8)")
    parser.add_argument("--packs", type=int, nargs="+", metavar="K", help="runs at a time (default: 1, on a GPU 1 2 4 8 16)")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp32"])
    parser.common("data", "results", "device")
    args = parser.parse_args(words)
    at_least_one(args, "rounds", "steps", "packs")
    device, folder = usable_device(args.device), data_folder(args)
    path = table_path(args.results, "throughput.csv", COLUMNS)
    if not args.task.startswith("cifar"):
        raise ValueError("the plain loop is one for the tasks of CIFAR")
    if device.type == "cpu" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    workers = args.workers if args.workers is not None else 1 if device.type == "cpu" else 8
    task = get_task(args.task)
    steps = steps_per_epoch(datasets.load_for(task, folder).train, task.batch_size, task.drop_last)
    if (WARM + 2) * (device.type == "cuda") + (1 + args.rounds) * args.steps > steps:  # an evaluation must not come between
        raise ValueError(f"{1 + args.rounds} rounds of {args.steps} steps do not fit into an epoch of {args.task}, which has {steps}")
    at_once = {"ramp_power": "0"} if "ramp_power" in get(args.method).options() else {}
    specs = {p: Spec(args.task, args.method, args.sparsity, 0, precision=p, options=at_once) for p in args.precisions}
    loops = {("plain", "static", plain_precision(device), workers, 1): partial(Plain, specs[args.precisions[0]], folder, device, workers)}
    for runs in args.packs or ((1,) if device.type == "cpu" else (1, 2, 4, 8, 16)):
        for precision, spec in specs.items():
            loops["suite", args.method, precision, 0, runs] = partial(Suite, spec, folder, device, runs)
    rates, peaks, failed = measure(loops, device, args.rounds, args.steps)
    plain, lines = next(iter(rates.values())), []
    for (loop, method, precision, workers, runs), rate in rates.items():
        both = np.isfinite(rate / plain)  # rounds before either of the two failed
        if not both.any():
            continue
        lines.append(dict(
            task=args.task, loop=loop, method=method, sparsity=args.sparsity, precision=precision, workers=workers, runs=runs,
            images_per_second=round(float(np.median(rate[both])), 1), **quartiles((rate / plain)[both], 3), rounds=int(both.sum()),
            peak_memory_mb=round(peaks[loop, method, precision, workers, runs]), **measured_on(device)))
        print("{loop:>6} {method:>7} {precision}, {workers} workers, {runs:2} at a time: {images_per_second:8.1f} images/s, {ratio:.2f} × plain "
              "({ratio_low:.2f} to {ratio_high:.2f})".format(**lines[-1]))
    store(lines, path, COLUMNS, IDENTITY)
    print(f"wrote {path}")
    for loop, method, precision, _, runs in failed:
        print(f"failed: {loop} {method} {precision}, {runs} at a time", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

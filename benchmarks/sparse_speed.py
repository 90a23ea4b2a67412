"""`python -m benchmarks.sparse_speed`: what always-sparse storage saves, measured against masked storage on the same network.

A training step, a step with an update of the connections, and memory, into RESULTS/performance/sparse_speed.csv.

- All in one process with one thread, on real images, in fp32 or, with `--precision bf16`, as CIFAR and ImageNet are trained. In turns: in
  every round each storage makes its steps, in a shuffled order; its ratio is the time of the masked steps of the same round divided by its own.
  The first round only warms up, and so does the first step of a turn, because another storage has just filled the caches, unlike in training.
  A row has the median over the rounds and the ratio's quartiles. Measuring a part of the grid replaces only its own rows. Steps are timed after
  updates of the connections, with as many as the row says.
- On a GPU masked steps are recorded and replayed as in runs (`capture`), except when memory is measured; sparse ones are not.
- state_mb is weights, gradients (which each step removes at its end), momentum, and masks or indices. peak_mb adds the peak of what a step
  allocates besides, including activations (from torch's profiler; on a GPU from its allocator). On a CPU an update ranks and
  searches with numpy in either storage, and numpy's allocations for that are not included.
"""
import gc
import os
import sys
from functools import partial

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from benchmarks import data as datasets
from benchmarks.command import Parser, at_least_one, command, data_folder
from benchmarks.gpu.capture import recorder
from benchmarks.grid import Spec
from benchmarks.machine import hardware, measured_on, one_core, usable_device
from benchmarks.measurements import in_turns, quartiles, store, table_path
from benchmarks.overhead import Entrant, timed_together
from benchmarks.recipes import PRECISIONS
from benchmarks.tasks import settle
from methods.model import STORAGES

SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99, 0.999)
WIDTHS = {"cifar10-mlp": (1, 2, 4, 8, 16, 32), "cifar10-vit": (1, 2, 3, 4), "cifar10-vgg16": (1, 2, 4), "cifar10-resnet56": (1,)}
MACHINE = "device threads torch_version code_version measured_at".split()
COLUMNS = ("task width batch_size method sparsity precision storage nnz prunable step_ms ratio ratio_low ratio_high update_ms update_ratio state_mb "
           "peak_mb update_peak_mb dense_layers rounds").split() + MACHINE
IDENTITY = "task width batch_size method sparsity precision storage device threads".split()
MB = 2 ** 20


def entrant(task, method, sparsity, data, device, steps=3, recorded=False, precision="fp32", **options):
    """An `overhead.Entrant` in the middle of its training, with three groups of steps: a `single` one, `ordinary` ones, an `update`.
    recorded: whether its steps are recorded, as in runs."""
    spec = Spec(task, method, sparsity, 0, precision=precision, options={name: value for name, value in options.items() if value is not None})
    made = Entrant(spec, data, device, steps, recorder(settle(spec)[0], device) if recorded else None)
    made.before, (first, number, _) = made.groups[0][0], made.groups[-1]
    made.single, made.ordinary = [(first, 1, 1.0)], [(first, number, 1 / number)]
    made.update = [(made.before, 1, 1.0)]
    return made


def seconds(made, groups):
    """Seconds of a step of the Entrant `made`, timed over these groups of its steps."""
    made.groups = groups
    return made.step_seconds()


def state_bytes(trainer):
    """(bytes of the parameters' gradients, bytes of all else that stays between steps: parameters, momentum, buffers, indices)."""
    model = trainer.model
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [value for state in trainer.optimizer.state.values() for value in state.values()]
    for layer in (layer for layers in getattr(model, "layers", ()) for layer in layers):
        tensors += [layer.keys, *tree_leaves([*vars(layer.pattern).values()] if layer.pattern else ())]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if torch.is_tensor(t)}
    return sum(p.nbytes for p in model.parameters()), sum(storages.values())


def peak_bytes(call, device):
    """The peak of the bytes that `call()` allocates, above what was allocated before. On a CPU without numpy's and scipy's allocations."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # silences the profiler
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def machine(device):
    return measured_on(device) | {"device": hardware(device)}


def timed(entrants, group, rounds):
    """{name: seconds (rounds,)} for this group of steps of each Entrant, in turns."""
    def turn(made):
        seconds(made, made.single)
        return seconds(made, getattr(made, group))
    return {name: np.array(times) for name, times in in_turns({name: partial(turn, made) for name, made in entrants.items()}, rounds).items()}


def measure(args, device):
    for task in args.tasks:
        data = load(task, args, device)
        for width in args.widths or WIDTHS.get(task, (1,)):
            for sparsity in args.sparsities:
                gc.collect()
                yield from compare(task, width, sparsity, data, args, device)


def compare(task, width, sparsity, data, args, device):
    """Yields the rows of one network at one sparsity, one for each storage."""
    steps = args.steps or timed_together(device, 2)

    def make(storage, recorded):
        return entrant(task, args.method, sparsity, data, device, steps, recorded, args.precision, width=width, storage=storage,
                       batch_size=args.batch_size)

    entrants = {storage: make(storage, True) for storage in args.storages}
    # updates first: they fill GSE's first graph, which may have fewer weights than asked for (in an MLP a fifth fewer)
    updates = timed(entrants, "update", min(args.rounds, args.update_rounds)) if args.update_rounds else {}
    times = timed(entrants, "ordinary", args.rounds)
    for storage, made in entrants.items():
        made = make(storage, False) if made.trainer.record else made  # recordings' memory is reserved, not allocated
        trainer = made.trainer
        seconds(made, made.single)  # the first step after an update computes and keeps the indices of a convolution's new connections
        gradients, state = state_bytes(trainer)
        with_update = peak_bytes(lambda: seconds(made, made.update), device) if args.update_rounds else None
        peak = peak_bytes(lambda: seconds(made, made.single), device)
        ratio = times["masked"] / times[storage] if "masked" in times else None
        line = dict(
            dict.fromkeys(COLUMNS), task=task, width=width, batch_size=trainer.task.batch_size, method=args.method, sparsity=sparsity,
            precision=args.precision, storage=storage, nnz=int(trainer.model.layer_nnz().sum()), prunable=trainer.model.layout.size,
            step_ms=round(1e3 * float(np.median(times[storage])), 3), state_mb=round((gradients + state) / MB, 3),
            peak_mb=round((state + peak) / MB, 1), rounds=args.rounds, **machine(device))
        if ratio is not None:
            line.update(quartiles(ratio, 3))
        if updates:
            line.update(update_ms=round(1e3 * float(np.median(updates[storage])), 3), update_peak_mb=round((state + with_update) / MB, 1))
            if "masked" in updates:
                line["update_ratio"] = round(float(np.median(updates["masked"] / updates[storage])), 3)
        if storage == "auto":
            line["dense_layers"] = sum(form == "dense" for form, *_ in trainer.model.forms().values())
        print("{task} x{width} {sparsity} {precision} {storage}: {step_ms} ms, {ratio} x masked; update {update_ms} ms; {state_mb} MB, peak {peak_mb}"
              .format_map(line), flush=True)
        yield line


def load(task, args, device):
    """The Data of a task, on the device."""
    task, _ = settle(Spec(task, "static", 0.5, 0))
    return datasets.load_for(task, data_folder(args)).to(device)


def standard(name, description, widths="the whole grid"):
    """A parser with the options that all measurements of sparse storage take. widths: the default of --widths, in words."""
    parser = Parser(prog=f"benchmarks.{name}", description=description)
    parser.add_argument("--widths", nargs="+", type=float, metavar="W", help=f"multiples of the network's width (default: {widths})")
    parser.add_argument("--batch-size", type=int)
    return parser.common("data", "results", "device")


def run_and_store(parser, words, measure, name, columns, identity):
    """Measures, prints and stores each row as it comes. Raises ValueError for bad arguments or missing data."""
    args = parser.parse_args(words)
    args.widths = [int(w) if w == int(w) else w for w in args.widths or ()]
    for option, value in vars(args).items():
        if isinstance(value, int):
            at_least_one(args, option, least=int(option not in ("update_rounds", "first_seed")))
    path = table_path(args.results, name, columns)
    one_core()
    for line in measure(args, usable_device(args.device)):
        store([line], path, columns, identity)
    print(f"wrote {path}")


@command
def main(words=None):
    parser = standard("sparse_speed", "A training step and its memory, sparse storage against masked.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--tasks", nargs="+", metavar="T", default=list(WIDTHS))
    parser.add_argument("--sparsities", nargs="+", type=float, metavar="S", default=SPARSITIES)
    parser.add_argument("--storages", nargs="+", choices=STORAGES, default=STORAGES)
    parser.add_argument("--method", default="gse_uniform")
    parser.add_argument("--steps", type=int, help="ordinary steps of a storage in a round (default: 2, on a GPU 20)")
    parser.add_argument("--update-rounds", type=int, default=3, help="rounds with an update of the connections; 0 for none")
    run_and_store(parser, words, measure, "sparse_speed.csv", COLUMNS, IDENTITY)


if __name__ == "__main__":
    sys.exit(main())

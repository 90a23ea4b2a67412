"""`python -m benchmarks.overhead`: the time of a training step of every method, as a ratio to dense.

Measured in turns, because the speed of a machine drifts by more than the methods differ: in every round each method makes a
few steps, in a shuffled order, and its ratio is to the dense steps of the same round. A row has the rounds' median and quartiles.

- Schedules are at the share MIDDLE of training, so that masks and schedules are changing. The weights have only been trained for the
  few steps that were measured (on a GPU also those before the recording). A method of several cycles (LRR, IMP) is in its middle cycle.
- A step is all of `Trainer.step` (with all its forward and backward `passes`), on real batches of the recipe's size, which are
  prepared beforehand.
- A method with an `interval` of k steps does more work once in k steps. The two steps around that moment, (step + 1) % k == 0 and
  step % k == 0, are timed in every round besides ordinary ones, and weigh 1/k each: a step's time is its mean over an interval.
- With `--runs K`, K runs of a method take turns on the device (`benchmarks.gpu.pack`), as in a launch on a GPU, and a step's time is their common
  time divided by K.
- Precision and algorithms are those of a run (`machine.numerics`), and on a GPU the parts of a step that do not change are recorded
  and replayed, as in a run (`benchmarks.gpu.capture`).
- The profile is timed separately, in rounds of its own and with nothing recorded, because its clocks make a GPU wait: forward (with the
  method's `forward`), backward (with the loss), optimizer (with clipping), method (`before_step` and `after_step`); weighted as above.
- Not included: what a method does once per cycle (`start`), once in several epochs (ProbMask; fisher_diag, snfs, mest) or at steps
  that do not follow an `interval` (dpf).
"""
import sys
from collections import defaultdict
from contextlib import contextmanager
from itertools import accumulate, cycle, islice

import numpy as np
import pandas as pd

from benchmarks import data as datasets
from benchmarks.batches import AUGMENTATION, epoch_batches
from benchmarks.command import Parser, at_least_one, command, data_folder
from benchmarks.gpu.capture import ANEW, WARM, recorder
from benchmarks.gpu.pack import Lane
from benchmarks.grid import Spec
from benchmarks.machine import measured_on, now, numerics, one_core, usable_device
from benchmarks.measurements import in_turns, quartiles, store, table_path
from benchmarks.recipes import PRECISIONS
from benchmarks.tasks import canonical, get_task, settle
from benchmarks.train import Trainer
from methods import available

COLUMNS = ("task method sparsity precision runs device threads torch_version code_version batch_size step_ms images_per_second "
           "ratio ratio_low ratio_high forward_ms backward_ms optimizer_ms method_ms passes rounds measured_at").split()
IDENTITY = "task precision device sparsity runs method".split()  # a new measurement replaces the row with the same values
PARTS = ("forward", "backward", "optimizer", "method")
MIDDLE = 0.4            # share of training
PROFILE_ROUNDS = 5      # at most
BATCHES = 8


def groups(interval, middle, steps):
    """The steps to time: [(first step, number of steps, weight of each)], with weights that sum to 1.

    Without an interval (None), or with 1: `steps` steps from `middle` on. Otherwise the two steps around an update near `middle`, and
    up to `steps` ordinary ones after it.
    """
    if interval is None or interval < 2:
        return [(middle, steps, 1 / steps)]
    update = max(interval, middle - middle % interval)
    ordinary = min(steps, interval - 2)
    around = [(update - 1, 2, 1 / interval)]
    return around + [(update + 1, ordinary, (interval - 2) / interval / ordinary)] if ordinary else around


def timed_together(device, few):
    """The number of steps timed together: `few`; on a GPU, where only the first one waits for Python, at least 20, so that this counts little."""
    return max(few, 20) if device.type == "cuda" else few


def middle_of(cycles):
    """The number of the cycle in which half of all epochs is reached."""
    ends = [*accumulate(cycle.epochs - cycle.first for cycle in cycles)]
    return next(number for number, end in enumerate(ends) if 2 * end > ends[-1])


class Entrant:
    """One method in the middle of its training, ready to make a few steps at a time of each of its `runs`, whose seeds differ. All Entrants in a
    process must have the same precision."""

    def __init__(self, spec, data, device, steps, record=None, runs=1):
        task, options = settle(spec)
        self.spec, self.device = spec, device
        numerics(task.precision, device)
        batches = epoch_batches(data.train, data, task.batch_size, spec.seed, 0, drop_last=True,
                                **AUGMENTATION[task.augmentation])
        self.batches = cycle(list(islice(batches, BATCHES)))
        self.now()  # waits, because other streams will read the batches
        self.pack = []
        for seed in range(spec.seed, spec.seed + runs):
            lane = Lane(None, device)
            with lane.alone():
                trainer = Trainer(task, spec.method, spec.sparsity, seed, options, data, device, record)
                for number in range(middle_of(trainer.training.cycles) + 1):
                    trainer.training.start(number)
                trainer.model.train()
            self.pack.append((lane, trainer))
        self.trainer = self.pack[0][1]
        self.training, method = self.trainer.training, self.trainer.model.method
        middle = self.training.step + int(MIDDLE * (self.training.total_steps - self.training.step))
        middle += self.training.steps_per_epoch // 2 - middle % self.training.steps_per_epoch  # away from what is done once in some epochs
        self.groups = groups(getattr(method, "interval", None), middle, steps)
        if record:  # records now, not in a round that counts
            self.make(self.groups[-1][0], WARM + 2)  # the first step creates the momentum, which restarts the count

    def make(self, first, number):
        """Makes `number` steps of each run, beginning with step `first` of its training."""
        for _, trainer in self.pack:
            trainer.training.step = first
        for x, y in islice(self.batches, number):
            for lane, trainer in self.pack:
                with lane.alone():
                    trainer.step(x, y)

    def now(self):
        """The time in seconds, after waiting until the device has done all its work."""
        return now(self.device)

    def step_seconds(self):
        """Seconds of an average step."""
        total = 0.0
        for first, number, weight in self.groups:
            began = self.now()
            self.make(first, number)
            total += weight * (self.now() - began)
        return total / len(self.pack)

    def part_seconds(self):
        """Seconds of the PARTS of an average step of the first run."""
        totals = dict.fromkeys(PARTS, 0.0)
        with self.clocks() as spans, self.pack[0][0].alone():
            for first, number, weight in self.groups:
                self.training.step = first
                for x, y in islice(self.batches, number):
                    spans.clear()
                    self.trainer.step(x, y)
                    began, (updated, ended) = spans["forward"][0][0], spans["update"][0]
                    forward, hooks = (sum(end - start for name in names for start, end in spans[name])
                                      for names in (("forward",), ("before_step", "after_step")))
                    for part, seconds in zip(PARTS, (forward, updated - began - forward, ended - updated - hooks, hooks)):
                        totals[part] += weight * seconds
        return totals

    @contextmanager
    def clocks(self):
        """A context that notes when these functions are called and return, as {name: [(seconds, seconds)]}."""
        spans = defaultdict(list)
        owners = {"forward": self.trainer.model, "update": self.training,
                  "before_step": self.trainer.model.method, "after_step": self.trainer.model.method}

        def clocked(call, name):
            def timed(*args, **options):
                began = self.now()
                result = call(*args, **options)
                spans[name].append((began, self.now()))
                return result
            return timed

        for name, owner in owners.items():
            setattr(owner, name, clocked(getattr(owner, name), name))
        try:
            yield spans
        finally:
            for name, owner in owners.items():
                delattr(owner, name)


def measure(specs, folder, device, rounds, steps, runs=1):
    """Rows with COLUMNS for `specs`, which have one task and precision; the first is dense. Raises ValueError in one line."""
    one_core()
    task, _ = settle(specs[0])
    data = datasets.load_for(task, folder).to(device)
    record = recorder(task, device)
    entrants = {spec: Entrant(spec, data, device, steps, record, runs) for spec in specs}
    profiled = {spec: Entrant(spec, data, device, steps, ANEW) for spec in specs} if record else entrants  # a recorded step has no parts
    times = in_turns({spec: entrant.step_seconds for spec, entrant in entrants.items()}, rounds)
    parts = in_turns({spec: entrant.part_seconds for spec, entrant in profiled.items()}, min(rounds, PROFILE_ROUNDS))
    return [row(entrant, np.array(times[spec]), np.array(times[specs[0]]), parts[spec]) for spec, entrant in entrants.items()]


def row(entrant, seconds, dense, parts):
    """The row of one method, from the seconds of its steps and of dense ones, (rounds,) each, and those of the parts, a dict for each round."""
    spec, task = entrant.spec, entrant.trainer.task
    step = float(np.median(seconds))
    return dict(
        task=spec.task, method=spec.method, sparsity=spec.sparsity, precision=task.precision, runs=len(entrant.pack), batch_size=task.batch_size,
        step_ms=round(1e3 * step, 3), images_per_second=round(task.batch_size / step, 1), **quartiles(seconds / dense),
        **{f"{part}_ms": round(1e3 * float(np.median([p[part] for p in parts])), 3) for part in PARTS},
        passes=entrant.trainer.training.passes, rounds=len(seconds), **measured_on(entrant.device))


def report(rows):
    """Prints the table, the fastest method first."""
    print("{task}, {precision}, {runs} at a time, batches of {batch_size}, {rounds} rounds, {device}".format_map(rows[0]))
    shown = "method sparsity step_ms ratio ratio_low ratio_high".split() + [f"{part}_ms" for part in PARTS]
    print(pd.DataFrame(rows)[shown].sort_values("ratio").to_string(index=False))


@command
def main(words=None):
    """Measures, prints and stores. Raises ValueError for bad arguments or missing data."""
    parser = Parser(prog="benchmarks.overhead", description="The time of a training step of every method, as a ratio to dense.")
    parser.add_argument("--task", default="cifar10-resnet20")
    parser.add_argument("--methods", nargs="+", metavar="M", help="default: all; dense is always measured")
    parser.add_argument("--sparsity", type=float, default=0.95)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, help="steps of a method in a round (default: 3, on a GPU 20)")
    parser.add_argument("--runs", type=int, default=1, metavar="K", help="runs at a time (default: %(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: the recipe's")
    parser.common("data", "results", "device")
    args = parser.parse_args(words)
    at_least_one(args, "rounds", "steps", "runs")
    batch = {"batch_size": str(get_task(args.task).batch_size)}  # the same for all
    specs = [canonical(Spec(args.task, method, args.sparsity, 0, precision=args.precision, options=batch))
             for method in ("dense", *(args.methods or available()))]
    path = table_path(args.results, "overhead.csv", COLUMNS)
    device = usable_device(args.device)
    rows = measure(list(dict.fromkeys(specs)), data_folder(args), device, args.rounds, args.steps or timed_together(device, 3), args.runs)
    store(rows, path, COLUMNS, IDENTITY)
    report(rows)
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.trajectory`: the stored and the forward value of one weight at every step of real runs (ST-3, figure 2).

Trains a task with hard and with soft thresholding (straight-through gradients, no rescaling) from the same seed, and follows the
same weight in both: the one that switches most often in the second half of training, counted in the run where it switches less. The curves of the
operators are the methods' own `forward` on evenly spaced weights. Writes RESULTS/SUITE/trajectory.csv.
"""
import sys

import torch

from benchmarks import data as datasets
from benchmarks.command import Parser, command, data_folder
from benchmarks.records import write_table
from benchmarks.results import Store
from benchmarks.machine import code_version, numerics, one_core, usable_device
from benchmarks.tasks import settle, suite_of
from benchmarks.grid import Spec
from benchmarks.train import Trainer

COLUMNS = "panel task method sparsity seed step steps weight stored forward threshold torch_version code_version".split()
METHODS = ("ste_hard", "ste_soft")


def follow(spec, folder):
    """Trains one run: stored and forward values (steps, N), thresholds (steps,), and the operator as (stored (N,), forward (N,), threshold)."""
    task, options = settle(spec)
    device = usable_device()
    numerics(task.precision, device)
    data = datasets.load_for(task, folder).to(device)
    trainer = Trainer(task, spec.method, spec.sparsity, spec.seed, options, data, device)
    stored, forward, thresholds, step = [], [], [], trainer.step

    def watched(x, y):
        method, theta = trainer.model.method, trainer.model.theta.detach()
        stored.append(theta.cpu().clone()), forward.append(method(theta).cpu()), thresholds.append(method.shift.item())
        step(x, y)

    trainer.step = watched
    trainer.run()
    method = trainer.model.method
    even = torch.linspace(-1, 1, trainer.model.layout.size, device=trainer.device)
    method.refresh(even, 0.5)
    return torch.stack(stored), torch.stack(forward), thresholds, (even.cpu(), method(even).detach().cpu(), method.shift.item())


def measure(task, sparsity, seed, epochs, folder):
    """The lines of the table."""
    runs = {method: follow(Spec(task, method, sparsity, seed, epochs), folder) for method in METHODS}
    active = [forward != 0 for _, forward, _, _ in runs.values()]
    index = int(torch.stack([(a[1:] ^ a[:-1])[len(a) // 2:].sum(0) for a in active]).min(0).values.argmax())
    same = dict(task=task, sparsity=sparsity, seed=seed, weight=index, torch_version=torch.__version__,
                code_version=code_version())
    lines = []
    for method, (stored, forward, thresholds, (even, q, threshold)) in runs.items():
        same |= dict(method=method, steps=len(thresholds))
        every = slice(None, None, max(1, len(even) // 200))
        lines += [dict(same, panel="operator", step=None, stored=x, forward=y, threshold=threshold)
                  for x, y in zip(even[every].tolist(), q[every].tolist())]
        lines += [dict(same, panel="training", step=step, stored=x, forward=y, threshold=t)
                  for step, (x, y, t) in enumerate(zip(stored[:, index].tolist(), forward[:, index].tolist(), thresholds))]
    return lines


@command
def main(words=None):
    parser = Parser(prog="benchmarks.trajectory", description=__doc__)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int)
    parser.common("results", "data")
    args = parser.parse_args(words)
    path = Store(args.results).folder / suite_of(args.task) / "trajectory.csv"  # raises StoreError before training, if nothing can be stored
    one_core()
    lines = measure(args.task, args.sparsity, args.seed, args.epochs, data_folder(args))
    write_table(path, COLUMNS, lines)
    print(f"{len(lines)} lines in {path}")


if __name__ == "__main__":
    sys.exit(main())

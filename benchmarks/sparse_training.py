"""`python -m benchmarks.sparse_training`: whole trainings with sparse and with masked storage: accuracy, time and memory.

Runs of the suite, in fp32 or with `--precision bf16`, one after the other in one process with one thread; the storages of a seed follow each
other. Weights are initialised as in GSE, for the sparse graph (init=sparse), so that sparse storage never builds the dense network. The runs' own
rows are not kept; the comparison goes into RESULTS/performance/sparse_training.csv, in place of earlier rows of the same run. peak_memory_mb is
the process's, including Python, torch and the data (on a GPU the allocator's).
"""
import gc
import sys
import tempfile
from itertools import product

from benchmarks.command import command, data_folder
from benchmarks.grid import Spec
from benchmarks.recipes import PRECISIONS
from benchmarks.results import Store
from benchmarks.run import run
from benchmarks.sparse_speed import MACHINE, machine, run_and_store, standard
from benchmarks.tasks import canonical
from methods.model import STORAGES

COLUMNS = "task width method sparsity precision storage seed epochs top1 seconds step_ms peak_memory_mb nnz prunable".split() + MACHINE
IDENTITY = "task width method sparsity precision storage seed epochs device threads".split()


def measure(args, device):
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    for task, width, sparsity, seed, storage in product(args.tasks, args.widths or (1,), args.sparsities, seeds, args.storages):
        options = {"width": width, "storage": storage, "init": "sparse"} | ({"batch_size": args.batch_size} if args.batch_size else {})
        spec = canonical(Spec(task, args.method, sparsity, seed, args.epochs, args.precision, options))
        gc.collect()
        with tempfile.TemporaryDirectory() as folder:
            row = run(spec, Store(folder), data_folder(args), str(device))
        if row["status"] != "ok":
            raise ValueError(f"{task} {storage} seed {seed} {row['status']}: {row['error']}")
        line = {**{name: row.get(name) for name in COLUMNS}, "width": width, "storage": storage, **machine(device)}
        print("{task} x{width} {sparsity} {precision} {storage} seed {seed}: {top1:.2f} %, {seconds} s, {peak_memory_mb} MB".format_map(
            {**line, "peak_memory_mb": line["peak_memory_mb"] or "?"}), flush=True)
        yield line


@command
def main(words=None):
    parser = standard("sparse_training", "Whole trainings, sparse storage against masked.", widths="1")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--tasks", nargs="+", metavar="T", default=["digits", "digits-mlp"], help="(default: digits digits-mlp)")
    parser.add_argument("--sparsities", nargs="+", type=float, metavar="S", default=[0.98], help="(default: 0.98)")
    parser.add_argument("--storages", nargs="+", choices=STORAGES, default=STORAGES[:2])
    parser.add_argument("--method", default="gse_uniform")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of them (default: 0), as where rows are to get more seeds")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    run_and_store(parser, words, measure, "sparse_training.csv", COLUMNS, IDENTITY)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m benchmarks.products`: time of the product of a sparse (n, n) with a dense (n, 128) matrix (GSE, figure 8).

Dense, COO and CSR with torch, float32, the mean of 10 products after one that is not counted; the dense product does not depend on
the sparsity and is timed once. Weights are active independently of each other. Writes RESULTS/performance/products.csv, where it
replaces the rows of the same products.
"""
import statistics
import sys
import time
import warnings

import torch

from benchmarks.command import Parser, at_least_one, command
from benchmarks.measurements import store, table_path
from benchmarks.machine import hardware, now, usable_device

COLUMNS = "device threads torch_version units batch format sparsity seconds std repeats".split()
IDENTITY = "device threads units batch format sparsity".split()
BATCH = 128
UNITS = (2048, 4096, 8192, 16384)
DENSITIES = tuple(0.2 * 0.005 ** (i / 9) for i in range(10))  # .2 to .001, evenly on a log scale


def seconds(product, repeats, device):
    """Times of `repeats` calls, in seconds."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        product()
        times.append(now(device) - began)
    return times[1:]


def measure(units, densities, repeats, device):
    """The lines of the table for one size of matrix, printed as they come."""
    generator = torch.Generator(device).manual_seed(units)
    weights = torch.randn(units, units, generator=generator, device=device)
    inputs = torch.randn(units, BATCH, generator=generator, device=device)
    same = dict(device=hardware(device), threads=torch.get_num_threads(), torch_version=torch.__version__, units=units, batch=BATCH,
                repeats=repeats)
    lines = []

    def add(form, sparsity, matrix):
        times = seconds(lambda: matrix @ inputs, repeats, device)
        lines.append(dict(same, format=form, sparsity=sparsity, seconds=statistics.mean(times), std=statistics.stdev(times)))
        print(f"{units} units, {form}, sparsity {sparsity:.4f}: {1e3 * lines[-1]['seconds']:.2f} ms")

    add("dense", 0.0, weights)
    for density in densities:
        active = torch.rand(units, units, generator=generator, device=device) < density
        sparse = (weights * active).to_sparse_coo().coalesce()
        del active
        add("coo", round(1 - density, 6), sparse)
        add("csr", round(1 - density, 6), sparse.to_sparse_csr())
    return lines


@command
def main(words=None):
    parser = Parser(prog="benchmarks.products", description=__doc__)
    parser.common("results", "device")
    parser.add_argument("--units", type=int, nargs="+", default=UNITS)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(words)
    at_least_one(args, "units", "threads")
    at_least_one(args, "repeats", least=2)
    path = table_path(args.results, "products.csv", COLUMNS)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    device = usable_device(args.device)
    lines = [line for units in args.units for line in measure(units, DENSITIES, args.repeats, device)]
    store(lines, path, COLUMNS, IDENTITY)
    print(f"wrote {len(lines)} lines to {path}")


if __name__ == "__main__":
    sys.exit(main())

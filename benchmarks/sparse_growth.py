"""`python -m benchmarks.sparse_growth`: what an update of the connections costs, against the width at a constant number of weights, and (GSE)
against the number of weights at a constant width.

RigL and GSE, always-sparse, on digits with two hidden layers; the update alone, scored on one training batch: its passes,
sampling, gradients and the new index. RigL computes and ranks the gradient of all connections; GSE's cost is O(neurons + weights). Time is the
shortest over rounds in which all widths and methods take turns (other load on the machine only adds to it), in a process that keeps
memory that it frees. Memory is the peak of what torch has allocated in an update (on a CPU without what numpy and scipy allocate to rank,
search and transpose: for GSE a few numbers per weight). Rows go into RESULTS/performance/sparse_growth.csv, in place of those of the same
width, method and machine.
"""
import sys
from functools import partial

from benchmarks.command import command
from benchmarks.machine import keep_memory
from benchmarks.measurements import in_turns
from benchmarks.sparse_speed import MACHINE, MB, entrant, load, machine, peak_bytes, run_and_store, seconds, standard

WIDTHS = tuple(2 ** n for n in range(10))
COUNTS = tuple(2 ** n for n in range(13, 25))  # active weights: all of these at 16 times the width, the first one at all widths
WIDE = 16
METHODS = ("gse_uniform", "gse_grabo", "gse_graest", "rigl")
COLUMNS = "method width batch_size nnz prunable update_ms peak_mb rounds".split() + MACHINE
IDENTITY = "method width batch_size nnz device threads".split()


def measure(args, device):
    keep_memory()
    data = load("digits-mlp", args, device)
    points = [(width, args.nnz[0], method) for width in args.widths or WIDTHS for method in args.methods
              if method != "rigl" or width <= args.rigl_width]
    points += [(args.wide, nnz, method) for nnz in args.nnz[1:] for method in args.methods if method != "rigl"]
    made = {point: ready(*point, data, args, device) for point in points}
    times = in_turns({each: partial(update, one) for each, one in made.items()}, args.rounds)
    for (width, nnz, method), each in made.items():
        peak = peak_bytes(lambda: update(each), device)
        layout = each.trainer.model.layout
        line = dict(method=method, width=layout.entries[0].shape[0], batch_size=each.trainer.task.batch_size, nnz=nnz,
                    prunable=layout.size, update_ms=round(1e3 * min(times[width, nnz, method]), 3), peak_mb=round(peak / MB, 2),
                    rounds=args.rounds, **machine(device))
        print("{method}, width {width}, {nnz} weights: {update_ms} ms, {peak_mb} MB".format_map(line), flush=True)
        yield line


def ready(width, nnz, method, data, args, device):
    """An Entrant with a network of this width and `nnz` active weights, after a few steps."""
    hidden = round(1024 * width)
    made = entrant("digits-mlp", method, 1 - nnz / ((64 + hidden + 10) * hidden), data, device, width=width, storage="sparse",
                   batch_size=args.batch_size or 128, score_batches="train_batch", allocation="er_gse", scope="global", init="sparse")
    seconds(made, made.ordinary)
    made.training.step, made.training.batch = made.before, next(made.batches)
    return made


def update(made):
    """Makes one update of the connections; returns its seconds."""
    began = made.now()
    made.training.method.update(made.training, 0.1)
    return made.now() - began


@command
def main(words=None):
    parser = standard("sparse_growth", "The cost of growing connections, against the width and the number of weights.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--nnz", type=int, nargs="+", default=COUNTS,
                        help="active weights: of all widths the first, of --wide all (default: %(default)s)")
    parser.add_argument("--wide", type=float, default=WIDE, help="width at which the number of weights grows (default: %(default)s)")
    parser.add_argument("--rigl-width", type=float, default=16, help="RigL's largest width: it needs several dense tensors")
    run_and_store(parser, words, measure, "sparse_growth.csv", COLUMNS, IDENTITY)


if __name__ == "__main__":
    sys.exit(main())

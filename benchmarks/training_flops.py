"""`python -m benchmarks.training_flops`: training FLOPs of RigL and GSE for ResNet-50 on ImageNet, computed (GSE, figure 4).

Needs no run: layer costs (`benchmarks.cost`) times Erdos-Renyi-kernel densities, whose sum follows the sparsity exactly. Our reading
of the paper: an update of the mask every 100 steps, γ = 1. Writes RESULTS/performance/training_flops.csv.
"""
import math
import sys

import torch

from benchmarks import models
from benchmarks.command import Parser, at_least_one, command
from benchmarks.cost import layer_macs, sparse_macs
from benchmarks.records import write_table
from benchmarks.results import Store
from methods.allocation import RAW_DENSITY, scale_densities

COLUMNS = "model allocation interval gamma sparsity dense_macs sparse_macs rigl_flops gse_flops".split()
DENSITIES = (0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.035, 0.02) + tuple(10 ** (-e / 4) for e in range(8, 25))  # to 1e-6


def step(sparse, growth, interval):
    """Mean MACs of a step, over `interval` sparse ones (forward, gradients of the inputs and of the weights) and one that updates the mask, in which
    the gradient of the weights costs `growth` MACs: dense for RigL (its appendix), γ · sparse for GSE. sparse: MACs of the forward pass."""
    return (3 * sparse * interval + 2 * sparse + growth) / (interval + 1)


def lines(densities=DENSITIES, interval=100, gamma=1.0, allocation="erk"):
    """The lines of the table: mean FLOPs of a training step, per image (2 FLOPs for a multiply-accumulate)."""
    with torch.device("meta"):
        net = models.build("resnet50", 1000)
    macs = layer_macs(net, (3, 224, 224))
    shapes = {name: tuple(net.get_submodule(name).weight.shape) for name in macs}
    sizes = [math.prod(shape) for shape in shapes.values()]
    raw, found = [RAW_DENSITY[allocation](shape) for shape in shapes.values()], []
    dense = sum(macs.values())
    for density in densities:
        sparse = sparse_macs(macs, dict(zip(macs, scale_densities(raw, sizes, density * sum(sizes)))))
        found.append(dict(model="resnet50", allocation=allocation, interval=interval, gamma=gamma, sparsity=round(1 - density, 12),
                          dense_macs=dense, sparse_macs=sparse, rigl_flops=2 * step(sparse, dense, interval),
                          gse_flops=2 * step(sparse, gamma * sparse, interval)))
    return found


@command
def main(words=None):
    parser = Parser(prog="benchmarks.training_flops", description=__doc__)
    parser.common("results")
    parser.add_argument("--interval", type=int, default=100)
    parser.add_argument("--gamma", type=float, default=1.0)
    args = parser.parse_args(words)
    at_least_one(args, "interval")
    if not 0 < args.gamma < math.inf:
        raise ValueError(f"--gamma must be a number above 0, not {args.gamma}")
    path = Store(args.results).folder / "performance" / "training_flops.csv"
    write_table(path, COLUMNS, lines(interval=args.interval, gamma=args.gamma))
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())

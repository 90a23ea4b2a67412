"""Inference cost: multiply-accumulates (MACs) of the conv and linear layers.

Counted as in ST-3: batch norm, biases, activations, pooling and attention products are left out, and a weight at zero
costs nothing. What training costs: `Trainer.training_cost`.
"""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def layer_macs(net: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """MACs of every conv and linear module of `net` for one image of `shape` (C, H, W), keyed by the module's name.

    Counts in evaluation mode on a copy without data, so `net` and the random state stay as they are. A module that is not called counts 0.
    """
    probe = copy.deepcopy(net).to("meta").eval()
    image = torch.empty(1, *shape, device="meta", dtype=next((p.dtype for p in probe.parameters()), None))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        probe(image)
    root, flops = type(probe).__name__, counter.get_flop_counts()
    return {name: sum(flops.get(f"{root}.{name}" if name else root, {}).values()) // 2
            for name, module in probe.named_modules() if isinstance(module, COUNTED)}


def sparse_macs(macs: dict[str, int], density: dict[str, float]) -> float:
    """MACs of one image when layer l keeps the fraction density[l] of its weights: sum of density[l] * macs[l].

    Raises ValueError where the two do not name the same layers.
    """
    if macs.keys() != density.keys():
        raise ValueError(f"macs and density must name the same layers; they differ in {sorted(macs.keys() ^ density.keys())}")
    return sum(density[name] * count for name, count in macs.items())

"""Inference cost: multiply-accumulates (MACs) of the conv and linear layers.

Counted as in ST-3: batch norm, biases, activations, pooling and attention products are left out, and a weight at zero
costs nothing. What training costs, a method says itself (`training_cost`).
"""

import copy
import warnings

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def layer_macs(net: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """MACs of every conv and linear module of `net` for one image of `shape` (C, H, W), keyed by the module's name.

    Counts in evaluation mode on a copy without data, so `net` and the random state stay as they are. Uses fvcore where
    it is installed (and the network not huge), else torch's own counter; both give the same numbers. A module that is not called counts 0.
    """
    probe = copy.deepcopy(net).to("meta").eval()
    image = torch.empty(1, *shape, device="meta", dtype=next((p.dtype for p in probe.parameters()), None))
    small = sum(p.numel() for p in probe.parameters()) < 10**8  # fvcore needs the weights
    try:
        counts = (_count_with_fvcore if small else _count_with_torch)(probe, image)
    except ModuleNotFoundError:
        counts = _count_with_torch(probe, image)
    return {name: int(counts[name]) for name, module in probe.named_modules() if isinstance(module, COUNTED)}


def _count_with_fvcore(net: nn.Module, image: torch.Tensor) -> dict[str, int]:
    with warnings.catch_warnings():
        # fvcore traces with torch.jit, which recent versions of torch call deprecated
        warnings.simplefilter("ignore")
        from fvcore.nn import FlopCountAnalysis

        # torch.jit cannot trace a convolution without data, so it gets zeros
        net = net.to_empty(device="cpu")
        for tensor in (*net.parameters(), *net.buffers()):
            nn.init.zeros_(tensor)
        analysis = FlopCountAnalysis(net, torch.zeros_like(image, device="cpu"))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        return analysis.by_module()


def _count_with_torch(net: nn.Module, image: torch.Tensor) -> dict[str, int]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(image)
    root = type(net).__name__
    counts = {name: sum(per_operation.values()) // 2 for name, per_operation in counter.get_flop_counts().items()}
    return {name: counts.get(f"{root}.{name}" if name else root, 0) for name, _ in net.named_modules()}


def sparse_macs(macs: dict[str, int], density: dict[str, float]) -> float:
    """MACs of one image when layer l keeps the fraction density[l] of its weights: sum of density[l] * macs[l].

    Raises ValueError where the two do not name the same layers.
    """
    if macs.keys() != density.keys():
        raise ValueError(f"macs and density must name the same layers; they differ in {sorted(macs.keys() ^ density.keys())}")
    return sum(density[name] * count for name, count in macs.items())

"""Costs in multiply-accumulates (MACs) of the conv and linear layers: of an image, and of a training.

Counted as in ST-3: batch norm, biases, activations, pooling and attention products are left out, and a weight at zero
costs nothing.
"""

import copy
import inspect
from functools import cache, partial

import torch
from torch import nn
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import models
from benchmarks.tasks import of_the_suite
from methods.layout import Layout, prunable
from methods.run import arguments


def shapes_of(model, classes, width):
    """A network on the meta device, which has no memory. Raises ValueError for one that cannot be built."""
    try:
        with torch.device("meta"):
            return models.build(model, classes, **models.options_of(model, width))
    except ValueError:
        raise
    except Exception as error:  # a user's network without such arguments, or with a mistake; too many weights to count
        if "meta tensors" in str(error):  # it reads a tensor's values, which these have not
            with torch.random.fork_rng(devices=[]):
                return models.build(model, classes, **models.options_of(model, width)).to("meta")
        what = f"{type(error).__name__}: " * (not isinstance(error, (TypeError, RuntimeError))) + f"{error}".partition("\n")[0]
        raise ValueError(f"{model}{f' of width {width:g}' * (width != 1)} cannot be built: {what}") from None


@cache
def layout_of(task, classes):
    """The Layout of a Task's network, as a Trainer has it, without memory."""
    net = shapes_of(task.model, classes, task.width)
    return Layout(net, *task.named(net))


def layer_macs(net: nn.Module, example) -> dict[str, int]:
    """MACs of every conv and linear module of `net`, keyed by the module's name, for one image if `example` is a shape (C, H, W), else
    for the input `example`: a tensor, a tuple of the network's arguments, or a dictionary of named ones.

    Counts in evaluation mode on a copy without data, so `net` and the random state stay as they are. A module that is not called counts 0;
    nn.MultiheadAttention calls no modules, so its projections are listed as its `in_proj` and `out_proj`.
    """
    probe = copy.deepcopy(net).to("meta").eval()
    if isinstance(example, tuple) and all(isinstance(size, int) for size in example):
        example = torch.empty(1, *example, dtype=next((p.dtype for p in probe.parameters()), None), device="meta")
    args, kwargs = arguments(tree_map_only(torch.Tensor, lambda tensor: tensor.to("meta"), example))
    projected = {}
    for name, module in probe.named_modules():
        if type(module).forward is nn.MultiheadAttention.forward:
            module.register_forward_pre_hook(partial(_projections, projected, f"{name}.".lstrip(".")), with_kwargs=True)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        probe(*args, **kwargs)
    root, flops = type(probe).__name__, counter.get_flop_counts()
    return {name: sum(flops.get(f"{root}.{name}" if name else root, {}).values()) // 2
            for name, module in probe.named_modules() if prunable(module)} | projected


def _projections(macs, name, module, inputs, keywords):
    """Adds the MACs of the projections in a call of attention to `macs`."""
    given = inspect.signature(module.forward).bind(*inputs, **keywords).arguments
    into = sum(given[side].numel() for side in ("query", "key", "value"))
    for part, numbers in (("in_proj", into), ("out_proj", given["query"].numel())):
        macs[name + part] = macs.get(name + part, 0) + numbers * module.embed_dim


def sparse_macs(macs: dict[str, int], density: dict[str, float]) -> float:
    """MACs of one image when layer l keeps the fraction density[l] of its weights: sum of density[l] * macs[l].

    Raises ValueError if the two do not name the same layers.
    """
    if macs.keys() != density.keys():
        raise ValueError(f"macs and density must name the same layers; they differ in {sorted(macs.keys() ^ density.keys())}")
    return sum(density[name] * count for name, count in macs.items())


@torch.no_grad()
def computed_with(model):
    """The number of weights per layer that a training step of a SparseModel computes with: the mask's, and those outside it that a user's own
    `forward` leaves nonzero."""
    method = model.method
    if of_the_suite(type(method), "forward"):
        return model.layer_nnz()
    held, own = [buffer.clone() for buffer in method.buffers()], dict(vars(method))
    with torch.random.fork_rng(devices=[]):  # not forked on GPUs: recorded steps use that generator, too
        used = method.mask | (method(model.theta) != 0)
    for buffer, value in zip(method.buffers(), held):  # undoes what this call of `forward` has changed
        buffer.copy_(value)
    vars(method).clear()
    vars(method).update(own)
    return model.layout.layer_sums(used)


def training_cost(trainer, macs):
    """Training FLOPs of a Trainer so far as a multiple of one dense training by the recipe; `macs`: dense MACs per layer."""
    progress, training, model = trainer.progress, trainer.training, trainer.model
    density = trainer.nnz_sum.cpu() / max(progress.passes, 1) / torch.tensor(model.layout.sizes)
    trained = {name: d for entry, d in zip(model.layout.entries, density.tolist()) for name in entry.names}  # tied weights count in each place
    sparse = sparse_macs(macs, dict.fromkeys(macs, 1.0) | trained) / sum(macs.values())  # layers that are not in the layout stay dense
    steps, passes = max(progress.done * training.steps_per_epoch, 1), progress.passes / max(progress.samples, 1)
    cost = model.method.training_cost(sparse, 1.0) * passes
    if of_the_suite(type(model.method), "training_cost"):  # adds its scoring and dense steps; a user's own training_cost includes all
        cost *= 1 + training.scored / steps / (passes or 1)
        cost += training.dense_steps * (model.method.gradient == "masked") / steps * (1.0 - sparse)
    return progress.done / trainer.task.epochs * cost / 3

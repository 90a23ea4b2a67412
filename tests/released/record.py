"""`python tests/released/record.py --st3 FOLDER --gse FOLDER`: runs the released programs of ST-3 and GSE through `course.py`'s training and
writes `numbers.csv`. The folders are checkouts of their public repositories (vanderschuea/stthree, cc115c5;
mikeheddes/guided-stochastic-exploration, 66f1e90); `einops` is needed besides. Nothing of theirs is part of this project.
"""
import argparse
import csv
import importlib
import sys
import types
from pathlib import Path

import course
import torch
from torch.nn.functional import cross_entropy

CPU = torch.device("cpu")
LAYERS = {  # arm: ST-3's kind of layer and its settings
    "st3": ("STE", True, True), "ste_soft": ("STE", True, False), "ste_hard": ("STE", False, False), "ste_hard_rescale": ("STE", False, True),
    "soft_rescale": ("NonSticky", True, True), "hard_rescale": ("NonSticky", False, True), "str": ("NonSticky", True, False),
    "st3_sigma": ("STE", True, True), "gmp": ("Sticky", False, False), "gmp_nonsticky": ("NonSticky", False, False)}
GROW = {"rigl": "rigl", "gse_uniform": "rigl-random"}


def stand_in(name, path=None, **attributes):
    """A module that `import` finds: a package at `path`, or one that has these attributes, for what is not needed here."""
    module = sys.modules[name] = types.ModuleType(name)
    module.__dict__.update(attributes, **({"__path__": [str(path)]} if path else {}))


def st3(folder):
    """Rows of ST-3's program: its layers and its thresholds (`PruningUtilities`) in a plain loop, in place of PyTorch Lightning's."""
    for package in ("stthree", "stthree.models", "stthree.models.layers", "stthree.trainmodules"):
        stand_in(package, folder / package.replace(".", "/"))
    stand_in("pytorch_lightning"), stand_in("pytorch_lightning.callbacks"), stand_in("stthree.parsers", get_class=None)
    stand_in("stthree.trainmodules.default", Default=type("Default", (), {})), stand_in("stthree.trainmodules.schedulers")
    stand_in("stthree.trainmodules.utils", HybridLRScheduler=None, HybridOptim=None)
    stand_in("stthree.models.layers.model_config", load_pretrained_weights=None), stand_in("stthree.models.utils", count=None)
    layers = importlib.import_module("stthree.models.layers.quantized")
    utilities = importlib.import_module("stthree.trainmodules.pruning").PruningUtilities
    for arm, (kind, soft, rescale) in LAYERS.items():
        def made(base, kind=kind, soft=soft, rescale=rescale):
            return lambda *args, **named: getattr(layers, f"{kind}Pruned{base}")(*args, soft=soft, rescale=rescale, **named)
        pruning = type("Pruning", (utilities,), {"on_step_logging": True, "log": lambda *args, **named: None})()
        pruning.model = net = course.network(made("Conv2d"), made("Linear"))
        own = [layer for _, layer in pruning.get_prunable_modules()]
        for layer, first in zip(own, course.weights()):
            layer.weight.data.copy_(first)
        prunable = [layer.weight for layer in own]
        norms = [p for module in net if isinstance(module, torch.nn.BatchNorm2d) for p in module.parameters()]
        optimizer = torch.optim.SGD([{"params": prunable, "weight_decay": 1e-4}, {"params": norms}], lr=course.LR, momentum=0.9)
        first, last = course.FIRST * course.PER_EPOCH, course.LAST * course.PER_EPOCH

        def step_of(step, x, y, criterion):
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*prunable, *norms], course.CLIP)
            optimizer.step()
            done = step + 1 - first
            # of whole epochs: before, nothing; after, all
            ratio = 0.0 if step < first else 1 - (1 - done / (last - first)) ** 3 if step < last else 1.0
            thresholds = (pruning.l1std if arm == "st3_sigma" else pruning.l1)(course.SPARSITY * ratio, True)
            pruning.apply_thresholds_to_layers(thresholds, 1.0)
            return loss

        losses = course.trained(step_of)
        yield course.row(arm, losses, [layer.get_weights().detach() for layer in own], [layer.mask.bool() for layer in own])


def masked(layers, sparsity):
    """(network of GSE's masked layers, their (mask, weight) pairs)."""
    net = course.network()
    layers.sparsify(net, sparsity, "uniform")
    pairs = layers.all_mask_param_pairs(net.double())  # looked up anew each time: its masks become others
    with torch.no_grad():
        for (_, weight), first in zip(pairs, course.weights()):
            weight.copy_(first)
    return net, pairs


def gse(folder):
    """Rows of GSE's program: its update of the masks before a step, as in our_training.py and dynamic_sparse_training.py."""
    sys.path.insert(0, str(folder))
    layers, grow, prune, utils = map(importlib.import_module, ("layers", "grow", "prune", "utils"))
    for method in course.GROWN:
        net, pairs = masked(layers, course.SPARSITY)
        with torch.no_grad():
            for (mask, weight), first in zip(pairs, course.first_masks()):
                mask.copy_(first)
                weight.mul_(mask)
        optimizer = torch.optim.SGD(net.parameters(), course.LR, momentum=0.9, weight_decay=1e-4)

        def update(step):
            grow.sample_gradient_masks = lambda *_: {id(weight): course.candidates(step, place) for place, (_, weight) in enumerate(pairs)}
            rate = utils.cosine_annealing(step, course.END * course.STEPS, 0.2)
            large = grow.compute_grow_score(net, pairs, GROW[method], 1.0, cross_entropy, course.scoring(step), CPU)
            small = prune.compute_prune_score(net, pairs, "magnitude", cross_entropy, (), CPU)
            if method == "rigl":
                gone = prune.apply_pruning(small, pairs, prune.get_prune_sparsity(rate, course.SPARSITY, None, "global"), "global")
                grow.disable_pruned_connections(large, gone)
                grown = grow.apply_growing(large, pairs, course.SPARSITY, "global")
            else:
                grown = grow.apply_growing(large, pairs, grow.get_grow_sparsity(rate, course.SPARSITY, None, "global"), "global")
                prune.disable_grown_connections(small, grown)
                prune.apply_pruning(small, pairs, course.SPARSITY, "global")
            grow.reset_momentum(optimizer, grown)

        def step_of(step, x, y, criterion):
            if course.updates(step):
                update(step)
            net.train()
            loss = criterion(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss

        losses = course.trained(step_of)
        yield course.row(method, losses, [(weight * mask).detach() for mask, weight in pairs], [mask.bool() for mask, _ in pairs])
    yield topkast(layers)
    for method in course.SCORED:
        net, pairs = masked(layers, 0.0)
        rounds = 100 if method == "synflow" else 1
        for k in range(1, rounds + 1):
            score = prune.compute_prune_score(net, pairs, method, cross_entropy, course.scoring(0), CPU)
            net.double()
            prune.apply_pruning(score, pairs, 1 - (1 - course.SPARSITY) ** (k / rounds), "global")
        yield course.row(method, (), [(weight * mask).detach() for mask, weight in pairs], [mask.bool() for mask, _ in pairs])


def topkast(layers):
    """The row of its topkast_training.py."""
    stand_in("config", CommonOptions=object, new_result_directory=None), stand_in("disk", StateSaver=None, SparsityStatsSaver=None, MetricSaver=None)
    stand_in("datasets", get_dataloader=None, num_classes_by_dataset=None, image_size_by_dataset=None)
    program, net = importlib.import_module("topkast_training"), course.network()
    program.sparsify(net, course.SPARSITY, 1.0, "uniform")
    own = [module for module in net.double().modules() if isinstance(module, (layers.MaskedLinear, layers.MaskedConv2d))]
    for layer, first in zip(own, course.weights()):
        layer.weight.data.copy_(first), layer.all_weight.copy_(first)
        program.update_active_param_set(layer)
    optimizer = torch.optim.SGD(net.parameters(), course.LR, momentum=0.9)

    def step_of(step, x, y, criterion):
        if course.renewed(step):
            program._update_sparse_layers(net)
        loss = criterion(net(x), y)
        optimizer.zero_grad()
        (loss + course.PENALTY * program.weight_decay_loss(net)).backward()
        optimizer.step()
        program.reset_justbwd_weights(net)
        return loss

    losses = course.trained(step_of)
    return course.row("topkast", losses, [(layer.weight * layer.mask_fwd).detach() for layer in own], [layer.mask_fwd for layer in own])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("st3", "gse"):
        parser.add_argument(f"--{name}", type=lambda text: Path(text).resolve(), required=True, metavar="FOLDER")
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    rows = [*st3(args.st3), *gse(args.gse)]
    with open(course.NUMBERS, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()

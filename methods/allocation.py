"""How many weights each layer keeps. All counts are integers that sum to the budget."""
import math

import torch


def count(total, sparsity):
    """Weights that remain of `total`: round(total · (1 − sparsity)), free of binary truncation (int(1000·(1−.9)) is 99)."""
    return round(total - total * sparsity)


def whole(share, total):
    """The whole number in share · total, free of binary truncation (int(.29 · 100) is 28)."""
    return int(share * total + 1e-9)


def count_above(total, sparsity):
    """Weights of `total` above the quantile of this sparsity as torch.quantile interpolates it (ST-3's code)."""
    return total - math.floor((total - 1) * sparsity) - 1 if sparsity > 0 else total


def allocate(layout, name, sparsity, redistribute=False):
    """Number of weights that each layer keeps, as a list of integers.

    They sum to `count(N, sparsity)`; only `er_gse` without `redistribute` falls short, as published. Raises ValueError for an unknown name
    and if the budget is less than one weight a layer, or too small for `uniform_plus`.
    """
    budget = count(layout.size, sparsity)
    if name not in BY_SHAPE:
        raise ValueError(f"unknown allocation {name!r}; known: {', '.join(BY_SHAPE)}")
    if budget < len(layout.sizes):
        raise ValueError(f"sparsity {sparsity} leaves {budget} weights for {len(layout.sizes)} layers; it needs one a layer at least")
    if name == "uniform_plus":
        return uniform_plus(layout, budget)
    if name == "uniform":
        densities = [budget / layout.size] * len(layout.sizes)
    else:
        raw = [RAW_DENSITY[name](e.shape) for e in layout.entries]
        densities = scale_densities(raw, layout.sizes, budget, redistribute or name != "er_gse")
    real = [d * n for d, n in zip(densities, layout.sizes)]
    return round_counts(real, round(sum(real)), layout.sizes)


RAW_DENSITY = {
    "erk": lambda shape: sum(shape) / math.prod(shape),                             # Evci et al. 2020
    "er": lambda shape: (shape[0] + shape[1]) / (shape[0] * shape[1]),              # channels only
    "er_gse": lambda shape: (shape[0] + math.prod(shape[1:])) / math.prod(shape),   # convolutions as matrices (GSE)
    "balanced": lambda shape: 1 / math.prod(shape),                                 # as many in each (Gadhikar et al. 2024)
}


BY_SHAPE = (*RAW_DENSITY, "uniform", "uniform_plus")


def scale_densities(raw, sizes, budget, redistribute=True):
    """ε·raw per layer such that the kept weights sum to `budget`, clipped at 1.

    With `redistribute`, what a clipped layer cannot take goes to the others (the layers at the maximum become dense together, then
    ε is found again); without, the sum falls short (GSE's code).
    """
    dense = [False] * len(raw)
    while True:
        free = budget - sum(n for n, full in zip(sizes, dense) if full)
        epsilon = free / sum(r * n for r, n, full in zip(raw, sizes, dense) if not full) if not all(dense) else 0
        densities = [1.0 if full else epsilon * r for r, full in zip(raw, dense)]
        largest = max(densities)
        if largest <= 1 or not redistribute:
            return [min(d, 1.0) for d in densities]
        dense = [full or d == largest for d, full in zip(densities, dense)]


def uniform_plus(layout, budget):
    """Counts: the first layer dense if it is a convolution, the last with 20 % at least, an equal share for all others (Gale et al. 2019,
    as in LAMP's code). Raises ValueError where these two leave no weight for each of the others."""
    sizes, last = layout.sizes, len(layout.sizes) - 1
    fixed = {0: sizes[0]} if len(layout.entries[0].shape) > 2 and last else {}
    share = (budget - sum(fixed.values())) / sum(sizes[len(fixed):])
    if share < 0.2 and last:
        fixed[last] = max(round(0.2 * sizes[last]), 1)
    others, left = [i for i in range(last + 1) if i not in fixed], budget - sum(fixed.values())
    if left < len(others) or (left and not others):
        raise ValueError(f"uniform_plus cannot keep {budget} of {layout.size} weights: the first layer and 20 % of the last have "
                         f"{budget - left}")
    size = sum(sizes[i] for i in others)
    counts = iter(round_counts([left * sizes[i] / size for i in others], left, [sizes[i] for i in others]))
    return [fixed[i] if i in fixed else next(counts) for i in range(last + 1)]


def round_counts(real, total, sizes, least=1):
    """Real counts → integers between `least` and the layer's size that sum to `total`, by largest remainders."""
    counts = [min(max(int(r), least), n) for r, n in zip(real, sizes)]
    order = sorted(range(len(real)), key=lambda i: counts[i] - real[i])
    while (missing := total - sum(counts)) != 0:
        step = 1 if missing > 0 else -1
        movable = [i for i in order[::step] if (counts[i] < sizes[i] if step > 0 else counts[i] > least)]
        for i in movable[:abs(missing)]:
            counts[i] += step
    return counts


def share_counts(sizes, total):
    """Integers ≥ 1 that sum to `total`, each as nearly as possible the same share of its size (Webster's rounding). Unlike with largest
    remainders, none of them grows when the total falls, so that masks can be nested."""
    whole = sum(sizes)
    counts = [max((2 * n * total + whole) // (2 * whole), 1) for n in sizes]
    while (missing := total - sum(counts)) > 0:
        counts[max(range(len(sizes)), key=lambda i: (sizes[i] / (2 * counts[i] + 1), -i))] += 1
    for _ in range(-missing):
        counts[min((i for i in range(len(sizes)) if counts[i] > 1), key=lambda i: (sizes[i] / (2 * counts[i] - 1), -i))] -= 1
    return counts


def lamp(layout, theta):
    """LAMP score w²/Σ_{|v|≥|w|} v² within each layer, (N,) (Lee et al. 2021). The largest weight of each layer scores 1."""
    scores = []
    for piece in theta.detach().split(layout.sizes):
        square, order = piece.square().sort(descending=True, stable=True)
        # on the CPU: CUDA sums floats in varying order, and these sums rank weights; once a cycle, so that the copies do not matter
        sums = square.cpu().cumsum(0).to(square.device)
        scores.append(torch.empty_like(piece).scatter_(0, order, square / sums.clamp_min(1e-38)))
    return torch.cat(scores)


def of_unit_norm(layout, theta):
    """|w| over its layer's L2 norm, (N,): what jaxpruner's global pruning ranks."""
    return torch.cat([piece.abs() / piece.norm().clamp_min(1e-38) for piece in theta.detach().split(layout.sizes)])


# scores whose global ranking shares weights out over the layers
RANKED = {"lamp": lamp, "global": lambda layout, theta: theta.abs(), "global_l2": of_unit_norm}

"""One short training that ours and the released programs both make, without any random number of torch: `numbers.csv` has what the released
programs gave (`record.py`), `test_released.py` holds ours to it."""
import csv
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

EPOCHS, PER_EPOCH, BATCH, SPARSITY, LR = 8, 5, 32, 0.9, 0.02
CLIP = 0.5              # so small that most steps are clipped
STEPS = EPOCHS * PER_EPOCH
FIRST, LAST = 1, 4      # epochs of ST-3's ramp
EVERY, END = 6, 0.75    # steps between two updates of a mask; share of training in which there are such
SEEN = (9, 19, 29, 39)  # the steps whose loss is noted
NUMBERS = Path(__file__).with_name("numbers.csv")
SHAPES = ((8, 1, 3, 3), (16, 8, 3, 3), (10, 16))

# arm: (method, options) of ours; the released program's own words for it are in record.py
ST3 = {
    "st3": ("st3", {}), "ste_soft": ("ste_soft", {}), "ste_hard": ("ste_hard", {}), "ste_hard_rescale": ("ste_hard_rescale", {}),
    "soft_rescale": ("st3", {"straight_through": False}), "hard_rescale": ("ste_hard_rescale", {"straight_through": False}),
    "str": ("str", {}), "st3_sigma": ("st3_sigma", {}), "gmp": ("gmp", {"mask_form": "literal"}), "gmp_nonsticky": ("gmp", {"mask_form": "nonsticky"})}
GROWN = ("rigl", "gse_uniform")
SCORED = ("snip", "grasp", "synflow")
EXPLORE, PENALTY = 4, 0.01  # Top-KAST: steps in which it renews its sets at each; factor of its norms


def network(conv=nn.Conv2d, linear=nn.Linear):
    """Two convolutions with batch normalisation, an average and a classifier: 1,384 weights."""
    return nn.Sequential(conv(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                         conv(8, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear(16, 10, bias=False)).double()


def weights():
    """The first weights, in the shapes of torch's modules."""
    draw = np.random.RandomState(0)
    return [torch.tensor(draw.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)) for shape in SHAPES]


def first_masks():
    """A random mask that leaves each layer a tenth of its weights, the last a quarter."""
    draw = np.random.RandomState(1)
    return [torch.tensor(draw.permutation(int(np.prod(shape))).reshape(shape) < count) for shape, count in zip(SHAPES, (7, 92, 40))]


def candidates(step, layer):
    """Connections that growth may choose from at a step, besides the active ones: what GSE's code draws by chance."""
    return torch.tensor(np.random.RandomState(1000 + 10 * step + layer).rand(*SHAPES[layer]) < 0.12)


def batch(number):
    """32 real digits (B, 1, 8, 8) and their labels."""
    digits, place = load_digits(), BATCH * number % 1700
    images = torch.tensor(digits.images[place:place + BATCH]).unsqueeze(1) / 8 - 1
    return images, torch.tensor(digits.target[place:place + BATCH])


def scoring(step):
    return [batch(number) for number in (50 + 2 * step, 51 + 2 * step)]


def renewed(step):
    """Whether Top-KAST renews its sets before this step."""
    return 0 < step <= EXPLORE or (step > 0 and step % EVERY == 0)


def largest(share):
    """How many weights of each layer are among its largest `share`: those that are no smaller than the quantile."""
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    return [size - int(np.ceil((size - 1) * (1 - share) - 1e-9)) for size in sizes]


def updates(step):
    """Whether a mask is updated before this step."""
    return (step + 1) % EVERY == 0 and step <= END * STEPS


def trained(step_of):
    """Losses of the steps SEEN, where `step_of(step, x, y, loss)` makes one and returns its loss."""
    losses = [step_of(step, *batch(step), cross_entropy).item() for step in range(STEPS)]
    return [losses[step] for step in SEEN]


def row(arm, losses, kept, masks):
    """What is noted of a training: losses, the number of active weights, the sum of their places and that of their absolute values.

    kept, masks: effective weights and masks of the layers, in the shapes of torch's modules.
    """
    places = sum(int(mask.reshape(-1).nonzero().sum()) for mask in masks)
    return dict(arm=arm, **{f"loss_{step + 1}": f"{loss:.12g}" for step, loss in zip(SEEN, losses)},
                nnz=sum(int(mask.sum()) for mask in masks), places=places, size=f"{sum(float(w.abs().sum()) for w in kept):.12g}")


def recorded():
    """{arm: row of numbers.csv}."""
    with open(NUMBERS, newline="", encoding="utf-8") as file:
        return {line["arm"]: line for line in csv.DictReader(file)}

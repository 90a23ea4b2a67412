"""The input of a network: a data set in memory (`Data`, made of `Split`s), and the batches of an epoch.

A split lives as one uint8 tensor on the training device; a batch is a gather (crop, flip) and two elementwise operations
(normalisation), with no loader, no workers and nothing that waits for the device. A folder of images (imagenet.py) makes its own batches.
"""
from dataclasses import dataclass, replace
from itertools import islice

import torch

from benchmarks.gpu import team
from methods.seeds import stable_seed

# What `epoch_batches` does to an image, by the name in a task's `augmentation`.
AUGMENTATION = {
    "st3": {"padding": "edge", "pad": 4, "flip": True},
    "gse": {"padding": "zero", "pad": 4, "flip": True},
    "zero": {"padding": "zero", "pad": 4, "flip": True},  # with the constants of "st3" (recipes.Task.normalisation)
    "granet": {"padding": "reflect", "pad": 4, "flip": True},
    "digits": {"padding": "edge", "pad": 1, "flip": False},
    "none": {"pad": 0, "flip": False},
    "imagenet": {},
}
# batches prepared together: on a CPU one, which stays in the cache; on a GPU launching an operation costs more than its work on one batch
AHEAD = {"cpu": 1, "cuda": 32}
PADDINGS = ("edge", "zero", "reflect")


class DataError(ValueError):
    """Data that are missing or damaged; the message is one line that says which and how to get them."""


@dataclass(frozen=True, eq=False)
class Split:
    """`images`: uint8 (n, H, W, C), contiguous. `labels`: int64 (n,)."""
    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        return Split(self.images.to(device), self.labels.to(device))

    def first(self, count):
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True, eq=False)
class Data:
    """A data set: its splits, `mean` and `std` per channel in [0, 1] units, the number of `classes` and the `shape` (C, H, W)
    of an image."""
    train: Split
    val: Split | None
    test: Split
    mean: tuple
    std: tuple
    classes: int
    shape: tuple

    def to(self, device):
        """The same data with every split on `device`."""
        return replace(self, train=self.train.to(device), val=self.val and self.val.to(device), test=self.test.to(device))


def random_images(dataset, *sizes):
    """Random Data with these numbers of training, validation and test images, in the form of CIFAR's."""
    draw, classes = torch.Generator().manual_seed(0), 100 if dataset == "cifar100" else 10

    def split(n):
        return Split(torch.randint(256, (n, 32, 32, 3), generator=draw, dtype=torch.uint8), torch.randint(classes, (n,), generator=draw))
    return Data(*map(split, sizes), (0.5,) * 3, (0.25,) * 3, classes, (3, 32, 32))


def steps_per_epoch(split, batch_size, drop_last=False):
    """The number of batches of `epoch_batches`: 352 for 45,000 images in batches of 128, 390 for 50,000 without the last."""
    return len(split) // batch_size if drop_last else -(-len(split) // batch_size)


def epoch_batches(split, data, batch_size, seed, epoch, padding="edge", pad=4, flip=True, drop_last=False, start=0, stop=None,
                  crops=None, whole=False):
    """Yields the training batches (x, y) of an epoch: shuffled, cropped, flipped and normalised, on the device of `split`.

    x: float32 (B, C, H, W), channels_last, normalised with the `mean` and `std` of `data`; y: int64 (B,).
    Each image is padded by `pad` pixels ("edge", "zero": black before normalisation, "reflect"), cut back
    to its size at a random place, and mirrored with probability one half (`flip`).
    All of it follows from (seed, epoch) alone, on every device, so an epoch can be resumed at batch `start`. It ends before batch `stop`.
    If several processes make a run together (team.py), each gets its part of every batch, or with `whole` all of it.
    `**AUGMENTATION[task.augmentation]` is a task's augmentation. Raises ValueError for an unknown padding.
    """
    if not isinstance(split, Split):  # a folder of images
        yield from islice(split.epoch_batches(data, batch_size, seed, epoch, drop_last, start, crops, whole), stop and stop - start)
        return
    if padding not in PADDINGS:
        raise ValueError(f"no padding {padding!r}: choose one of {', '.join(PADDINGS)}")
    (n, height, width, channels), device = split.images.shape, split.images.device
    generator = torch.Generator().manual_seed(stable_seed(seed, "data", epoch))
    # Drawn on the CPU, because a GPU's generator gives other numbers; one copy to the device per epoch.
    order = torch.randperm(n, generator=generator)
    again = crops not in (None, epoch)
    if again:
        generator.manual_seed(stable_seed(seed, "data", crops))
        then = torch.randperm(n, generator=generator)
    places = torch.randint(-pad, pad + 1, (2, n), generator=generator)
    mirrored = torch.randint(2, (n,), generator=generator) * int(flip)
    if again:  # each image as it was cropped and mirrored then
        where = then.argsort()[order]
        places, mirrored = places[:, where], mirrored[where]
    steps = min(steps_per_epoch(split, batch_size, drop_last), stop or n)
    drawn = torch.stack([order, *places, mirrored])[:, :steps * batch_size]
    order, top, left, mirrored = drawn.to(device).unsqueeze(-1)  # (images, 1) each

    rows = top + torch.arange(height, device=device)  # (images, H): the row of the image that each row of the crop shows
    columns = torch.arange(width, device=device)
    columns = left + torch.where(mirrored.bool(), width - 1 - columns, columns)
    inside_rows = ((rows >= 0) & (rows < height)).byte()
    # One value per byte of a row, (images, W * C): a product along 3 channels alone is several times slower on a CPU.
    inside_columns = ((columns >= 0) & (columns < width)).byte().repeat_interleave(channels, 1)
    rows = order * height + _inside(rows, height, padding)
    columns = _inside(columns, width, padding)
    labels = split.labels[order.squeeze(-1)]
    pixels = split.images.view(-1, channels)
    normalise = _normaliser(split, data)

    ahead = AHEAD.get(device.type, AHEAD["cuda"])
    for step in range(start, steps, ahead):
        some = slice(step * batch_size, min(step + ahead, steps) * batch_size)
        index = rows[some, :, None] * width + columns[some, None, :]  # (B, H, W) into all pixels
        x = pixels.index_select(0, index.view(-1)).view(-1, height, width, channels)
        if padding == "zero":
            x.view(-1, height, width * channels).mul_(inside_rows[some, :, None] * inside_columns[some, None, :])
        for x, y in zip(normalise(x).split(batch_size), labels[some].split(batch_size)):
            own = slice(None) if whole else team.part(len(y))
            yield x[own], y[own]


def eval_batches(split, data, batch_size):
    """Yields (x, y) as `epoch_batches` does, in file order, all of them and without augmentation."""
    if not isinstance(split, Split):
        yield from split.eval_batches(data, batch_size)
        return
    normalise = _normaliser(split, data)
    for images, labels in zip(split.images.split(batch_size), split.labels.split(batch_size)):
        own = team.part(len(labels))
        yield normalise(images[own]), labels[own]


def _inside(index, size, padding):
    """Positions -pad .. size - 1 + pad as positions in the image."""
    return size - 1 - (size - 1 - index.abs()).abs() if padding == "reflect" else index.clamp(0, size - 1)


def _normaliser(split, data):
    """images (B, H, W, C) -> (pixel / 255 - mean) / std as (B, C, H, W) in channels_last."""
    width, device = split.images.shape[2], split.images.device
    mean, std = torch.tensor([data.mean, data.std], dtype=torch.float64)
    # (W * C,) each, see the masks of `epoch_batches`.
    scale, shift = (t.float().repeat(width).to(device) for t in (1 / (255 * std), -mean / std))

    def normalise(images):
        # Two operations, not one fused: so that CPU and GPU round alike.
        x = images.flatten(2).float().mul_(scale).add_(shift)
        return x.view(images.shape).permute(0, 3, 1, 2)
    return normalise

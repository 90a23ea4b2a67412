"""The small data sets (digits, CIFAR-10, CIFAR-100) as uint8 tensors, and their batches.

A data set lives as one tensor on the training device; a batch is a gather (crop, flip) and two elementwise operations
(normalisation), with no loader, no workers and nothing that waits for the device.
"""
import functools
import os
import socket
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path

import torch

from benchmarks import team
from benchmarks.tasks import DATASETS
from methods.seeds import stable_seed

CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # torchvision's classes, which take as long to import as torch: digits does without
NORMALISATIONS = ("st3", "gse")
# What `epoch_batches` does to an image, by the name in a task's `augmentation`.
AUGMENTATION = {
    "st3": {"padding": "edge", "pad": 4, "flip": True},
    "gse": {"padding": "zero", "pad": 4, "flip": True},
    "granet": {"padding": "reflect", "pad": 4, "flip": True},
    "digits": {"padding": "edge", "pad": 1, "flip": False},
    "none": {"pad": 0, "flip": False},
    "imagenet": {},
}
# batches that are made in one go: on a CPU one stays in the cache, on a GPU launching an operation costs more than its work on one batch
AHEAD = {"cpu": 1, "cuda": 32}
PADDINGS = ("edge", "zero", "reflect")
ANOTHER_COPY = "name a folder that has it with --data DIR or DATA_DIR"


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


def load(name, folder, validation=True, normalisation="st3"):
    """A data set as `Data` on the CPU. Its tensors are read once per process and shared by all callers: do not change them.

    `name`: one of DATASETS. `folder`: where the files are, CIFAR's also where they are downloaded to; digits needs none.
    `validation`: hold out the last training images (5,000 of CIFAR, 300 of digits); without it `val` is None and `train`
    has everything but the official test images. `normalisation`: "st3" or "gse", that of their released code; digits has its own,
    from the images trained on.
    Raises DataError if the data are missing or damaged, ValueError for an unknown name.
    """
    if name not in DATASETS or normalisation not in NORMALISATIONS:
        raise ValueError(f"no data {name!r} with normalisation {normalisation!r}: choose of {', '.join(DATASETS)} and {', '.join(NORMALISATIONS)}")
    if name == "imagenet":
        from benchmarks import imagenet
        return imagenet.load(folder, validation)
    if name not in READERS:
        raise DataError(f"data {name!r} have a line in DATASETS and no reader: READERS of benchmarks/data.py needs one")
    known, val = DATASETS[name], None
    train, test = READERS[name](Path(folder or "").expanduser().absolute())
    if validation:
        cut = len(train) - known.held_out
        train, val = Split(train.images[:cut], train.labels[:cut]), Split(train.images[cut:], train.labels[cut:])
    mean, std = known.normalisation.get(normalisation) or _statistics(train.images)
    height, width, channels = train.images.shape[1:]
    return Data(train, val, test, mean, std, known.classes, (channels, height, width))


def load_for(task, folder):
    """`load` for a task (tasks.Task): with its validation and its normalisation. Raises as `load` does."""
    return load(task.dataset, folder, task.validation, task.normalisation)


def _statistics(images):
    """(mean, std) per channel of images (n, H, W, C), in [0, 1] units."""
    channels = [channel.double() / 255 for channel in images.unbind(-1)]
    return tuple(c.mean().item() for c in channels), tuple(c.std(correction=0).item() for c in channels)


@functools.lru_cache(maxsize=None)
def _digits():
    """Scikit-learn's 1,797 real 8x8 images, 1,197 + 300 held out + 300 test, stratified, the same in every run.
    The pixel values 0..16 are stored times 15, which is exactly linear (0..240), so a normalised digit is the
    standardised original."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels * 15).to(torch.uint8).view(-1, 8, 8, 1)
    rest, test = train_test_split(range(len(labels)), test_size=300, stratify=labels, random_state=0)
    train, val = train_test_split(rest, test_size=300, stratify=labels[rest], random_state=0)
    labels = torch.from_numpy(labels).long()
    return Split(images[train + val], labels[train + val]), Split(images[test], labels[test])


def cifar(name):
    """torchvision's class of this data set."""
    from torchvision import datasets
    return getattr(datasets, CIFAR[name])


@functools.lru_cache(maxsize=None)
def _cifar(name, folder):
    from torchvision.datasets.utils import check_integrity
    kind = cifar(name)
    folder = folder.parent if folder.name == kind.base_folder else folder  # the folder of the batches themselves is as good
    home = folder / kind.base_folder
    try:
        if not home.exists():
            _fetch(name, kind, folder)
        sets = [kind(folder, train=True), kind(folder, train=False)]  # checks the MD5 of every file
    except OSError as error:
        raise DataError(f"{name} cannot be read ({error}): {ANOTHER_COPY}") from None
    except RuntimeError:
        files = (*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"]))
        bad = next((home / file for file, md5 in files if not check_integrity(home / file, md5)), home)
        state = "damaged (wrong MD5)" if bad.exists() else "missing"
        raise DataError(f"{name}: {bad} is {state}; remove {home} to download it anew, or {ANOTHER_COPY}") from None
    # torchvision's array is a transposed view of the files' (n, C, H, W)
    return tuple(Split(torch.from_numpy(s.data).contiguous(), torch.tensor(s.targets)) for s in sets)


READERS = {  # name: a function of the folder (absolute) -> (training, test) images, each a Split
    "digits": lambda folder: _digits(), **{name: functools.partial(_cifar, name) for name in CIFAR}}


def _fetch(name, kind, folder):
    """Unpack the archive of CIFAR that is in `folder`, else download it. A folder of CIFAR appears whole or not at all."""
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive, extract_archive
    archive = folder / kind.filename
    if archive.exists() and not check_integrity(archive, kind.tgz_md5):
        raise DataError(f"{name}: {archive} is damaged (wrong MD5); remove it to download it anew, or {ANOTHER_COPY}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as part, _timeout(30):
            if archive.exists():
                extract_archive(archive, part)
            else:
                download_and_extract_archive(kind.url, part, filename=kind.filename, md5=kind.tgz_md5)
            try:
                os.rename(Path(part, kind.base_folder), folder / kind.base_folder)
            except OSError:
                if not (folder / kind.base_folder).exists():  # else another process was faster
                    raise
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name} is not in {folder} and could not be downloaded ({reason}): "
                        f"put {kind.url} there, or {ANOTHER_COPY}") from None


@contextmanager
def _timeout(seconds):
    """torchvision sets no time limit: behind a firewall that drops packets a download would hang instead of failing."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def steps_per_epoch(split, batch_size, drop_last=False):
    """The number of batches of `epoch_batches`: 352 for 45,000 images in batches of 128, 390 for 50,000 without the last."""
    return len(split) // batch_size if drop_last else -(-len(split) // batch_size)


def epoch_batches(split, data, batch_size, seed, epoch, padding="edge", pad=4, flip=True, drop_last=False, start=0,
                  crops=None, whole=False):
    """Yields the training batches (x, y) of an epoch: shuffled, cropped, flipped and normalised, on the device of `split`.

    x: float32 (B, C, H, W), channels_last, normalised with the `mean` and `std` of `data`; y: int64 (B,).
    Each image is padded by `pad` pixels ("edge", "zero": black before normalisation, "reflect"), cut back
    to its size at a place of its own, and mirrored with probability one half (`flip`).
    All of it follows from (seed, epoch) alone, on every device, so an epoch can be resumed at batch `start`.
    Several processes that make a run together (team.py) get their part of each batch each, or with `whole` all of it.
    `**AUGMENTATION[task.augmentation]` is the policy of a task. Raises ValueError for an unknown padding.
    """
    if not isinstance(split, Split):  # a folder of images
        yield from split.epoch_batches(data, batch_size, seed, epoch, drop_last, start, crops, whole)
        return
    if padding not in PADDINGS:
        raise ValueError(f"no padding {padding!r}: choose one of {', '.join(PADDINGS)}")
    (n, height, width, channels), device = split.images.shape, split.images.device
    generator = torch.Generator().manual_seed(stable_seed(seed, "data", epoch))
    # Drawn on the CPU, because a GPU's generator gives other numbers; one copy to the device per epoch.
    order = torch.randperm(n, generator=generator)
    if crops not in (None, epoch):
        generator.manual_seed(stable_seed(seed, "data", crops))
        torch.randperm(n, generator=generator)  # the order of that epoch comes first
    places = torch.randint(-pad, pad + 1, (2, n), generator=generator)
    mirrored = torch.randint(2, (n,), generator=generator) * int(flip)
    order, top, left, mirrored = torch.stack([order, *places, mirrored]).to(device).unsqueeze(-1)  # (n, 1) each

    rows = top + torch.arange(height, device=device)  # (n, H): the row of the image that each row of the crop shows
    columns = torch.arange(width, device=device)
    columns = left + torch.where(mirrored.bool(), width - 1 - columns, columns)
    inside_rows = ((rows >= 0) & (rows < height)).byte()
    # One value per byte of a row, (n, W * C): a product along 3 channels alone is several times slower on a CPU.
    inside_columns = ((columns >= 0) & (columns < width)).byte().repeat_interleave(channels, 1)
    rows = order * height + _inside(rows, height, padding)
    columns = _inside(columns, width, padding)
    labels = split.labels[order.squeeze(-1)]
    pixels = split.images.view(-1, channels)
    normalise = _normaliser(split, data)

    ahead, steps = AHEAD.get(device.type, AHEAD["cuda"]), steps_per_epoch(split, batch_size, drop_last)
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

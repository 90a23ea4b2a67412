"""The data sets by name: digits and CIFAR are read into tensors here, ImageNet stays a folder of images (imagenet.py)."""
import functools
import os
import socket
import tempfile
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import torch

from benchmarks import digits
from benchmarks.batches import Data, DataError, Split
from benchmarks.own_suites import joined, refuse_faults
from benchmarks.recipes import NORMALISATIONS
from benchmarks.tasks import DATASETS

CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}  # torchvision's classes; importing it takes as long as torch, so digits does without
ANOTHER_COPY = "name a folder that has it with --data DIR or DATA_DIR"


def load(name, folder, validation=True, normalisation="st3"):
    """A data set as `Data` on the CPU. Its tensors are read once per process and shared by all callers: do not change them.

    `name`: one of DATASETS. `folder`: where the files are, CIFAR's also where they are downloaded to; digits needs none.
    `validation`: hold out the last training images (5,000 of CIFAR, 300 of digits); otherwise `val` is None and `train`
    has everything but the official test images. `normalisation`: "st3" or "gse", as in their released code; digits has its own,
    computed from the training images.
    Raises DataError if the data are missing or damaged, ValueError for an unknown name.
    """
    if name not in DATASETS or normalisation not in NORMALISATIONS:
        raise ValueError(f"no data {name!r} with normalisation {normalisation!r}: choose of {', '.join(DATASETS)} and {', '.join(NORMALISATIONS)}")
    if name == "imagenet":
        from benchmarks import imagenet
        return imagenet.load(folder, validation)
    if name not in READERS:
        raise DataError(f"data {name!r} have a line in DATASETS and no reader: READERS (of benchmarks/data.py or of your file) needs one")
    known, val = DATASETS[name], None
    train, test = _read(name, READERS[name], Path(folder or "").expanduser().absolute())
    if validation:
        train, val = hold_out(name, train)
    mean, std = known.normalisation.get(normalisation) or _statistics(train.images)
    height, width, channels = train.images.shape[1:]
    if not len(mean) == len(std) == channels:
        raise DataError(f"{name} has {channels} channels, and its normalisation in DATASETS {len(mean)} means and {len(std)} deviations")
    return Data(train, val, test, mean, std, known.classes, (channels, height, width))


@functools.cache
def _read(name, reader, folder):
    """(training, test) Splits of a data set, in memory in one piece. Raises DataError, in one line, also for any error of the reader."""
    try:
        train, test = reader(folder)
    except DataError:
        raise
    except (Exception, SystemExit) as error:
        raise DataError(f"the reader of {name} fails, or does not give two Splits ({type(error).__name__}: {error}); its folder: {folder}") from error
    refuse_unfit(name, train, test)
    return tuple(Split(split.images.contiguous(), split.labels.contiguous()) for split in (train, test))


def hold_out(name, train):
    """(training, validation) Splits: the last images are held out. Raises DataError if there are too few, or if more than a tenth of the classes
    have no image in one of the two, as where the images are sorted by class."""
    known = DATASETS[name]
    if not 0 < known.held_out < len(train):
        raise DataError(f"{name} holds {known.held_out} of {len(train)} training images out for validation: its held_out in DATASETS is at least 1 "
                        "and fewer than these, or its tasks have validation=False")
    cut = len(train) - known.held_out
    parts = {"training": Split(train.images[:cut], train.labels[:cut]), "validation": Split(train.images[cut:], train.labels[cut:])}
    every = _present(train.labels, known.classes)
    for part, split in parts.items():
        lost = every & ~_present(split.labels, known.classes)
        if len(split) >= 5 * known.classes and not lost.sum() <= every.sum() / 10:  # a few images may lack a class by chance
            raise DataError(f"{name}: no {part} images are of class {lost.nonzero()[0].item()}; held out are the last {known.held_out}, so that a "
                            "reader of images sorted by class has to shuffle them, always in the same way")
    return tuple(parts.values())


def _present(labels, classes):
    """Which classes have a label, (classes,)."""
    return torch.zeros(classes, dtype=torch.bool).index_fill_(0, labels, True)


def refuse_unfit(name, train, test):
    """Raises DataError, in one line, if what a reader returns is not a valid `Split` or does not fit its entry in DATASETS."""
    known = DATASETS[name]
    for part, split in (("training", train), ("test", test)):
        if not isinstance(split, Split):
            raise DataError(f"the reader of {name} gives as {part} data no Split (benchmarks/batches.py), but {type(split).__name__}")
        images, labels = split.images, split.labels
        if images.dtype != torch.uint8 or images.dim() != 4 or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise DataError(f"the reader of {name} gives {part} images {images.dtype} {tuple(images.shape)} with labels {labels.dtype} "
                            f"{tuple(labels.shape)}, not torch.uint8 (n, height, width, channels) with torch.int64 (n,)")
        if not (len(labels) and 0 <= labels.min() and labels.max() < known.classes):
            raise DataError(f"the {part} labels of {name} are not from 0 to {known.classes - 1}, as its {known.classes} classes in DATASETS have it")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DataError(f"the reader of {name} gives training images {tuple(train.images.shape[1:])} and test images {tuple(test.images.shape[1:])}")
    if len(test) != known.test_images:  # by which accuracies are judged
        raise DataError(f"{name} has {len(test)} test images, not {known.test_images} as its test_images in DATASETS")


def load_for(task, folder):
    """`load` for a task (recipes.Task): with its validation and its normalisation. Raises as `load` does."""
    return load(task.dataset, folder, task.validation, task.normalisation)


def _statistics(images):
    """(mean, std) per channel of images (n, H, W, C), in [0, 1] units."""
    channels = [channel.double() / 255 for channel in images.unbind(-1)]
    return tuple(c.mean().item() for c in channels), tuple(c.std(correction=0).item() if c.min() < c.max() else 1.0 for c in channels)


def _digits():
    """Scikit-learn's 1,797 real 8x8 images, 1,197 + 300 held out + 300 test, stratified, the same in every run.
    The pixel values 0..16 are stored times 15, which is exactly linear (0..240), so a normalised digit is the
    standardised original."""
    pixels, labels = digits.read()
    images, labels = torch.from_numpy(pixels * 15).unsqueeze(-1), torch.from_numpy(labels).long()
    return Split(images[:-digits.TEST], labels[:-digits.TEST]), Split(images[-digits.TEST:], labels[-digits.TEST:])


def cifar(name):
    """torchvision's class of this data set."""
    from torchvision import datasets
    return getattr(datasets, CIFAR[name])


def _cifar(name, folder):
    from torchvision.datasets.utils import check_integrity
    kind = cifar(name)
    folder = folder.parent if folder.name == kind.base_folder else folder  # the folder of the batches themselves may be given, too
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


READERS = joined("READERS", {  # {name: function of the (absolute) folder that returns (training, test) Splits}
    "digits": lambda folder: _digits(), **{name: functools.partial(_cifar, name) for name in CIFAR}})
refuse_faults()


def _fetch(name, kind, folder):
    """Unpacks CIFAR's archive in `folder`, after downloading it if it is not there. The unpacked folder appears whole or not at all."""
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
                if not (folder / kind.base_folder).exists():  # otherwise another process was faster
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

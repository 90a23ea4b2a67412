"""A suite of your own, to start from: data, a network and a recipe in one file. Put a copy into benchmarks/own_suites/; the name of the copy is the
suite's, and that of a task is this name, or this name, a hyphen and more. Then `bash run_all.sh my_suite`.

torch is imported where it is used, because commands that need none must answer at once.
"""
from benchmarks.recipes import DIGITS, Dataset, Task


def read(folder):
    """(training, test) data: images uint8 (n, height, width, channels), labels int64 (n). folder: the Path of --data.
    Here: digits, even or odd."""
    from benchmarks.batches import Split
    from benchmarks.data import READERS

    return [Split(split.images, split.labels % 2) for split in READERS["digits"](folder)]


def my_network(classes, width=1.0, bn_momentum=0.1):
    """A torch.nn.Module with `classes` outputs. width (a multiple) and bn_momentum are settings that a network need not have."""
    from torch import nn

    channels = round(16 * width)
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels, momentum=bn_momentum), nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * channels, momentum=bn_momentum), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * channels, classes))


DATASETS = {"parity": Dataset("even or odd digits", classes=2, test_images=300, held_out=300)}  # held_out: for validation, the last training images
READERS = {"parity": read}
MODELS = {"my_network": my_network}
TASKS = {"my_suite": Task("parity", "my_network", **DIGITS)}  # the first is the suite's; DIGITS: 30 epochs of batches of 64, fp32, and more
SIZES = {"paper": ((0.9, 0.95, 0.98), None), "quick": ((0.9, 0.95), 10)}  # of each profile: sparsities, epochs (None: the recipe's)

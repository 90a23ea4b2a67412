"""A small folder of real JPEG files as ImageNet's, and a run on it."""
from dataclasses import replace

import torch
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks import imagenet
from benchmarks.grid import Spec
from benchmarks.tasks import settle
from benchmarks.train import Trainer

TRAIN, VAL, SIZE = 26, 9, 32


def make_folder(home):
    """Digits 0 to 2, enlarged to images of several sizes and modes, below the folder `home`, which is returned."""
    bunch, counts = load_digits(n_class=3), {}
    for number in range(TRAIN + VAL):
        label = bunch.target[number]
        place = home / "imagenet" / ("train" if number < TRAIN else "val") / f"n{label}"
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((bunch.images[number] * 15.9).astype("uint8")).resize((40 + number, 56), Image.BICUBIC)
        counts[label] = counts.get(label, 0) + 1
        (image if number % 5 else image.convert("RGB")).save(place / f"{number:03}.JPEG")
    assert set(counts) == {0, 1, 2}
    return home


def small(folder):
    """The data at 32 pixels, so that a step takes milliseconds."""
    data = imagenet.load(folder)
    return replace(data, train=replace(data.train, size=SIZE), test=replace(data.test, size=SIZE), shape=(3, SIZE, SIZE))


def of_images(folder):
    """A Trainer on them: three batches of 10, 10 and 6 an epoch. Its network, a small one, computes in 64 bits, for many layers of
    normalisation over few pixels make much of rounding."""
    small_network = {"model": "resnet20", "width": 0.5}
    task, options = settle(Spec("imagenet-mobilenetv1", "st3", 0.9, 0, epochs=2, precision="fp32",
                                options={"batch_size": 10, "lr": 0.02, **small_network}))
    torch.set_default_dtype(torch.float64)
    try:
        trainer = Trainer(task, "st3", 0.9, 0, options, small(folder))
    finally:
        torch.set_default_dtype(torch.float32)
    trainer.model.net.register_forward_pre_hook(lambda module, args: args[0].double())
    return trainer

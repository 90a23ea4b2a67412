"""What is known of each data set without reading it. Imports no torch, so that tables of stored rows need none."""
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Dataset:
    """`data.load` reads it."""

    title: str              # how papers call it
    classes: int
    test_images: int
    held_out: int = 0       # training images held out for validation, the last ones in file order
    # {recipe of `data.load`: (mean, std) per channel in [0, 1] units}; where there is none, those of the images trained on
    normalisation: dict = field(default_factory=dict)

    @property
    def chance(self):
        """Accuracy of a constant answer, in percent."""
        return 100 / self.classes

    @property
    def collapsed(self):
        """Accuracy in percent up to which a network has learned next to nothing: twice chance, below ten classes a ninth of the way from
        it to 100."""
        return min(2 * self.chance, self.chance + (100 - self.chance) / 9)


ST3 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # CIFAR-10's, which ST-3's code has for CIFAR-100 too
DATASETS = {
    "digits": Dataset("digits", 10, 300, 300),
    "cifar10": Dataset("CIFAR-10", 10, 10_000, 5_000, {"st3": ST3, "gse": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))}),
    "cifar100": Dataset("CIFAR-100", 100, 10_000, 5_000, {"st3": ST3, "gse": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))}),
    "imagenet": Dataset("ImageNet", 1000, 50_000),  # the rest: imagenet.py
}

"""ImageNet, or any folder of images in its form: `imagenet/train/CLASS/*.JPEG` and `imagenet/val/CLASS/*.JPEG`.

Images are read and cropped by worker processes (torchvision's ImageFolder and v2 transforms, a DataLoader) and normalised on the device.
What happens to an image in an epoch follows from (seed, epoch, image) alone: it does not depend on the number of workers or processes,
and an epoch can be resumed at any batch.
"""
import gc
import multiprocessing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, default_collate
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import default_loader
from torchvision.transforms import v2

from benchmarks.batches import Data, DataError, steps_per_epoch
from benchmarks.gpu import team
from benchmarks.workers.places import cores
from methods.seeds import stable_seed

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 224
HELD_OUT = 26  # one in so many training images is held out for validation: about as many as the official validation set has
MOST_WORKERS = 16


@dataclass(frozen=True, eq=False)
class Folder:
    """`samples`: (path, label) of each image; batches are made for `device`, of images of `size` pixels."""
    samples: list
    size: int = SIZE
    device: torch.device = torch.device("cpu")

    def __len__(self):
        return len(self.samples)

    def to(self, device):
        return replace(self, device=torch.device(device))

    def first(self, count):
        return replace(self, samples=self.samples[:count])

    def epoch_batches(self, data, batch_size, seed, epoch, drop_last=False, start=0, crops=None, whole=False):
        """As `batches.epoch_batches`: a random crop (8 to 100 % of the area), scaled to `size`, mirrored or not."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(stable_seed(seed, "data", epoch))).tolist()
        transform = v2.Compose([v2.RandomResizedCrop(self.size, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
        images = Images(self.samples, transform, (seed, "image", epoch if crops is None else crops))
        batches = [order[step * batch_size:(step + 1) * batch_size] for step in range(start, steps_per_epoch(self, batch_size, drop_last))]
        return self.load(images, batches, data, whole)

    def eval_batches(self, data, batch_size):
        """As `batches.eval_batches`: the middle of an image scaled to 8/7 of `size`."""
        transform = v2.Compose([v2.Resize(self.size * 8 // 7, antialias=True), v2.CenterCrop(self.size), v2.PILToTensor()])
        order = list(range(len(self)))
        batches = [order[place:place + batch_size] for place in range(0, len(self), batch_size)]
        return self.load(Images(self.samples, transform), batches, data)

    def load(self, images, batches, data, whole=False):
        """Yields batches (x, y) of samples: this process's part of each, or with `whole` all of it."""
        batches = batches if whole else [batch[team.part(len(batch))] for batch in batches]
        workers = min(cores() // team.world_size() - 1, MOST_WORKERS, len(batches))
        if workers > 0:
            multiprocessing.current_process().daemon = False  # the launcher's processes are daemons, which may not start workers
            gc.collect()  # a worker must not inherit the process group of an earlier run: taking it apart waits for threads of this process
        mean, std = (255 * torch.tensor(values, device=self.device).view(3, 1, 1) for values in (data.mean, data.std))
        loader = DataLoader(images, batch_sampler=batches, num_workers=max(workers, 0), pin_memory=self.device.type == "cuda",
                            collate_fn=self.collate, generator=torch.Generator())  # not the global one: images have their own seeds
        try:
            for x, y in loader:
                x = x.to(self.device, non_blocking=True).float().sub_(mean).div_(std)
                yield x.to(memory_format=torch.channels_last), y.to(self.device, non_blocking=True)
        except DataError as error:  # a worker's has its traceback before its message
            raise DataError(str(error).strip().rpartition(f"{DataError.__name__}: ")[2]) from None

    def collate(self, samples):
        """A batch from samples; it may be empty, because a process may have no image of the last batch."""
        if samples:
            return default_collate(samples)
        return torch.empty(0, 3, self.size, self.size, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)


class Images(torch.utils.data.Dataset):
    """(uint8 image (3, H, W), label) of each sample; `seed`: determines the random numbers of a sample, together with its index."""

    def __init__(self, samples, transform, seed=()):
        self.samples, self.transform, self.seed = samples, transform, seed

    def __getitem__(self, index):
        path, label = self.samples[index]
        try:
            image = default_loader(path)
        except Exception as error:  # of a damaged file Pillow also raises ValueError, SyntaxError and DecompressionBombError
            raise DataError(f"{path} cannot be read ({error})") from None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(stable_seed(*self.seed, index))  # torch.manual_seed would change the devices' generators, too
            return self.transform(image), label


def load(folder, validation=False):
    """ImageNet as `batches.Data`; its `test` is the official validation set. Raises DataError if it is not there.

    `validation`: hold out one training image in HELD_OUT.
    """
    home = Path(folder).expanduser().absolute() / "imagenet"
    try:
        train, test = (ImageFolder(home / name, loader=None) for name in ("train", "val"))
    except (OSError, RuntimeError) as error:
        raise DataError(f"imagenet cannot be read from {home} ({' '.join(str(error).split())}): it needs train/CLASS/*.JPEG and "
                        f"val/CLASS/*.JPEG there, which cannot be downloaded; name another folder with --data DIR or DATA_DIR") from None
    if odd := sorted({*train.classes} ^ {*test.classes}):
        raise DataError(f"imagenet: {home}/train and {home}/val have other classes: {odd[0]}{', …' * (len(odd) > 1)} in one alone")
    val, samples = None, train.samples
    if validation:
        order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()
        count = -(-len(samples) // HELD_OUT)
        val, samples = Folder([samples[i] for i in order[:count]]), [samples[i] for i in sorted(order[count:])]
    return Data(Folder(samples), val, Folder(test.samples), MEAN, STD, len(train.classes), (3, SIZE, SIZE))

"""`--keep-models`: the trained network of a run as `results/models/KEY.pt`, to go on with: `net = kept.load(path)`.

The network at the end of training, which the row's `top1` is of; without it a run leaves its numbers alone.
"""
import io

import torch

from benchmarks import models
from benchmarks.checkpoint import loaded
from benchmarks.files import write_whole


def save(path, spec, trainer):
    """Writes the network of a Trainer that has trained `spec`, whole or not at all. Raises StoreError."""
    model = trainer.model
    content = {"command": spec.command(), "network": {"name": trainer.task.model, "classes": trainer.data.classes, **trainer.network_options},
               "state_dict": model.plain().cpu().state_dict(), "masks": {name: mask.cpu() for name, mask in model.masks().items()},
               "mean": trainer.data.mean, "std": trainer.data.std}
    file = io.BytesIO()
    torch.save(content, file)
    write_whole(path, file.getvalue())


def plain(trainer):
    """The plain network that `load` gives of a Trainer, on its device: nothing but the network's own modules, with the effective weights."""
    net = models.build(trainer.task.model, trainer.data.classes, **trainer.network_options)
    net.load_state_dict(trainer.model.plain().state_dict())
    return net.to(trainer.device).eval()


def load(path):
    """The plain network of such a file, in evaluation mode, on the CPU, zeros where the mask has none.

    `torch.load(path, weights_only=True)` has besides its `state_dict` the `masks`, {weight's name: bool tensor of its shape}, the
    `command` that makes the run, what `network` it is (the arguments of `models.build`), and the `mean` and `std` per channel of images in
    [0, 1], with which it was trained: it takes (images - mean) / std. Raises ValueError for another file.
    """
    try:
        content = loaded(path, "cpu")
        net = models.build(**content["network"])
        net.load_state_dict(content["state_dict"])
    except OSError:
        raise
    except Exception as error:  # torch's own words would advise to run the code that is in it
        why = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise ValueError(f"{path} is damaged, or no network that --keep-models has kept ({why})") from None
    return net.eval()

"""`--keep-models`: the trained network of a run as `results/models/KEY.pt`, for further use: `net = kept.load(path)`.

It is the network at the end of training, whose accuracy is the row's `top1`. Without the option, a run stores only its numbers.
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
    """The plain network of a Trainer, as `load` returns it, on its device: only the network's own modules, with the effective weights."""
    net = models.build(trainer.task.model, trainer.data.classes, **trainer.network_options)
    net.load_state_dict(trainer.model.plain().state_dict())
    return net.to(trainer.device).eval()


def load(path):
    """The plain network from such a file, in evaluation mode, on the CPU; weights outside the mask are zero.

    `torch.load(path, weights_only=True)` gives a dictionary: `state_dict`; `masks`, {weight's name: bool tensor of its shape}; the `command` that
    makes the run; `network`, the arguments of `models.build`; and `mean` and `std` per channel: the network takes (images - mean) / std for images
    in [0, 1]. Raises ValueError for any other file.
    """
    try:
        content = loaded(path, "cpu")
        net = models.build(**content["network"])
        net.load_state_dict(content["state_dict"])
    except OSError:
        raise
    except Exception as error:  # torch's own message would suggest running code from the file
        why = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise ValueError(f"{path} is damaged, or no network that --keep-models has kept ({why})") from None
    return net.eval()

"""The networks of the suite: plain torch modules, without masks or hooks."""

import inspect

from torch import nn

from benchmarks.own_suites import joined, refuse_faults
from methods.options import nearest

from .mlp import mlp, mlp_digits
from .mobilenet import mobilenetv1
from .resnet import resnet8_digits, resnet20, resnet56
from .resnet50 import resnet50, resnet50_torchvision
from .vgg import vgg11, vgg11_st3code, vgg16_small
from .vit import vit_tiny
from .wrn import wrn34x2

MODELS = joined("MODELS", {factory.__name__: factory for factory in (
    resnet8_digits, resnet20, resnet56, wrn34x2, vgg11, vgg11_st3code, vgg16_small, vit_tiny, mobilenetv1, resnet50, resnet50_torchvision,
    mlp, mlp_digits)})
refuse_faults()  # a name that is taken: when a command starts, this table is not loaded yet


def options_of(name: str, width: float = 1, **options) -> dict:
    """The options for `build` from a task's settings: `width` if it is not 1, and those of the others that the network's factory takes (a network
    without batch normalisation has no `bn_momentum`)."""
    taken = inspect.signature(MODELS[name]).parameters if name in MODELS else ()
    return {**{option: value for option, value in options.items() if option in taken}, **({"width": width} if width != 1 else {})}


def build(name: str, classes: int, **options) -> nn.Module:
    """The network `name` of `MODELS` with `classes` outputs, its weights drawn from the global torch generator.

    `options` are the other arguments of its factory: `width`, `bn_momentum`, `fc_bias`.
    Raises ValueError for an unknown model or option (with the nearest names) and for a bad value.
    """
    if name not in MODELS:
        raise ValueError(nearest(name, MODELS, "model"))
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(f"classes must be a whole number >= 1, got {classes!r}")
    allowed = [option for option in inspect.signature(MODELS[name]).parameters if option != "classes"]
    for option in options:
        if option not in allowed:
            raise ValueError(nearest(option, allowed, f"option of {name}"))
    net = MODELS[name](classes=classes, **options)
    if not isinstance(net, nn.Module):
        raise ValueError(f"{name} returns no torch.nn.Module, but {type(net).__name__}")
    return net

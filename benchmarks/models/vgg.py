"""VGGs for CIFAR (after Simonyan & Zisserman, 2015): ST-3's VGG-11 in its two readings and GSE's small VGG-16."""

from torch import nn

from .init import fan_in_uniform, he_normal, scaled


def _features(plan: list, bias: bool) -> list[nn.Module]:
    """3x3 conv + BN + ReLU per number (its channels) in `plan`, a 2x2 max pool per "M"."""
    layers, inputs = [], 3
    for item in plan:
        if item == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(inputs, item, 3, padding=1, bias=bias), nn.BatchNorm2d(item), nn.ReLU()]
            inputs = item
    return layers


def _vgg_st3(plan: list, classes: int, bn_momentum: float) -> nn.Module:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear([item for item in plan if item != "M"][-1], classes, bias=False)]
    return he_normal(nn.Sequential(*_features(plan, bias=False), *head), bn_momentum)


def vgg11(classes: int = 10, bn_momentum: float = 0.01) -> nn.Module:
    """VGG-11 with 8 convs and one FC, bias-free. Input (B, 3, 32, 32), output (B, classes).

    9,222,848 prunable weights, 5,504 norm parameters, 152,769,536 MACs (10 classes).
    Source: the simplification that ST-3 cites (Liu et al., 2019, "Rethinking the value of network pruning"), whose last pool takes means.
    """
    plan = [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512]
    return _vgg_st3(plan, classes, bn_momentum)


def vgg11_st3code(classes: int = 10, bn_momentum: float = 0.01) -> nn.Module:
    """What the released code of ST-3 builds for its "11" setting: 4 convs and one FC, bias-free.

    Input (B, 3, 32, 32), output (B, classes). 371,648 prunable weights, 896 norm parameters, 39,519,488 MACs (10 classes).
    """
    return _vgg_st3([64, "M", 128, "M", 128, 128, "M"], classes, bn_momentum)


def vgg16_small(classes: int = 10, width: float = 1, bn_momentum: float = 0.1) -> nn.Module:
    """GSE's small VGG-16: 13 convs and 3 FC, all with bias, dropout 0.5. Input (B, 3, 32, 32), output (B, classes).

    1,252,528 prunable weights in 16 tensors, 2,112 norm parameters, 2,090 biases, 20,239,360 MACs (10 classes).
    Raises ValueError where `width` gives a fractional layer. Source: released code and supplement of GSE.
    """
    a, b, c, d, hidden = scaled([16, 32, 64, 128, 512], width)
    plan = [a, a, "M", b, b, "M", c, c, c, "M", d, d, d, "M", d, d, d, "M"]
    head = [nn.Flatten(), nn.Linear(d, hidden), nn.ReLU(), nn.Dropout(0.5),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, classes)]
    return fan_in_uniform(nn.Sequential(*_features(plan, bias=True), *head), bn_momentum)

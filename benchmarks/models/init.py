"""What every model needs once it is built: start weights, batch-norm momentum, scaled widths."""

from torch import nn


def he_normal(net: nn.Module, bn_momentum: float) -> nn.Module:
    """ST-3's start: every conv and linear weight from N(0, sqrt(2 / fan_in)); a depthwise filter's fan_in is kh * kw.

    Draws from the global torch generator, so the caller seeds. Norm layers keep gamma = 1, beta = 0. Returns `net`.
    Source: released code of ST-3 (Vanderschueren & De Vleeschouwer, WACV 2023).
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
    return set_bn_momentum(net, bn_momentum)


def fan_in_uniform(net: nn.Module, bn_momentum: float | None = None) -> nn.Module:
    """GSE's start with all inputs active: weights and biases from U(-b, b), b = sqrt(3 / fan_in), i.e. variance 1 / fan_in.

    Draws from the global torch generator, so the caller seeds. `bn_momentum=None` is for networks without batch norm.
    Returns `net`. Source: released code of GSE, its sparse initialiser at density 1.
    """
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="linear")
            if module.bias is not None:
                bound = (3 / module.weight[0].numel()) ** 0.5
                nn.init.uniform_(module.bias, -bound, bound)
    return net if bn_momentum is None else set_bn_momentum(net, bn_momentum)


def set_bn_momentum(net: nn.Module, momentum: float) -> nn.Module:
    """Sets PyTorch's momentum (the weight of the newest batch) of all batch norms. Raises ValueError outside (0, 1]."""
    if not isinstance(momentum, (int, float)) or not 0 < momentum <= 1:
        raise ValueError(f"bn_momentum must lie in (0, 1], got {momentum!r}")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    return net


def scaled(sizes, width: float) -> list[int]:
    """Layer sizes times GSE's width multiplier. Raises ValueError where one of them would not be a whole number >= 1."""
    if isinstance(width, (int, float)) and all(size * width >= 1 and float(size * width).is_integer() for size in sizes):
        return [int(size * width) for size in sizes]
    raise ValueError(f"width must scale the layer sizes {', '.join(map(str, sizes))} to whole numbers, got {width!r}")

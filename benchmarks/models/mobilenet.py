"""MobileNetV1 (Howard et al., 2017)."""

from torch import nn

from .init import he_normal


def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def mobilenetv1(classes: int = 1000, bn_momentum: float = 0.01) -> nn.Module:
    """MobileNetV1, bias-free; the depthwise weights are prunable too. Input (B, 3, 224, 224), output (B, classes).

    4,209,088 prunable weights, 21,888 norm parameters, 568,740,352 MACs (1,000 classes).
    Source: Howard et al. (2017), table 1; trained in ST-3 (WACV 2023), figure 4.
    """
    layers, inputs = _conv(3, 32, 3, stride=2), 32
    for outputs, stride in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]:
        layers += _conv(inputs, inputs, 3, stride, groups=inputs) + _conv(inputs, outputs, 1, stride=1)
        inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes, bias=False)]
    return he_normal(nn.Sequential(*layers), bn_momentum)

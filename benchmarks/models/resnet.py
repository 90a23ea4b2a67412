"""Post-activation CIFAR ResNets (He et al., 2016): ST-3's ResNet-20, GSE's ResNet-56 and a small one for 8x8 digits."""

import torch.nn.functional as F
from torch import nn

from .init import fan_in_uniform, he_normal, scaled
from .pooling import global_average


class ZeroPadShortcut(nn.Module):
    """Option A of He et al.: every second pixel, new channels are zeros (half of them before, half after); no parameters."""

    def __init__(self, extra: int, stride: int):
        super().__init__()
        self.stride = stride
        self.pad = (0, 0, 0, 0, extra // 2, extra - extra // 2)

    def forward(self, x):
        return F.pad(x[:, :, ::self.stride, ::self.stride], self.pad)


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, zero_pad: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()
        elif zero_pad:
            self.shortcut = ZeroPadShortcut(outputs - inputs, stride)
        else:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)).add_(self.shortcut(x)), inplace=True)


class ResNet(nn.Module):
    """3x3 stem, one stage of `blocks` basic blocks per width (stride 2 from the second stage on), average pool, FC.

    Input (B, `channels`, H, W), output (B, `classes`). `zero_pad`: option-A shortcuts instead of 1x1 conv + BN.
    """

    def __init__(self, channels: int, widths: list[int], blocks: int, classes: int, zero_pad: bool, fc_bias: bool):
        super().__init__()
        self.conv = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for number, outputs in enumerate(widths):
            strides = [1 if number == 0 else 2] + [1] * (blocks - 1)
            stages.append(nn.Sequential(*(BasicBlock(inputs if i == 0 else outputs, outputs, stride, zero_pad)
                                          for i, stride in enumerate(strides))))
            inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, classes, bias=fc_bias)

    def forward(self, x):
        x = self.stages(F.relu(self.bn(self.conv(x)), inplace=True))
        return self.fc(global_average(x))


def resnet20(classes: int = 10, width: float = 1, bn_momentum: float = 0.01) -> nn.Module:
    """ST-3's ResNet-20, bias-free, 1x1 conv + BN shortcuts. Input (B, 3, 32, 32), output (B, classes).

    270,896 prunable weights in 22 tensors, 1,568 norm parameters, 40,813,184 MACs (10 classes).
    Raises ValueError where `width` gives a fractional layer. Source: released code of ST-3 (WACV 2023).
    """
    net = ResNet(3, scaled([16, 32, 64], width), 3, classes, zero_pad=False, fc_bias=False)
    return he_normal(net, bn_momentum)


def resnet56(classes: int = 10, width: float = 1, bn_momentum: float = 0.1) -> nn.Module:
    """GSE's ResNet-56, option-A shortcuts, a bias in the FC only. Input (B, 3, 32, 32), output (B, classes).

    848,944 prunable weights in 56 tensors, 4,064 norm parameters, 10 biases, 125,485,696 MACs (10 classes).
    Raises ValueError where `width` gives a fractional layer. Source: released code and supplement of GSE.
    """
    net = ResNet(3, scaled([16, 32, 64], width), 9, classes, zero_pad=True, fc_bias=True)
    return fan_in_uniform(net, bn_momentum)


def resnet8_digits(classes: int = 10, width: float = 1, bn_momentum: float = 0.1) -> nn.Module:
    """ResNet-20's layout cut to two stages (16, 32) of one block for 8x8 digits. Input (B, 1, 8, 8), output (B, classes).

    Bias-free. 19,408 prunable weights in 7 tensors, 288 norm parameters, 533,824 MACs (10 classes).
    Raises ValueError where `width` gives a fractional layer. Not from a paper: it lets every method run on one CPU core.
    """
    net = ResNet(1, scaled([16, 32], width), 1, classes, zero_pad=False, fc_bias=False)
    return he_normal(net, bn_momentum)

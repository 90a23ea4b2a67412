"""ST-3's wide ResNet for CIFAR-100 (after Zagoruyko & Komodakis, 2016)."""

import torch.nn.functional as F
from torch import nn

from .init import he_normal
from .pooling import global_average


class PreActivationBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout2d(0.2)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        out = self.conv1(F.relu(self.bn1(x)))
        out = self.conv2(self.dropout(F.relu(self.bn2(out))))
        # ST-3 takes the shortcut from the raw input; the original WRN takes it after the first BN and ReLU
        return out + self.shortcut(x)


class WideResNet(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        blocks, inputs = [], 16
        for outputs, first_stride in ((32, 1), (64, 2), (128, 2)):
            for stride in (first_stride, 1, 1, 1, 1):
                blocks.append(PreActivationBlock(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, classes, bias=False)

    def forward(self, x):
        x = F.relu(self.bn(self.blocks(self.conv(x))))
        return self.fc(global_average(x))


def wrn34x2(classes: int = 100, bn_momentum: float = 0.01) -> nn.Module:
    """ST-3's WRN-34x2, bias-free, dropout 0.2 between the convs of a block. Input (B, 3, 32, 32), output (B, classes).

    1,862,576 prunable weights, 4,512 norm parameters, 270,987,776 MACs (100 classes).
    Source: released code of ST-3 (WACV 2023).
    """
    return he_normal(WideResNet(classes), bn_momentum)

"""ResNet-50 for ImageNet: torchvision's network (stride on the 3x3, "v1.5"), which is also ST-3's but for the FC bias."""

from torch import nn

from .init import he_normal


def resnet50(classes: int = 1000, bn_momentum: float = 0.01, fc_bias: bool = False) -> nn.Module:
    """ST-3's ResNet-50, bias-free; `fc_bias=True` is torchvision's own layout. Input (B, 3, 224, 224), output (B, classes).

    25,502,912 prunable weights, 53,120 norm parameters, 4,089,184,256 MACs (1,000 classes).
    Source: released code of ST-3 (WACV 2023).
    """
    # imported here, because other models do not need torchvision
    from torchvision.models import resnet50 as torchvision_resnet50

    net = torchvision_resnet50(weights=None, num_classes=classes)
    net.fc = nn.Linear(net.fc.in_features, classes, bias=fc_bias)
    return he_normal(net, bn_momentum)


def resnet50_torchvision(classes: int = 1000, bn_momentum: float = 0.1) -> nn.Module:
    """`resnet50` with the bias in its classifier, which GSE's recipe names."""
    return resnet50(classes, bn_momentum, fc_bias=True)

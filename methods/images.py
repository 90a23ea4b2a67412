"""Convolutions of signals as convolutions of images, with one row."""
from torch import nn
from torch.nn import functional as F


def convolves(module):
    """Whether it is a 1-D or 2-D convolution."""
    return isinstance(module, (nn.Conv1d, nn.Conv2d))


def plain_layer(module):
    """Whether it computes what torch's linear layer, or its 1-D or 2-D convolution, computes: it may be of a class of its own without a forward."""
    kind = type(module)
    return any(kind.forward is base.forward and getattr(kind, "_conv_forward", None) is getattr(base, "_conv_forward", None)
               for base in (nn.Linear, nn.Conv1d, nn.Conv2d))


def as_images(module, x):
    """An input or output of a convolution as (samples, channels, height, width): a single one is a batch of one."""
    x = x if x.dim() == len(module.kernel_size) + 2 else x[None]
    return x if x.dim() == 4 else x.unsqueeze(2)


class Geometry:
    """kernel_size, stride, dilation: (height, width), and padding: (left, right, top, bottom), of a convolution."""

    def __init__(self, module):
        row = (1,) * (2 - len(module.kernel_size))
        self.kernel_size, self.stride, self.dilation = row + module.kernel_size, row + module.stride, row + module.dilation
        self.padding = [*module._reversed_padding_repeated_twice, *[0, 0] * len(row)]
        self.mode = "constant" if module.padding_mode == "zeros" else module.padding_mode

    def padded(self, x):
        """The input x (samples, channels, height, width) with its padding."""
        return F.pad(x, self.padding, mode=self.mode)

"""What the kernels of a GPU compute, by Triton's interpreter on a CPU: a process of its own, with TRITON_INTERPRET=1 (see test_kernels.py)."""
import math

import torch
from torch.nn.functional import conv2d
from triton.runtime import interpreter

from benchmarks.gpu import narrow
from methods import counting
from methods.ranking import by_sorting

CONVOLUTIONS = [  # inputs, outputs, stride, kernel, side, images
    (3, 16, 1, 3, 9, 3), (16, 16, 1, 3, 8, 3), (16, 32, 2, 3, 8, 3), (16, 32, 2, 1, 8, 3), (32, 32, 1, 3, 5, 2), (64, 64, 1, 3, 4, 2), (33, 40, 2, 3, 7, 2),
    (16, 16, 1, 1, 6, 20)]
NEAR = 1e-6


def enter_once(patch=interpreter._patch_lang, entered=set()):
    """Functions that a kernel calls find Triton's language as the kernel's launch has made it for the interpreter, which would else make it so again
    for every call of one: two thirds of its time."""
    def call(function, *arguments, **names):
        if function.fn.__module__ not in entered:  # other modules have the language by other names
            entered.add(function.fn.__module__)
            patch(function.fn)
        return function.rewrite()(*arguments, **names)
    interpreter.InterpretedFunction.__call__ = call


def convolutions():
    draw = torch.Generator().manual_seed(0)
    for inputs, outputs, stride, size, side, images in CONVOLUTIONS:
        x = torch.randn(images, inputs, side, side, generator=draw).requires_grad_()
        weight = torch.randn(outputs, inputs, size, size, generator=draw).requires_grad_()
        y = conv2d(x, weight, stride=stride, padding=size // 2)
        gradient = torch.randn(y.shape, generator=draw)
        expected = y, *torch.autograd.grad(y, (x, weight), gradient)
        x, weight = x.detach(), weight.detach()
        got = (narrow.forward_kernel(x, weight, stride), narrow.input_kernel(gradient, weight, side, side, stride),
               narrow.weight_kernel(gradient, x, size, stride).sum(0).permute(0, 3, 1, 2))
        for one, two in zip(got, expected):
            assert (one - two).norm() < NEAR * two.norm(), (inputs, outputs, stride, size)
        assert got[0].is_contiguous(memory_format=torch.channels_last) and got[1].is_contiguous(memory_format=torch.channels_last)


def choices():
    draw = torch.Generator().manual_seed(0)
    for n in (7, 3500):  # one block, and four
        normal, few = torch.randn(n, generator=draw), torch.rand(n, generator=draw) < 0.02
        for score in (normal, 1.1 * normal.round(), normal.masked_fill(~few, -1), normal.masked_fill(few, math.nan), normal.masked_fill(few, -math.inf),
                      normal.sign() * 0.0, normal * 1e-41):
            for k in (0, 1, n // 5, 3 * n // 4, n - 1, n):
                k = torch.tensor(k)
                assert torch.equal(counting.choose(score, k), by_sorting(score, k)), (n, k)


if __name__ == "__main__":
    enter_once()
    torch.backends.mkldnn.enabled = False  # on processors without AVX-512 oneDNN 3.12 writes beyond its memory where channels are this few
    counting.BLOCK, counting.TOGETHER = 1024, 2
    convolutions()
    choices()
    print("same")

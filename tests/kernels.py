"""What the kernels of a GPU compute, by Triton's interpreter on a CPU: a process of its own, with TRITON_INTERPRET=1 (see test_kernels.py)."""
import copy
import math

import torch
from torch import nn
from torch.nn.functional import conv2d, cross_entropy
from triton.runtime import interpreter

from benchmarks import operations
from benchmarks.gpu.kernels import narrow, residual
from benchmarks.models.resnet import ResNet
from methods import SparseModel, counting
from methods.ranking import by_sorting

CONVOLUTIONS = [  # inputs, outputs, stride, kernel, side, images
    (3, 16, 1, 3, 9, 3), (16, 16, 1, 3, 8, 3), (16, 32, 2, 3, 8, 3), (16, 32, 2, 1, 8, 3), (32, 32, 1, 3, 5, 2), (64, 64, 1, 3, 4, 2), (33, 40, 2, 3, 7, 2),
    (16, 16, 1, 1, 6, 20)]
RESNETS = [  # widths, blocks, padded shortcuts and a bias, images, side, programs of a grid, passes, dtype
    ([4, 8], 2, False, 3, 6, 264, 1, torch.float32), ([4, 6], 1, True, 3, 7, 2, 2, torch.float32), ([3, 33], 1, False, 3, 7, 1, 1, torch.float32),
    ([4, 6], 1, False, 2, 6, 264, 1, torch.float16)]  # the interpreter has no bfloat16 to compute with
NEAR = 1e-6
ROUNDED = {torch.float32: (NEAR, 20 * NEAR), torch.float16: (2e-3, 2e-2)}  # errors of logits and statistics, and of gradients


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


def residual_networks():
    for widths, blocks, padded, images, side, programs, passes, dtype in RESNETS:
        residual.PROGRAMS = residual.PARTS = programs  # few: several blocks of pixels in each
        residual.STATISTICS, residual.LINES = 64, 1
        torch.manual_seed(0)
        net = ResNet(3, widths, blocks, 10, padded, padded)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5), nn.init.normal_(module.bias)
        model, (near, within) = SparseModel(net, "static", 0.5), ROUNDED[dtype]
        other, computed = copy.deepcopy(model), residual.fused(net, model.layout, torch.empty(images, 3, side, side), dtype)
        assert (computed.grid(side)[2] > 1) == (programs < 264)
        for _ in range(passes):
            x, y = torch.randn(images, 3, side, side) + 5, torch.randint(10, (images,))
            logits, expected = computed(model.method(model.theta), x), other(x)
            assert (logits - expected).norm() < near * expected.norm(), (widths, dtype)
            cross_entropy(logits, y).backward(), cross_entropy(expected, y).backward()
        for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
            assert (one.grad - two.grad).norm() < within * two.grad.norm(), (widths, dtype, name)
        for (name, one), two in zip(net.named_buffers(), other.net.buffers(), strict=True):
            if not name.endswith("num_batches_tracked"):
                assert (one - two).norm() < near * two.norm(), (widths, dtype, name)
        x[0, 0, 0, 0] = math.nan  # reaches everything
        assert computed(model.method(model.theta), x).isnan().all()


def single_operations():
    """Those of replays.py, which calls them with other tensors of the same form."""
    operations.CALLS = operations.SETS = 1
    found = operations.operations(ResNet(3, [4, 8], 1, 10, False, False), 2, 6, torch.float32)
    assert {one.kernel for one in found if one.loop != "torch"} == {*operations.KERNELS}
    for one in found:
        row, = operations.measured(one, [1], torch.device("cpu"), 1)
        assert row["us"] > 0, one
        if one.kernel == "_gather" and one.loop == "compiled" and "back=False" in one.shape:
            x, weight, out, *_ = one.arguments[0]
            x.normal_(), weight.normal_(), one.function(*one.arguments[0], **one.arguments[1])
            size, stride = weight.shape[-1], x.shape[2] // out.shape[2]
            assert torch.allclose(out, conv2d(x, weight, stride=stride, padding=size // 2), atol=1e-5)


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
    residual_networks()
    single_operations()
    choices()
    print("same")

"""Layers of odd shapes and inputs: where torch's own kernels fail, or a plain layer refuses what it is given."""
import copy

import pytest
import torch
from test_sparse_layers import sparse
from torch import nn

from methods import SparseModel

STRIDED = [(nn.Conv2d(1, 16, 3, stride=(1, 2), padding=(1, 0)), (32, 1, 5, 3)), (nn.Conv2d(1, 5, (1, 3), stride=(1, 3)), (32, 1, 28, 4)),
           (nn.Conv2d(1, 16, 3, stride=(1, 2), padding=(1, 0)), (2, 1, 5, 3))]
STRIDED_3D = nn.Conv3d(1, 16, 3, stride=(1, 1, 2), padding=(1, 1, 0)), (2, 1, 4, 5, 3)


def test_a_depthwise_convolution_with_a_stride_to_one_pixel_in_bf16():
    """Of a weight in channels_last, torch's own gradients would be those of other memory."""
    torch.manual_seed(0)
    module, x = nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=32, bias=False), torch.randn(5, 32, 1, 1)
    model, gradients = SparseModel(nn.Sequential(copy.deepcopy(module)), "dense"), []
    for precision in (torch.float32, torch.bfloat16):
        for _ in range(20):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                y = model(x)
            y.float().sum().backward()
            gradients.append(model.theta.grad.clone())
    assert all(torch.allclose(gradients[0], gradient, atol=0.05) for gradient in gradients)


@pytest.mark.parametrize("storage, module, shape", [("masked", *STRIDED_3D), *((storage, *one) for storage in ("masked", "sparse", "auto")
                                                                               for one in STRIDED)])
def test_a_convolution_of_one_channel_with_a_stride(storage, module, shape):
    """Of a weight in channels_last, torch's own would read what is not in it."""
    torch.manual_seed(0)
    x, model = torch.randn(shape), SparseModel(nn.Sequential(copy.deepcopy(module)), "static", 0.5, storage=storage)
    if storage == "auto":  # its dense form
        model.layers[0][0].dense = True
        model.connect(model.method.keys)
    plain = model.plain()
    expected = copy.deepcopy(plain).double()(x.double())
    assert torch.allclose(model(x).double(), expected, atol=1e-5) and torch.allclose(plain(x).double(), expected, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_no_rows(threads):
    layer, *_ = sparse(nn.Linear(1, 33))
    try:
        torch.set_num_threads(threads)
        assert layer(torch.randn(3, 0, 1)).shape == (3, 0, 33)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("module, shape", [(nn.Linear(6, 4), (70, 6)), (nn.Conv2d(2, 3, 3), (2, 2, 5, 5))])
@pytest.mark.parametrize("kind", [torch.float64, torch.int64, torch.bfloat16])
def test_inputs_of_another_type_are_refused_as_by_the_plain_layer(kind, module, shape):
    layer, x = sparse(module)[0], torch.ones(shape, dtype=kind)
    with pytest.raises(RuntimeError):
        module(x)
    with pytest.raises(ValueError, match=rf"\Aa layer of torch.float32 weights got inputs of {kind}, which the exported network would not take"):
        layer(x)

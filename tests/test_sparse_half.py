"""Sparse layers under autocast to 16 bits: what they read, write and add up."""
import copy

import pytest
import torch
from test_sparse_layers import only_products, sparse
from torch import nn

from methods import SparseModel, Training
from methods.sparse import growth, pattern, transposition
from methods.sparse.linear import SparseLinear

HALF = dict(device_type="cpu", dtype=torch.bfloat16)
ODD = [0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), float("nan"), 1e-40, 3.4e38, -3.4e38, *(1 + k / 512 for k in range(9))]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 19), (19, 1), (5, 3), (16, 16), (70, 33), (12, 40)])
def test_transposition(shape, kind):
    x = torch.tensor(ODD).repeat(shape[0] * shape[1] // len(ODD) + 1)[:shape[0] * shape[1]].view(shape).to(kind)
    found = torch.empty(*shape[::-1], dtype=kind)
    transposition.transpose(pattern.as_array(x), 0, shape[0], 0, shape[1], pattern.as_array(found), 0, 0, False)
    assert pattern.as_array(found.T.contiguous()).tobytes() == pattern.as_array(x).tobytes()  # NaN and signs of zero, too


def test_sums_are_rounded_as_torch_rounds():
    """To the nearest, of two as near to the even one; infinities, NaN and what is too large, too."""
    layer, odd = SparseLinear(nn.Linear(1, len(ODD), bias=False), (len(ODD), 1)), torch.tensor(ODD)
    layer.pattern, layer.values = layer.pattern_of(torch.arange(len(ODD))), odd
    with torch.autocast(**HALF):
        y = layer(torch.ones(65, 1))
    torch.testing.assert_close(y, odd.bfloat16().expand(65, -1), rtol=0, atol=0, equal_nan=True)
    assert y.dtype == torch.bfloat16 and y[:, 6].isnan().all() and y[:, 8].isinf().all()


@pytest.mark.parametrize("module, shape", [
    (nn.Linear(6, 4), (70, 6)), (nn.Linear(70, 45), (3, 50, 70)), (nn.Linear(1100, 1050, bias=False), (64, 1100)), (nn.Conv2d(3, 8, 3, padding=1), (5, 3, 9, 9)),
    (nn.Conv2d(4, 8, 3, 2, padding=1, groups=2), (3, 4, 9, 8)), (nn.Conv2d(16, 32, 1, 2), (130, 16, 8, 8)),
    (nn.Conv2d(17, 33, 3, padding=1, bias=False), (33, 17, 5, 7)), (nn.Conv2d(4, 8, 3), (4, 9, 9))])
def test_under_autocast_layers_read_and_write_16_bits_and_add_in_32(module, shape):
    """What they give is that of float32, rounded once; the gradients of weights and biases are not rounded."""
    torch.manual_seed(0)
    layer, *_ = sparse(module)
    x = torch.randint(-8, 9, shape).bfloat16()  # whole numbers: the order in which their products are summed makes no difference
    found, delta = [], None
    for input in (x, x.float()):
        input.requires_grad_()
        with torch.autocast(**HALF, enabled=delta is None):
            y = layer(input)
        delta = torch.randint_like(y, -8, 9) if delta is None else delta.float()
        found.append([y.detach(), *torch.autograd.grad(y, [input, layer.values, *[module.bias] * (module.bias is not None)], delta)])
    (y, back, *sums), (expected, plain, *others) = found
    assert y.dtype == back.dtype == torch.bfloat16 and all(total.dtype == torch.float32 for total in sums)
    assert torch.equal(y, expected.bfloat16()) and torch.equal(back, plain.bfloat16())
    assert all(map(torch.equal, sums, others))
    with torch.autocast(**HALF):
        assert torch.equal(layer(x.float()), y)  # as a plain layer's, an input in 32 bits is rounded first


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_of_other_kinds_stays_in_16_bits(mode):
    """Autocast would pad some in 32."""
    layer, *_ = sparse(nn.Conv2d(3, 8, 3, padding=1, padding_mode=mode))
    with torch.autocast(**HALF):
        assert layer(torch.randn(2, 3, 6, 6)).dtype == torch.bfloat16


def test_under_autocast_storage_auto_measures_what_runs():
    module = nn.Linear(64, 64)
    layer, layer.keys, _ = sparse(module)
    layer.dense, seen = None, []
    by_weight, by_connections = layer.by_weight, layer.by_connections
    layer.by_weight = lambda x, values: seen.append(x.dtype) or by_weight(x, values)
    layer.by_connections = lambda x, values: seen.append(x.dtype) or by_connections(x, values)
    with torch.autocast(**HALF):
        assert layer(torch.randn(128, 64)).dtype == torch.bfloat16
    assert len(seen) > 2 and {*seen} == {torch.bfloat16}


def as_on_a_gpu(monkeypatch):
    only_products(monkeypatch)
    monkeypatch.setattr(pattern, "_product", pattern.csr_product)


@pytest.mark.parametrize("form", [only_products, as_on_a_gpu])
@pytest.mark.parametrize("module, shape", [(nn.Linear(6, 4), (70, 6)), (nn.Conv2d(4, 8, 3, 2, padding=1, groups=2), (3, 4, 9, 8))])
def test_autocast_rounds_no_csr_product(module, shape, form, monkeypatch):
    """The layer before gives bfloat16; where there are no compiled loops, all that a sparse layer computes is float32, as without autocast."""
    form(monkeypatch)
    without_rounding(module, shape)


def test_autocast_rounds_nothing_of_a_few_rows():
    without_rounding(nn.Linear(6, 4), (7, 6))


@pytest.mark.parametrize("kind, autocast", [(torch.float64, torch.bfloat16), (torch.float32, torch.float16)])
@pytest.mark.parametrize("module, shape", [(nn.Linear(6, 4), (70, 6)), (nn.Conv2d(2, 3, 3), (2, 2, 5, 5))])
def test_autocast_of_other_kinds_changes_nothing(module, shape, kind, autocast):
    """The loops read and write bfloat16 for weights of 32 bits alone."""
    layer, *_ = sparse(copy.deepcopy(module).to(kind))
    x = torch.randn(shape, dtype=kind)
    expected = layer(x)
    with torch.autocast("cpu", dtype=autocast):
        assert torch.equal(layer(x), expected)


def without_rounding(module, shape):
    layer, layer.keys, _ = sparse(module)
    everywhere = layer.pattern_of(torch.arange(module.weight.numel()))
    x = torch.randn(shape).bfloat16().requires_grad_()
    delta, found = torch.randn_like(layer(x.float())), []
    for autocast in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            layer.dense = None
            layer.measure(x.float())  # passes forward and back
            layer.dense = False
            y = layer(x if autocast else x.float())  # without, bfloat16 is refused
        gradients = torch.autograd.grad(y, (x, layer.values, module.bias), delta)
        found.append([y.detach(), *gradients, layer.sampled(everywhere, x.detach().float(), delta)])
    for one, other in zip(*found):
        assert torch.equal(one, other)
    assert [t.dtype for t in found[1]] == [torch.float32, torch.bfloat16, *[torch.float32] * 3]


def test_gradients_that_score_under_autocast_are_of_32_bits():
    """Of what the layers were given, whichever kind of numbers that is, at all connections and at some."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    model = SparseModel(net, "gse_uniform", 0.5, storage="sparse", skip=["3"])
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1000, 1, batches=lambda n: [])
    run.batch = torch.randn(64, 2, 6, 6), torch.randint(10, (64,))
    everywhere, found = [torch.arange(n) for n in model.layout.sizes], []
    for autocast in (False, True):
        with torch.autocast(**HALF, enabled=autocast):
            found += torch.cat(growth.dense_gradients(run)), run.method.scores(run, everywhere, [run.batch])
    assert all(score.dtype == torch.float32 for score in found)
    for score in found[1:]:
        assert (score - found[0]).norm() < 0.02 * found[0].norm()

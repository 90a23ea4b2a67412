"""Sparse layers: outputs and gradients against torch's dense layers."""
import copy
import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from methods.sparse import conv, pattern, planes, transposition
from methods.sparse.conv import SparseConv
from methods.sparse.edges import none
from methods.sparse.growth import dense_gradient
from methods.sparse.linear import SparseLinear

KINDS = [
    dict(kernel_size=3, padding=1), dict(kernel_size=3, padding=1, stride=2), dict(kernel_size=1), dict(kernel_size=1, stride=2),
    dict(kernel_size=1, padding=1), dict(kernel_size=3, padding=2, dilation=2), dict(kernel_size=(3, 5), padding="same"),
    dict(kernel_size=5, stride=(2, 3), dilation=(1, 2)), dict(kernel_size=3, padding=(0, 1)), dict(kernel_size=7, stride=2, padding=3),
    dict(kernel_size=2, stride=3, padding=1), dict(kernel_size=2, padding=2), dict(kernel_size=3, padding=1, padding_mode="circular"),
    dict(kernel_size=(5, 3)),
]


def sparse(module, density=0.4):
    """The sparse form of a layer at some of its connections: (layer, keys, values, dense weight of the same)."""
    flat = module.weight.detach().movedim(1, -1).flatten()
    keys = (torch.rand(len(flat)) < density).nonzero().flatten()
    layer = (SparseLinear if isinstance(module, nn.Linear) else SparseConv)(module, module.weight.shape)
    layer.pattern = layer.pattern_of(keys)
    layer.values = flat[keys].clone().requires_grad_()
    mask = torch.zeros(len(flat), dtype=flat.dtype).index_fill_(0, keys, 1).view(module.weight.movedim(1, -1).shape).movedim(-1, 1)
    return layer, keys, (module.weight * mask).detach().requires_grad_()


def check(module, x, plain, density=0.4):
    """Outputs, both gradients, and the gradients at all connections."""
    layer, keys, weight = sparse(module, density)
    x, other = x.requires_grad_(), x.detach().clone().requires_grad_()
    y, expected = layer(x), plain(other, weight)
    assert y.shape == expected.shape and torch.allclose(y, expected, rtol=0, atol=1e-12)
    delta = torch.randn_like(expected)
    y.backward(delta.clone()), expected.backward(delta.clone())
    dense = weight.grad.movedim(1, -1).flatten()
    assert torch.allclose(x.grad, other.grad, rtol=0, atol=1e-12)
    assert torch.allclose(layer.values.grad, dense[keys], rtol=0, atol=1e-11)
    everywhere = layer.pattern_of(torch.arange(len(dense)))
    assert torch.allclose(layer.sampled(everywhere, x.detach(), delta), dense, rtol=0, atol=1e-11)
    assert torch.allclose(dense_gradient(layer, x.detach(), delta), dense, rtol=0, atol=1e-11)


def only_products(monkeypatch):
    """As on a machine without numba."""
    for module in (conv, pattern):
        monkeypatch.setattr(module, "compiled", lambda name: None)


@pytest.mark.parametrize("run, layout", [(1, torch.contiguous_format), (200, torch.channels_last), (None, torch.channels_last)])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(f"{k}={v}" for k, v in kind.items()))
def test_convolutions(kind, groups, run, layout, monkeypatch):
    if run:
        monkeypatch.setattr(planes, "RUN", run)  # sample by sample, or two and three at a time with one left over
    else:
        only_products(monkeypatch)
    torch.manual_seed(0)
    module = nn.Conv2d(4, 8, groups=groups, dtype=torch.float64, **kind)
    x = torch.randn(5, 4, 9, 10, dtype=torch.float64).contiguous(memory_format=layout)
    check(module, x, lambda x, weight: module._conv_forward(x, weight, module.bias))


SIGNALS = [
    dict(kernel_size=3, padding=1), dict(kernel_size=1, stride=2), dict(kernel_size=5, stride=3, dilation=2, padding=4), dict(kernel_size=5, padding="same"),
    dict(kernel_size=3, padding=2, padding_mode="circular"), dict(kernel_size=3, padding=1, padding_mode="reflect", stride=2),
]


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", SIGNALS, ids=lambda kind: " ".join(f"{k}={v}" for k, v in kind.items()))
def test_convolutions_of_signals(kind, groups, products, monkeypatch):
    if products:
        only_products(monkeypatch)
    torch.manual_seed(0)
    module = nn.Conv1d(4, 8, groups=groups, dtype=torch.float64, **kind)
    for shape in ((5, 4, 23), (4, 23)):  # the second: a single signal
        x = torch.randn(*shape, dtype=torch.float64)
        check(module, x, lambda x, weight: module._conv_forward(x, weight, module.bias))
        assert sparse(module)[0](x).is_contiguous()


def test_products_of_what_begins_where_a_gpu_wants_it(monkeypatch):
    """As where the parts of an index, of the values and the shifted images are copies, each with memory of its own."""
    only_products(monkeypatch)
    monkeypatch.setattr(pattern, "aligned", torch.clone)
    torch.manual_seed(0)
    module = nn.Conv2d(4, 8, 3, padding=1, groups=2, dtype=torch.float64)
    check(module, torch.randn(5, 4, 9, 10, dtype=torch.float64), lambda x, weight: module._conv_forward(x, weight, module.bias))


def test_a_linear_layer_s_weights_begin_where_a_gpu_wants_them(monkeypatch):
    """They are a piece of the model's, which begins anywhere."""
    def matrix(*parts, **options):
        assert not any(part.data_ptr() % 16 for part in parts)
        return made(*parts, **options)
    only_products(monkeypatch)
    monkeypatch.setattr(pattern, "_product", pattern.csr_product)
    monkeypatch.setattr(pattern, "aligned", torch.clone)
    made = torch.sparse_csr_tensor
    monkeypatch.setattr(torch, "sparse_csr_tensor", matrix)
    layer, keys, weight = sparse(nn.Linear(6, 4))
    piece = torch.cat([torch.zeros(1), layer.values.detach()])[1:]
    assert piece.data_ptr() % 16
    layer.values = piece.requires_grad_()
    layer(torch.randn(7, 6)).sum().backward()


@pytest.mark.parametrize("kind, lines", [
    (dict(kernel_size=3), [9, 10]), (dict(kernel_size=3, padding=1), [10, 11]), (dict(kernel_size=5, padding=2), [11, 12]),
    (dict(kernel_size=3, padding=1, stride=2), [6, 6])])  # a phase of 11 x 12
def test_images_share_the_zeros_between_their_lines(kind, lines):
    module = nn.Conv2d(4, 8, **kind)
    assert conv.Grid((9, 10), module, module._reversed_padding_repeated_twice).lines == lines


def test_batches_of_several_sizes_in_turn():
    """Each pass finds the places of its own: fewer samples, or larger images, lie elsewhere."""
    module = nn.Conv2d(4, 8, 3, padding=1, dtype=torch.float64)
    layer, keys, weight = sparse(module)
    batches = [torch.randn(*shape, dtype=torch.float64) for shape in ((6, 4, 9, 10), (1, 4, 9, 10), (6, 4, 12, 7), (2, 4, 9, 7), (6, 4, 9, 10))]
    for x, y in [(x, layer(x)) for x in batches]:  # backward after all the others have gone forward
        layer.values.grad = weight.grad = None
        expected = module._conv_forward(x, weight, module.bias)
        assert torch.allclose(y, expected, rtol=0, atol=1e-12)
        delta = torch.randn_like(y)
        y.backward(delta), expected.backward(delta)
        assert torch.allclose(layer.values.grad, weight.grad.movedim(1, -1).flatten()[keys], rtol=0, atol=1e-11)


@pytest.mark.parametrize("products", [False, True])
def test_a_single_image(products, monkeypatch):
    if products:
        only_products(monkeypatch)
    module = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    layer, keys, weight = sparse(module)
    x, delta = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(3, 5, 6, dtype=torch.float64)
    assert torch.allclose(layer(x), module._conv_forward(x, weight, module.bias))
    assert torch.allclose(layer.sampled(layer.pattern, x, delta), layer.sampled(layer.pattern, x[None], delta[None]))


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("module, shapes", [
    (nn.Linear(64, 32), [(64, 10), (64, 100), (4, 10), (4, 100), (100,), ()]),
    (nn.Conv2d(16, 8, 3), [(2, 3, 8, 8), (2, 40, 8, 8), (16, 8), (1, 2, 16, 8, 8), (2, 16, 2, 8), (16, 8, 2)]),
    (nn.Conv2d(16, 8, 3, 2, groups=2), [(2, 8, 8, 8), (2, 16, 1, 8)])])
def test_inputs_of_another_shape_are_refused(module, shapes, products, monkeypatch):
    if products:
        only_products(monkeypatch)
    layer, _, _ = sparse(module)
    for shape in shapes:
        for _ in range(2):
            with pytest.raises(ValueError, match=r"\A[^\n]*\([\d, ]*\)[^\n]*\Z"):
                layer(torch.randn(shape))


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("module, shape", [
    (nn.Linear(6, 4), (70, 6)), (nn.Linear(6, 4), (5, 6)), (nn.Linear(6, 4), (6,)), (nn.Linear(6, 4), (3, 5, 6)),
    (nn.Conv2d(2, 3, 1), (1, 2, 4, 4)), (nn.Conv2d(2, 3, 3), (2, 2, 4, 4)), (nn.Conv2d(2, 3, 1), (0, 2, 4, 4)),
    (nn.Conv2d(2, 3, 1), (2, 4, 4))])
def test_an_output_is_changed_in_place(module, shape, products, monkeypatch):
    if products:
        only_products(monkeypatch)
    layer, _, _ = sparse(copy.deepcopy(module).double())
    x, found = torch.randn(shape, dtype=torch.float64, requires_grad=True), []
    for changed in (lambda y: torch.relu(y), lambda y: y.relu_()):
        y = changed(layer(x))
        found.append((y, *torch.autograd.grad((y * y).sum(), (x, layer.values, layer.module.bias))))
    assert all(map(torch.equal, *found))


def test_the_cache_of_compiled_loops_knows_a_change_of_what_they_are_made_of():
    loops = pattern.compiled("loops")
    sparse(nn.Linear(64, 32))[0](torch.randn(64, 64))
    made_of = (Path(loops.__file__).with_name(name) for name in ("registers.py", "blocks.py", "transposition.py"))
    stamp = hashlib.sha256(b"".join(path.read_bytes() for path in made_of)).hexdigest()[:8]
    assert list(Path(loops.linear_forward.stats.cache_path).glob(f"loops.linear_forward_{stamp}*.nbi"))


@pytest.mark.parametrize("kind, rows, used", [(torch.float32, 32, True), (torch.float32, 31, False), (torch.float64, 16, True),
                                              (torch.float64, 15, False), (torch.float16, 1000, False)])
def test_loops_are_for_half_a_block_of_rows(kind, rows, used):
    assert pattern.loops_for(rows, torch.empty(6, dtype=kind)) is (pattern.compiled("loops") if used else None)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_outputs_can_be_flattened_by_view_whatever_the_number_of_rows(rows):
    """A last batch may be short."""
    layer, _, weight = sparse(nn.Linear(60, 40))
    x = torch.randn(rows, 4, 60)
    assert torch.allclose(layer(x).view(rows, -1), nn.functional.linear(x, weight, layer.module.bias).view(rows, -1), atol=1e-5)


def test_threads_may_change_between_the_passes():
    layer, _, weight = sparse(nn.Linear(60, 40))
    x = torch.randn(70, 60)
    try:
        for before, after in ((1, 2), (2, 1)):
            torch.set_num_threads(before)
            assert (pattern.loops_for(len(x), x) is None) == (before > 1)
            y, layer.values.grad = layer(x), None
            torch.set_num_threads(after)
            y.sum().backward()
            expected = x.sum(0).expand(40, -1)[weight.detach() != 0]
            assert torch.allclose(layer.values.grad, expected, atol=1e-4)
    finally:
        torch.set_num_threads(1)


def test_not_a_number_stays_one():
    layer, _, _ = sparse(nn.Conv2d(2, 3, 3))
    x = torch.randn(2, 2, 5, 5)
    x[0, :, 2, 2] = torch.nan
    assert layer(x)[0].isnan().any() and not layer(x)[1].isnan().any()
    x[0, :, 2, 2] = torch.inf
    assert layer(x)[0].isinf().any()


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("shape", [(7, 6), (6,), (3, 5, 6), (19, 6), (2, 1500, 6)])
def test_linear(shape, products, monkeypatch):
    if products:
        only_products(monkeypatch)
    module = nn.Linear(6, 4, dtype=torch.float64)
    check(module, torch.randn(shape, dtype=torch.float64), lambda x, weight: nn.functional.linear(x, weight, module.bias))


@pytest.mark.parametrize("inputs, outputs", [(1104, 1040), (1040, 1051), (1051, 1040)])
def test_linear_larger_than_the_cache(inputs, outputs):
    """In parts, and written past the cache where the lines of y, or of x's gradient, begin as those of the cache do."""
    loops, rows = pattern.compiled("loops"), 1100
    assert inputs > loops.PART and rows * outputs * 8 > transposition.CACHE
    assert transposition.leaves.py_func(torch.empty(rows, outputs, dtype=torch.float64).numpy()) is (outputs == 1040)
    module = nn.Linear(inputs, outputs, dtype=torch.float64)
    check(module, torch.randn(rows, inputs, dtype=torch.float64), lambda x, weight: nn.functional.linear(x, weight, module.bias), 0.02)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 31, 64, 1100])
@pytest.mark.parametrize("inputs, outputs", [(16, 64), (50, 33), (129, 1)])
def test_linear_of_several_registers(inputs, outputs, rows, kind):
    layer, _, weight = sparse(nn.Linear(inputs, outputs, dtype=kind))
    weight, bias = weight.double(), layer.module.bias.detach().double().requires_grad_()
    x = torch.randn(rows, 2 * inputs, dtype=kind)[:, ::2] if rows == 31 else torch.randn(inputs, rows, dtype=kind).t() if rows == 64 \
        else torch.randn(rows, inputs, dtype=kind)
    y, expected = layer(x.requires_grad_()), nn.functional.linear(x.detach().double(), weight, bias)
    # the gradient of a sum is one number everywhere, that of a transposition has its lines elsewhere
    for loss in (lambda y: y.sum(), lambda y: (y.t().contiguous() ** 2).sum(), lambda y: (y * y).sum()):
        found, = torch.autograd.grad(loss(y), layer.values, retain_graph=True)
        dense, theirs = torch.autograd.grad(loss(expected), (weight, bias), retain_graph=True)
        found_bias, = torch.autograd.grad(loss(y), layer.module.bias, retain_graph=True)
        tolerance = dict(rtol=1e-4, atol=1e-2) if kind is torch.float32 else dict(rtol=1e-10, atol=1e-9)
        torch.testing.assert_close(found.double(), dense.flatten()[weight.detach().flatten() != 0], **tolerance)
        torch.testing.assert_close(found_bias.double(), theirs, **tolerance)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("module", [nn.Linear(5, 4), nn.Conv2d(2, 4, 3, 2, padding=1, groups=2), nn.Conv2d(3, 2, 1),
                                    nn.Linear(5, 4, bias=False), nn.Conv2d(3, 2, 1, bias=False)])
def test_gradcheck(module, products, monkeypatch):
    if products:
        only_products(monkeypatch)
    torch.manual_seed(0)
    module = module.double()
    layer, _, _ = sparse(module, 0.6)
    x = torch.randn((18, 5) if isinstance(module, nn.Linear) else (2, module.in_channels, 4, 5), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, values: layer.by_connections(x, values), (x, layer.values))


@pytest.mark.parametrize("products", [False, True])
@pytest.mark.parametrize("module, shape", [(nn.Linear(6, 4), (70, 6)), (nn.Conv2d(2, 3, 3), (2, 2, 5, 5))])
def test_a_second_derivative_is_refused(module, shape, products, monkeypatch):
    """It would lack what the loops, or the samples at the connections, do not pass on."""
    if products:
        only_products(monkeypatch)
    layer, _, _ = sparse(module)
    y = layer(torch.randn(shape, requires_grad=True))
    gradient, = torch.autograd.grad((y * y).sum(), layer.values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("products", [False, True])
def test_no_connection_and_one(products, monkeypatch):
    if products:
        only_products(monkeypatch)
    module = nn.Conv2d(2, 3, 3, dtype=torch.float64)
    layer = SparseConv(module, module.weight.shape)
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    for keys in (none(), torch.tensor([17])):
        layer.pattern = layer.pattern_of(keys)
        layer.values = torch.ones(len(keys), dtype=torch.float64, requires_grad=True)
        weight = torch.zeros(54, dtype=torch.float64).index_fill_(0, keys, 1).view(3, 3, 3, 2).movedim(-1, 1)
        assert torch.allclose(layer(x), module._conv_forward(x, weight, module.bias))
        layer(x).sum().backward()
        assert layer.values.grad.shape == keys.shape

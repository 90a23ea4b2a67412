"""The networks against the counts and the structure of the papers' models."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.cost import layer_macs
from benchmarks.models import MODELS, build, vit
from benchmarks.models.pooling import global_average
from benchmarks.own_suites import FILES

CIFAR, IMAGENET, DIGITS = (3, 32, 32), (3, 224, 224), (1, 8, 8)
# model, options, classes, input: prunable tensors, prunable weights, norm parameters, biases, MACs
TABLE = [
    ("resnet20", {}, 10, CIFAR, 22, 270_896, 1_568, 0, 40_813_184),
    ("resnet20", {}, 100, CIFAR, 22, 276_656, 1_568, 0, 40_818_944),
    ("wrn34x2", {}, 100, CIFAR, 35, 1_862_576, 4_512, 0, 270_987_776),
    ("vgg11", {}, 10, CIFAR, 9, 9_222_848, 5_504, 0, 152_769_536),
    ("vgg11_st3code", {}, 10, CIFAR, 5, 371_648, 896, 0, 39_519_488),
    ("mobilenetv1", {}, 1000, IMAGENET, 28, 4_209_088, 21_888, 0, 568_740_352),
    ("resnet50", {}, 1000, IMAGENET, 54, 25_502_912, 53_120, 0, 4_089_184_256),
    ("resnet50", {"fc_bias": True}, 1000, IMAGENET, 54, 25_502_912, 53_120, 1_000, 4_089_184_256),
    ("resnet50_torchvision", {}, 1000, IMAGENET, 54, 25_502_912, 53_120, 1_000, 4_089_184_256),
    ("resnet56", {}, 10, CIFAR, 56, 848_944, 4_064, 10, 125_485_696),
    ("resnet56", {}, 100, CIFAR, 56, 854_704, 4_064, 100, 125_491_456),
    ("vgg16_small", {}, 10, CIFAR, 16, 1_252_528, 2_112, 2_090, 20_239_360),
    ("vgg16_small", {}, 100, CIFAR, 16, 1_298_608, 2_112, 2_180, 20_285_440),
    ("vit_tiny", {}, 10, CIFAR, 18, 4_224_000, 10_336, 3_594, 270_013_440),
    ("vit_tiny", {}, 100, CIFAR, 18, 4_270_080, 10_336, 3_684, 270_059_520),
    ("resnet8_digits", {}, 10, DIGITS, 7, 19_408, 288, 0, 533_824),
    ("mlp", {}, 10, CIFAR, 3, 4_204_544, 0, 2_058, 4_204_544),
    ("mlp_digits", {}, 10, DIGITS, 3, 1_124_352, 0, 2_058, 1_124_352),
]
SMALL = [*dict.fromkeys((name, shape) for name, _, _, shape, *_ in TABLE if shape != IMAGENET)]


def on_meta(name, classes=10, **options):
    with torch.device("meta"):
        return build(name, classes, **options)


def prunable(net):
    return [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def prunable_weights(net):
    return sum(module.weight.numel() for module in prunable(net))


@pytest.mark.parametrize("name, options, classes, shape, tensors, weights, norm, biases, macs", TABLE)
def test_counts(name, options, classes, shape, tensors, weights, norm, biases, macs):
    net = on_meta(name, classes, **options)
    norms = [module for module in net.modules() if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm))]
    assert len(prunable(net)) == tensors
    assert prunable_weights(net) == weights
    assert sum(p.numel() for module in norms for p in module.parameters()) == norm
    assert sum(module.bias.numel() for module in prunable(net) if module.bias is not None) == biases
    assert sum(p.numel() for p in net.parameters()) == weights + norm + biases
    assert sum(layer_macs(net, shape).values()) == macs
    assert net(torch.empty(2, *shape, device="meta")).shape == (2, classes)


def test_table_has_every_model():
    somebodys = {name for suite in FILES.values() for name in getattr(suite, "MODELS", ())}  # a suite of one's own may lie here
    assert {row[0] for row in TABLE} == set(MODELS) - somebodys, "each network has its weights and MACs in TABLE of tests/test_models.py"


@pytest.mark.parametrize("name, shape", SMALL)
def test_every_weight_gets_a_finite_gradient(name, shape):
    torch.manual_seed(0)
    net = build(name, 10)
    net(torch.randn(4, *shape)).logsumexp(1).sum().backward()
    for parameter in net.parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any()


@pytest.mark.parametrize("name", [name for name, _ in SMALL] + ["mobilenetv1"])
def test_start_follows_from_the_global_seed(name):
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in build(name, 10).parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_vgg11_ends_with_the_mean_of_four_positions():
    """As the network of Liu et al. (2019): no fifth max pool."""
    net, x = build("vgg11", 10).eval(), torch.randn(3, 3, 32, 32)
    features = net[:-3](x)
    assert features.shape == (3, 512, 2, 2) and torch.allclose(net(x), features.mean((2, 3)) @ net[-1].weight.T, atol=1e-5)
    assert sum(isinstance(module, nn.MaxPool2d) for module in net) == 4


@pytest.mark.parametrize("name", ["resnet20", "resnet8_digits", "wrn34x2", "vgg11", "vgg11_st3code", "mobilenetv1"])
def test_he_normal_start(name):
    torch.manual_seed(0)
    net = build(name, 100)
    for module in prunable(net):
        kernel = module.kernel_size[0] * module.kernel_size[1] if isinstance(module, nn.Conv2d) else 1
        inputs = module.in_channels // module.groups if isinstance(module, nn.Conv2d) else module.in_features
        z = module.weight * (inputs * kernel / 2) ** 0.5
        # 5 standard errors of the standard deviation and of the mean
        assert abs(z.std().item() - 1) < 5 / (2 * z.numel()) ** 0.5
        assert abs(z.mean().item()) < 5 / z.numel() ** 0.5
    z = torch.cat([m.weight.flatten() / m.weight.std() for m in prunable(net)])
    assert (z.abs() > 3 ** 0.5).float().mean() > 0.05, "a uniform distribution ends at sqrt(3)"


@pytest.mark.parametrize("name", ["resnet56", "vgg16_small", "vit_tiny"])
def test_fan_in_uniform_start(name):
    torch.manual_seed(0)
    net = build(name, 10)
    for module in prunable(net):
        bound = (3 / module.weight[0].numel()) ** 0.5
        assert 0.97 * bound < module.weight.abs().max() <= bound
        assert abs(module.weight.mean().item()) < 5 * bound / (3 * module.weight.numel()) ** 0.5
    biases = torch.cat([m.bias * (m.weight[0].numel() / 3) ** 0.5 for m in prunable(net) if m.bias is not None])
    assert 0.7 < biases.abs().max() <= 1.000001
    assert biases.min() < 0 < biases.max()


@pytest.mark.parametrize("name, momentum", [
    ("resnet20", 0.01), ("wrn34x2", 0.01), ("vgg11", 0.01), ("vgg11_st3code", 0.01), ("mobilenetv1", 0.01), ("resnet50", 0.01),
    ("resnet50_torchvision", 0.1), ("resnet56", 0.1), ("vgg16_small", 0.1), ("resnet8_digits", 0.1)])
def test_batch_norm(name, momentum):
    for net, expected in ((on_meta(name), momentum), (on_meta(name, bn_momentum=0.99), 0.99)):
        assert {module.momentum for module in net.modules() if isinstance(module, nn.BatchNorm2d)} == {expected}


def test_norm_layers_start_as_identity():
    for module in build("vgg11_st3code", 10).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


def test_option_a_shortcut():
    shortcut = build("resnet56", 10).stages[1][0].shortcut
    assert not list(shortcut.parameters())
    x = torch.randn(2, 16, 8, 8)
    out = shortcut(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()


def test_resnet20_shortcuts_are_two_strided_1x1_convs():
    convs = [m for m in prunable(build("resnet20", 10)) if getattr(m, "kernel_size", None) == (1, 1)]
    assert [(m.weight.numel(), m.stride) for m in convs] == [(512, (2, 2)), (2048, (2, 2))]


def test_resnet20_block_is_post_activation():
    block = build("resnet20", 10).stages[0][0]
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(block(x), x.relu())


def test_wrn_shortcut_takes_the_raw_input():
    net = build("wrn34x2", 100)
    x = torch.randn(2, 16, 8, 8)
    for block, shortcut in ((net.blocks[0], net.blocks[0].shortcut), (net.blocks[1], nn.Identity())):
        nn.init.zeros_(block.conv2.weight)
        expected = shortcut(x)
        assert torch.equal(block(x), expected)
        x = expected
    assert [m.stride for m in (net.blocks[i].shortcut for i in (0, 5, 10))] == [(1, 1), (2, 2), (2, 2)]
    assert sum(isinstance(m, nn.Conv2d) for m in (block.shortcut for block in net.blocks)) == 3


def test_resnet50_strides_are_on_the_3x3():
    net = on_meta("resnet50", 1000)
    for layer in (net.layer2, net.layer3, net.layer4):
        assert (layer[0].conv1.stride, layer[0].conv2.stride) == ((1, 1), (2, 2))


def test_vit_tokens_and_positions():
    net = build("vit_tiny", 10)
    position = net.position
    assert position.shape == (64, 512) and position.unique(dim=0).shape == (64, 512)
    assert position.square().sum(1).allclose(torch.full((64,), 256.0))
    # tokens 0 and 1 lie in one row of patches, 0 and 8 in one column: they share the half that encodes y, or x
    assert torch.equal(position[0, 256:], position[1, 256:]) and torch.equal(position[0, :256], position[8, :256])
    seen = []
    net.patch_norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 8:12, 20:24] = 1
    net(image)
    changed = seen[0][0].sum(1)
    assert changed.nonzero().tolist() == [[2 * 8 + 5]] and changed.sum() == 48


def test_vit_attention_in_16_bits_on_a_cpu():
    """Made of its parts there: it and its gradients are as far from exact ones as a few roundings of bfloat16 make them."""
    torch.manual_seed(0)
    inputs = [torch.randn(4, 3, 64, 64).bfloat16() for _ in range(3)]
    found, delta = [], torch.randn(4, 3, 64, 64).bfloat16()
    for function, given in ((F.scaled_dot_product_attention, [x.double() for x in inputs]), (vit.attention, inputs)):
        given = [x.detach().requires_grad_() for x in given]
        y = function(*given)
        found.append([y.detach(), *torch.autograd.grad(y, given, delta.to(y.dtype))])
    for exact, ours in zip(*found):
        assert ours.dtype == torch.bfloat16
        assert (ours - exact).norm() < 1.5 * 2 ** -8 * exact.norm()


def test_vit_attention():
    layer = build("vit_tiny", 10).layers[0]
    nn.init.zeros_(layer.mlp2.weight)
    nn.init.zeros_(layer.mlp2.bias)
    x = torch.randn(2, 5, 512)
    query, key, value = layer.qkv(layer.norm1(x)).chunk(3, dim=2)
    heads = []
    for head in torch.arange(384).split(64):
        weights = (query[:, :, head] @ key[:, :, head].transpose(1, 2) / 8).softmax(2)
        heads.append(weights @ value[:, :, head])
    assert torch.allclose(layer(x), x + layer.out(torch.cat(heads, 2)), atol=1e-5)


@pytest.mark.parametrize("name, width, weights", [
    ("resnet20", 2, 1_081_440), ("resnet56", 2, 3_393_632), ("resnet56", 4, 13_570_240), ("vgg16_small", 2, 4_999_008),
    ("vit_tiny", 2, 16_836_608), ("vit_tiny", 0.5, 1_063_424), ("resnet8_digits", 0.5, 4_968)])
def test_width(name, width, weights):
    assert prunable_weights(on_meta(name, width=width)) == weights


def test_vit_width_scales_heads():
    net = on_meta("vit_tiny", width=3)
    assert (net.patch.out_features, net.layers[0].heads, net.layers[0].mlp1.out_features) == (1536, 18, 768)


@pytest.mark.parametrize("name, classes, options, words", [
    ("resnet21", 10, {}, ["unknown model", "resnet21", "resnet20"]),
    ("transformer", 10, {}, ["unknown model", "resnet20"]),
    ("vit_tiny", 10, {"widht": 2}, ["unknown option of vit_tiny", "widht", "nearest: width"]),
    ("vit_tiny", 10, {"bn_momentum": 0.1}, ["unknown option of vit_tiny", "bn_momentum", "width"]),
    ("resnet20", 10, {"width": 1.3}, ["width", "16, 32, 64", "1.3"]),
    ("resnet20", 10, {"width": 0}, ["width", "got 0"]),
    ("resnet20", 10, {"width": "2"}, ["width", "got '2'"]),
    ("resnet20", 10, {"width": float("inf")}, ["width", "got inf"]),
    ("resnet20", 10, {"bn_momentum": 1.5}, ["bn_momentum", "1.5"]),
    ("resnet20", 0, {}, ["classes", "got 0"]),
])
def test_bad_input_is_one_clear_line(name, classes, options, words):
    with pytest.raises(ValueError) as error:
        build(name, classes, **options)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words)


def test_import_needs_torch_alone():
    code = "import benchmarks.run, sys; print([m for m in ('torchvision', 'fvcore', 'sklearn', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("shape, dtype", [((64, 32, 4, 4), torch.float32), ((7, 16, 8, 8), torch.float32), ((128, 64, 8, 8), torch.bfloat16)])
def test_global_average_is_the_mean_and_its_gradient_keeps_the_layout(shape, dtype):
    x = torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient, expected = (torch.autograd.grad(y, x, torch.ones_like(y))[0] for y in (global_average(x), x.mean((2, 3))))
    assert torch.equal(global_average(x), x.mean((2, 3)))
    assert torch.equal(gradient, expected) and gradient.is_contiguous(memory_format=torch.channels_last)

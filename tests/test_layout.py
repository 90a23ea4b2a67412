"""What a layout makes of a network's layers: which are pruned, in which form their weights lie, and sums over filters and layers."""
import pytest
import torch
from torch import nn

from methods import SparseModel
from methods.layout import Layout, channels_last


def test_a_name_to_skip_is_no_beginning_of_another():
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    assert [name for name, _ in SparseModel(net, "static", 0.5, skip=["1"]).layout.dense] == ["1.weight"]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_a_layer_without_weights_is_left_dense():
    layout = Layout(nn.ModuleList([nn.Linear(3, 0), nn.Linear(3, 2)]))
    assert [entry.name for entry in layout.entries] == ["1.weight"] and layout.dense == [("0.weight", "empty")]


def test_a_frozen_last_layer_is_no_classifier_nor_is_the_one_before():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert Layout(net).classifier == 1
    net[1].requires_grad_(False)
    assert Layout(net).classifier is None


@pytest.mark.parametrize("stride, expected", [(1, False), ((1, 2), True), ((2, 1), True), (2, True)])
def test_a_stride_in_one_direction_asks_for_contiguous_weights(stride, expected):
    """The width's alone reads beyond the weight."""
    for module, both in ((nn.Conv2d(1, 4, 3, stride=stride), True), (nn.Conv2d(4, 4, 3, stride=stride, groups=4), True),
                         (nn.Conv2d(4, 4, 3, stride=stride, groups=2), False), (nn.Conv2d(3, 4, 1, stride=stride), True),
                         (nn.Conv2d(32, 8, 1, stride=stride, groups=4), True), (nn.Conv2d(64, 8, 1, stride=stride), False)):
        entry, = Layout(nn.Sequential(module)).entries
        assert entry.contiguous is (expected and both)


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_a_strided_convolution_of_single_pixels_with_few_channels_trains(storage):
    """timm's FastViT begins with one. Of a channels_last weight, torch 2.14's convolution would end the process on images as large as these."""
    torch.manual_seed(0)
    net, x = nn.Conv2d(3, 48, 1, stride=2, bias=False), torch.randn(2, 3, 256, 256)
    model = SparseModel(net, "static", 0.5, storage=storage)
    for _ in range(3):
        model(x).square().sum().backward()
    plain, slope = model.export(), model.theta.grad / 3
    plain(x).square().sum().backward()
    expected = model.layout.flatten([plain.weight.grad])
    torch.testing.assert_close(slope, expected if storage == "masked" else expected[model.method.keys], rtol=1e-4, atol=1e-3)


def test_a_weight_that_is_both_formats_counts_as_contiguous():
    weight = nn.Conv2d(4, 6, 1).weight
    assert weight.is_contiguous() and weight.is_contiguous(memory_format=torch.channels_last) and not channels_last(weight)
    assert channels_last(nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last).weight)


@pytest.mark.parametrize("per", ["filters", "layers"])
def test_a_layout_that_was_asked_first_in_inference_mode_has_gradients(per):
    layout = Layout(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    spread, n = (layout.spread_filters, 6) if per == "filters" else (layout.spread_layers, 2)
    with torch.inference_mode():
        spread(torch.ones(n))
    values = torch.ones(n, requires_grad=True)
    (spread(values) * 2).sum().backward()
    assert values.grad.tolist() == ([6, 6, 6, 6, 8, 8] if per == "filters" else [24, 16])

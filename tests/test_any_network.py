"""Every method on networks that are not the suite's, and that they compute what the plain network computes."""
import copy
import itertools

import numpy as np
import pytest
import torch
from networks import NETWORKS, Loop, Odd
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations, weight_norm

import methods
from methods import SparseModel, Training

SMALL = ("small_vit", "odd", "lstm")
pytestmark = pytest.mark.filterwarnings("ignore:the exported network", r"ignore:\d+ weights stay dense")  # after a few steps; of odd networks
PRUNABLE = "not only the weight of linear or convolutional layers"


@torch.no_grad()
def check_trained(loop):
    """The mask has its budget, and the exported network has exact zeros and the same output."""
    model, method = loop.model, loop.model.method
    if method.exact:
        assert int(method.mask.sum()) == method.budget_at(loop.training.cycle)
    exported = model.export().eval()
    weights = model.layout.flatten([exported.get_parameter(entry.name) for entry in model.layout.entries])
    assert weights.isfinite().all() and not weights[~method.mask].any()
    torch.testing.assert_close(exported(loop.x), model.eval()(loop.x), rtol=1e-3, atol=1e-4)
    model.train()


# some layers stay dense; of the methods one for each way to choose weights, as ranking many of them 27 times takes long
LARGE = ("st3", "probmask", "gse_graest", "granet", "srigl", "fisher_diag", "grasp", "synflow")
FIVE_STEPS = [*itertools.product(("resnet18",), LARGE, [("layer3", "layer4")]), *itertools.product(("mobilenet_v3_small",), LARGE, [()]),
              *itertools.product(("small_vit",), ("st3", "gse_graest"), [("encoder.layers.encoder_layer_1",)]),
              *itertools.product(SMALL, methods.available(), [()])]


@pytest.mark.parametrize("network, name, skip", FIVE_STEPS)
def test_five_steps(network, name, skip):
    loop = Loop(network, name, skip=skip)
    frozen = {key: value.clone() for key, value in loop.model.net.named_parameters() if not value.requires_grad}
    before = loop.model.theta.detach().clone()
    # the second cycle too, where the network is small
    for cycle in range(min(len(loop.training.cycles), 2 if network in SMALL else 1)):
        loop.training.start(cycle)
        assert all(torch.isfinite(torch.tensor(loop.step())) for _ in range(5))
        check_trained(loop)
    assert not torch.equal(before, loop.model.theta)
    assert all(torch.equal(value, loop.model.net.get_parameter(key)) for key, value in frozen.items())
    left = dict(loop.model.layout.dense)
    if skip:
        assert all(key.startswith(skip) or reason == PRUNABLE for key, reason in left.items())
        assert not any(entry.name.startswith(skip) for entry in loop.model.layout.entries)
    elif network == "odd":
        assert left == {"embedding.weight": PRUNABLE, "frozen.weight": "frozen"}
    elif network == "lstm":
        assert len(left) == 5 and "lstm.weight_hh_l0" in left


def test_an_export_in_training_leaves_training_as_it_is():
    model = Loop("small_vit", "probmask").model
    for train in (True, False):
        model.train(train)
        before = [module.training for module in model.modules()]
        model.export()
        assert [module.training for module in model.modules()] == before and model.method.training == train


# ---- the sparse model computes what the plain network with the same weights computes

@pytest.mark.parametrize("network", ["mobilenet_v3_small", *SMALL])
@pytest.mark.parametrize("name, sparsity", [("dense", 0.0), ("static", 0.7)])
def test_output_and_gradients_are_those_of_the_plain_network(network, name, sparsity):
    torch.manual_seed(0)
    net, x, y = NETWORKS[network]()
    net, x = net.double(), x.double() if x.is_floating_point() else x
    dense = copy.deepcopy(net)
    model = SparseModel(net, name, sparsity)
    Training(model, torch.optim.SGD(model.parameters()), 1, 1).start()
    plain = model.export()
    assert list(plain.state_dict()) == list(dense.state_dict())
    assert [key for key, _ in plain.named_parameters()] == [key for key, _ in dense.named_parameters()]
    dense.load_state_dict(plain.state_dict(), strict=True)
    for train in (True, False):
        results = []
        for candidate in (model.train(train), plain.train(train), dense.train(train)):
            torch.manual_seed(0)
            candidate.zero_grad()
            output = candidate(x)
            cross_entropy(output, y).backward()
            results.append((output, {key: value.grad for key, value in candidate.named_parameters() if value.grad is not None}))
        ours, *others = results
        weights = model.layout.named_views(ours[1]["theta"])
        masks = model.layout.named_views(model.method.mask)
        for output, gradients in others:
            torch.testing.assert_close(ours[0], output)
            for key, gradient in gradients.items():
                own = weights[key] if key in weights else ours[1][f"net.{key}"]
                torch.testing.assert_close(own, gradient * masks.get(key, 1))
        torch.testing.assert_close(model.dense_gradient * model.method.mask, ours[1]["theta"])
        model.dense_gradient = None


def convolutions():
    for dimensions, transposed, groups in itertools.product((1, 2, 3), (False, True), (1, 2)):
        kind = getattr(nn, f"Conv{'Transpose' * transposed}{dimensions}d")
        yield pytest.param(kind(4, 6, (3, 2, 1)[:dimensions], groups=groups), torch.randn(2, 4, *(5, 4, 3)[:dimensions]),
                           id=f"{kind.__name__}-{groups}")


@pytest.mark.parametrize("layer, x", [pytest.param(nn.Linear(4, 6), torch.randn(2, 4), id="Linear"), *convolutions()])
def test_a_filter_is_what_one_output_depends_on(layer, x):
    weight, expected, bias = layer.weight.detach().clone(), layer(x).detach(), layer.bias.detach().clone()
    model = SparseModel(layer, "dense")
    layout, (entry,) = model.layout, model.layout.entries
    assert torch.equal(layout.views(model.theta.detach())[0], weight) and torch.allclose(model(x), expected, atol=1e-6)
    assert entry.shape[0] == 6 and entry.size == 6 * entry.fan_in == weight.numel()
    with torch.no_grad():
        model.theta.mul_(layout.spread_filters((torch.arange(6) != 4).float()))
    channel = torch.arange(6).view(-1, *[1] * (expected.ndim - 2))
    torch.testing.assert_close(model(x).detach(), torch.where(channel == 4, bias.view_as(channel), expected))


def test_tied_weights_are_pruned_once_and_stay_tied():
    model = SparseModel(Odd(), "gmp", 0.5)
    assert [entry.names for entry in model.layout.entries if len(entry.names) > 1] == [("twice.weight", "twin.weight")]
    assert model.layout.size == sum(p.numel() for p in {*Odd().parameters()} if p.ndim > 1) - 30 * 8 - 8 * 8
    net = model.export()
    assert net.twice.weight is net.twin.weight and net.decoder.weight is net.embedding.weight


@pytest.mark.parametrize("skip", ["twice", "twin", "twin.weight"])
def test_a_tied_weight_is_left_dense_by_any_of_its_names(skip):
    layout = SparseModel(Odd(), "gmp", 0.5, skip=skip).layout
    assert ("twice.weight", "skipped on request") in layout.dense and not any(len(entry.names) > 1 for entry in layout.entries)


def test_names_to_skip_may_be_any_iterable():
    def net():
        return nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 30), nn.Linear(30, 4))
    assert [name for name, _ in SparseModel(net(), "static", 0.5, skip=(name for name in ["1.weight", "2"])).layout.dense] == ["1.weight", "2.weight"]
    assert SparseModel(net(), "static", 0.5, skip=None).layout.dense == SparseModel(net(), "static", 0.5, skip=()).layout.dense == []
    assert len(SparseModel(net(), "static", 0.5, skip=np.array(["0", "2"])).layout.dense) == 2
    with pytest.raises(ValueError, match="skip: the network has no parameter or module 'nonsense'"):
        SparseModel(net(), "static", 0.5, skip=iter(["1.weight", "nonsense"]))
    with pytest.raises(ValueError, match=r"\Askip= takes names of weights or modules, not 2\Z"):
        SparseModel(net(), "static", 0.5, skip=2)


def test_weights_of_two_dtypes_are_named():
    net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6).double(), nn.Linear(6, 2))
    with pytest.raises(ValueError, match=r"dtype and one device, unlike 0.weight \(float32, cpu\), 1.weight \(float64, cpu\): convert"):
        SparseModel(net, "static", 0.5)


@pytest.mark.parametrize("train", [True, False])
def test_attention_computes_with_the_sparse_projection(train):
    # in evaluation torch's fused kernel reads out_proj.weight itself
    torch.manual_seed(0)
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2)
    x, dense = torch.randn(2, 5, 8), copy.deepcopy(net)
    model = SparseModel(net, "static", 0.5)
    assert dict(model.layout.dense) == {f"layers.{i}.self_attn.in_proj_weight": PRUNABLE for i in range(2)}
    Training(model, torch.optim.SGD(model.parameters()), 1, 1).start()
    with torch.set_grad_enabled(train):
        ours, plain, dense = (candidate.train(train)(x) for candidate in (model, model.export(), dense))
    torch.testing.assert_close(ours, plain)
    assert not torch.allclose(ours, dense, atol=1e-3)


def doubly_used():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer)  # no ReLU: all of four may be dead, and then no mask shows in the output


def with_buffer():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net.register_buffer("copy", net[0].weight.detach())
    return net


def on_one_memory():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = nn.Parameter(net[0].weight.detach())
    return net


@pytest.mark.parametrize("net, dense", [
    (doubly_used(), {}),
    (with_buffer(), {"0.weight": PRUNABLE}),
    (on_one_memory(), {"0.weight": "shares its memory with 1.weight"}),
    (nn.Sequential(nn.Linear(4, 4), weight_norm(nn.Linear(4, 4))), {"1.weight_g": PRUNABLE, "1.weight_v": PRUNABLE}),
    (nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 4))),
     {f"1.parametrizations.weight.original{i}": PRUNABLE for i in range(2)}),
    (nn.Sequential(nn.Linear(4, 4), parametrizations.spectral_norm(nn.Linear(4, 4))),
     {"1.parametrizations.weight.original": PRUNABLE}),
], ids=["module used twice", "weight in a buffer", "two weights in one memory", "weight_norm", "parametrised", "spectral_norm"])
def test_what_cannot_be_pruned_is_left_dense_and_said(net, dense):
    x = torch.randn(3, 4)
    expected = net.eval()(x).detach()
    model = SparseModel(net, "synflow", 0.5, rounds=2)
    assert dict(model.layout.dense) == dense
    torch.testing.assert_close(model(x), expected)
    model(x).sum().backward()
    torch.testing.assert_close(model.export()(x), expected)
    Training(model, torch.optim.SGD(model.parameters()), 1, 1, batches=lambda n: [(x, None)]).start()
    torch.testing.assert_close(model.export()(x), model(x))
    assert not torch.allclose(model(x), expected)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.lstm(x)[0][-1])


def test_much_that_stays_dense_unasked_is_said(recwarn):
    for storage in ("masked", "sparse"):
        with pytest.warns(UserWarning, match="1536 weights stay dense besides the 160 .* lstm.weight_hh_l0, lstm.weight_ih_l0 ") as told:
            model = SparseModel(Recurrent(), "static", 0.5, storage=storage)
        assert told[0].filename == __file__ and "include" not in str(told[0].message)  # which refuses them
        assert dict(model.layout.dense)["lstm.weight_hh_l0"] == "of a recurrent layer, which keeps its weights in a second place, too"
    for storage, advised in (("masked", True), ("sparse", False)):
        with pytest.warns(UserWarning, match="800 weights stay dense besides the 160 ") as told:
            SparseModel(nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 10)), "static", 0.5, storage=storage)
        assert ("include=[names] to prune 0.weight, too)" in str(told[0].message)) is advised
    recwarn.clear()
    SparseModel(Recurrent(), "static", 0.5, skip="lstm")
    net = Recurrent()
    net.lstm.requires_grad_(False)
    SparseModel(net, "static", 0.5)
    assert not recwarn


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_masks_are_those_of_the_weights(storage):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 6))
    model = SparseModel(net, "static", 0.75, storage=storage)
    model(torch.randn(2, 4, 4, 4))
    masks, weights = model.masks(), dict(model.export().named_parameters())
    assert set(masks) == {"0.weight", "3.weight"} and model.outside() == 0
    assert all(mask.shape == weights[name].shape and mask.equal(weights[name] != 0) for name, mask in masks.items())
    assert [int(mask.sum()) for mask in masks.values()] == model.layer_nnz().tolist()


class Leaks(methods.get("static")):
    def forward(self, theta):
        return theta * self.mask + 0.1 * theta * ~self.mask


def test_what_is_not_as_sparse_as_its_mask_is_no_result():
    model = SparseModel(nn.Linear(20, 10), Leaks, 0.9)
    model.method.set_mask(torch.arange(200) < 20)
    assert model.outside() == 180
    with pytest.warns(UserWarning, match="180 weights besides the 20 of its mask"):
        model.export()


def test_a_mask_of_another_sparsity_is_named():
    dense, sparse = (SparseModel(nn.Linear(20, 10), "static", sparsity) for sparsity in (0.5, 0.95))
    sparse.method.set_mask(torch.arange(200) < 10)
    dense.load_state_dict(sparse.state_dict())
    with pytest.warns(UserWarning, match="has 10 weights, not the 100 that were asked for: its mask is that of another sparsity"):
        dense.export()


@pytest.mark.parametrize("number", [np.float64(0.9), np.float32(0.9)])
def test_a_sparsity_of_numpy_is_one(number):
    assert SparseModel(nn.Linear(100, 100), "rigl", sparsity=number).method.budget == 1000

"""`include`: weights that are pruned although they are not of linear or convolutional layers; and transformers' Conv1D, which is one."""
import copy
import re
import sys
import types

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.checkpoint import checkpoint

import methods
from methods import SparseModel, Training

pytestmark = pytest.mark.filterwarnings("ignore:the exported network", "ignore:of the cycles", r"ignore:\w+ cannot", r"ignore:\d+ weights stay dense")


class Experts(nn.Module):
    """Two experts of 6 outputs and 4 inputs in one tensor, as mixtures of experts have them, after an embedding of 5 words."""

    def __init__(self):
        super().__init__()
        self.words, self.experts, self.head = nn.Embedding(5, 4), nn.Parameter(torch.randn(2, 6, 4)), nn.Linear(12, 3)

    def forward(self, x):
        return self.head((self.experts @ self.words(x).unsqueeze(-2).unsqueeze(-1)).flatten(-3))


def attention():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 1, enable_nested_tensor=False), torch.randn(4, 5, 8)


def experts():
    return Experts(), torch.arange(20).reshape(4, 5) % 5


NETWORKS = {"attention": (attention, ["layers.0.self_attn.in_proj_weight"]), "experts": (experts, ["experts", "words"])}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", methods.available())
def test_what_is_included_is_pruned_by_every_method(name, network):
    torch.manual_seed(0)
    make, include = NETWORKS[network]
    (net, x), (fresh, _) = make(), make()
    y = torch.zeros_like(net(x))
    model = SparseModel(net, name, 0.5, include=include)
    assert not model.layout.dense and model.layout.size == sum(p.numel() for p in fresh.parameters() if p.ndim > 1)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), 2, 2, batches=lambda n: [(x, y)] * n, criterion=mse_loss)
    training.start()
    before = model.theta.detach().clone()
    for _ in range(4):
        for _ in range(training.passes):
            mse_loss(model(x), y).backward()
        training.update((x, y))
    assert not torch.equal(model.theta, before)
    masks, exported = model.masks(), model.eval().export().eval()
    weights = dict(exported.named_parameters())
    assert all(mask.shape == weights[name].shape and not weights[name][~mask].any() for name, mask in masks.items())
    assert set(masks) == {name for name, weight in fresh.named_parameters() if weight.ndim > 1}
    with torch.no_grad():
        torch.testing.assert_close(exported(x), model(x))
        torch.testing.assert_close(copy.deepcopy(model)(x), model(x))
        fresh.load_state_dict(exported.state_dict())
        torch.testing.assert_close(fresh.eval()(x), model(x))


def test_the_last_dimension_of_what_is_included_is_the_inputs():
    net, x = experts()
    expected, experts_before = net(x).detach(), net.experts.detach().clone()
    model = SparseModel(net, "dense", include=["experts"])
    entry, head = model.layout.entries
    assert (entry.shape, entry.fan_in, head.shape) == ((12, 4), 4, (3, 12)) and dict(model.layout.dense).keys() == {"words.weight"}
    torch.testing.assert_close(model(x).detach(), expected)
    means = model.layout.filter_means(model.theta)[:12]
    torch.testing.assert_close(means, experts_before.mean(-1).flatten())
    assert model.export().experts.equal(experts_before)


def test_what_is_computed_again_has_the_weights_of_its_pass():
    gradients = []
    for again in (False, True):
        torch.manual_seed(0)
        net, _ = experts()
        if again:
            plain = net.forward
            net.forward = lambda x: checkpoint(plain, x, use_reentrant=False)
        model = SparseModel(net, "static", 0.5, include=["experts", "words"])
        model(torch.arange(20).reshape(4, 5) % 5).square().sum().backward()
        gradients.append(model.theta.grad)
        assert net.experts is None and net.words.weight is None
    assert gradients[0].any() and torch.equal(*gradients)


def test_a_module_stands_for_all_its_weights_and_skip_comes_before():
    net, _ = attention()
    model = SparseModel(net, "static", 0.5, include=["layers"], skip=["layers.0.linear1"])
    assert dict(model.layout.dense) == {"layers.0.linear1.weight": "skipped on request"} and len(model.layout.entries) == 3
    net, _ = experts()
    assert [e.name for e in SparseModel(net, "static", 0.5, include="words").layout.entries] == ["words.weight", "head.weight"]


class StoresItself(nn.Module):
    """As a linear layer of PyTorch Geometric."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        destination[f"{prefix}weight"] = self.weight.detach()


@pytest.mark.parametrize("include, says", [
    *(([name], f"include: '{name}' is no weight of 2 or more dimensions that is trained, nor a module that has one")
      for name in ("head.bias", "nothing", "frozen", "frozen.weight")),
    (["words"], "include: words.weight is of an embedding with max_norm= or sparse=True, which handles its weight itself; skip=[names] leaves such "
     "weights dense"),
    (["bag"], "include: bag.weight is of an embedding with max_norm= or sparse=True, which handles its weight itself; skip=[names] leaves such "
     "weights dense"),
    (["own"], "include: own.weight is of a StoresItself, which stores its weight itself; skip=[names] leaves such weights dense"),
    (["rnn"], "include: rnn.weight_ih_l0 is of a recurrent layer, which keeps its weights in a second place, too; skip=[names] leaves such weights dense"),
    (3, "include= takes names of weights or modules, not 3"),
])
def test_what_cannot_be_included_is_said_in_one_line(include, says):
    net = nn.ModuleDict({"rnn": nn.GRU(4, 4), "head": nn.Linear(4, 2), "frozen": nn.Embedding(5, 4).requires_grad_(False), "own": StoresItself(),
                         "words": nn.Embedding(5, 4, max_norm=1.0), "bag": nn.EmbeddingBag(5, 4, sparse=True)})
    with pytest.raises(ValueError) as told:
        SparseModel(net, "static", 0.5, include=include)
    assert str(told.value) == says and net.head.weight is not None


def test_sparse_storage_refuses_another_weight_of_a_layer():
    layer = nn.Linear(4, 4)
    layer.extra = nn.Parameter(torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"no Linear; these stay dense with skip=\['0.extra'\]"):
        SparseModel(nn.Sequential(layer), "static", 0.5, include="0", storage="sparse")


def test_sparse_storage_refuses_what_is_no_layer():
    net, _ = attention()
    with pytest.raises(ValueError, match=r"no MultiheadAttention .* stay dense with skip=\['layers.0.self_attn.in_proj_weight'"):
        SparseModel(net, "static", 0.5, include="layers", storage="sparse")


def test_what_would_stay_dense_says_how_to_prune_it():
    net, _ = experts()
    net.memory = nn.LSTM(8, 30)  # whose weights, the largest, cannot be: they have a second place
    with pytest.warns(UserWarning, match=r" weights stay dense .*: memory.weight_hh_l0, .* include=\[names\] to prune (\w+) and the like, too") as told:
        SparseModel(net, "static", 0.5)
    name = re.search(r"to prune (\S+) and", str(told[0].message))[1]
    assert name in SparseModel(experts()[0], "static", 0.5, include=[name]).masks()


class Conv1D(nn.Module):
    """As in transformers: a linear layer whose weight is (inputs, outputs)."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf, self.nx, self.weight, self.bias = nf, nx, nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


@pytest.fixture
def gpt2(monkeypatch):
    """Two such layers, and the same network of torch's own."""
    monkeypatch.setattr(Conv1D, "__module__", "transformers.pytorch_utils")
    monkeypatch.setitem(sys.modules, Conv1D.__module__, types.SimpleNamespace(Conv1D=Conv1D))
    torch.manual_seed(0)
    net, same = nn.Sequential(Conv1D(30, 20), nn.ReLU(), Conv1D(10, 30)), nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))
    with torch.no_grad():
        for place in (0, 2):
            same[place].weight.copy_(net[place].weight.T)
            same[place].bias.copy_(net[place].bias)
    return net, same


@pytest.mark.parametrize("name, storage", [
    ("st3", "masked"), *((name, storage) for name in ("rigl", "gse_uniform", "gse_grabo") for storage in ("masked", "sparse", "auto"))])
def test_gpt2s_linear_layer_is_one(name, storage, gpt2):
    (x, y), results = (torch.randn(16, 20), torch.arange(16) % 10), []
    for net in gpt2:
        torch.manual_seed(1)
        model = SparseModel(net, name, 0.5, storage=storage, **({} if name == "st3" else {"interval": 2}))
        training = Training(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), 2, 4, batches=lambda n: [(x, y)] * n)
        training.start()
        for _ in range(8):
            cross_entropy(model(x), y).backward()
            training.update((x, y))
        results.append((model.theta, model.layer_nnz(), model(x)))
        torch.testing.assert_close(model.export()(x), results[-1][-1])
    assert model.layout.classifier == 1
    for ours, linear in zip(*results):
        torch.testing.assert_close(ours, linear)


def test_gpt2s_weight_has_its_inputs_first(gpt2):
    net, _ = gpt2
    before = net[0].weight.detach().clone()
    model = SparseModel(net, "dense")
    assert [e.shape for e in model.layout.entries] == [(30, 20), (10, 30)] and model.layout.classifier == 1
    torch.testing.assert_close(model.layout.filter_means(model.theta)[:30], before.mean(0))
    assert model.export()[0].weight.equal(before)
    with pytest.raises(ValueError, match="0.weight already belongs to another SparseModel"):
        SparseModel(net, "st3", 0.5)


def test_an_heir_of_gpt2s_layer_is_one_and_shares_no_sparse_weight_with_torchs(gpt2):
    class Heir(Conv1D):
        pass

    net = nn.Sequential(Heir(8, 8), nn.Linear(8, 8))
    net[1].weight = net[0].weight
    (entry,) = SparseModel(copy.deepcopy(net), "static", 0.5).layout.entries
    assert entry.names == ("0.weight", "1.weight") and entry.groups == 1
    with pytest.raises(ValueError, match="0.weight is the weight of layers with different groups or orders"):
        SparseModel(net, "static", 0.5, storage="sparse")


@pytest.mark.parametrize("storage, dense", [("masked", ()), ("sparse", ["layers.0.self_attn", "layers.1.self_attn"])])
def test_torchs_encoder_is_evaluated_as_it_was_trained(storage, dense):
    """Without gradients it takes a way of its own, which reads the weights of its layers."""
    torch.manual_seed(0)
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True), 2)
    model, x = SparseModel(net, "static", 0.8, skip=dense, storage=storage), torch.randn(3, 5, 16)
    trained = model(x).detach()
    model.eval()
    padding = torch.arange(5).expand(3, 5) > 3
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        torch.testing.assert_close(model(x), trained)
        torch.testing.assert_close(model(x, src_key_padding_mask=padding)[:, :4], model.export().eval()(x, src_key_padding_mask=padding)[:, :4])
    assert torch.backends.mha.get_fastpath_enabled() is fast is True

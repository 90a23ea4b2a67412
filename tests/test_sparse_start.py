"""How a network in sparse storage starts: by the active inputs of its neurons, from shapes alone, or not at all."""
import copy

import pytest
import torch
from torch import nn

from methods import SparseModel, Training


def net(kind=nn.BatchNorm1d):
    return nn.Sequential(nn.Linear(400, 200), kind(200), nn.ReLU(), nn.Linear(200, 300))


def convolutional():
    return nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 64, 3, groups=4, bias=False), nn.Flatten(),
                         nn.Linear(64 * 16, 10))


def on_meta(build):
    with torch.device("meta"):
        return build()


@pytest.mark.parametrize("init, build", [("sparse", net), ("sparse", convolutional), ("network", lambda: on_meta(net)),
                                         ("network", lambda: on_meta(convolutional))])
def test_weights_and_biases_have_variance_one_over_the_active_inputs(init, build):
    model = SparseModel(build(), "static", 0.9, storage="sparse", allocation="uniform", init=init)
    for entry, keys, weights in zip(model.layout.entries, model.local(model.method.keys), model.theta.detach().split(model.counts)):
        rows = keys // entry.fan_in
        inputs = torch.bincount(rows, minlength=entry.shape[0])
        assert len(inputs) == entry.shape[0] and inputs.float().std() > 0
        scaled = weights * inputs[rows].sqrt()
        assert scaled.abs().max() <= 3 ** 0.5 + 1e-5 and scaled.square().mean() == pytest.approx(1, abs=0.1) and (scaled > 0).any()
        bias = model.net.get_submodule(entry.name.rpartition(".")[0]).bias
        if bias is not None:
            scaled = bias.detach() * inputs.sqrt()
            assert scaled.abs().max() <= 3 ** 0.5 + 1e-5 and scaled.square().mean() == pytest.approx(1, abs=0.5) and scaled.min() < 0


@pytest.mark.parametrize("sampler, deviation", [("exact", 0), ("bernoulli", 1)])
def test_numbers_of_the_first_connections_are_exact_or_binomial(sampler, deviation):
    torch.manual_seed(0)
    counts = torch.stack([torch.tensor(SparseModel(nn.Sequential(nn.Linear(100, 80), nn.Linear(80, 50)), "static", 0.9, storage="sparse",
                                                   allocation="uniform", sampler=sampler).counts) for _ in range(60)]).double()
    size = torch.tensor([8000.0, 4000.0])
    expected = (size * 0.1 * 0.9).sqrt() * deviation
    assert ((counts.mean(0) - 0.1 * size).abs() <= 4 * expected / 60 ** 0.5).all()
    assert (counts.std(0) >= 0.7 * expected).all() and (counts.std(0) <= 1.3 * expected).all()


def test_neurons_without_inputs_have_finite_biases():
    layer = SparseModel(nn.Linear(10, 3000), "static", 0.99, storage="sparse", init="sparse").net
    assert 1.7 < layer.bias.abs().max() <= 3 ** 0.5 + 1e-6


def test_of_a_network_of_shapes_all_else_starts_as_its_modules_do():
    model = SparseModel(on_meta(net), "static", 0.9, skip=["3"], storage="sparse")
    norm, dense = model.net[1], model.net[3]
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert torch.equal(norm.weight, torch.ones(200)) and torch.equal(norm.running_mean, torch.zeros(200)) and norm.num_batches_tracked == 0
    assert dense.weight.abs().max().item() == pytest.approx(200 ** -0.5, rel=0.01) and dense.bias.abs().max() <= 200 ** -0.5
    assert model(torch.randn(4, 400)).isfinite().all()


def test_biases_of_a_network_of_shapes_are_zero_where_only_weights_are_drawn():
    torch.use_deterministic_algorithms(True, warn_only=True)  # memory that nothing has been written to holds NaN
    try:
        model = SparseModel(on_meta(net), "srigl", 0.9, storage="sparse", init="grad_flow")
    finally:
        torch.use_deterministic_algorithms(False)
    assert not model.net[0].bias.any() and not model.net[3].bias.any() and model.theta.std() > 0


class Placed(nn.Module):
    """Says how its scale starts alone: not its places on the meta device, which it should, nor those that it makes elsewhere."""

    def __init__(self, features, dtype=None):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))
        self.register_buffer("own", torch.arange(features, device="cpu"))
        self.register_buffer("none", torch.ones(0))
        if dtype:
            self.register_buffer("places", torch.ones(features, dtype=dtype))

    def reset_parameters(self):
        nn.init.constant_(self.scale, 2)

    def forward(self, x):
        return self.scale * x + self.own


def test_what_has_data_in_a_network_of_shapes_stays():
    model = SparseModel(on_meta(lambda: net(Placed)), "static", 0.9, storage="sparse")
    assert torch.equal(model.net[1].own, torch.arange(200)) and torch.equal(model.net[1].scale, torch.full((200,), 2.0))


def test_what_modules_of_a_network_of_shapes_share_they_share_afterwards():
    def tied():
        made = nn.Sequential(nn.Linear(400, 200), nn.Linear(200, 200), nn.Linear(200, 200))
        made[2].weight = made[1].weight
        return made
    model = SparseModel(on_meta(tied), "static", 0.9, skip=["1", "2"], storage="sparse")
    assert model.net[2].weight is model.net[1].weight and model.net[2].bias is not model.net[1].bias
    assert 0 < model.net[1].weight.abs().max() <= 200 ** -0.5


class Scaled(nn.Module):
    """Has a parameter, and nothing that says how it starts."""

    def __init__(self, features):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))

    def forward(self, x):
        return self.scale * x


def with_nan(name):
    module = net()
    with torch.no_grad():
        module.get_parameter(name)[-1] = torch.nan
    return module


@pytest.mark.parametrize("build, said", [
    (lambda: on_meta(lambda: net(Scaled)), "a network of shapes cannot start 1: it has no reset_parameters"),
    *((lambda dtype=dtype: on_meta(lambda: net(lambda features: Placed(features, dtype))),
       "a network of shapes cannot start 1: its reset_parameters leaves places unset") for dtype in (torch.float32, torch.int64, torch.bool)),
    (lambda: torch.relu, "the network must be an nn.Module, not builtin_function_or_method"),
    (lambda: with_nan("0.weight"), "the network's weights contain NaN or infinity: 0.weight"),
    (lambda: with_nan("1.bias"), "the network's weights contain NaN or infinity: 1.bias")])
def test_what_cannot_start_is_refused(build, said):
    with pytest.raises(ValueError) as caught:
        SparseModel(build(), "static", 0.9, storage="sparse")
    assert str(caught.value) == said


def test_connections_are_scored_with_the_criterion_of_the_training():
    torch.manual_seed(0)
    net, x, y = nn.Linear(30, 10).double(), torch.randn(16, 30, dtype=torch.float64), torch.randn(16, 10, dtype=torch.float64)
    found = []
    for storage in ("sparse", "masked"):
        model = SparseModel(copy.deepcopy(net), "snip", 0.8, storage=storage)
        Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1, batches=lambda n: [(x, y.softmax(1))] * n,
                 criterion=lambda output, y: nn.functional.mse_loss(output, 9 * y)).start()
        found.append(model.method.keys if storage == "sparse" else model.method.mask.nonzero().flatten())
    assert torch.equal(*found)


def test_a_graph_that_is_drawn_again_is_that_of_the_seed():
    """Small layers cannot take what er_gse gives them, and no update comes that would fill up the budget."""
    def keys(seed):
        torch.manual_seed(0)
        model = SparseModel(convolutional(), "gse_uniform", 0.4, allocation="er_gse", scope="global", init="sparse", storage="sparse", interval=100)
        before, run = model.method.keys, Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 10, 1, seed=seed, batches=list)
        with pytest.warns(UserWarning, match="^gse_uniform cannot .* in time"):
            run.start()
        assert len(before) < len(model.method.keys) == model.method.budget
        return model.method.keys.tolist()
    assert keys(0) == keys(0) != keys(1)


# ---- a second training

def trained(method, sparsity=0.8, epochs=4, **options):
    """(Training, x, y, connections at the start) of a small network after 16 steps, with momentum."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    model = SparseModel(net, method, sparsity, storage="sparse", **options)
    x, y = torch.randn(32, 20), torch.randint(4, (32,))
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), epochs, 4, batches=lambda n: [(x, y)] * n)
    run.start()
    first = len(model.method.keys)
    for _ in range(run.total_steps):
        nn.functional.cross_entropy(model(x), y).backward()
        run.update((x, y))
    return run, x, y, first


def again(run, epochs=4, **options):
    following = Training(run.model, run.optimizer, epochs, 4, batches=run._batches, **options)
    with pytest.warns(UserWarning, match="trained before"):
        following.start()
    return following


@pytest.mark.parametrize("name", ["static", "set", "rigl", "srigl", "mest", "gse_uniform"])
@pytest.mark.parametrize("init", ["network", "sparse"])
def test_another_training_begins_with_another_graph(name, init):
    """With masks, too, it begins with a first mask: what stays keeps its weight and its momentum, what enters starts at zero."""
    run, x, y, first = trained(name, init=init, **({"interval": 3} if name not in ("static", "mest") else {}))
    model = run.model
    keys, weights, momentum = model.method.keys, model.theta.detach().clone(), run.optimizer.state[model.theta]["momentum_buffer"].clone()
    following = again(run, seed=5)
    now, stays = model.method.keys, torch.isin(model.method.keys, keys)
    assert len(now) == first and not stays.all()
    if init == "network":
        assert torch.equal(model.theta[stays], weights[torch.isin(keys, now)]) and not model.theta[~stays].any()
    else:
        assert model.theta.all() and not torch.isin(model.theta[stays], weights).any()
    kept = run.optimizer.state[model.theta]["momentum_buffer"]
    assert torch.equal(kept[stays], momentum[torch.isin(keys, now)]) and not kept[~stays].any()
    nn.functional.cross_entropy(model(x), y).backward()
    following.update((x, y))


def test_a_short_training_after_one_whose_updates_filled_the_budget_is_not_refused():
    """er_gse's first graph falls short, and no update comes, but as with masks the graph is then drawn to the budget."""
    run, *_, first = trained("gse_uniform", 0.5, scope="global", allocation="er_gse", interval=10)
    assert first < len(run.model.method.keys) == run.model.method.budget
    with pytest.warns(UserWarning, match="in time"):
        again(run, epochs=1, seed=1)
    assert len(run.model.method.keys) == run.model.method.budget


def test_a_second_training_of_which_no_batches_are_known_leaves_the_first_as_it_is():
    run, *_ = trained("snip")
    keys = run.model.method.keys
    with pytest.warns(UserWarning, match="trained before"), pytest.raises(ValueError, match="give Training batches"):
        Training(run.model, run.optimizer, 4, 4).start()
    assert torch.equal(run.model.method.keys, keys)

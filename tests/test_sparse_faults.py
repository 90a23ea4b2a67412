"""Sparse storage where a pass, a network or a checkpoint is not what was expected: it computes what the masked form does, or refuses."""
import copy
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from methods import SparseModel, Training, advice
from methods.sparse import pattern, planes
from methods.sparse.conv import Grid


def mlp(method="static", **options):
    return SparseModel(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), method, 0.5, storage="sparse", **options)


@pytest.mark.parametrize("build, shape", [(lambda: nn.Linear(64, 32), (64, 64)), (lambda: nn.Conv2d(8, 8, 3), (2, 8, 6, 6))])
def test_weights_that_are_not_contiguous(build, shape):
    model, x = SparseModel(build(), "static", 0.5, storage="sparse"), torch.randn(shape)
    weights = model.theta.detach()
    assert torch.equal(model.apply_weights(weights, x), model.apply_weights(torch.stack([weights, 0 * weights], 1)[:, 0], x))


def test_biases_of_a_tied_weight_are_drawn_in_order():
    layers = [nn.Linear(50, 50) for _ in range(12)]
    for layer in layers[1:]:
        layer.weight = layers[0].weight
    layers[5].bias = layers[4].bias
    model = SparseModel(nn.Sequential(*layers), "static", 0.5, storage="sparse")
    torch.manual_seed(1)
    model.initialise()
    torch.manual_seed(1)
    torch.rand(len(model.theta))
    for layer in layers[:5] + layers[6:]:
        assert torch.equal(layer.bias > 0, 2 * torch.rand(50) - 1 > 0)


def test_a_weight_with_different_groups_is_refused():
    def net():
        first, second = nn.Conv2d(4, 8, 3, bias=False), nn.Conv2d(8, 8, 3, groups=2, bias=False)
        second.weight = first.weight
        return nn.Sequential(first, second, nn.Flatten(), nn.Linear(8 * 25, 10))
    with pytest.raises(ValueError, match=r"\A0.weight [^\n]*groups[^\n]*\Z"):
        SparseModel(net(), "static", 0.5, storage="sparse")
    model, x = SparseModel(net(), "static", 0.5, skip=["0.weight"], storage="sparse"), torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(model(x), model.export()(x))


class Two(nn.Module):
    """Passes one layer or the other, and fails after the first where it is told to."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(60, 60), nn.Linear(60, 60)

    def forward(self, x, a=True, b=True, fails=False):
        x = self.a(x) if a else x
        if fails:
            raise RuntimeError("broken")
        return self.b(x) if b else x


def test_a_layer_that_was_not_passed_is_not_decided(capsys):
    model, x = SparseModel(Two(), "static", 0.5, storage="auto"), torch.randn(4, 60)

    def undecided():
        return [name[0] for name, (form, *_) in model.forms().items() if form == "undecided"]
    with pytest.raises(RuntimeError, match="broken"):
        model(x, fails=True)
    assert undecided() == ["b"] and model.chosen.tolist() == [-1, -1] and not capsys.readouterr().err
    for _ in range(2):
        model(x, b=False)
    assert undecided() == ["b"] and model.chosen.tolist()[1] == -1 and capsys.readouterr().err.count("storage auto") == 1
    again = SparseModel(Two(), "static", 0.5, storage="auto")
    again.load_state_dict(model.state_dict())
    for model in (model, again):
        for _ in range(2):
            model(x, a=False)
        assert not undecided() and -1 not in model.chosen.tolist() and capsys.readouterr().err.count("storage auto") == 1
        torch.testing.assert_close(model(x), model.export()(x))


class Waiting(nn.Module):
    """Lets another pass happen in the middle of the first one."""

    meanwhile = None

    def forward(self, x):
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            thread = threading.Thread(target=meanwhile)
            thread.start(), thread.join()
        return x


def test_threads_pass_the_same_model():
    model = SparseModel(nn.Sequential(nn.Conv2d(4, 8, 3), Waiting(), nn.Conv2d(8, 8, 3)), "static", 0.5, storage="sparse").eval()
    x, other = torch.randn(2, 4, 9, 9), torch.randn(3, 4, 12, 8)
    expected, found = [model(x), model(other)], []
    model.net[1].meanwhile = lambda: found.append(model(other))
    assert torch.equal(model(x), expected[0]) and torch.equal(found[0], expected[1])
    assert not any(layer.given for layers in model.layers for layer in layers)


def test_places_of_one_geometry_while_another_thread_asks_for_another():
    module = nn.Conv2d(4, 8, 3)
    connections = planes.Connections(torch.arange(0, 288, 3), module.weight.shape)
    first, other = (planes.Planes(torch.empty(2, 4, n, n), module.weight, connections, Grid((n, n), module, [0] * 4)) for n in (6, 12))
    expected = connections.places(first)

    class Interrupted(planes.Planes):
        def __eq__(self, last):
            same = vars(self) == vars(last)
            connections.places(other)
            return same
    again = copy.copy(first)
    again.__class__ = Interrupted
    assert all(map(torch.equal, connections.places(again), expected))


class Named(nn.Module):
    """Names what it gives to its layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(2, 4, 3, padding=1), nn.Linear(6, 5)])

    def forward(self, x):
        for layer in self.layers:
            x = layer(input=x)
        return x.flatten(1)


@pytest.mark.parametrize("method", ["rigl", "gse_uniform"])
def test_an_input_given_by_its_name(method):
    model = SparseModel(Named(), method, 0.5, storage="sparse", interval=1)
    batch = torch.randn(4, 2, 6, 6), torch.randint(120, (4,))
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 10, 1, batches=lambda n: [batch] * n)
    run.start()
    keys = model.method.keys
    cross_entropy(model(batch[0]), batch[1]).backward()
    run.update(batch)
    assert not torch.equal(keys, model.method.keys)


def test_half_precision_is_refused():
    model, x = mlp(), torch.randn(4, 64)
    y = model(x)
    for convert in (model.bfloat16, model.half, lambda: model.to(torch.float16),
                    lambda: SparseModel(nn.Linear(64, 32).half(), "static", 0.5, storage="sparse")):
        with pytest.raises(ValueError, match="sparse storage computes in float32 or float64, not torch.*16"):
            convert()
    assert torch.equal(model(x), y)
    assert torch.equal(model.double()(x.double()), model.to("cpu")(x.double())) and model.share_memory().theta.is_shared()


@pytest.mark.parametrize("method", ["static", "set", "srigl", "gse_uniform", "snip"])
def test_several_processes_are_refused(method, monkeypatch):
    model = SparseModel(nn.Linear(64, 32), method, 0.5, storage="sparse")
    monkeypatch.setattr(advice, "world_size", lambda group=None: 1 if group is False else 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"\Asparse storage trains in one process: [^\n]* give Training group=False\Z"):
        Training(model, optimizer, 10, 1)
    Training(model, optimizer, 10, 1, group=False)


def test_a_checkpoint_of_another_width_is_refused():
    def made(*widths):
        layers = [nn.Linear(a, b, bias=False) for a, b in zip(widths, widths[1:])]
        return SparseModel(nn.Sequential(*layers), "static", 0.5, storage="sparse")
    model, x = made(20, 30, 10), torch.randn(4, 20)
    y = model(x)
    for other in (made(20, 60, 10), made(20, 15, 20, 10), made(30, 20, 15)):
        with pytest.raises(ValueError, match=r"\Athe checkpoint is of a network[^\n]*\Z"):
            model.load_state_dict(other.state_dict())
        assert torch.equal(model(x), y)
    other = made(20, 30, 10)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model(x), other(x))


def test_a_checkpoint_of_another_number_of_connections():
    model, other, x = mlp(sampler="bernoulli"), mlp(sampler="bernoulli"), torch.randn(4, 64)
    assert len(model.theta) != len(other.theta)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model(x), other(x)) and model.counts == other.counts


def test_a_checkpoint_of_the_other_parameters_alone():
    model, other, x = mlp(), mlp(), torch.randn(4, 64)
    state = {name: value for name, value in other.state_dict().items() if name.startswith("net.")}
    with pytest.raises(RuntimeError, match="Missing key.*method.keys"):
        model.load_state_dict(state)
    keys = model.method.keys
    assert set(model.load_state_dict(state, strict=False).missing_keys) == {"theta", "method.keys"}
    assert torch.equal(model.net[0].bias, other.net[0].bias) and torch.equal(model.method.keys, keys)
    torch.testing.assert_close(model(x), model.export()(x))


def test_what_an_optimiser_keeps_of_another_shape_is_left_as_it_is():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows, each = torch.arange(32.0), torch.ones_like(model.theta)
    optimizer.state[model.theta].update(rows=rows, each=each)
    model.rewire(optimizer, torch.arange(1000), torch.ones(len(each), dtype=torch.bool))
    assert optimizer.state[model.theta]["rows"] is rows and len(optimizer.state[model.theta]["each"]) == len(model.theta) == 1000


def test_images_beyond_32_bits_are_refused():
    module = nn.Conv2d(100, 100, 3, padding=1, device="meta")
    connections = planes.Connections(torch.arange(0, 90_000, 100), module.weight.shape)
    grid = Grid((5000, 5000), module, [1] * 4)
    with pytest.raises(ValueError, match=r"\Aimages of \(5000, 5000\) are too large[^\n]*\Z"):
        connections.places(planes.Planes(torch.empty(1, 100, 5000, 5000, device="meta"), module.weight, connections, grid))


def test_another_graph_leaves_all_generators_as_they_were(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    model, state = mlp(init="sparse"), torch.get_rng_state()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.redraw(optimizer, 3)
    assert not seeded and torch.equal(state, torch.get_rng_state())
    keys, weights = model.method.keys, model.theta.detach().clone()
    torch.rand(5)
    model.redraw(optimizer, 3)
    assert torch.equal(keys, model.method.keys) and torch.equal(weights, model.theta)


@pytest.mark.parametrize("fault", [ImportError, RuntimeError, OSError])
def test_a_numba_that_does_not_work_is_done_without(fault, monkeypatch):
    def fail(name):
        raise fault("it does not load")
    monkeypatch.setattr(pattern.importlib, "import_module", fail)
    assert pattern.compiled.__wrapped__("loops") is None


def test_without_the_compiler_products_compute():
    code = ("import torch; from torch import nn; from methods import SparseModel\n"
            "model = SparseModel(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(48, 5)), 'static', 0.5, storage='sparse')\n"
            "x = torch.randn(70, 2, 6, 6); torch.testing.assert_close(model(x), model.export()(x))")
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True, cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_an_update_just_before_the_end_of_updates_fills_what_er_gse_lacks(storage):
    """0.5 · 19 steps: the update at step 9 comes, with either storage, so that nothing is refused or drawn anew."""
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))
    model = SparseModel(net, "set", 0.4, storage=storage, interval=10, update_end=0.5, scope="global", allocation="er_gse")
    first = int(model.layer_nnz().sum())
    training = Training(model, torch.optim.SGD(model.parameters(), 0.1), 1, 19)
    training.start()
    assert int(model.layer_nnz().sum()) == (first if storage == "sparse" else sum(model.method.counts)) < model.method.budget


@pytest.mark.parametrize("storage", ["masked", "sparse"])
@pytest.mark.parametrize("method", ["set", "rigl", "gse_uniform", "srigl"])
def test_an_update_that_comes_too_late_is_warned_of(method, storage):
    model = SparseModel(nn.Linear(20, 30), method, 0.5, storage=storage, interval=100, **{"score_batches": "train_batch"} if "gse" in method else {})
    with pytest.warns(UserWarning, match=f"^{method} cannot change its mask in time"):
        Training(model, torch.optim.SGD(model.parameters(), 0.1), 1, 10).start()

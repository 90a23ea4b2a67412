"""What growth and the activity of layers see, whatever a network does with its layers' outputs."""
import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from methods import SparseModel, Training
from methods.activity import Activity
from methods.sparse import growth, planes

STORED = ("sparse", "auto")


class Net(nn.Module):
    """A convolution and two linear layers, one of them with positions. change: what is done with each one's output."""

    def __init__(self, change=torch.relu):
        super().__init__()
        self.change = change
        self.conv, self.each, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 12), nn.Linear(12, 10)

    def forward(self, x):
        x = self.change(self.conv(x)).flatten(2).transpose(1, 2)
        return self.change(self.head(self.change(self.each(x)).mean(1)))


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(16, 3, 6, 6, generator=generator), torch.randint(10, (16,), generator=generator)


def started(net, method, storage, **options):
    torch.manual_seed(1)  # of which sparse storage draws its graph
    model = SparseModel(net, method, 0.5, storage=storage, **options)
    run = Training(model, torch.optim.SGD(model.parameters(), 0.1), 10, 10, batches=lambda n: [batch()] * n)
    run.start()
    run.batch = batch()
    return run


def net(change=torch.relu):
    torch.manual_seed(0)
    return Net(change)


@pytest.mark.parametrize("storage", STORED)
@pytest.mark.parametrize("change", [torch.relu_, lambda x: x.mul_(2).relu_()])
def test_rigl_sees_gradients_through_changes_in_place(storage, change):
    apart = {torch.relu_: torch.relu}.get(change, lambda x: (x * 2).relu())
    expected, found = (growth.dense_gradients(started(net(of), "rigl", storage)) for of in (apart, change))
    assert all(one.any() for one in found) and all(torch.allclose(*pair, atol=1e-6) for pair in zip(expected, found))


def test_activity_is_seen_through_changes_in_place():
    """Also of a linear layer whose input has positions: its output is a view."""
    def weights(change):
        run = started(net(change), "gse_grabo", "masked")
        activity = Activity(run, [batch()], lambda n: None)
        assert activity.sums.keys() == {"conv.weight", "each.weight", "head.weight"}
        return activity.weights()
    assert all(torch.equal(a, b) for one, other in zip(weights(torch.relu), weights(torch.relu_)) for a, b in zip(one, other))


def tripled(net):
    net.conv.register_forward_hook(lambda module, inputs, output: 3 * output)
    return net


def called_directly(net):
    net.conv = Direct(net.conv)
    return net


class Direct(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer.forward(x)


@pytest.mark.parametrize("odd", [tripled, called_directly])
def test_rigl_sees_gradients_where_hooks_miss_the_layer(odd):
    run = started(odd(net()), "rigl", "sparse")
    plain = run.model.export()
    cross_entropy(plain(batch()[0]), batch()[1]).backward()
    gradients = [p.grad.movedim(1, -1).flatten() for p in plain.parameters() if p.dim() > 1]
    assert all(torch.allclose(*pair, atol=1e-6) for pair in zip(growth.dense_gradients(run), gradients, strict=True))


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_an_update_under_autocast(storage):
    wide = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 10))  # more than 1,000 draws
    model = SparseModel(wide, "gse_graest", 0.9, storage=storage, interval=1)
    x, y = torch.randn(64, 300, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 10
    training = Training(model, torch.optim.SGD(model.parameters(), 0.1), 1, 10, batches=lambda n: [(x, y)] * n)
    training.start()
    before = {name: mask.clone() for name, mask in model.masks().items()}
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            cross_entropy(model(x), y).backward()
            training.update((x, y))
    assert any(not torch.equal(mask, before[name]) for name, mask in model.masks().items())


def test_measuring_in_a_part_that_is_computed_again():
    class Again(Net):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)
    torch.manual_seed(0)
    model = SparseModel(Again(), "static", 0.5, storage="auto")
    x, y = batch()
    cross_entropy(model(x), y).backward()
    assert model.theta.grad.any() and "measuring" not in model.forms()


@pytest.mark.parametrize("there, here", [STORED, STORED[::-1]])
def test_a_state_passes_between_sparse_and_auto(there, here):
    runs = [started(net(), "rigl", storage) for storage in (there, here)]
    x, y = batch()
    cross_entropy(runs[0].model(x), y).backward()
    runs[0].update((x, y))
    runs[1].model.load_state_dict(copy.deepcopy(runs[0].model.state_dict()))
    masks = [run.model.masks() for run in runs]
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())
    assert torch.allclose(runs[0].model.eval()(x), runs[1].model.eval()(x), atol=1e-6)


def test_a_convolution_of_several_sizes_keeps_their_indices(monkeypatch):
    sorted_ones, transposed = [], planes.transposed
    monkeypatch.setattr(planes, "transposed", lambda *args: (sorted_ones.append(args), transposed(*args))[1])
    model = SparseModel(nn.Conv2d(64, 64, 3), "static", 0.9, storage="sparse")
    images = [torch.randn(2, 64, size, size) for size in (5, 9)]
    outputs = [[model(x) for x in images] for _ in range(3)]
    assert len(sorted_ones) == 2 and all(torch.equal(*pair) for pair in zip(outputs[0], outputs[2]))


def test_compiling_a_model_whose_loops_have_not_run_yet():
    """In a process of its own: a pass before would have compiled the loops."""
    program = """
import torch
from torch import nn
from methods import SparseModel
model = SparseModel(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(288, 10)), "static", 0.9,
                    storage="sparse")
x = torch.randn(64, 3, 8, 8)
y = torch.compile(model, backend="eager")(x)
y.sum().backward()
assert torch.allclose(y, model(x), atol=1e-5) and model.theta.grad.any()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

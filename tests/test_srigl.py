"""SRigL (B7), with its paper's numbers worked out."""
import pytest
import torch
from canonical import linear, of, training
from torch import nn

from methods import SparseModel, Training

SIZE = of([[0.9, 0, 0.5, 0], [0, 0.1, 0, -0.2], [-0.7, 0.6, 0, 0]])
GRADIENT = of([[0.1, 2, 0.2, 0.3], [0.1, 0.1, 0.05, 0.1], [0.3, 0.1, 1.5, 0.2]])


@pytest.mark.parametrize("ablate, expected", [(True, [[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]]),
                                              (False, [[1, 0, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]])])
def test_srigl_update(ablate, expected):
    method = training("srigl", 0.5, weight=SIZE).method
    assert method.renewed(SIZE.abs(), GRADIENT, SIZE != 0, 6, 1 / 3, ablate).int().tolist() == expected


def test_srigl_ablates_by_the_fan_in_without_ablation():
    """Else each neuron that goes raises what the others need, until next to none are left."""
    size = torch.zeros(8, 20, dtype=torch.float64)
    size[:4, :10] = 1 + torch.arange(40, dtype=torch.float64).flip(0).view(4, 10)  # half of the neurons have gone: 10 inputs instead of 5
    method = training("srigl", 0.75, weight=size, gamma=0.9).method
    after = method.renewed(size, size, size > 0, 40, 0.1, True)  # the fourth has 6 salient inputs left
    assert after.sum(1).tolist() == [10] * 4 + [0] * 4


@pytest.mark.parametrize("skip, spared", [((), [False, True]), (("1",), [False])])
def test_srigl_spares_the_classifier_alone(skip, spared):
    net = nn.Sequential(linear(SIZE), linear(of([[0.5, -0.2, 0.1], [-0.05, 0.3, -0.4]])))
    model, asked = SparseModel(net, "srigl", 0.5, skip), []
    model.method.renewed = lambda size, gradient, mask, count, fraction, ablate: asked.append(not ablate) or mask
    for index, entry in enumerate(model.layout.entries):
        model.method.following(index, torch.ones(3, entry.size), 0.3)
    assert asked == spared


def test_srigl_cut():
    size = of([[1, 3, 2, 4], [0.5, 0.6, 0, 0]])
    for cut, expected in (("magnitude", [[0, 1, 0, 1], [1, 1, 0, 0]]), ("literal", [[1, 1, 0, 0], [1, 1, 0, 0]])):
        method = training("srigl", 0.5, weight=size, cut=cut).method
        assert method.renewed(size, torch.zeros_like(size), size != 0, 4, 0.0, False).int().tolist() == expected


def fan_ins(model):
    """Active inputs of the active neurons of each layer."""
    return [{int(n) for n in piece.view(entry.shape[0], -1).sum(1)} - {0}
            for piece, entry in zip(model.method.mask.split(model.layout.sizes), model.layout.entries)]


def test_srigl_counts():
    model = SparseModel(nn.Linear(144, 32), "srigl", 0.9, allocation="uniform")
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1).start()
    assert int(model.method.mask.sum()) == 448 and fan_ins(model) == [{14}] and not model.method.exact
    model = SparseModel(nn.Linear(4, 32), "srigl", 0.9, allocation="uniform")  # less than one input a neuron
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1).start()
    assert int(model.method.mask.sum()) == 13 and fan_ins(model) == [{1}]


@pytest.mark.parametrize("init, bound", [("network", 144 ** -0.5), ("sparse", (3 / 14) ** 0.5)])
def test_srigl_starts_by_its_fan_in_where_asked(init, bound):
    model = SparseModel(nn.Linear(144, 32), "srigl", 0.9, allocation="uniform", init=init)
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1).start()
    assert model.theta.abs().max().item() == pytest.approx(bound, rel=0.05) and not model.theta[~model.method.mask].any()


def test_srigl_starts_as_its_released_code_where_asked():
    """Normal, with a standard deviation of 2 / 14 for 14 active inputs; biases stay."""
    net = nn.Linear(144, 320)
    model, bias = SparseModel(net, "srigl", 0.9, allocation="uniform", init="grad_flow"), net.bias.detach().clone()
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1).start()
    active = model.theta[model.method.mask]
    assert active.std().item() == pytest.approx(2 / 14, rel=0.03) and abs(active.mean().item()) < 0.01
    assert 3 < active.abs().max() / active.std() < 6 and not model.theta[~model.method.mask].any() and torch.equal(net.bias, bias)


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_srigl_s_dense_layers_keep_their_first_weights(storage):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 40), nn.Linear(40, 200), nn.Linear(200, 10))
    first, wide = (net[i].weight.detach().clone() for i in (0, 2))
    model = SparseModel(net, "srigl", 0.5, init="grad_flow", storage=storage)
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1).start()
    kept = model.export()
    assert model.method.counts[0] == 12 and torch.equal(kept[0].weight, first)
    active = kept[2].weight != 0
    assert model.method.counts[2] < 8000 and not (kept[2].weight == wide)[active].any()


@pytest.mark.parametrize("gamma", [0.3, 0.9])
def test_srigl_fan_in_is_constant_at_every_step(gamma):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(64, 10))
    model = SparseModel(net, "srigl", 0.9, interval=2, gamma=gamma)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 20, 1)
    run.start()
    x, y, dead = torch.randn(8, 3, 6, 6), torch.randint(10, (8,)), 0
    for _ in range(20):
        run.criterion(model(x), y).backward()
        run.update((x, y))
        assert all(len(values) == 1 for values in fan_ins(model)) and not model.method(run.theta)[~model.method.mask].any()
        for nnz, count, piece, entry in zip(model.layer_nnz(), model.method.counts, model.method.mask.split(model.layout.sizes),
                                            model.layout.entries):
            rows = int(piece.view(entry.shape[0], -1).any(1).sum())
            assert nnz == min(count // rows, entry.fan_in) * rows <= count
            dead += entry.shape[0] - rows
        assert model.method.mask[-640:].view(10, 64).any(1).all()  # the last layer is spared
    assert (dead > 0) == (gamma == 0.9)


def test_srigl_keeps_as_many_neurons_as_hold_the_budget():
    size = of([[4, 3, 2, 1], [0.9, 0.8, 0, 0], [0, 0, 0, 0]])
    method = training("srigl", 0.5, weight=size, gamma=1.0).method
    assert method.renewed(size, torch.zeros_like(size), size > 0, 6, 1 / 3, True).sum(1).tolist() == [3, 3, 0]


def test_every_epoch_of_srigl_counts():
    run = training("srigl", 0.5)  # of which less than half the budget may fit into whole neurons
    assert run.method.settled(run)

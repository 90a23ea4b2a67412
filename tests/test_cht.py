"""CHT and CHTs, with their papers' numbers worked out."""
import math

import pytest
import torch
from canonical import W, backward, near, of, step, training, two_layers
from torch import nn

from benchmarks.models import build
from methods import SparseModel, Training
from methods.beyond.cht import chained, gumbel, remove_chains

A = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 1, 1]])


@pytest.mark.parametrize("score, expected", [("ch3", [[0, 0, 1.5, 1.5], [2, 0, 0, 0], [0, 3, 0, 0]]),
                                             ("ch2", [[0, 0, 3, 3], [4, 0, 0, 0], [0, 7, 0, 0]])])
def test_cht_paths(score, expected):
    method = training("cht", 0.5, weight=torch.ones(3, 4), score=score).method
    links = A.double()
    assert ((method.paths(links) + method.paths(links.T).T) * (1 - links)) == near(expected)


def test_cht_growth():
    cht, chts = (training(name, 0.5, weight=torch.ones(3, 4)).method for name in ("cht", "chts"))
    draws = torch.rand(4000, 3, 4, generator=torch.Generator().manual_seed(0))
    for draw in draws[:20]:  # without chance: the two of the most paths
        assert cht.grown(A.bool(), 2, draw).int().tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    share = sum(chts.grown(A.bool(), 1, draw).double() for draw in draws) / len(draws)
    assert share.flatten()[[2, 3, 4, 9]].tolist() == pytest.approx([0.1764706, 0.1764706, 0.2352941, 0.4117647], abs=0.03)
    assert int(chts.grown(torch.eye(3, 4).bool(), 5, draws[0]).sum()) == 5  # pairs without a path may grow where there are no others


def test_chts_keeps_in_proportion_to_the_weights():
    method = training("chts", 0.5).method
    draws = torch.rand(4000, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = sum(method.dropped_to(W.abs(), torch.ones(2, 3).bool(), 1, 1.0, draw).double() for draw in draws) / len(draws)
    expected = [0.3225806, 0.1290323, 0.0645161, 0.0322581, 0.1935484, 0.2580645]
    assert share.flatten().tolist() == pytest.approx(expected, abs=0.03)
    assert method.dropped_to(W.abs(), torch.ones(2, 3).bool(), 2, 400.0, draws[0]).int().tolist() == [[1, 0, 0], [0, 0, 1]]


def test_cht_pairs_without_a_path_grow_at_random():
    cht, links = training("cht", 0.5, weight=torch.ones(3, 4)).method, torch.eye(3, 4).bool()
    draws = torch.rand(100, 3, 4, generator=torch.Generator().manual_seed(0))
    assert sum(cht.grown(links, 1, draw).int() for draw in draws).bool().tolist() == (~links).tolist()


@pytest.mark.parametrize("fraction, kept", [(0.2, 15), (0.3, 13)])
def test_cht_drops_no_more_than_its_share(fraction, kept, monkeypatch):
    run, seen = training("cht", 0.5, weight=torch.ones(6, 6)), []  # of 18 weights 3.6 and 5.4, rounded down
    monkeypatch.setattr(run.method, "dropped_to", lambda size, mask, kept, power, draw: seen.append(kept) or mask)
    run.method.update(run, fraction)
    assert seen == [kept]


@pytest.mark.parametrize("schedule, shares", [("constant", [0.3, 0.3, 0.3]), ("cosine", [0.3, 0.15, 0])])
def test_cht_replaces_a_constant_share_or_one_that_falls(schedule, shares):
    run = training("chts", 0.5, epochs=20, drop_schedule=schedule)
    found = []
    for run.step in (0, 7.5, 15):  # updates end at three quarters of 20 steps
        found.append(run.method.fraction(run))
    assert found == near(shares)


def test_gumbel_noise_is_finite():
    # −log(−log u), also for a draw of exactly 0, which float32 gives once in 17 million
    assert gumbel(of([math.exp(-1), math.exp(-math.e)])) == near([0, -1])
    for kind in (torch.float32, torch.float64):
        noise = gumbel(torch.tensor([0, 0.5, 1], dtype=kind))
        assert noise.isfinite().all() and (noise.diff() > 0).all()


def test_chts_draws_ever_more_sharply(monkeypatch):
    run = training("chts", 0.5, epochs=20, interval=5)
    powers = []
    monkeypatch.setattr(run.method, "dropped_to", lambda size, mask, kept, power, draw: powers.append(power) or mask)
    for run.step in range(20):
        run.method.before_step(run)
    assert powers == near([1 + 2 * t / 15 for t in (4, 9, 14)])  # linear from 1 at the start to 3 at three quarters


@pytest.mark.parametrize("mask, order", [
    ([[1, 1, 1], [1, 1, 1]], [(0, 1), (0, 0), (1, 0), (0, 2), (1, 2), (1, 1)]),  # 1.432, 1.400, .725, .722, .646, .075
    ([[1, 1, 1], [0, 1, 1]], [(0, 0), (0, 1), (1, 2), (0, 2), (1, 1)])])         # 1.500, 1.432, 1.167, .722, .179
def test_cht_relative_importance(mask, order):
    # |w| / Σ of its column + |w| / Σ of its row, of active weights
    method, mask = training("cht", 0.5, importance="relative").method, torch.tensor(mask).bool()
    for kept in range(1, len(order)):
        found = method.dropped_to(of([[9, 8, 1], [1, 0.1, 0.5]]), mask, kept, 1.0, None)
        assert {tuple(place) for place in found.nonzero().tolist()} == set(order[:kept])


@pytest.mark.parametrize("name, options", [("cht", {}), ("chts", {}), ("chts", {"importance": "relative", "drop_schedule": "cosine"})])
def test_cht_updates_keep_the_count_and_grow_at_zero(name, options):
    weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = training(name, 0.8, weight=weight, interval=2, epochs=20, **options)
    before, changes = run.method.mask.clone(), 0
    for _ in range(20):
        backward(run, 0.01 * torch.ones_like(weight))
        run.method.before_step(run)
        grown = run.method.mask & ~before
        changes += bool(grown.any())
        assert int(run.method.mask.sum()) == 120 and not run.theta[grown].any() and not run.theta[~run.method.mask].any()
        before = run.method.mask.clone()
        run.step += 1
    assert changes == 7 if name == "chts" else changes  # an update every second step of the first 15


@pytest.mark.parametrize("name", ["cht", "chts"])
def test_cht_keeps_the_weight_of_what_grows_again_at_once(name):
    run = training(name, 0.5, weight=of([[1, 2, 3], [4, 5, 6]]), interval=2)
    run.method.set_mask(of([[1, 1, 0], [1, 0, 0]]).bool().flatten())
    with torch.no_grad():
        run.theta.copy_(of([[1, 2, 0], [4, 0, 0]]).flatten())
    step(run, of([[1, 1, 1], [1, 1, 1]]))
    weight, momentum = run.theta.clone(), run.momentum.clone()
    run.method.grown = lambda mask, count, draw: of([[1, 0, 0], [0, 0, 1]]).bool() & ~mask  # the first again, and a new one
    run.method.dropped_to = lambda *_: of([[0, 1, 0], [0, 0, 0]]).bool()
    backward(run, of([[1, 1, 1], [1, 1, 1]]))
    assert run.step == 1 and run.method.before_step(run) is True
    assert run.method.mask.view(2, 3).int().tolist() == [[1, 1, 0], [0, 0, 1]]
    stays = of([[1, 1, 0], [0, 0, 0]]).flatten()
    assert torch.equal(run.theta, weight * stays) and torch.equal(run.momentum, momentum * stays) and momentum[0] != 0


def test_cht_stops_a_layer_early():
    run = training("cht", 0.5, weight=torch.randn(6, 6, dtype=torch.float64), interval=1, early_stop=0.0, epochs=40)
    for _ in range(20):
        step(run, torch.zeros_like(run.theta).view(6, 6))
    assert run.method.stopped.all()
    before = run.method.mask.clone()
    step(run, torch.zeros_like(run.theta).view(6, 6))
    assert torch.equal(before, run.method.mask)


# neuron 1 loses its one input (.1), neuron 2 its one output (.1)
FIRST, SECOND = of([[5, -4, 0], [0.1, 0, 0], [0, 3, -2]]), of([[-5, 4, 0.1], [3, -2, 0]])


@pytest.mark.parametrize("name", ["cht", "chts"])
@pytest.mark.parametrize("chains, first, second", [(True, [[1, 1, 0], [0, 0, 0], [0, 0, 0]], [[1, 0, 0], [1, 0, 0]]),
                                                   (False, [[1, 1, 0], [0, 0, 0], [0, 1, 1]], [[1, 1, 0], [1, 1, 0]])])
def test_cht_removes_what_leads_nowhere(name, chains, first, second):
    run = two_layers(name, 1 / 3, FIRST, SECOND, chains=chains, **{"temper": 400.0} if name == "chts" else {})
    run.step = 3  # where so sharp a draw is the order of the weights
    run.method.set_mask(torch.cat([FIRST.flatten(), SECOND.flatten()]) != 0)
    with torch.no_grad():
        run.theta.copy_(torch.cat([FIRST.flatten(), SECOND.flatten()]))
    grown, survivors = run.method.grown, []
    run.method.grown = lambda mask, *more: survivors.append(mask.int().tolist()) or grown(mask, *more)
    run.method.update(run, 0.2)
    assert survivors == [first, second]
    assert run.model.layer_nnz().tolist() == [5, 5]  # as many grow as were dropped and removed


def test_cht_removes_nothing_of_a_layer_that_is_fixed():
    run = two_layers("cht", 1 / 3, FIRST, SECOND)
    run.method.set_mask(torch.cat([FIRST.flatten(), SECOND.flatten()]) != 0)
    with torch.no_grad():
        run.theta.copy_(torch.cat([FIRST.flatten(), SECOND.flatten()]))
    run.method.stopped[1] = True
    run.method.update(run, 0.2)  # neuron 1 loses its one input
    assert run.method.mask[9:].view(2, 3).int().tolist() == [[1, 1, 1], [1, 1, 0]]
    assert run.model.layer_nnz().tolist() == [5, 5]


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def test_cht_knows_which_layer_feeds_which_in_a_sequential_alone():
    def pairs(*layers, around=nn.Sequential):
        return chained(SparseModel(around(*layers), "cht", 0.5))

    def line():
        return nn.Linear(8, 8)

    assert pairs(nn.Flatten(), line(), nn.ReLU(), line(), nn.BatchNorm1d(8), nn.Dropout(), line()) == [(0, 1), (1, 2)]
    assert pairs(nn.Sequential(line(), nn.ReLU(), line()), line()) == [(0, 1)]  # whatever lies around it may use its output elsewhere
    for between in (nn.LayerNorm(8), nn.Softmax(1), nn.Unflatten(1, (2, 4)), Residual(nn.ReLU())):
        assert pairs(line(), between, line()) == []
    assert pairs(line(), nn.ReLU(), line(), around=Residual) == []
    twice = line()
    assert pairs(twice, nn.ReLU(), twice, line(), line()) == [(1, 2)]
    tied, twice = line(), line()
    tied.weight = twice.weight
    assert pairs(tied, twice, line()) == []
    assert pairs(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), line()) == []
    nets = {name: chained(SparseModel(build(name, 10), "cht", 0.5)) for name in ("mlp_digits", "resnet20", "vit_tiny")}
    assert nets == {"mlp_digits": [(0, 1), (1, 2)], "resnet20": [], "vit_tiny": []}


@pytest.mark.parametrize("name", ["cht", "chts"])
def test_cht_keeps_the_count_of_each_layer_where_chains_are_removed(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 10))
    model = SparseModel(net, name, 0.96, interval=1, early_stop=0.9)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 40, 1)
    run.start()
    counts, x, y, removed = model.layer_nnz().tolist(), torch.randn(8, 20), torch.randint(10, (8,)), 0
    for _ in range(40):
        before = model.method.mask.clone()
        run.criterion(model(x), y).backward()
        run.update((x, y))
        assert model.layer_nnz().tolist() == counts and sum(counts) == model.method.budget
        removed = max(removed, int((before & ~model.method.mask).sum()))
    assert removed > 0.3 * sum(counts)  # more than the drop alone


def test_chains_of_three_layers_vanish_from_both_ends():
    def left(*masks):
        masks = [torch.tensor(mask).bool() for mask in masks]
        remove_chains(masks, [(0, 1), (1, 2)])
        return [mask.int().tolist() for mask in masks]
    found = [[[1, 1], [0, 0]], [[1, 0], [0, 0]], [[1, 0]]]
    assert left([[1, 1], [1, 1]], [[1, 0], [0, 1]], [[1, 0]]) == found  # a neuron without an output, and what feeds it alone
    assert left([[1, 1], [0, 0]], [[1, 0], [0, 1]], [[1, 1]]) == found  # one without an input, and what it alone feeds


@pytest.mark.parametrize("between", [nn.LeakyReLU(), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Sigmoid(), nn.Identity()])
def test_layers_with_a_function_of_each_neuron_between_are_a_chain(between):
    assert chained(SparseModel(nn.Sequential(nn.Linear(8, 8), between, nn.Linear(8, 8)), "cht", 0.5)) == [(0, 1)]


def test_chts_grows_pairs_without_a_path_after_those_with_one():
    method, links = training("chts", 0.5, weight=torch.ones(3, 4)).method, torch.zeros(3, 8).bool()
    links[:3, :4] = A  # beside it are pairs without any path
    n = int(((method.paths(A.float()) + method.paths(A.float().T).T) * (1 - A) > 0).sum())
    draws = torch.rand(200, 3, 8, generator=torch.Generator().manual_seed(0))
    assert sum(int(method.grown(links, n + 1, draw)[:, :4].sum()) == n for draw in draws) > 180  # 1e-5 beside scores from 3 on


def test_another_training_moves_the_layers_that_the_last_one_fixed():
    run = training("cht", 0.5, early_stop=0.3, epochs=10)
    step(run, torch.ones_like(W))
    run.method.stopped.fill_(True)
    with pytest.warns(UserWarning, match="trained before"):
        Training(run.model, run.optimizer, 10, 1).start()
    assert not run.method.stopped.any()


def test_a_layer_that_is_fixed_stays_so_where_a_training_goes_on():
    run, again = (training("cht", 0.5, weight=torch.ones(6, 6), interval=1, early_stop=0.0, epochs=40) for _ in range(2))
    run.method.stopped.fill_(True)
    again.model.load_state_dict(run.model.state_dict())
    assert again.method.stopped.all()

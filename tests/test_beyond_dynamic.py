"""SNFS, MEST and SRigL, with their papers' numbers worked out."""
import pytest
import torch
from canonical import G, W, linear, momentum, near, of, step, training, two_layers
from torch import nn

from benchmarks.models import build
from methods import SparseModel, Training
from methods.allocation import allocate
from methods.beyond import snfs
from methods.beyond.snfs import share_out
from methods.ranking import keep_each

Z = torch.zeros_like(W)
MASK = torch.tensor([1, 1, 0, 0, 1, 1]).bool()
CIFAR = {"epochs": 160, "steps_per_epoch": 1}


# ---- SNFS (B5)

def test_snfs_update():
    run = two_layers("snfs", 0.3)
    method = run.method
    method.set_mask(torch.cat([MASK, torch.tensor([1, 1, 1, 0]).bool()]))
    with torch.no_grad():
        run.theta.copy_(torch.cat([W.flatten(), of([0.9, -0.6, 0.3, 0])]) * method.mask)
    m = MASK.view(2, 3)
    buffer = torch.cat([(G + 1e-4 * W * m).flatten(), of([0.5, -0.1, 0.2, 0.7])])
    run.optimizer.state[run.theta]["momentum_buffer"] = buffer.clone()
    assert torch.equal(run.momentum, buffer)
    method.update(run, 0.5)
    assert method.mask.int().tolist() == [1, 1, 1, 1, 0, 1, 1, 0, 0, 1]
    assert torch.equal(run.momentum, buffer)  # the dense buffer is the method


def test_snfs_shares():
    assert share_out(4, [0.8717435, 0.1282565], [4, 3]) == [3, 1]
    for total, shares, room in ((7, [0.9, 0.05, 0.05], [2, 3, 9]), (3, [1 / 3] * 3, [1, 1, 1]), (2, [0.2] * 5, [1] * 5), (0, [1], [5])):
        shared = share_out(total, shares, room)
        assert sum(shared) == total and all(0 <= n <= most for n, most in zip(shared, room))


def test_snfs_spreads_what_a_layer_cannot_take():
    # 9, .5, .5 with room for 1.98, 2.97, 9.9: 7.02 too many make 1.98, 4.01, 4.01, and 1.04 too many 1.98, 2.97, 5.05
    assert share_out(10, [0.9, 0.05, 0.05], [2, 3, 10]) == [2, 3, 5]


def test_snfs_shares_do_not_depend_on_the_order_of_the_layers():
    generator, grown = torch.Generator().manual_seed(0), torch.zeros(22)
    for _ in range(400):
        shares = 1 + 0.4 * torch.rand(22, generator=generator)
        grown += torch.tensor(share_out(33, (shares / shares.sum()).tolist(), [1000] * 22))
    assert bool(((grown / grown.mean() - 1).abs() < 0.07).all())


@pytest.mark.parametrize("mask, momentum, kept", [
    ([1, 1, 1, 1, 1, 1], 9.0, [6, 0]),   # full, with more than its share: nothing is dropped
    ([1, 1, 1, 1, 1, 1], 0.1, [1, 0]),   # with less
    ([1, 1, 1, 0, 1, 1], 9.0, [4, 0]),   # ⌈5/6⌉, as many as it has room for
    ([1, 1, 0, 0, 1, 1], 9.0, [1, 0])])  # room enough: three quarters of it
def test_snfs_spares_layers_that_are_nearly_full(mask, momentum, kept, monkeypatch):
    run, counts = two_layers("snfs", 0.3), []
    monkeypatch.setattr(snfs, "keep_each", lambda score, wanted, sizes: counts.append(wanted) or keep_each(score, wanted, sizes))
    run.method.set_mask(torch.tensor([*mask, 1, 0, 1, 0]).bool())
    run.optimizer.state[run.theta]["momentum_buffer"] = of([momentum] * 6 + [1.0] * 4)
    run.method.update(run, 0.75)
    assert counts[0] == kept and int(run.method.mask.sum()) == sum(mask) + 2


@pytest.mark.parametrize("every, steps", [(0, [2, 5, 8]), (5, [4, 9]), (4, [3, 7])])
def test_snfs_times_of_updates(every, steps, monkeypatch):
    run, seen = training("snfs", 0.5, epochs=4, steps_per_epoch=3, every=every), []
    monkeypatch.setattr(run.method, "update", lambda run, fraction: seen.append(run.step))
    for run.step in range(12):
        run.method.after_step(run)
    assert seen == steps  # none at the end of training


def test_snfs_says_where_no_update_comes():
    with pytest.warns(UserWarning, match="^snfs cannot change its mask in time: of 4 steps, its first update at step 4 comes too late$"):
        training("snfs", 0.5, epochs=1, steps_per_epoch=4)


def test_snfs_rate():
    run = training("snfs", 0.5, epochs=100)
    for run.step, rate in ((24, 0.4275089), (49, 0.2525)):
        assert run.method.fraction(run) == near(rate)


def test_snfs_momentum_of_inactive_weights_accumulates_and_the_last_epoch_is_fixed():
    run = training("snfs", 0.5, epochs=3, steps_per_epoch=2)
    masks = []
    for t in range(6):
        step(run)
        masks.append(run.method.mask.clone())
        assert not run.theta[~masks[-1]].any() and int(masks[-1].sum()) == 3 and momentum(run).all()
        if t == 0:
            assert (momentum(run) - G).abs().max() < 1e-4  # of all weights, with the decay of the active ones
    assert torch.equal(masks[4], masks[5]) and torch.equal(masks[1], masks[2])


def test_snfs_shares_out_by_what_adam_steps_by():
    """Not by its running mean, with which the layer of a hundred times larger gradients would take all."""
    model, seen = SparseModel(nn.Sequential(linear(W), linear(of([[0.9, -0.6], [0.3, 0.8]]))), "snfs", 0.3), []
    run = Training(model, torch.optim.Adam(model.parameters(), lr=1e-3), 4, 1)
    run.start()
    model.theta.grad = torch.cat([torch.full((6,), 100.0), torch.ones(4)]).double()
    run.method.mask.fill_(True)
    run.update()
    assert run.momentum == near([10 ** 0.5] * 10, 5)  # without the correction of its first steps, as in the released code
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snfs, "share_out", lambda total, shares, room: seen.extend(shares) or share_out(total, shares, room))
        run.method.update(run, 0.5)
    assert seen == near([0.5, 0.5], 6)


@pytest.mark.parametrize("optimiser", [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), torch.optim.AdamW])
def test_before_the_first_step_momentum_is_zero(optimiser):
    model = SparseModel(linear(W), "static", 0.5)
    run = Training(model, optimiser(model.parameters()), 2, 2)
    assert torch.equal(run.momentum, torch.zeros_like(model.theta))


def test_snfs_needs_momentum():
    model = SparseModel(linear(W), "snfs", 0.5)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 4, 1)
    run.start()
    with pytest.raises(ValueError, match="momentum"):
        step(run)


# ---- MEST (B6)

def test_mest_drops_and_grows():
    weight = of([[0.5, -0.2, 0.1, -0.05, 0.3, -0.4, 0.25, -0.15, 0.35, -0.45]])
    run = training("mest", 0.5, weight=weight, **CIFAR)
    method = run.method
    method.mask.fill_(True)
    with torch.no_grad():
        run.theta.copy_(weight.flatten())
        run.theta.grad = 1 / run.theta  # which counts where `lam` says so alone
    run.optimizer.state[run.theta]["momentum_buffer"] = torch.ones_like(run.theta)
    method.densities = lambda parts: (0.4, 0.5)
    method.update(run, 2)
    assert run.momentum.all()  # the optimiser's state stays
    survivors = run.theta.detach() != 0
    assert run.theta[survivors].tolist() == [0.5, -0.4, 0.35, -0.45]
    assert int(method.mask.sum()) == 5 and method.mask[survivors].all()


@pytest.mark.parametrize("name, counts, which", [("mest", [21_672, 24_381, 27_090], 0), ("mest_s", [40_634, 33_862, 27_090], 1)])
def test_mest_counts_of_resnet20(name, counts, which):
    model = SparseModel(build("resnet20", 10), name, 0.9)
    assert [sum(allocate(model.layout, "uniform", 1 - model.method.densities(parts)[which])) for parts in (2, 1, 0)] == counts
    assert model.method.budget == 27_090


@pytest.mark.parametrize("sparsity, lower", [(0.8, 0.18), (0.9, 0.08), (0.95, 0.04), (0.98, 0.016)])
def test_mest_offsets(sparsity, lower):
    assert training("mest", sparsity, weight=torch.ones(20, 20)).method.densities(2)[0] == pytest.approx(lower)


def test_mest_s_grows_to_a_full_layer_at_most():
    assert training("mest_s", 0.02, weight=torch.ones(20, 20)).method.densities(2) == pytest.approx((0.98, 1))


@pytest.mark.parametrize("name", ["mest", "mest_s"])
def test_mest_updates(name):
    weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = training(name, 0.9, weight=weight, **CIFAR)
    masks, nnz = [run.method.mask.clone()], []
    for _ in range(160):
        step(run, 0.01 * torch.ones_like(weight))
        masks.append(run.method.mask.clone())
        nnz.append(int(masks[-1].sum()))
        assert not run.theta[~masks[-1]].any()
    changed = [t for t in range(160) if not torch.equal(masks[t], masks[t + 1])]
    assert changed == [t for t in range(0, 120, 5)] + [120] * (name == "mest_s")
    assert nnz == ([200] * 160 if name == "mest" else [300] * 90 + [250] * 30 + [200] * 40)


def test_mest_stages_begin_between_its_updates_too(monkeypatch):
    run, seen = training("mest_s", 0.9, weight=torch.ones(20, 20), epochs=32, steps_per_epoch=2), []
    run.theta.grad = torch.zeros_like(run.theta)
    monkeypatch.setattr(run.method, "update", lambda run, parts: seen.append((run.step / 2, parts)))
    for run.step in range(64):
        run.method.before_step(run)
    assert seen == [(0, 2), (5, 2), (10, 2), (15, 2), (18, 1), (20, 1), (24, 0), (25, 0), (30, 0)]


def test_mest_importance_counts_gradients_where_asked():
    for lam, kept in ((0.0, 4), (1.0, 0)):
        run = training("mest", 0.5, weight=of([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]]), lam=lam, **CIFAR)
        run.method.mask.fill_(True)
        run.theta.data = torch.arange(1, 11) / of(10)
        run.theta.grad = of([5, 4, 3, 2, 1, 0, 0, 0, 0, 0])
        run.method.densities = lambda parts: (0.4, 0.4)
        run.method.update(run, 2)
        assert int(run.method.mask[6:].sum()) == kept


# ---- SRigL (B7)

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


# ---- what the worked numbers above do not reach

def test_snfs_what_grows_again_at_once_keeps_its_value():
    run = two_layers("snfs", 0.3)
    run.method.set_mask(torch.tensor([1, 1, 0, 0, 1, 1, 1, 1, 1, 0]).bool())
    with torch.no_grad():
        run.theta.copy_(torch.cat([W.flatten(), of([0.9, -0.6, 0.3, 0])]) * run.method.mask)
    # the momentum of -.2, which is dropped, is the largest
    run.optimizer.state[run.theta]["momentum_buffer"] = of([1, -9, 3, 0.5, -0.25, 4, 0.5, -0.1, 0.2, 0.7])
    run.method.update(run, 0.5)
    assert run.method.mask[1] and run.theta[1].item() == -0.2


def test_mest_drops_to_one_weight_a_layer_at_least():
    model = SparseModel(nn.Sequential(*(linear(torch.ones(10, 10, dtype=torch.float64)) for _ in range(3))), "mest", 0.99)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 160, 1)  # 3 weights of 300: a fifth less would be 2.4
    run.start()
    model(torch.ones(2, 10, dtype=torch.float64)).sum().backward()
    run.update()
    assert model.layer_nnz().tolist() == [1, 1, 1]


def test_srigl_keeps_as_many_neurons_as_hold_the_budget():
    size = of([[4, 3, 2, 1], [0.9, 0.8, 0, 0], [0, 0, 0, 0]])
    method = training("srigl", 0.5, weight=size, gamma=1.0).method
    assert method.renewed(size, torch.zeros_like(size), size > 0, 6, 1 / 3, True).sum(1).tolist() == [3, 3, 0]


def test_every_epoch_of_srigl_counts():
    run = training("srigl", 0.5)  # of which less than half the budget may fit into whole neurons
    assert run.method.settled(run)

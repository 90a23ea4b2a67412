"""Spartan, DST, repeated cycles and combinations of our own, with their papers' numbers worked out."""
import math
import re
from pathlib import Path

import pytest
import torch
from canonical import G, W, backward, effective, near, of, step, training, two_layers
from torch import nn

from benchmarks.models import build
from methods import SparseModel, Training
from methods.beyond.cyclic import SPLITS, cycle_lengths
from methods.layout import Layout, Spread


# ---- Spartan (B4)

SOFT = [0.9208557, 0.3668, 0.1756691, 0.1144603, 0.611597, 0.8106179]


def spartan(kept=3, beta=10.0):
    run = training("spartan", 0.5, epochs=100)
    run.method.refresh(run.theta, 1 - kept / 6, beta)
    return run


def test_spartan_soft_mask_and_gradient():
    run = spartan()
    assert run.method.mu.item() == near(-2.5459697)
    assert run.method.soft == near(SOFT)
    assert effective(run) == near([[0.4604278, 0, 0], [0, 0.1834791, -0.3242472]])
    gradient = backward(run).clone()
    assert gradient == near([[1.3573291, -1.8923088, 1.1046368], [-0.0176633, -0.0961514, 5.5469246]])
    for i in range(6):  # the finite difference of Σ G·W·σ(W), its cut aside
        values = []
        for h in (1e-5, -1e-5):
            moved = spartan()
            with torch.no_grad():
                moved.theta[i] += h
            moved.method.refresh(moved.theta, 0.5, 10.0)
            values.append((G.flatten() * moved.theta * moved.method.soft).sum().item())
        assert (values[0] - values[1]) / 2e-5 == pytest.approx(gradient.flatten()[i].item(), abs=1e-6)


def test_spartan_without_anything_to_prune_computes_with_the_weights():
    run = spartan()
    run.method.refresh(run.theta, 0.0, 10.0)
    assert torch.equal(effective(run), W) and torch.equal(backward(run), G)


def test_spartan_tends_to_the_hard_mask():
    assert effective(spartan(beta=1000.0)) == near([[0.5, 0, 0], [0, 0.3, -0.4]])


def test_spartan_schedule():
    run = training("spartan", 0.9, epochs=160, steps_per_epoch=352, weight=torch.ones(10, 12))
    assert [1 - run.method.scheduled(run, t)[0] for t in (0, 5_632, 11_264, 40_000)] == near([1, 0.55, 0.1, 0.1])
    assert [run.method.scheduled(run, t)[1] for t in (0, 28_160, 45_056, 50_000)] == near([1, 6.625, 10, 10])


def test_spartan_freezes_soft_and_hard_masks():
    run = training("spartan", 0.5, epochs=10)
    assert torch.equal(effective(run), W)
    for t in range(10):
        step(run, 0.05 * G)
        if t == 7:
            soft, mask = run.method.soft.clone(), run.method.mask.clone()
    assert torch.equal(soft, run.method.soft) and torch.equal(mask, run.method.mask) and int(mask.sum()) == 3
    assert torch.equal(effective(run), (run.theta * soft * mask).detach().view(2, 3))
    assert backward(run) == near(G * (soft * mask).view(2, 3), 12)


def test_spartan_budget_of_many_weights():
    weight = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    run = training("spartan", 0.98, weight=weight, epochs=100)
    for beta in (1.0, 5.0, 10.0):
        run.method.refresh(run.theta, 0.98, beta)
        assert run.method.soft.sum().item() == pytest.approx(1800, rel=1e-4)


def test_spartan_counts_all_parameters():
    # N = 270,896 prunable weights and M = 1,568 others: scales and shifts of seven normalisations of 16, of 32 and of 64 channels
    others = 2 * 7 * (16 + 32 + 64)
    found = {name: SparseModel(build("resnet20", 10), "spartan", 0.9, budget_of=name).method for name in ("prunable", "all")}
    assert found["all"].layout.others == others == 1_568
    assert found["prunable"].budget == 27_090
    assert found["all"].budget == 25_678 == round(0.1 * (270_896 + others)) - others
    assert found["all"].kept(0.0) == 270_896 and found["all"].exact  # a run asserts that exactly the budget is left


def test_spartan_of_all_parameters_ends_at_its_budget():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))  # N = 64, M = 8 + 16 + 2
    model = SparseModel(net, "spartan", 0.5, budget_of="all")
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 10, 1)
    run.start()
    x, y, active = torch.randn(8, 6), torch.randint(2, (8,)), []
    for _ in range(10):
        run.criterion(model(x), y).backward()
        run.update((x, y))
        active.append(int(model.method.mask.sum()))
    assert active[:3] == [round(0.75 * 90) - 26, 45 - 26, 19] and active[-1] == 19 == model.method.budget
    plain = model.export()
    assert sum(int((p == 0).sum()) for p in plain.parameters()) == 45  # half of all; what is not pruned has none


def test_spartan_of_all_parameters_where_the_others_are_more_than_the_budget():
    with pytest.raises(ValueError, match="leaves 0 weights for 1 layers"):
        SparseModel(nn.Linear(4, 5), "spartan", 0.9, budget_of="all")


# ---- DST (B9)

def test_dst_gradients_and_step():
    run = training("dst_mask", sparsity_penalty=0.01)
    with torch.no_grad():
        run.method.thresholds.copy_(of([0.15, 0.35]))
        run.method.after_step(run)
    assert run.method.mask.view(2, 3).int().tolist() == [[1, 1, 0], [0, 0, 1]]
    assert backward(run) == near([[1.3, -2.72, 0.54], [0.02, -0.135, 6.88]])
    assert run.method.thresholds.grad == near([-1.56, 3.035])
    penalty, = torch.autograd.grad(run.method.added_loss(run), run.method.thresholds)
    assert penalty == near([-0.0086071, -0.0070469])
    run.optimizer.zero_grad()
    step(run)
    assert run.method.thresholds.detach() == near([0.3068592, 0.0472012])


def test_dst_long_tail_of_the_step():
    run = training("dst_mask", weight=of([[0.2, 0.4, 0.7, 1.0, 1.2]]))
    expected = [1 + 0.2 * (2 - 0.8), 1 + 0.4 * 0.4, 1 + 0.7 * 0.4, 1 + 1.0 * 0.4, 1]
    assert backward(run, torch.ones(1, 5, dtype=torch.float64)) == near([expected])


def test_thresholds_on_a_gpu_have_the_same_gradient():
    """Made here on the CPU: of the filters (DST) and of the layers (STR)."""
    layout = Layout(nn.Sequential(nn.Conv2d(3, 4, (3, 2)), nn.Conv2d(4, 6, 3, groups=2), nn.Linear(5, 3)).double())
    delta = torch.randn(layout.size, dtype=torch.float64)
    for spread, sums, count in ((layout.spread_filters, layout.filter_sums, 13), (layout.spread_layers, layout.layer_sums, 3)):
        values = torch.randn(count, dtype=torch.float64, requires_grad=True)
        found, expected = Spread.apply(values, spread, sums), spread(values)
        assert torch.equal(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(y, values, delta)[0] for y in (found, expected)), rtol=0, atol=1e-12)


def test_dst_empty_layer_starts_again():
    run = two_layers("dst_mask", 0.5)
    with torch.no_grad():
        run.method.thresholds.copy_(of([2, 2, 0.7, 0.1]))
    run.method.after_step(run)
    assert run.method.thresholds.tolist() == [0, 0, 0.7, 0.1]
    assert run.model.layer_nnz().tolist() == [6, 2]


def test_dst_learns_its_sparsity():
    run = training("dst_mask", sparsity_penalty=0.5, epochs=100)
    assert not run.method.exact and run.method.mask.all()
    for _ in range(4):
        step(run, torch.zeros_like(W))
    assert int(run.method.mask.sum()) == int((effective(run) != 0).sum()) < 6


# ---- repeated cycles (B12)

@pytest.mark.parametrize("split, lengths", [
    ("constant", [40] * 4), ("linear_down", [64, 48, 32, 16]), ("linear_up", [16, 32, 48, 64]), ("exponential_down", [54, 43, 34, 27]),
    ("exponential_up", [27, 34, 43, 54]), ("plateau", [35, 70, 26, 26]), ("peak", [26, 53, 53, 26]), ("alternating", [53, 26, 53, 26]),
    ("plateau", [33, 66, 20, 20, 20]), ("peak", [26, 53, 40, 26, 13]), ("alternating", [40, 19, 40, 19, 40])])  # of an odd number
def test_cycle_lengths(split, lengths):
    assert cycle_lengths(split, 160, len(lengths)) == lengths


@pytest.mark.parametrize("split", SPLITS)
def test_cycle_lengths_never_exceed_the_total(split):
    for cycles in (1, 2, 5, 19):
        lengths = cycle_lengths(split, 160, cycles)
        assert len(lengths) == cycles and min(lengths) >= 1 and 160 - 2 * cycles <= sum(lengths) <= 160


@pytest.mark.parametrize("name, options, kept", [("cyclic_static", {}, [20] * 4), ("sculpt", {}, [100, 100, 100, 20]),
                                                 ("sculpt", {"initial_sparsity": 0.2}, [160, 160, 160, 20]),
                                                 ("cyclic_static", {"repeats": 2}, [20] * 2)])
def test_cycles_of_one_mask(name, options, kept):
    weight = torch.randn(10, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = training(name, 0.9, weight=weight, epochs=3, level_list="0,0.5,0.8,0.9", **options)
    masks = []
    for cycle in range(len(run.cycles)):
        before = run.theta.detach().clone()
        run.start(cycle)
        masks.append(run.method.mask.clone())
        assert int(masks[-1].sum()) == run.method.budget_at(cycle) and not run.optimizer.state
        assert torch.equal(run.theta, before * masks[-1])
        for _ in range(3):
            step(run, 0.1 * torch.ones_like(weight))
    assert [int(mask.sum()) for mask in masks] == kept
    assert all(torch.equal(a, b) for a, b in zip(masks, masks[1:len(masks) - (name == "sculpt")]))
    assert not (masks[-1] & ~masks[0]).any()


@pytest.mark.parametrize("name", ["sculpt", "cyclic_static"])
def test_a_cycle_may_begin_with_the_graph_of_synflow(name):
    run = training(name, 0.5, weight=torch.ones(10, 20, dtype=torch.float64), graph="synflow")
    assert int(run.method.mask.sum()) == 100


@pytest.mark.parametrize("drawn", [97, 103])
def test_sculpt_keeps_what_chance_left(drawn):
    run = training("sculpt", 0.5, weight=torch.ones(10, 20, dtype=torch.float64), sampler="bernoulli", repeats=2)
    run.method.set_mask(torch.arange(200) < drawn)
    run.start(1)
    assert int(run.method.mask.sum()) == min(drawn, 100) and not run.method.mask[drawn:].any()


def test_cycles_are_as_many_as_those_of_lrr():
    cycles = [len(SparseModel(nn.Linear(30, 30), name, 0.9).method.cycles(5)) for name in ("cyclic_static", "sculpt", "lrr")]
    assert cycles == [math.ceil(math.log(0.1) / math.log(0.8)) + 1] * 3


@pytest.mark.parametrize("graph", ["snip", "synflow"])
def test_cycles_of_a_scored_mask(graph):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    x, y, masks = torch.randn(8, 6), torch.randint(4, (8,)), []
    for net, name, options in zip(nets, ("cyclic_static", graph), ({"graph": graph}, {})):
        model = SparseModel(net, name, 0.8, **options)
        Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 2, 1, batches=lambda n: [(x, y)] * n).start()
        masks.append(model.method.mask)
        assert not model.theta[~model.method.mask].any()
    assert torch.equal(*masks) and int(masks[0].sum()) == 40


@pytest.mark.parametrize("graph", ["random", "snip", "synflow"])
def test_cycles_begin_by_the_active_inputs_where_asked(graph):
    model = SparseModel(nn.Linear(100, 50), "cyclic_static", 0.9, graph=graph, init="sparse")
    x, y = torch.randn(8, 100), torch.randint(50, (8,))
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 2, 1, batches=lambda n: [(x, y)] * n).start()
    inputs = model.method.mask.view(50, 100).sum(1)
    largest = model.theta.view(50, 100).abs().max(1).values
    assert ((largest <= (3 / inputs.clamp_min(1)).sqrt()) & ((inputs == 0) | (largest > 0))).all() and largest.max() > 0.3


@pytest.mark.parametrize("graph, exact", [("random", False), ("snip", True)])
def test_what_chance_leaves_is_exact_for_a_scored_mask(graph, exact):
    assert SparseModel(nn.Linear(6, 20), "cyclic_static", 0.8, graph=graph, sampler="bernoulli").method.exact == exact


def test_cycles_of_a_scored_mask_do_not_depend_on_the_allocation():
    # of er_gse's counts 16.9 (.02 · 10,000 + .51 · 200), the 200 weights of the second layer can take no more than 200
    budgets = [SparseModel(nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 2)), "cyclic_static", 0.5, allocation="er_gse",
                           graph=graph).method.budget for graph in ("random", "snip")]
    assert budgets == [round(5100 / 302 * 200) + 200, 5100]


# ---- our combinations

def test_lrr_with_feather_keeps_dense_weights_and_levels():
    run = training("lrr_feather", 0.5, epochs=1, level_list="0,0.25,0.5", source="last")
    kept = []
    for cycle in range(3):
        run.start(cycle)
        kept.append(int(run.method.mask.sum()))
        assert kept[-1] == run.method.budget_at(cycle)
        if kept[-1] < 6:
            operator = training("feather", 0.5, weight=run.theta.detach().view(2, 3).clone(), ramp_power=0)
            operator.method.refresh(operator.theta, run.method.level(cycle))
            assert torch.equal(effective(run), effective(operator))
        step(run, 0.01 * G)
    assert kept == [6, 4, 3] and (run.theta != 0).all()


def test_granet_with_sampled_growth():
    torch.manual_seed(0)
    net, x, y = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)), torch.randn(8, 20), torch.randint(10, (8,))
    model = SparseModel(net, "granet_gse", 0.9, interval=2, initial_sparsity=0.8, gamma=0.5)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), 40, 1)
    run.start()
    active, grown = [], 0
    for _ in range(40):
        before = model.method.mask.clone()
        run.criterion(model(x), y).backward()
        run.update((x, y))
        active.append(int(model.method.mask.sum()))
        grown += int((model.method.mask & ~before).sum())
    assert active == sorted(active, reverse=True) and active[0] == 180 and active[-1] == 90 and grown > 20


def test_methods_join_by_their_files():
    import methods
    new = {name for name in methods.available() if methods.get(name).__module__.startswith("methods.beyond.")}
    texts = [path.read_text(encoding="utf-8") for path in (Path(methods.__file__).parent / "beyond").glob("*.py")]
    assert new == {name for text in texts for name in re.findall(r'^    name(?:, \w+)? = "(\w+)"', text, re.M)} and len(new) >= 20

"""Static random masks, SET and RigL, with worked numbers."""
import statistics

import pytest
import torch
from canonical import G, W, backward, effective, momentum, near, step, training
from torch import nn

from benchmarks.models import build
from methods import SparseModel, Training
from methods.allocation import allocate

ACTIVE = torch.tensor([True, True, False, False, True, True])
REFERENCE = {"interval": 1, "drop_fraction": 0.25, "update_end": 0.75}  # an update at once, of 25 % of the weights
GSE = {"allocation": "er_gse", "scope": "global", "regrow": "no", "noise": 0, "skip_step": False, "update_end": 0.6,
       "drop_fraction": 0.2}
REGROW = torch.tensor([[1, -5, 3], [0.5, -0.25, 4]], dtype=torch.float64)  # G, but the dropped weight has the largest gradient


def started(net, method, sparsity, epochs=1, steps_per_epoch=1, seed=0, **options):
    model = SparseModel(net, method, sparsity, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    run = Training(model, optimizer, epochs, steps_per_epoch, seed=seed, batches=lambda n: [])
    run.start()
    return run


# ---- Static

@pytest.mark.parametrize("allocation", ["erk", "er", "er_gse", "uniform", "uniform_plus", "balanced"])
def test_static_exact_counts_per_layer(allocation):
    run = started(build("resnet20", 10), "static", 0.9, allocation=allocation)
    assert run.model.layer_nnz().tolist() == run.model.method.counts
    assert int(run.model.method.mask.sum()) == run.model.method.budget
    assert run.model.method.exact


def test_static_exact_sampler_of_six():
    for sparsity, zeros in ((0.75, 4), (0.5, 3), (1 / 3, 2)):
        run = training("static", sparsity)
        assert int((effective(run) == 0).sum()) == zeros


def test_static_masks_are_uniform_and_follow_the_seed():
    masks = torch.stack([started(nn.Linear(20, 10), "static", 0.75, seed=seed).model.method.mask for seed in range(200)])
    frequency = masks.double().mean(0)
    # each weight is active in a quarter of 200 draws: s.d. .031
    assert 0.1 < frequency.min() and frequency.max() < 0.4
    again = started(nn.Linear(20, 10), "static", 0.75, seed=3).model.method.mask
    assert torch.equal(masks[3], again) and not torch.equal(masks[3], masks[4])


def test_static_bernoulli_count_varies():
    # 848,944 weights at density .02 have an s.d. of about 129
    net = build("resnet56", 10)
    model = SparseModel(net, "static", 0.98, sampler="bernoulli", allocation="er_gse")
    assert not model.method.exact
    counts = []
    for seed in range(20):
        Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1, seed=seed).start()
        counts.append(int(model.method.mask.sum()))
    assert abs(statistics.mean(counts) - 16_979) < 4 * 129 / 20**0.5
    assert 70 < statistics.stdev(counts) < 220


def test_sparse_init():
    run = started(nn.Sequential(nn.Linear(400, 200), nn.Conv2d(40, 50, 3)), "static", 0.9, init="sparse", allocation="uniform")
    layout, mask = run.model.layout, run.model.method.mask
    weights = run.theta.detach()
    inputs = layout.filter_sums(mask.float())
    assert inputs.min() >= 20 and len(set(inputs.tolist())) > 10  # rows differ, so the bound does
    bound = layout.spread_filters((3 / inputs).sqrt())
    unit = (weights / bound)[mask]
    assert unit.abs().max() <= 1 and unit.abs().max() > 0.999
    assert unit.square().mean() == pytest.approx(1 / 3, abs=0.01)  # variance 1/κ
    assert unit.mean() == pytest.approx(0, abs=0.03)
    assert not weights[~mask].any()


def test_sparse_init_bound_of_four_inputs():
    run = training("static", 0.0, weight=torch.zeros(5000, 4, dtype=torch.float64), init="sparse")
    assert 0.866 < run.theta.abs().max() <= 0.8660255


def test_sparse_init_draws_biases_from_the_same_range():
    run = started(nn.Linear(400, 2000), "static", 0.9, init="sparse", allocation="uniform")
    inputs = run.model.layout.filter_sums(run.model.method.mask.float())
    unit = run.model.net.bias.detach() * (inputs / 3).sqrt()
    assert unit.abs().max() <= 1
    assert unit.square().mean() == pytest.approx(1 / 3, abs=0.03)


def test_sparse_init_of_a_neuron_without_inputs(monkeypatch):
    """κ is one at least: its weights are zero, and its bias is drawn as for one input."""
    run = started(nn.Linear(4, 2000), "static", 0.5)
    run.model.method.chosen["init"] = "sparse"
    monkeypatch.setattr(run.model.method, "first_mask", lambda score: torch.arange(8000) >= 4000)
    run.start()
    bias = run.model.net.bias.detach()
    assert run.theta.isfinite().all() and not run.theta[:4000].any() and run.theta[4000:].all()
    assert bias.isfinite().all() and 1.7 < bias[:1000].abs().max() <= 3**0.5


def three_layers(method, **options):
    """(Training, what er_gse gives each layer, which falls short of the density, and the same where it is given to others)."""
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(32, 10))
    run = started(net, method, 0.5, epochs=10, steps_per_epoch=100, allocation="er_gse", **options)
    return run, *(allocate(run.model.layout, "er_gse", 0.5, redistribute=r) for r in (False, True))


def test_what_er_gse_falls_short_of_is_given_to_others_on_request():
    for redistribute in (False, True):
        run, *counts = three_layers("static", redistribute=redistribute)
        assert run.model.layer_nnz().tolist() == run.model.method.counts == counts[redistribute]
        assert run.model.method.budget == sum(counts[redistribute]) == (2559, 2680)[redistribute]


@pytest.mark.parametrize("method", ["set", "rigl", "gse_uniform"])
def test_updates_fill_what_er_gse_falls_short_of_where_they_count_over_all_layers(method):
    run, counts, _ = three_layers(method, scope="layer", interval=100)
    assert run.model.method.budget == int(run.model.method.mask.sum()) == 2559 and run.model.layer_nnz().tolist() == counts
    run, counts, _ = three_layers(method, scope="global", interval=100)
    assert run.model.method.budget == 2680 and run.model.layer_nnz().tolist() == counts
    for interval, place in ((500, 0), (501, 1), (1000, 1)):  # without any update the first mask is the last
        run, *counts = three_layers(method, scope="global", interval=interval, update_end=0.5)
        assert run.model.method.budget == 2680 and run.model.layer_nnz().tolist() == counts[place]


def test_a_first_graph_that_no_update_fills_is_drawn_again_by_the_active_inputs_alone():
    """With the network's own weights, of which sparse storage keeps those of its connections alone, there is nothing to draw from."""
    idle = dict(scope="global", storage="sparse", interval=1000)
    run, _, counts = three_layers("set", init="sparse", **idle)
    assert run.model.layer_nnz().tolist() == counts and sum(counts) == 2680
    with pytest.raises(ValueError, match="^no update comes that fills what er_gse's first graph lacks of the budget: set redistribute=True$"):
        three_layers("set", init="network", **idle)
    run, *_ = three_layers("set", init="network", sampler="bernoulli", **idle)  # each weight is drawn on its own: no budget to miss
    assert 2400 < len(run.model.method.keys) < 2680


def test_static_mask_and_zeros_never_change():
    run = training("static", 0.5)
    mask = run.model.method.mask.clone()
    for _ in range(10):
        theta = step(run)
        assert torch.equal(run.model.method.mask, mask)
        assert not theta.flatten()[~mask].any() and theta.flatten()[mask].all()
        assert not momentum(run).flatten()[~mask].any()


# ---- RigL: the canonical example, four active weights of which the smallest, -.2, is dropped

def four_active(**options):
    run = training("rigl", 1 / 3, **{**REFERENCE, **options})
    run.model.method.set_mask(ACTIVE)
    with torch.no_grad():
        run.theta.copy_(W.flatten() * ACTIVE)
    return run


def updated(gradient, **options):
    run = four_active(**options)
    step(run, gradient)
    return run


def test_rigl_grows_the_largest_gradient():
    for options in ({}, {"scope": "global", "regrow": "no", "noise": 0}):
        run = updated(G, **options)
        assert run.model.method.mask.view(2, 3).tolist() == [[True, False, True], [False, True, True]]
        assert effective(run) == near([[0.5, 0, 0], [0, 0.3, -0.4]])  # grown at zero, no step taken


def test_rigl_reference_regrows_what_it_dropped():
    run = updated(REGROW)
    assert torch.equal(run.model.method.mask, ACTIVE)
    assert effective(run) == near([[0.5, -0.2, 0], [0, 0.3, -0.4]])


def test_rigl_of_gse_does_not():
    run = updated(REGROW, scope="global", regrow="no", noise=0, skip_step=False)
    assert run.model.method.mask.view(2, 3).tolist() == [[True, False, True], [False, True, True]]
    # the step is taken, by the four weights that were active
    assert effective(run) == near([[0.399995, 0, 0], [0, 0.324997, -0.799996]])
    assert momentum(run)[0, 2] == 0


def test_rigl_clears_the_momentum_of_what_it_grows():
    run = four_active()
    run.optimizer.state[run.theta]["momentum_buffer"] = torch.ones(6, dtype=torch.float64)
    step(run, G)
    assert momentum(run)[0, 2] == 0
    assert momentum(run).flatten()[[0, 4, 5]].tolist() == [1, 1, 1]


def test_rigl_masks_gradients_between_updates():
    run = four_active(interval=100)
    assert backward(run).tolist() == [[1, -2, 0], [0, -0.25, 4]]
    assert run.dense_gradient.tolist() == G.flatten().tolist()


@pytest.mark.parametrize("regrow", ["keeps", "zeroed", "no"])
def test_rigl_regrow(regrow):
    mask, q = {"keeps": (ACTIVE, -0.2), "zeroed": (ACTIVE, 0), "no": ([True, False, True, False, True, True], 0)}[regrow]
    run = updated(REGROW, regrow=regrow)
    assert run.model.method.mask.tolist() == list(mask)
    assert effective(run)[0, 1] == near(q)


@pytest.mark.parametrize("rounding, dropped", [("floor", 1), ("ceil", 2)])
def test_rigl_drop_count(rounding, dropped):
    run = four_active(drop_fraction=0.3, drop_rounding=rounding, regrow="no")  # 1.2 of 4
    step(run, REGROW)
    assert int((ACTIVE & ~run.model.method.mask).sum()) == dropped


def test_no_update_where_they_end():
    """Its share would be 0, and RigL would lose the optimiser's step for nothing."""
    run = started(nn.Linear(30, 20), "rigl", 0.8, epochs=8, steps_per_epoch=1, interval=2, update_end=3 / 8)
    due = []
    for run.step in range(8):
        due.append(run.model.method.due(run))
    assert due == [False, True, *6 * [False]]


@pytest.mark.parametrize("method", ["rigl", "set"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_counts_and_times_of_updates(method, scope):
    net = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
    run = started(net, method, 0.8, epochs=10, steps_per_epoch=10, interval=5, scope=scope, noise=0)
    before, elsewhere, moved = run.model.layer_nnz().tolist(), False, 0
    for t in range(100):
        mask = run.model.method.mask.clone()
        run.model(torch.randn(8, 30)).square().mean().backward()
        run.update()
        changed = not torch.equal(mask, run.model.method.mask)
        assert not changed or ((t + 1) % 5 == 0 and t < 75)
        moved += changed
        assert int(run.model.method.mask.sum()) == run.model.method.budget == 160
        elsewhere |= run.model.layer_nnz().tolist() != before
        assert not run.model.method(run.theta)[~run.model.method.mask].any()
    assert moved >= 10
    assert elsewhere == (scope == "global")


def test_set_grows_uniformly_at_zero():
    times = torch.zeros(2, 10)
    options = {"interval": 1, "drop_fraction": 0.25, "noise": 0, "regrow": "no"}
    for seed in range(400):
        run = started(nn.Linear(10, 2, bias=False), "set", 0.5, epochs=10, seed=seed, **options)
        run.model.method.set_mask(torch.arange(20) < 10)
        run.optimizer.state[run.theta]["momentum_buffer"] = torch.ones(20)
        run.model(torch.ones(1, 10)).sum().backward()
        run.update()
        grown = run.model.method.mask & (torch.arange(20) >= 10)
        assert int(grown.sum()) == 2 and int(run.model.method.mask.sum()) == 10
        assert not run.theta[grown].any() and not momentum(run, run.theta)[grown].any()
        times += grown.view(2, 10)
    assert times[0].sum() == 0 and times[1].sum() == 800
    # 80 expected at each of ten places, s.d. 8; chi-square of 9 degrees of freedom
    assert ((times[1] - 80) ** 2 / 80).sum() < 28 and times[1].min() < times[1].max()


# ---- RigL in GSE's figures: ResNet-56, 390 steps an epoch, ΔT = 1000, α₀ = .2, T_end = 120 of 200 epochs

@pytest.fixture
def schedule(monkeypatch):
    """{step: α} of a whole run."""
    run = started(nn.Linear(30, 20), "rigl", 0.9, epochs=200, steps_per_epoch=390, interval=1000, **GSE)
    seen = {}
    monkeypatch.setattr(run.model.method, "update", lambda run, fraction: seen.setdefault(run.step, fraction))
    for run.step in range(200 * 390):
        assert run.model.method.before_step(run) is not False
    return seen


def test_gse_update_times_and_alpha(schedule):
    assert list(schedule) == list(range(999, 46_000, 1000))  # 46 updates
    assert [schedule[t] for t in (999, 23_999, 45_999)] == [near(0.199775, 6), near(0.0959801), near(0.000145, 6)]


@pytest.mark.parametrize("sparsity, kept", [(0.9, 84_894), (0.95, 42_447), (0.98, 16_979)])
def test_gse_targets_on_resnet56(sparsity, kept):
    assert SparseModel(build("resnet56", 10), "rigl", sparsity, **GSE).method.budget == kept


def test_gse_drops_to_its_count_on_resnet56():
    torch.manual_seed(0)
    run = started(build("resnet56", 10), "rigl", 0.98, epochs=200, steps_per_epoch=390, interval=1, **GSE)
    before = run.model.method.mask.clone()
    run.model(torch.randn(2, 3, 32, 32)).sum().backward()
    run.update()
    assert int((before & run.model.method.mask).sum()) == 13_583  # int(N d (1 - α))
    assert int(run.model.method.mask.sum()) == 16_979


def test_first_biases_are_uniform_by_the_active_inputs_of_their_neuron():
    run = started(nn.Linear(400, 200), "static", 0.9, init="sparse")
    scaled = run.model.net.bias.detach() * run.method.mask.view(200, 400).sum(1).sqrt()
    assert -3 ** 0.5 <= scaled.min() < -1.6 and 1.6 < scaled.max() <= 3 ** 0.5 and abs(scaled.mean()) < 0.25


# ---- a second training

def following(run, epochs, seed=0):
    """The next Training of the same model and optimiser, begun."""
    other = Training(run.model, run.optimizer, epochs, 1, seed=seed)
    with pytest.warns(UserWarning, match="trained before"):
        other.start()
    return other


@pytest.mark.filterwarnings("ignore:set cannot change its mask in time")
def test_an_idle_training_leaves_the_next_one_its_layers_counts():
    """er_gse's are given to other layers where no update comes, and only there."""
    net = nn.Sequential(nn.Linear(20, 64), nn.Linear(64, 64), nn.Linear(64, 4))
    model = SparseModel(net, "set", 0.5, scope="global", allocation="er_gse", interval=10)
    found = []
    for epochs in (100, 5, 100):
        run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), epochs, 1)
        run.start()
        found.append(model.layer_nnz().tolist())
    assert found[0] == found[2] != found[1] and sum(found[1]) == model.method.budget > sum(found[0])


def test_what_enters_the_next_training_s_first_mask_starts_at_zero():
    """Without skip_step the step after an update moves what was dropped."""
    run = training("set", 0.5, interval=1, drop_fraction=1.0, weight=torch.randn(20, 30, dtype=torch.float64))
    for _ in range(4):
        step(run, torch.randn(20, 30, dtype=torch.float64))
    before = run.model.method.mask.clone()
    assert run.theta[~before].any()
    following(run, 10, seed=1)
    entered = run.model.method.mask & ~before
    assert entered.any() and not run.theta[entered].any()


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow", "powerprop_gmp"])
def test_a_start_that_is_refused_leaves_the_training_in_progress_its_mask(name):
    options, batch = {"decay_of": "q"} if name == "powerprop_gmp" else {}, (torch.randn(16, 12), torch.arange(16) % 4)
    model = SparseModel(nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4)), name, 0.8, **options)
    groups = [{"params": [p]} for p in model.parameters()]
    run = Training(model, torch.optim.SGD(groups, lr=0.1, weight_decay=1e-4), 4, 4, batches=lambda n: [batch] * n)
    run.start()
    for _ in range(run.total_steps):
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
        run.update(batch)
    mask = model.method.mask.clone()
    with pytest.warns(UserWarning, match="trained before"), pytest.raises(ValueError):
        Training(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4), 4, 4).start()
    assert torch.equal(model.method.mask, mask) and not mask.all()


def test_the_biases_of_all_layers_that_share_a_weight_are_drawn():
    net = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 4))
    net[1].weight = net[0].weight
    for module in net:
        nn.init.constant_(module.bias, 9.0)
    model = SparseModel(net, "static", 0.5, init="sparse")
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1).start()
    assert all(module.bias.abs().max() < 2 for module in net) and not torch.equal(net[0].bias, net[1].bias)

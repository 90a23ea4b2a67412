"""Static random masks: the first graph and the first weights, with which all dynamic methods start."""
import statistics

import pytest
import torch
from canonical import effective, momentum, step, training
from torch import nn

from benchmarks.models import build
from methods import SparseModel, Training
from methods.allocation import allocate


def started(net, method, sparsity, epochs=1, steps_per_epoch=1, seed=0, **options):
    model = SparseModel(net, method, sparsity, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    run = Training(model, optimizer, epochs, steps_per_epoch, seed=seed, batches=lambda n: [])
    run.start()
    return run


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


def test_first_biases_are_uniform_by_the_active_inputs_of_their_neuron():
    run = started(nn.Linear(400, 200), "static", 0.9, init="sparse")
    scaled = run.model.net.bias.detach() * run.method.mask.view(200, 400).sum(1).sqrt()
    assert -3 ** 0.5 <= scaled.min() < -1.6 and 1.6 < scaled.max() <= 3 ** 0.5 and abs(scaled.mean()) < 0.25


def test_the_biases_of_all_layers_that_share_a_weight_are_drawn():
    net = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(20, 4))
    net[1].weight = net[0].weight
    for module in net:
        nn.init.constant_(module.bias, 9.0)
    model = SparseModel(net, "static", 0.5, init="sparse")
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1).start()
    assert all(module.bias.abs().max() < 2 for module in net) and not torch.equal(net[0].bias, net[1].bias)

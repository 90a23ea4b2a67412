"""GSE: candidates and updates, with worked numbers. Its samplers are in test_activity.py."""
import math
from types import SimpleNamespace

import pytest
import torch
from canonical import G, W, effective, linear, momentum, near, step, training
from scipy.stats import chisquare
from scoring import SWAPPED, linear_in_the_output, started, with_four_active
from torch import nn
from torch.nn import functional as F

from benchmarks.models import build
from methods import gse

EYE = torch.eye(3, dtype=torch.float64)
VARIANTS = ["gse_uniform", "gse_grabo", "gse_graest"]


# ---- GSE: candidates

def sparse_layer(method="gse_grabo", gamma=0.34):
    """A layer (4, 6) of 3 active weights and γ such that a single pair is drawn."""
    torch.manual_seed(0)
    batch = torch.randn(20, 6), torch.randn(20, 4)
    return started(nn.Linear(6, 4, bias=False), method, 0.875, [batch], linear_in_the_output, gamma=gamma)


@pytest.mark.parametrize("name", VARIANTS)
def test_pairs_are_drawn_in_proportion_to_g_times_f(name):
    run = sparse_layer(name)
    method, (pair,) = run.model.method, run.model.method.explore(run, run.batches())[0]
    expected = torch.outer(pair[0], pair[1][0]).flatten().double()
    expected = expected / expected.sum()
    counts = torch.zeros(24, dtype=torch.float64)
    for run.step in range(4000):
        counts += method.sample(run, [pair])
    inactive = ~method.mask
    assert not counts[method.mask].any()
    observed = torch.cat([counts[inactive], 4000 - counts.sum()[None]])  # the rest hit active weights
    predicted = 4000 * torch.cat([expected[inactive], expected[method.mask].sum()[None]])
    assert chisquare(observed, predicted).pvalue > 0.01
    if name != "gse_uniform":
        assert chisquare(counts[inactive]).pvalue < 1e-6


def test_groups_have_their_own_inputs():
    module = nn.Conv2d(4, 8, 1, groups=2, bias=False)
    x = torch.ones(1, 4, 3, 3)
    x[:, 0] = x[:, 3] = 0  # the first group sees its second channel alone, the second its first
    run = started(module, "gse_grabo", 0.875, [(x, torch.ones(1, 8, 3, 3))], linear_in_the_output, gamma=100)
    candidates = run.model.method.sample(run, run.model.method.explore(run, run.batches())[0]).view(8, 2)
    inactive = ~run.model.method.mask.view(8, 2)
    assert torch.equal(candidates, inactive & torch.tensor([[False, True]] * 4 + [[True, False]] * 4))


def test_number_of_candidates():
    net = nn.Sequential(nn.Linear(100, 100, bias=False), nn.ReLU(), nn.Linear(100, 4, bias=False))
    batch = torch.randn(8, 100), torch.randn(8, 4)
    run = started(net, "gse_uniform", 0.9, [batch], linear_in_the_output, allocation="uniform", gamma=0.5)
    method = run.model.method
    first = int(method.sample(run, run.model.method.explore(run, run.batches())[0])[:10_000].sum())
    # 500 pairs with replacement, of which a tenth are active and some the same
    assert 400 < first <= 500
    method.mask[:10_000] = torch.arange(10_000) % 10 < 4  # two fifths full: 2000 pairs are drawn still
    assert int(method.sample(run, run.model.method.explore(run, run.batches())[0])[:10_000].sum()) <= 2000
    method.mask[10_000:] = torch.arange(400) % 2 == 0  # half full: every inactive weight is a candidate
    assert torch.equal(method.sample(run, run.model.method.explore(run, run.batches())[0])[10_000:], ~method.mask[10_000:])


def test_unlimited_uniform_exploration_is_growth_as_in_rigl():
    torch.manual_seed(0)
    batch = torch.randn(20, 6), torch.randn(20, 4)
    net = nn.Linear(6, 4, bias=False)
    run = started(net, "gse_uniform", 0.75, [batch], linear_in_the_output, gamma=1000, drop_fraction=0.5)
    before = run.model.method.mask.clone()
    gradient = run.gradient(run.theta * before, run.batches()).abs().masked_fill(before, -1)
    run.model.method.update(run, 0.5)
    grown = run.model.method.mask & ~before
    assert grown.sum() == 3 and set(grown.nonzero().flatten().tolist()) == set(gradient.topk(3).indices.tolist())


# ---- GSE: the update

@pytest.fixture
def counted(monkeypatch):
    """The counts that updates ask for: first grown, then kept."""
    calls, keep_each = [], gse.keep_each

    def record(score, counts, sizes):
        calls.append(list(counts))
        return keep_each(score, counts, sizes)
    monkeypatch.setattr(gse, "keep_each", record)
    return calls


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_grow_then_prune(name, scope, counted):
    run = started(linear(W), name, 1 / 3, [(EYE, G.T)], linear_in_the_output, interval=1, drop_fraction=0.25, scope=scope)
    with_four_active(run)
    run.optimizer.state[run.theta]["momentum_buffer"] = torch.ones(6, dtype=torch.float64)
    step(run, G)
    assert run.model.method.mask.view(2, 3).tolist() == SWAPPED
    assert counted == [[5], [4]]
    assert effective(run)[0, 2] == 0 and momentum(run)[0, 2] == 0  # grown at zero; the step moves what was active
    assert effective(run).flatten()[[0, 4, 5]] == near([0.5 - 0.1 * 1.9, 0.3 - 0.1 * 0.65, -0.4 - 0.1 * 4.9])


def test_growth_of_each_layer_is_rounded_up(counted):
    # k = min(⌈α|A|⌉, |S|): 1.2 of four weights are two
    run = started(linear(W), "gse", 1 / 3, [(EYE, G.T)], linear_in_the_output, scope="layer")
    with_four_active(run).model.method.update(run, 0.3)
    assert counted == [[6], [4]]


@pytest.mark.parametrize("name", [*VARIANTS, "rigl"])
def test_growth_is_scored_on_the_sparse_network(name):
    """Whatever inactive weights have stored, their gradient is that at zero."""
    run = started(linear(W), name, 1 / 3, [(EYE, torch.zeros(3, 2, dtype=torch.float64))], F.mse_loss, score_batches="ceil10")
    with_four_active(run)
    with torch.no_grad():
        run.theta[2], run.theta[3] = 1e-3, 5  # with the loss Σ q²/6, gradients of q/3 unless the mask is seen
    gradients, gradient = [], run.gradient
    run.gradient = lambda *args: gradients.append(gradient(*args)) or gradients[-1]
    run.model.method.update(run, 0.25)
    assert gradients[0] == near(W.flatten() * run.theta.new_tensor([1, 1, 0, 0, 1, 1]) / 3)


@pytest.mark.parametrize("kind, computed", [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)])
def test_scores_are_computed_as_precisely_as_the_network(kind, computed):
    outputs = []
    run = started(linear(W.to(kind)), "gse", 1 / 3, [], lambda output, y: outputs.append(output) or output.sum())
    run.gradient(torch.ones_like(run.theta), [(EYE.to(kind), None)])
    assert outputs[0].dtype == computed


def test_literal_signs_are_told_by_the_option(monkeypatch):
    seen = []
    monkeypatch.setattr(gse, "Activity", lambda *args, literal: seen.append(literal) or SimpleNamespace(weights=list, gradient=None))
    for options in ({}, {"signs": "corrected"}, {"signs": "literal"}):
        run = started(linear(W), "gse_graest", 1 / 3, [], linear_in_the_output, **options)
        run.model.method.explore(run, [])
    assert seen == [False, False, True]


def test_gse_scores_on_fresh_batches_unless_told():
    other = torch.tensor([[0, 0, 1], [2, 0, 0]], dtype=torch.float64)
    for choice, grown in (("ceil10", 3), ("train_batch", 2)):
        run = started(linear(W), "gse", 1 / 3, [(EYE, other.T)], linear_in_the_output, interval=1, drop_fraction=0.25,
                      score_batches=choice)
        with_four_active(run)
        (run.model(EYE) * G.T).sum().backward()
        run.update((EYE, G.T))
        assert run.model.method.mask[grown] and int(run.model.method.mask.sum()) == 4
        assert run.model.method.score_batches == choice and type(run.model.method).score_batches.default == "ceil10"


@pytest.mark.parametrize("sparsity, grown, kept", [(0.9, 101_873, 84_894), (0.95, 50_936, 42_447), (0.98, 20_374, 16_979)])
def test_targets_on_resnet56(sparsity, grown, kept, counted):
    torch.manual_seed(0)
    run = started(build("resnet56", 10), "gse", sparsity, [(torch.randn(2, 3, 32, 32), torch.arange(2))], F.cross_entropy,
                  allocation="er_gse")
    run.model.method.update(run, 0.2)
    assert counted == [[grown], [kept]]
    assert int(run.model.method.mask.sum()) == kept


def test_targets_are_free_of_binary_truncation(counted):
    run = started(nn.Linear(100, 10, bias=False), "gse", 0.9, [(torch.randn(8, 100), torch.randn(8, 10))], linear_in_the_output)
    run.model.method.update(run, 0.2)
    assert counted == [[120], [100]]


def test_alpha_and_times_of_updates(monkeypatch):
    run = training("gse", 0.9, epochs=200, steps_per_epoch=390, weight=torch.ones(10, 12, dtype=torch.float64), interval=1000)
    seen = {}
    monkeypatch.setattr(run.model.method, "update", lambda run, fraction: seen.setdefault(run.step, fraction))
    for run.step in range(999, 200 * 390, 1000):
        run.model.method.before_step(run)
    assert list(seen) == list(range(999, 46_000, 1000))
    assert [seen[t] for t in (999, 23_999, 45_999)] == [near(0.199775, 6), near(0.0959801), near(0.000145, 6)]
    assert seen[22_999] == near(0.1 * (1 + math.cos(math.pi * 22_999 / 46_800)))


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", VARIANTS)
def test_counts_in_training(name, scope):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
    batch = torch.randn(32, 30), torch.randint(10, (32,))
    run = started(net, name, 0.8, [batch], F.cross_entropy, epochs=10, steps_per_epoch=10, interval=5, scope=scope)
    before, moved = run.model.layer_nnz().tolist(), 0
    for t in range(100):
        mask = run.model.method.mask.clone()
        F.cross_entropy(run.model(batch[0]), batch[1]).backward()
        run.update(batch)
        changed = not torch.equal(mask, run.model.method.mask)
        assert not changed or ((t + 1) % 5 == 0 and t <= 60)
        moved += changed
        assert int(run.model.method.mask.sum()) == 160
        assert scope == "global" or run.model.layer_nnz().tolist() == before
        assert not run.model.method(run.theta)[~run.model.method.mask].any()
    assert moved >= 8


@pytest.mark.parametrize("name", VARIANTS)
def test_the_last_updates_do_not_fall_below_the_budget(name):
    # N (1 - s) = 23.76 rounds to 24, and a small share grown on top of it truncates to 23
    net = nn.Sequential(nn.Linear(9, 16, bias=False), nn.ReLU(), nn.Linear(16, 6, bias=False))
    run = started(net, name, 0.901, [(torch.randn(8, 9), torch.randn(8, 6))], linear_in_the_output)
    run.model.method.update(run, 1e-4)
    assert int(run.model.method.mask.sum()) == run.model.method.budget == 24


def test_a_first_mask_below_the_budget_grows_to_it_by_the_smallest_share():
    method = started(nn.Linear(9, 26, bias=False), "gse", 0.899, [(torch.randn(8, 9), torch.randn(8, 26))], linear_in_the_output).model.method
    assert method.budget == 24  # of 23.634
    assert method.grown_and_pruned([20], [100], 1e-4) == ([24], [24])


def test_no_more_grow_than_there_are_candidates():
    method = started(nn.Linear(100, 10, bias=False), "gse", 0.9, [(torch.randn(8, 100), torch.randn(8, 10))], linear_in_the_output).model.method
    assert method.grown_and_pruned([100], [5], 0.2) == ([105], [100])
    assert method.grown_and_pruned([90], [5], 0.2) == ([95], [95])

"""SET, and the options that it shares with RigL, with worked numbers."""
import pytest
import torch
from canonical import G, W, effective, linear, near, step, training
from scipy.stats import chisquare
from scoring import FOUR, SWAPPED, linear_in_the_output, prepared, started, with_four_active
from torch import nn

REGROW = torch.tensor([[1, -5, 3], [0.5, -0.25, 4]], dtype=torch.float64)  # G, but the dropped weight has the largest gradient
ONE_LAYER = {"noise": 0, "update_end": 0.75}
EYE = torch.eye(3, dtype=torch.float64)


@pytest.mark.parametrize("scope, sampler", [("layer", "exact"), ("global", "exact"), ("global", "bernoulli")])
def test_set_keeps_its_counts_and_grows_at_zero(scope, sampler):
    net = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 10))
    run = started(net, "set", 0.8, [], None, epochs=10, steps_per_epoch=10, interval=5, regrow="no", scope=scope, sampler=sampler)
    before, updates = run.model.layer_nnz().tolist(), 0
    torch.manual_seed(0)
    for _ in range(100):
        mask = run.model.method.mask.clone()
        run.model(torch.randn(8, 30)).square().mean().backward()
        run.update()
        grown = run.model.method.mask & ~mask
        updates += bool(grown.any())
        assert not run.theta[grown].any() and not run.optimizer.state[run.theta]["momentum_buffer"][grown].any()
        if scope == "layer":
            assert run.model.layer_nnz().tolist() == before
        elif updates or sampler == "exact":
            assert int(run.model.method.mask.sum()) == run.model.method.budget == 160
    assert updates >= 10


def test_set_grows_uniformly():
    run = training("set", 0.5, weight=torch.ones(10, 12, dtype=torch.float64), regrow="no", noise=0)
    method, start = run.model.method, run.model.method.mask.clone()
    counts = torch.zeros(120)
    for run.step in range(2000):
        method.set_mask(start)
        method.update(run, 0.05)  # 3 of 60
        counts += method.mask & ~start
    assert counts.sum() == 6000 and not counts[start].any()
    assert chisquare(counts[~start]).pvalue > 0.01


def test_global_scope_drifts_towards_where_the_zeros_are():
    net = nn.Sequential(nn.Linear(100, 100, bias=False), nn.Linear(10, 10, bias=False))
    run = started(net, "set", 0.9, [], None, scope="global", regrow="no", allocation="er_gse")
    before = run.model.layer_nnz()
    run.model.method.update(run, 0.5)
    assert run.model.layer_nnz()[0] > before[0] and run.model.layer_nnz().sum() == before.sum()


@pytest.mark.parametrize("rounding, dropped", [("floor", 1), ("ceil", 2)])
def test_drop_rounding(rounding, dropped):
    run = with_four_active(training("set", 1 / 3, drop_rounding=rounding, regrow="no", **ONE_LAYER))
    run.model.method.update(run, 0.3)  # 1.2 weights
    assert int((FOUR & ~run.model.method.mask).sum()) == dropped
    assert int(run.model.method.mask.sum()) == 4


def test_a_global_drop_is_not_cut_by_binary_fractions():
    method = started(nn.Linear(25, 40, bias=False), "set", 0.9, [], None, scope="global").model.method
    assert method.dropped_and_grown([100], 0.2) == ([80], [100])  # where int(1000 · (1 − .9) · .8) is 79


def test_a_nearly_full_layer_drops_no_more_than_it_can_grow():
    method = started(nn.Linear(5, 2, bias=False), "set", 0.1, [], None, regrow="no").model.method
    assert method.dropped_and_grown([9], 0.3) == ([8], [9])  # two of nine would have one free place


@pytest.mark.parametrize("regrow, mask, first", [
    ("keeps", FOUR.view(2, 3).tolist(), -0.2),
    ("zeroed", FOUR.view(2, 3).tolist(), 0.0),
    ("no", SWAPPED, 0.0),
])
def test_regrowth_of_what_was_just_dropped(regrow, mask, first):
    run = with_four_active(training("rigl", 1 / 3, interval=1, drop_fraction=0.25, regrow=regrow, skip_step=True, **ONE_LAYER))
    step(run, REGROW)
    assert run.model.method.mask.view(2, 3).tolist() == mask
    assert effective(run) == near([[0.5, first, 0], [0, 0.3, -0.4]])


@pytest.mark.parametrize("regrow", ["keeps", "zeroed"])
def test_what_grows_again_at_once_keeps_its_momentum(regrow):
    """As in rigl-reproducibility, whose buffers follow the final mask."""
    run = with_four_active(training("rigl", 1 / 3, interval=2, drop_fraction=0.3, regrow=regrow, skip_step=True, **ONE_LAYER))
    step(run, G)
    momentum = run.optimizer.state[run.theta]["momentum_buffer"].clone()
    with torch.no_grad():
        run.theta[1] = 0.01  # the smallest, which one weight of four makes drop
    step(run, REGROW)
    assert effective(run)[0, 1] == near(0.01 if regrow == "keeps" else 0.0)
    assert run.model.method.mask.view(2, 3).tolist() == FOUR.view(2, 3).tolist() and momentum[1] != 0
    assert torch.equal(run.optimizer.state[run.theta]["momentum_buffer"], momentum)


def test_drop_noise_is_small_and_only_on_the_drop_score():
    run = with_four_active(training("set", 1 / 3, noise=1e-5, update_end=0.75))
    assert type(run.model.method).options()["noise"].default == 1e-5
    run.theta.data[1] = -0.300001  # all but a tie with .3
    dropped = set()
    for run.step in range(40):
        run.model.method.set_mask(FOUR)
        before = run.theta.detach().clone()
        run.model.method.update(run, 0.25)
        assert torch.equal(run.theta.detach(), before)
        dropped |= set((FOUR & ~run.model.method.mask).nonzero().flatten().tolist())
    assert dropped <= {1, 4} and len(dropped) == 2


def test_drop_noise_is_normal():
    # of two weights half a standard deviation apart the smaller is dropped with probability Φ(.5 / √2) = .638
    run, dropped = with_four_active(training("set", 1 / 3, noise=0.1, regrow="no", update_end=0.75)), torch.zeros(6)
    run.theta.data = torch.tensor([2, 0.3, 0, 0, 0.35, 2], dtype=torch.float64)
    for run.step in range(400):
        run.model.method.set_mask(FOUR)
        run.model.method.update(run, 0.25)
        dropped += FOUR & ~run.model.method.mask
    assert dropped.sum() == 400 and dropped[1].item() == pytest.approx(255, abs=39)  # four standard deviations


def test_a_gradient_that_is_no_number_leaves_the_budget():
    run = with_four_active(training("rigl", 1 / 3, interval=1, drop_fraction=0.25, **ONE_LAYER))
    step(run, torch.full_like(G, torch.nan))
    assert int(run.model.method.mask.sum()) == 4 and run.theta.isfinite().all()


def test_rigl_on_fresh_batches():
    # the dense gradient of the training batch is G, that of the two scoring batches 3 G' in which (1, 0) is the largest
    other = torch.tensor([[0, 0, 1], [2, 0, 0]], dtype=torch.float64)
    run = prepared(linear(W), "rigl", 1 / 3, [(EYE, other.T), (EYE, 2 * other.T)], linear_in_the_output, score_batches="ceil10",
                   interval=1, drop_fraction=0.25, **ONE_LAYER)
    run.start()
    with_four_active(run)
    step(run, G)
    assert run.model.method.mask.view(2, 3).tolist() == [[True, False, False], [True, True, True]]

"""SET, RigL and GSE's schedule, with worked numbers."""
import pytest
import torch
from canonical import G, W, backward, effective, momentum, near, step, training
from test_first_graph import started
from torch import nn

from benchmarks.models import build
from methods import SparseModel, Training

ACTIVE = torch.tensor([True, True, False, False, True, True])
REFERENCE = {"interval": 1, "drop_fraction": 0.25, "update_end": 0.75}  # an update at once, of 25 % of the weights
GSE = {"allocation": "er_gse", "scope": "global", "regrow": "no", "noise": 0, "skip_step": False, "update_end": 0.6,
       "drop_fraction": 0.2}
REGROW = torch.tensor([[1, -5, 3], [0.5, -0.25, 4]], dtype=torch.float64)  # G, but the dropped weight has the largest gradient


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

"""GraNet, with worked numbers."""
import pytest
import torch
from canonical import W, effective, momentum, near, step, training
from torch import nn
from torch.nn import functional as F

from methods import SparseModel, Training

N = 1_000_000
CIFAR = {"epochs": 160, "steps_per_epoch": 352}  # fin = ⌊80 · 352 / 1000⌋ = 28


def prunings(monkeypatch, **options):
    """{update: sparsity pruned to} and {update: α} of a run on CIFAR to 90 %."""
    run = training("granet", 0.9, weight=torch.ones(10, 12, dtype=torch.float64), **CIFAR, **options)
    method, sparsities, alphas = run.model.method, {}, {}
    run.model.layout.size = N  # so that counts tell the sparsity to six digits
    monkeypatch.setattr(method, "prune", lambda run, kept: sparsities.setdefault((run.step + 1) / 1000, 1 - kept / N))
    monkeypatch.setattr(method, "update", lambda run, fraction: alphas.setdefault((run.step + 1) // 1000, fraction))
    for run.step in range(999, 160 * 352, 1000):
        method.after_step(run)
    return sparsities, alphas


def test_schedule(monkeypatch):
    sparsities, alphas = prunings(monkeypatch)
    assert list(sparsities) == list(range(1, 29))
    assert [sparsities[i] for i in (1, 14, 28)] == [near(0.5413448, 6), near(0.85, 6), near(0.9, 6)]
    assert list(alphas) == list(range(1, 57))  # regeneration goes on to the end
    assert alphas[28] == near(0.254709, 6)


def test_the_last_pruning_is_the_one_that_the_share_names():
    """.29 of 100 steps are 28.999… in binary."""
    run, seen = training("granet", 0.9, weight=torch.ones(10, 12), epochs=100, interval=1, prune_end=0.29, regenerate=False), []
    run.model.method.prune = lambda run, kept: seen.append(kept)
    for run.step in range(99):
        run.model.method.after_step(run)
    assert len(seen) == 29


def test_nothing_moves_before_the_pruning_starts(monkeypatch):
    sparsities, alphas = prunings(monkeypatch, prune_start=20 / 160)  # ini = ⌊20 · 352 / 1000⌋ = 7
    assert list(sparsities) == list(range(7, 29)) and list(alphas) == list(range(7, 57))


def test_literal_schedule_stops_before_the_target(monkeypatch):
    sparsities, _ = prunings(monkeypatch, exact_k=False)
    assert list(sparsities) == list(range(1, 28))
    kept = [round(N * (1 - sparsities[i])) for i in (1, 14, 27)]  # int(N d) - 1, of N d = 458,655.2, 150,000 and 100,018.2
    assert kept[::2] == [458_654, 100_017] and 149_998 <= kept[1] <= 149_999  # where N d is whole, int() depends on its last bit


def test_literal_count_is_cut_off():
    """The last of the released code's updates of ResNet-20 leaves int(N d) - 1 weights: d is .1000182, N d is 27,094.54."""
    run, kept = training("granet", 0.9, weight=torch.ones(1, 270_896), exact_k=False, **CIFAR), []
    run.model.method.prune, run.model.method.update = lambda run, count: kept.append(count), lambda run, fraction: None
    run.step = 27_000 - 1
    run.model.method.after_step(run)
    assert kept == [27_093]


def test_alpha():
    run = training("granet", 0.9, weight=torch.ones(10, 12), **CIFAR)
    run.step = 0
    assert run.model.method.fraction(run) == pytest.approx(0.5, abs=1e-6)
    run.step = 160 * 352 - 1
    assert run.model.method.fraction(run) == pytest.approx(0.005, abs=1e-9)


def halved(monkeypatch, **options):
    """The mask after pruning the canonical weights by half, on the way to .5 / .875; regeneration off."""
    run = training("granet", 0.5 / 0.875, interval=1, epochs=10, prune_end=0.2, initial_sparsity=0.0, **options)
    monkeypatch.setattr(run.model.method, "update", lambda run, fraction: None)
    step(run, torch.zeros_like(W))
    return run.model.method.mask.view(2, 3).int().tolist()


def test_exact_by_default_and_one_too_few_in_the_literal_form(monkeypatch):
    assert halved(monkeypatch) == halved(monkeypatch, exact_k=True) == [[1, 0, 0], [0, 1, 1]]
    assert halved(monkeypatch, exact_k=False) == [[1, 0, 0], [0, 0, 1]]
    assert training("granet", 0.5).model.method.exact and not training("granet", 0.5, exact_k=False).model.method.exact


def test_starts_at_half_density_with_erk():
    net = nn.Sequential(nn.Linear(100, 80), nn.Linear(80, 10))
    model = SparseModel(net, "granet", 0.9)
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 10, 10).start()
    assert int(model.method.mask.sum()) == 4400
    assert model.layer_nnz()[1] / 800 > 2 * model.layer_nnz()[0] / 8000
    assert training("granet", 0.9, weight=torch.ones(10, 12), initial_sparsity=0.0).model.method.mask.all()


@pytest.mark.parametrize("options, sparsity", [({}, 0.9), ({"exact_k": False}, 0.5)])
def test_a_first_mask_that_chance_makes_keeps_its_chance(options, sparsity):
    """It is drawn with exact counts only where it has fewer weights than a budget that is to be met."""
    counts = []
    for seed in range(8):
        model = SparseModel(nn.Linear(100, 80), "granet", sparsity, sampler="bernoulli", **options)
        Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 10, 10, seed=seed).start()
        counts.append(int(model.method.mask.sum()))
    assert len(set(counts)) > 6 and min(counts) < 4000 < max(counts)
    assert all(abs(n - 4000) < 5 * 44.7 for n in counts)  # √(8000 / 4) = 44.7


def started(alpha=None, monkeypatch=None, **options):
    run = training("granet", 1 / 3, interval=1, epochs=100, prune_end=0.0, initial_sparsity=1 / 3, **options)
    run.model.method.set_mask(torch.tensor([True, True, False, False, True, True]))
    with torch.no_grad():
        run.theta.copy_(W.flatten() * run.model.method.mask)
    if alpha:
        monkeypatch.setattr(run.model.method, "fraction", lambda run: alpha)
    return run


def test_regeneration_after_the_step(monkeypatch):
    # the step of G comes first: W → .399995, .000002, 0, 0, .324997, -.799996 by the masked gradient
    run = started(0.25, monkeypatch)
    step(run)
    assert run.model.method.mask.view(2, 3).tolist() == [[True, False, True], [False, True, True]]
    assert effective(run) == near([[0.399995, 0, 0], [0, 0.324997, -0.799996]])
    assert momentum(run)[0, 2] == 0 == momentum(run)[0, 1]


def test_what_was_dropped_may_return_with_its_value(monkeypatch):
    run = started(0.25, monkeypatch)
    step(run, torch.tensor([[1, -5, 3], [0.5, -0.25, 4]], dtype=torch.float64))
    assert run.model.method.mask.tolist() == [True, True, False, False, True, True]
    assert effective(run)[0, 1] == near(0.300002)
    run = started(0.25, monkeypatch)
    step(run, torch.tensor([[1, -2.1, 0.3], [0.5, -0.25, 4]], dtype=torch.float64))
    assert run.model.method.mask.tolist() == [True, True, False, False, True, True]
    assert effective(run)[0, 1] == near(0.010002)  # the smallest: dropped, and grown again by its gradient, with its value


def test_regeneration_rounds_up(monkeypatch):
    run = started(0.26, monkeypatch)  # of four: two
    step(run)
    assert run.model.method.mask.view(2, 3).tolist() == [[True, True, True], [False, False, True]]  # by |g|: 3 and 2


def test_weights_and_momentum_are_masked_at_every_step():
    run = training("granet", 0.5, interval=1000, weight=torch.ones(10, 12, dtype=torch.float64))
    run.optimizer.state[run.theta]["momentum_buffer"] = torch.ones(120, dtype=torch.float64)
    step(run, torch.ones(10, 12, dtype=torch.float64))
    mask = run.model.method.mask
    assert int(mask.sum()) == 60
    assert not run.theta[~mask].any() and not momentum(run, mask.view(10, 12)).flatten()[~mask].any()
    assert momentum(run, mask.view(10, 12)).flatten()[mask].all()


def test_what_comes_too_late_is_said():
    """Of 76 steps the first half prune, the first time at step 60; connections regenerate there."""
    with pytest.warns(UserWarning, match="^granet cannot prune in time: of 76 steps, its first update at step 60 comes too late"):
        training("granet", 0.9, interval=60, epochs=4, steps_per_epoch=19, prune_end=0.5, weight=torch.ones(10, 12))


@pytest.mark.parametrize("exact_k", [True, False])
def test_training(exact_k):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
    model = SparseModel(net, "granet", 0.9, interval=5, exact_k=exact_k)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True), 10, 10)
    run.start()
    x, y, counts, late = torch.randn(32, 30), torch.randint(10, (32,)), [], 0
    for t in range(100):
        mask, layers = model.method.mask.clone(), model.layer_nnz().tolist()
        F.cross_entropy(model(x), y).backward()
        run.update()
        counts.append(int(model.method.mask.sum()))
        changed = not torch.equal(mask, model.method.mask)
        assert not changed or (t + 1) % 5 == 0
        if t > 50:
            assert layers == model.layer_nnz().tolist()  # regeneration keeps each layer's count
            late += changed
    assert late >= 5 and sorted(counts, reverse=True) == counts
    assert (counts[-1] == 80) == exact_k and abs(counts[-1] - 80) < 5


@pytest.mark.parametrize("exact_k, left", [(True, 12), (False, 60)])
def test_a_training_shorter_than_an_interval_ends_at_the_target(exact_k, left):
    run, counts = training("granet", 0.9, epochs=3, exact_k=exact_k, weight=torch.rand(10, 12, dtype=torch.float64)), []
    for _ in range(3):
        step(run, torch.zeros(10, 12, dtype=torch.float64))
        counts.append(int(run.model.method.mask.sum()))
    assert counts == [60, 60, left]


def test_a_first_mask_below_the_schedule_is_pruned_no_further():
    """er_gse's first mask falls short of its density; pruning does not fill it up with weights that were never active."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 200), nn.Linear(200, 4))
    model = SparseModel(net, "granet", 0.9, interval=1, allocation="er_gse")
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 100, 1)
    run.start()
    first = run.method.mask.clone()
    assert first.sum() < 0.5 * len(first) - 20
    run.method.prune(run, round(0.5 * len(first)))
    assert torch.equal(run.method.mask, first)


@pytest.mark.parametrize("name", ["granet", "granet_gse"])
@pytest.mark.parametrize("options", [{"allocation": "er_gse"}, {"sampler": "bernoulli"}])
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.52])
def test_the_first_mask_holds_the_budget(name, options, sparsity):
    """Below it, for er_gse falls short and chance may, pruning could never end with the budget."""
    for seed in range(6):
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 40), nn.Linear(40, 4))
        model = SparseModel(net, name, sparsity, **options)
        run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 100, 1, seed=seed)
        run.start()
        assert model.method.exact and int(model.method.mask.sum()) >= model.method.budget == round(model.layout.size * (1 - sparsity))


def test_without_regeneration_it_prunes_alone(monkeypatch):
    """The released code's GMP: nested masks by the same schedule, and no dense gradient."""
    run = training("granet", 0.9, interval=5, epochs=60, weight=torch.randn(20, 20, dtype=torch.float64), regenerate=False)
    monkeypatch.setattr(run.model.method, "growth_score", lambda run: pytest.fail("grows"))
    for _ in range(60):
        before = run.model.method.mask.clone()
        step(run, torch.randn(20, 20, dtype=torch.float64))
        assert not (run.model.method.mask & ~before).any()
    assert int(run.model.method.mask.sum()) == 40
    assert run.dense_steps == 0


def test_below_the_initial_sparsity_the_budget_is_kept():
    torch.manual_seed(0)
    run = training("granet", 0.3, interval=2, epochs=20, weight=torch.randn(10, 12, dtype=torch.float64))
    for _ in range(20):
        step(run, torch.randn(10, 12, dtype=torch.float64))
        assert int(run.method.mask.sum()) == 84

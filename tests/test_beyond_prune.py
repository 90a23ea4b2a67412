"""Feather, DPF, AC/DC, Powerpropagation and the diagonal Fisher matrix, with worked numbers."""
import pytest
import torch
from canonical import DENSE_STEP, G, W, backward, effective, mask_of, momentum, near, step, training
from torch import nn

from benchmarks.models import build
from methods import SparseModel, Training

AT_ONCE = {"ramp_power": 0}
Z = torch.zeros_like(W)


# ---- Feather (B1)

@pytest.mark.parametrize("p, expected", [(3, [[0.4782328, 0, 0], [0, 0.2248971, -0.3643681]]), (1, [[0.25, 0, 0], [0, 0.05, -0.15]])])
def test_feather_threshold_operator(p, expected):
    run = training("feather", 0.5, p=p, **AT_ONCE)
    assert run.method.shift == 0.25
    assert effective(run) == near(expected)


@pytest.mark.parametrize("theta, gradient, after", [
    ("0.5", [[1, -1, 1.5], [0.25, -0.25, 4]], [[0.399995, -0.099998, -0.050001], [-0.0749995, 0.324997, -0.799996]]),
    ("1", G, DENSE_STEP), ("auto", G, DENSE_STEP)])
def test_feather_damps_the_gradients_of_pruned_weights(theta, gradient, after):
    run = training("feather", 0.5, theta=theta, **AT_ONCE)
    assert backward(run) == near(gradient)
    run.optimizer.zero_grad()
    assert step(run) == near(after)


@pytest.mark.parametrize("sparsity, damping", [(0.95, 1), (0.951, 0.5), (0.98, 0.5)])
def test_feather_damps_beyond_95_percent(sparsity, damping):
    assert training("feather", sparsity, weight=torch.ones(10, 12)).method.damping == damping


def test_feather_schedule_and_dense_first_step():
    run = training("feather", 0.98, epochs=160, steps_per_epoch=391, weight=torch.randn(20, 30, dtype=torch.float64))
    found = [run.method.scheduled(run, t) for t in (0, 1, 390, 15_640, 31_280, 62_559)]
    assert found == near([0, 0.000094, 0.0362009, 0.8575, 0.98, 0.98], 6)
    assert torch.equal(effective(run, run.theta), run.theta)


def test_feather_is_continuous_and_does_not_underflow():
    weight = torch.logspace(-12, 0, 1001)[:, None]
    q = effective(training("feather", 0.5, weight=weight, **AT_ONCE), weight).flatten()
    assert (q[-500:] > 0).all() and q[-500] < 0.5 * weight[-500, 0] and q[-1] == pytest.approx(1, abs=1e-6)


# ---- DPF (B10)

@pytest.mark.parametrize("threshold, kept", [("topk_exact", [[1, 0, 0], [0, 1, 1]]), ("literal", [[1, 0, 0], [0, 0, 1]])])
def test_dpf_counts_and_step(threshold, kept):
    run = training("dpf", 0.5, threshold=threshold, **AT_ONCE)
    assert mask_of(run) == kept and run.method.budget == sum(map(sum, kept))
    assert torch.equal(effective(run), W * torch.tensor(kept))
    assert step(run) == near(DENSE_STEP, 9)


def test_dpf_updates(monkeypatch):
    run = training("dpf", 0.9, epochs=300, steps_per_epoch=391, weight=torch.randn(20, 30, dtype=torch.float64))
    seen = {}
    monkeypatch.setattr(run.method, "refresh", lambda theta, sparsity: seen.setdefault(run.step, sparsity))
    for run.step in range(300 * 391):
        run.method.after_step(run)
    assert [seen[t] for t in (15, 5_007, 43_999, 87_967)] == near([0.0004603, 0.1450876, 0.7875882, 0.9])
    assert len(seen) == 5_498 and max(seen) == 87_967 and min(seen) == 15 and seen[87_967] == 0.9


def test_dpf_at_every_step_is_ste_hard():
    gradients = torch.randn(8, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours, theirs = (training(name, 0.5, weight=gradients[0], epochs=8, **AT_ONCE, **options)
                    for name, options in (("dpf", {"every": 1}), ("ste_hard", {"threshold": "topk_exact"})))
    same = []
    for gradient in gradients:
        step(ours, gradient), step(theirs, gradient)
        same.append(torch.equal(ours.method.mask, theirs.method.mask))
    assert same == [True] * 6 + [False] * 2  # frozen after three quarters


@pytest.mark.parametrize("name, option", [("dpf", "ft_epochs"), ("dpf", "rewind_finetune"), ("cht", "temper"), ("fisher_diag", "ramp_granularity")])
def test_an_option_that_does_nothing_here_is_refused(name, option):
    with pytest.raises(ValueError, match=f"^unknown option of {name}.*{option}"):
        training(name, 0.5, **{option: 1})


def test_dpf_leaves_its_mask_between_updates():
    run = training("dpf", 0.5, epochs=32, steps_per_epoch=1, every=2, **AT_ONCE)
    step(run, torch.tensor([[0.0, 0, -20], [0, 0, 0]], dtype=torch.float64))
    assert run.theta[2] > 2 and effective(run)[0, 2] == 0
    step(run, Z)
    assert effective(run)[0, 2] > 2


# ---- AC/DC (B2)

@pytest.mark.parametrize("count, kept", [("exact", [[1, 0, 0], [0, 1, 1]]), ("literal", [[1, 0, 0], [0, 0, 1]])])
def test_acdc_counts(count, kept):
    run = training("acdc", 0.5, epochs=1, count=count)  # too short for its table: sparse throughout
    assert mask_of(run) == kept
    model = SparseModel(build("resnet20", 10), "acdc", 0.9, count=count)
    assert model.method.budget == 27_090 - (count == "literal")


@pytest.mark.parametrize("size, sparsity, kept", [((25, 40), 0.95, 50), ((5, 2469), 0.5, 6172), ((8, 479), 0.9, 383)])
def test_acdc_literal_counts_are_those_of_the_released_code(size, sparsity, kept):
    """Run beside it: one fewer than the rest, rounded up."""
    assert SparseModel(nn.Linear(*size), "acdc", sparsity, count="literal").method.budget == kept


def test_acdc_sparse_step():
    assert step(training("acdc", 0.5, epochs=1)) == near([[0.399995, 0, 0], [0, 0.324997, -0.799996]])


@pytest.mark.parametrize("table, epochs, sparse, begins", [
    ("imagenet", 100, 50, [*range(10, 76, 5), 85]), ("scaled", 200, 110, range(10, 171, 20)),
    ("scaled", 160, 88, [8, 24, 40, 56, 72, 88, 104, 120, 136])])
def test_acdc_phases(table, epochs, sparse, begins):
    run = training("acdc", 0.5, epochs=epochs, table=table)
    assert run.method.phase_starts(epochs) == [*begins]
    density = []
    for _ in range(epochs):
        density.append(run.method.mask.double().mean().item())
        step(run, 0.01 * G)
    assert density.count(0.5) == sparse and density.count(1.0) == epochs - sparse and density[-1] == 0.5
    # with sparse FLOPs of a tenth: .55 and .505
    assert (epochs - sparse + 0.1 * sparse) / epochs == pytest.approx({100: 0.55, 200: 0.505, 160: 0.505}[epochs])


@pytest.mark.parametrize("epochs, last", [(1, 0), (2, 1), (5, 4), (6, 5), (7, 6), (13, 12), (20, 17)])
def test_acdc_ends_sparse_however_short_it_is(epochs, last):
    run = training("acdc", 0.5, epochs=epochs)
    assert run.method.phase_starts(epochs)[-1] == last and run.method.is_sparse(run, epochs - 1)


def test_acdc_returning_weights_start_at_zero_without_momentum():
    run = training("acdc", 0.5, epochs=200)
    method, seen = run.method, []
    for _ in range(31):
        step(run, 0.01 * G)
        seen.append(method.mask.all().item())
        if len(seen) == 20:
            kept = method.mask.clone()
        if len(seen) == 30:
            assert method.mask.all() and not run.theta[~kept].any() and not run.optimizer.state
            assert not method.settled(run)
    assert momentum(run) == near(0.01 * G, 3)
    assert seen == [True] * 9 + [False] * 20 + [True] * 2
    for run.step in (170, 171):  # at 170 it has just been pruned
        assert method.settled(run) == (run.step == 171)


def test_acdc_prunes_the_dense_network_whatever_the_old_mask_was():
    run = training("acdc", 0.5, epochs=200)
    run.method.set_mask(torch.tensor([1, 1, 1, 0, 0, 0]).bool())
    run.method.mask.fill_(True)
    run.method.enter(run, True)
    assert mask_of(run) == [[1, 0, 0], [0, 1, 1]] and not run.theta[~run.method.mask].any()


# ---- Powerpropagation (B3)

def test_powerprop_stored_weights_gradient_and_step():
    run = training("powerprop_gmp", 0.0)
    assert run.theta.detach().view(2, 3) == near([[0.7071068, -0.4472136, 0.3162278], [-0.2236068, 0.5477226, -0.6324555]])
    assert effective(run) == near(W)
    run.optimizer.param_groups[0]["weight_decay"] = 0.0
    assert backward(run) == near([[1.4142136, -1.7888544, 1.8973666], [0.2236068, -0.2738613, 5.0596443]])
    run.optimizer.zero_grad()
    step(run)
    assert effective(run) == near([[0.32, -0.072, 0.016], [-0.0605, 0.33075, -1.296]])


def test_powerprop_one_is_its_host_bit_for_bit():
    one, host = (training(name, 0.5, epochs=10, **options) for name, options in (("powerprop_gmp", {"alpha": 1}), ("gmp", {})))
    for _ in range(10):
        assert torch.equal(step(one), step(host)) and torch.equal(effective(one), effective(host))


def test_powerprop_zero_is_a_fixed_point():
    for alpha in (1.5, 2.0, 3.0):
        run = training("powerprop_gmp", 0.5, alpha=alpha, mask_form="nonsticky")
        with torch.no_grad():
            run.theta[1] = 0
        assert step(run)[0, 1] == 0 and run.theta.isfinite().all()


def test_powerprop_decay_of_the_effective_weights():
    run = training("powerprop_gmp", 0.0, decay_of="q")
    assert run.optimizer.param_groups[0]["weight_decay"] == 0
    stored = run.theta.detach().clone().view(2, 3)
    after = step(run, Z)
    assert after == near(stored - 0.1 * 1e-4 * W * 2 * stored.abs(), 12)
    with torch.no_grad():
        run.method.decay_of_q.zero_()
    default = training("powerprop_gmp", 0.0)
    assert step(default, Z) == near((1 - 1e-5) * stored, 12)


def test_powerprop_takes_the_root_of_the_weights_once():
    """Though its training starts twice, or another one goes on with the model."""
    run = training("powerprop_gmp", 0.0, decay_of="q")
    for decay in (1e-4, 0.2):
        assert effective(run) == near(W) and run.method.decay_of_q.item() == pytest.approx(decay)
        assert run.optimizer.param_groups[0]["weight_decay"] == 0
        run.start()
        assert effective(run) == near(W) and run.method.decay_of_q.item() == pytest.approx(decay)
        run = Training(run.model, torch.optim.SGD(run.model.parameters(), lr=0.1, weight_decay=0.2), 10, 1)
        run.start()


def test_powerprop_decay_of_the_effective_weights_leaves_other_groups_alone():
    model = SparseModel(nn.Linear(3, 2), "powerprop_gmp", 0.0, decay_of="q")
    groups = [dict(params=[model.theta], weight_decay=0.2), dict(params=[model.net.bias, nn.Parameter(torch.ones(2))], weight_decay=0.3)]
    run = Training(model, torch.optim.SGD(groups, lr=0.1), 1, 1)
    run.start()
    assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0, 0.3]
    assert run.method.added_loss(run).item() == pytest.approx(0.1 * model.method(model.theta).square().sum().item())


# ---- the diagonal Fisher matrix (B14)

def test_fisher_leaves_normalisation_as_it_was_where_there_are_no_batches():
    model = SparseModel(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), "fisher_diag", 0.5)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1, batches=lambda n: [])
    with pytest.raises(ValueError, match="gave none"):
        run.method.saliency(run)
    assert model.net[1].training


def test_fisher_scores(monkeypatch):
    weight = torch.tensor([[0.6, -0.3]], dtype=torch.float64)
    run = training("fisher_diag", 0.5, weight=weight, damping=0.1, gradients=3, first=0.5)
    gradients = iter(torch.tensor([[1, 0.5], [0.2, -1], [0.4, 0.3]], dtype=torch.float64))
    monkeypatch.setattr(run, "batches", lambda n: list(range(n)))
    monkeypatch.setattr(run, "gradient", lambda weights, batches: next(gradients))
    assert run.method.saliency(run).detach() / 2 == near([0.09, 0.0246])
    gradients = iter(torch.tensor([[1, 0.5], [0.2, -1], [0.4, 0.3]], dtype=torch.float64))
    run.method.prune(run, 1)
    assert run.theta.tolist() == [0.6, 0.0]  # no update of survivors


@pytest.mark.parametrize("steps", [1, 3])
def test_fisher_schedule(steps, monkeypatch):
    run = training("fisher_diag", 0.89, epochs=100, steps_per_epoch=steps, weight=torch.randn(100, 100), every=4, ramp_start=0.04,
                   ramp_end=0.24)
    pruned = {}
    monkeypatch.setattr(run.method, "prune", lambda run, kept: (pruned.setdefault(run.step + 1, 1 - kept / 1e4), run.method.set_mask(
        torch.arange(10_000) < kept)))
    for run.step in range(100 * steps):
        run.method.after_step(run)
    assert list(pruned) == [steps * epoch for epoch in (4, 8, 12, 16, 20, 24)]
    assert list(pruned.values()) == near([0.05, 0.45992, 0.70856, 0.83624, 0.88328, 0.89], 4)


def test_fisher_ends_at_its_budget_where_the_last_interval_is_cut_short(monkeypatch):
    run = training("fisher_diag", 0.89, epochs=6, weight=torch.randn(100, 100), every=4, ramp_start=0, ramp_end=1)
    pruned = []
    monkeypatch.setattr(run.method, "prune", lambda run, kept: (pruned.append((run.step + 1, kept)), run.method.set_mask(torch.arange(10_000) < kept)))
    for run.step in range(6):
        run.method.after_step(run)
    assert [epoch for epoch, _ in pruned] == [4, 6] and pruned[1][1] == run.method.budget == 1100


def test_fisher_scores_with_normalisation_as_in_evaluation():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.BatchNorm1d(4))
    model, seen = SparseModel(net, "fisher_diag", 0.5), []
    batch = torch.randn(8, 4), torch.arange(8) % 4
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1, batches=lambda n: [batch] * n)
    net[3].eval()  # the user's own
    handle = net.register_forward_hook(lambda *_: seen.append([module.training for module in net]))
    run.method.saliency(run)
    handle.remove()
    assert len(seen) == 10 and all(modes == [True, False, True, False] for modes in seen)
    assert [module.training for module in net] == [True, True, True, False]


def test_fisher_after_a_dense_training():
    model = SparseModel(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), "fisher_diag", 0.5, pretrain=True)
    x, y = torch.randn(8, 6), torch.randint(2, (8,))
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 4, 1, batches=lambda n: [(x, y)] * n)
    active = []
    for cycle in range(2):
        run.start(cycle)
        for _ in range(4):
            run.criterion(model(x), y).backward()
            mean = model.net[1].running_mean.clone()
            run.update((x, y))
            assert torch.equal(mean, model.net[1].running_mean) and model.training
            active.append(int(model.method.mask.sum()))
        assert active[-1] == model.method.budget_at(cycle)
    assert active[:4] == [64] * 4 and active[4] < 64 and active[-1] == 32


def test_fisher_pruning_to_less_than_its_first_step():
    run = training("fisher_diag", 0.03, epochs=100, weight=torch.randn(100, 100), ramp_start=0.0, ramp_end=0.5)
    assert [run.method.scheduled(run, step) for step in (0, 25, 50)] == near([0.03] * 3)

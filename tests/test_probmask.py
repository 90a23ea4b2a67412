"""ProbMask's probabilities, steps and evaluation, with worked numbers."""
import copy
from dataclasses import replace

import pytest
import torch
from canonical import G, W, backward, effective, linear, near, step, training
from torch import nn

from benchmarks.data import load
from benchmarks.grid import Spec
from benchmarks.tasks import canonical, get_task, settle
from benchmarks.train import Trainer
from methods import SparseModel, Training, probmask
from methods.probmask import project

P = torch.tensor([1.2, 0.6, 0.1, -0.3, 0.9, 0.5], dtype=torch.float64)


# ---- projection

def test_projection():
    assert project(P, 3) == near([1, 0.575, 0.075, 0, 0.875, 0.475])


def test_projection_does_nothing_within_the_budget():
    inside = P.clamp(0, 1)
    assert torch.equal(project(inside, 4), inside)
    assert torch.equal(project(P, 3.2), inside)  # clipped, not shifted


@pytest.mark.parametrize("total", [0.5, 10, 300, 999])
def test_projection_sums_to_the_budget(total):
    p = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 1.4 + 0.2
    projected = project(p, total)
    assert projected.min() >= 0 and projected.max() <= 1
    assert float(projected.sum()) == pytest.approx(min(total, float(p.clamp(0, 1).sum())), abs=1e-3)
    assert not (torch.diff(projected[p.argsort()]) < 0).any()


# ---- the relaxed mask

def one_weight(monkeypatch, p, temperature=2.0):
    """A training of one weight, 1, whose u0, u1 are .3, .6."""
    run = training("probmask", 0.0, weight=torch.ones(1, 1, dtype=torch.float64))
    run.model.method.p.data.fill_(p), run.model.method.temperature.fill_(temperature)
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.tensor([0.3, 0.6], dtype=torch.float64).view(2, 1))
    return run


def test_relaxed_mask_and_its_derivative(monkeypatch):
    run = one_weight(monkeypatch, 0.7)
    assert probmask.noise(run.model.method.p) == pytest.approx(-0.8573538, abs=2e-7)  # a guard of 1e-7 inside the logarithms
    (3 * run.model(torch.ones(1, 1, dtype=torch.float64))).sum().backward()
    method = run.model.method
    assert effective(run, torch.ones(1, 1)).item() == pytest.approx(0.4949722, abs=2e-7)
    assert method.p.grad.item() == pytest.approx(3 * 2.3807116, abs=2e-6)
    assert run.theta.grad.item() == pytest.approx(3 * 0.4949722, abs=5e-7)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_gradient_at_the_ends_is_finite(monkeypatch, p):
    run = one_weight(monkeypatch, p, temperature=1.0)
    run.model(torch.ones(1, 1, dtype=torch.float64)).sum().backward()
    assert run.model.method.p.grad.isfinite().all()
    assert bool(run.model.method.p.grad.any()) == (p == 0)


def test_relaxed_mask_hardens_with_temperature():
    run = training("probmask", 0.0, weight=torch.ones(100, 50, dtype=torch.float64))
    method = run.model.method
    method.p.data.fill_(0.3), method.temperature.fill_(1 / 0.03)
    soft = effective(run, torch.ones(100, 50))
    assert ((soft < 0.01) | (soft > 0.99)).double().mean() > 0.8
    assert float((soft > 0.5).double().mean()) == pytest.approx(0.3, abs=0.03)
    assert not torch.equal(soft, effective(run, soft))  # another mask at each pass


def test_probabilities_train_before_the_budget_falls():
    """As in the released code, whose first projection takes 2⁻²¹ from each: at 1 itself no gradient would reach them."""
    run = training("probmask", 0.5, epochs=10, steps_per_epoch=4, weight=torch.ones(10, 10, dtype=torch.float64), ramp_start=0.5)
    first = run.model.method.p.detach().clone()
    assert torch.equal(first, torch.full_like(first, 1 - 2 ** -21))
    for _ in range(4):
        step(run, torch.ones(10, 10, dtype=torch.float64))
    assert (run.model.method.p < first - 1e-3).all()
    assert bool((SparseModel(nn.Linear(30, 20), "probmask", 0.5, form="st3code").method.p == 1).all())


# ---- presets and statistics of normalisation

@pytest.mark.parametrize("bn_stats", ["train", "original"])
def test_bn_stats_of_evaluation(bn_stats):
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    model = SparseModel(net, "probmask", 0.0, bn_stats=bn_stats).eval()
    out = model(torch.randn(1000, 4) + 3)
    by_batch = out.mean(0).abs().max() < 1e-5
    assert by_batch == (bn_stats == "original") and not net[2].training
    assert model.train().net[1].training


def test_the_original_fine_tunes_with_running_statistics():
    """Which its program switches to (use_running_stats), also where the training goes on from a saved state."""
    def made():
        return SparseModel(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), "probmask", 0.5, bn_stats="original", trials=1)
    model = made()
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1)
    run.start()
    x = torch.randn(8, 4)
    model(x).square().mean().backward()
    assert not torch.allclose(model.eval()(x)[:2], model(x[:2]))
    model.train()
    run.update()
    resumed = made()
    resumed.load_state_dict(model.state_dict())
    for each in (model, resumed):
        assert torch.allclose(each.eval()(x)[:2], each(x[:2]), atol=1e-6)
    model.train()
    run.start()
    assert not torch.allclose(model.eval()(x)[:2], model(x[:2]))


@pytest.mark.parametrize("bn_stats", ["train", "original"])
def test_evaluation_changes_no_statistics_and_training_does(bn_stats):
    model = SparseModel(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), "probmask", 0.0, bn_stats=bn_stats)
    before = copy.deepcopy(model.net.state_dict())
    model.eval()(torch.randn(1000, 4) + 3)
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    model.train()(torch.randn(1000, 4) + 3)
    assert model.net[1].num_batches_tracked == 1 and not torch.equal(model.net[1].running_mean, before["1.running_mean"])


def test_a_preset_is_the_default_of_other_options_and_not_more():
    """What is said besides form=st3code counts, also where it is the default without it; what it says already is left out."""
    spec = Spec("cifar10-resnet20", "probmask", 0.9, 0, options={"form": "st3code"})
    said = {"form": "st3code", "sampling": "exact", "trials": 10, "ramp_end": 0.6, "finetune": 1 / 15}
    other, same = replace(spec, options=said), replace(spec, options={"form": "st3code", "sampling": "bernoulli", "trials": 1})
    assert canonical(same) == spec and canonical(spec) == spec
    assert set(canonical(other).options) == set(other.options) and canonical(other).key != spec.key
    for asked, expected in ((spec, (1, "bernoulli", 0.5, 10)), (other, (10, "exact", 0.6, 11))):
        method = SparseModel(nn.Linear(30, 20), "probmask", 0.9, **settle(canonical(asked))[1]).method
        assert (method.trials, method.sampling, method.ramp_end, method.cycles(160)[1].epochs) == expected


def test_an_overflow_leaves_probabilities_finite():
    """A GradScaler then leaves out the step of the weights' optimiser alone."""
    run = training("probmask", 0.5, epochs=2, steps_per_epoch=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    run.take_step = lambda: scaler.step(run.optimizer)
    for scale in (1.0, torch.inf, 1.0):
        before = run.theta.detach().clone()
        scaler.scale((run.model(torch.eye(3, dtype=torch.float64)).T * G).sum() * scale).backward()
        scaler.unscale_(run.optimizer)
        run.update()
        scaler.update()
        assert run.theta.equal(before) == (scale == torch.inf) and run.model.method.p.isfinite().all()
        assert all(value.isfinite().all() for state in run.model.method.adam.state.values() for value in state.values())


# ---- steps

def test_before_the_budget_falls_nothing_is_searched(monkeypatch):
    run, searched = training("probmask", 0.5, epochs=10, steps_per_epoch=2), []
    original = probmask.project
    monkeypatch.setattr(probmask, "project", lambda p, total: searched.append(run.epoch) or original(p, total))
    for _ in range(10):
        step(run, -1e3 * torch.ones_like(W))  # Adam moves each p by its rate, some above 1
        assert 0 <= run.model.method.p.min() and run.model.method.p.max() <= 1
    assert set(searched) == {2, 3, 4}  # of the ramp from 1 to 6 epochs, which has nothing to take in its first


def test_clipping_is_joint_and_sgd_leaves_p_alone():
    run = training("probmask", 0.5, epochs=100)
    run.clip, method, seen = 3.0, run.model.method, []
    method.p.data.fill_(0.7)
    adam = method.adam.step

    def watched():
        seen.append(torch.cat([run.theta.grad, method.p.grad]))
        adam()
    method.adam.step = watched
    before = run.theta.detach().clone()
    # so large that every gradient is clipped
    after = step(run, 1000 * torch.ones_like(W))
    assert float(seen[0].norm()) == pytest.approx(3, abs=1e-4)
    assert 0 < float(seen[0][:6].norm()) < 2.999 and seen[0][6:].any()
    assert after.flatten() == near(before - 0.1 * (seen[0][:6] + 1e-4 * before))
    # Adam's first step is its learning rate, whatever the gradient
    assert (method.p.detach() - 0.7).abs() == pytest.approx(6e-3 * seen[0][6:].sign().abs().numpy(), abs=1e-5)
    assert method.p not in run.optimizer.state or not run.optimizer.state[method.p]


def test_two_masks_on_the_same_batch():
    trainer = Trainer(get_task("digits"), "probmask", 0.9, 0, {}, load("digits", "data"))
    trainer.model.method.p.data.fill_(0.5)
    inputs, weights, gradients = [], [], []
    trainer.model.net.register_forward_pre_hook(lambda net, args: inputs.append(args[0]))
    method = trainer.model.method

    def watched(method, args, output):
        weights.append(output)
        output.register_hook(gradients.append)
    method.register_forward_hook(watched)
    seen = []
    trainer.training.update = lambda batch: seen.append(trainer.model.theta.grad.clone())
    torch.manual_seed(0)
    trainer.step(*trainer.batches(1)[0])
    assert len(inputs) == 2 and inputs[0] is inputs[1]
    assert not torch.equal(*weights)
    theta = trainer.model.theta.detach()
    # each loss counts half: the sum of the two gradients is that of the mean
    expected = sum(g * w.detach() / theta for g, w in zip(gradients, weights))
    assert torch.allclose(seen[0], expected, atol=1e-6)


# ---- numbers that are none

def test_an_overflow_leaves_probabilities_and_adam_as_they_were():
    run = training("probmask", 0.5, epochs=10, trials=1)
    backward(run)
    run.method.p.grad[:3] = torch.tensor([torch.inf, -torch.inf, torch.nan])
    before = run.method.p.detach().clone()
    run.method.before_step(run)
    state = run.method.adam.state[run.method.p]
    assert torch.equal(run.method.p[:3], before[:3]) and not state["exp_avg"][:3].any() and not state["exp_avg_sq"][:3].any()
    assert state["exp_avg"][3:].all()


def test_trials_without_a_loss_give_a_mask_still():
    model = SparseModel(linear(W), "probmask", 0.5)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 4, 1, criterion=lambda output, y: output.sum() * torch.nan,
                   batches=lambda n: [(torch.eye(3).double(), torch.zeros(3).long())] * n)
    run.start()
    run.method.harden(run)
    assert int(run.method.mask.sum()) == 3


# ---- what users meet

def test_its_state_is_tensors_alone_as_safetensors_wants_it():
    run = training("probmask", 0.5, epochs=10, trials=1)
    assert all(torch.is_tensor(value) for value in run.model.state_dict().values())
    for _ in range(2):
        step(run, torch.ones_like(W))
    state = copy.deepcopy(run.model.state_dict())
    assert all(torch.is_tensor(value) for value in state.values())
    other = training("probmask", 0.5, epochs=10, trials=1)
    for _ in range(2):
        other.model.load_state_dict(state)
        own, loaded = (each.model.method.adam.state[each.model.method.p] for each in (run, other))
        assert own.keys() == loaded.keys() and all(torch.equal(value, loaded[name]) for name, value in own.items())
        assert loaded["step"].dtype == own["step"].dtype and loaded["exp_avg"].any()


@pytest.mark.parametrize("assign", [False, True])
def test_probabilities_are_learned_after_loading(assign):
    """Where p's object is another since (assign=True), too: with what Adam had accumulated."""
    other, run = (training("probmask", 0.5, epochs=10, trials=1) for _ in range(2))
    for _ in range(3):
        step(other, torch.ones_like(W))
    state = copy.deepcopy(other.model.state_dict())
    before = state["method.p"].clone()
    model = SparseModel(linear(W), "probmask", 0.5, trials=1)
    model.load_state_dict(state, assign=assign)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1), 10, run.steps_per_epoch)
    run.load_state_dict(other.state_dict())
    for each in (other, run):
        torch.manual_seed(0)
        step(each, torch.ones_like(W))
    assert torch.equal(run.method.p, other.method.p) and not torch.equal(run.method.p, before)
    assert list(run.method.adam.state) == [run.method.p]

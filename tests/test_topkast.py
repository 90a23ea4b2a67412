"""Top-KAST, with worked numbers."""
import pytest
import torch
from canonical import DENSE_STEP, G, W, backward, effective, near, step, training
from torch import nn

from benchmarks.grid import Spec
from benchmarks.models import build
from benchmarks.tasks import settle
from methods import SparseModel, Training

EXAMPLE = {"gamma": 0.5, "every_step_until": 1.0}  # at s = 2/3: A = {.5, -.4}, B adds .3
A, B = [True, False, False, False, False, True], [True, False, False, False, True, True]
SQUARE = (0.5**2 + 0.4**2) ** 0.5
NO_PENALTY = {"penalty": 0.0}


def example(**options):
    return training("topkast", 2 / 3, **{**EXAMPLE, **options})


def sets(run):
    return run.model.method.mask.tolist(), run.model.method.trained.tolist()


def test_sets_forward_and_gradient():
    run = example()
    assert sets(run) == (A, B)
    assert effective(run) == near([[0.5, 0, 0], [0, 0, -0.4]])
    assert backward(run).tolist() == [[1, 0, 0], [0, -0.25, 4]]


def test_penalty():
    # λ (‖θ_A‖ + ‖θ_{B∖A}‖ / d) = 1.5403124 λ; the gradient of each norm is its unit vector
    assert SQUARE + 0.3 / (1 / 3) == near(1.5403124)
    run = example(penalty=0.1)
    backward(run)
    run.model.method.before_step(run)
    expected = [[1 + 0.1 * 0.5 / SQUARE, 0, 0], [0, -0.25 + 0.1 * 3, 4 - 0.1 * 0.4 / SQUARE]]
    assert run.theta.grad.view(2, 3) == near(expected)


def test_penalty_is_the_gradient_of_the_norms_of_each_layer_and_of_other_weights():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.Linear(20, 10)).double()
    nn.init.normal_(net[1].weight)
    model = SparseModel(net, "topkast", 0.8, penalty=0.1)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4), 1, 1)
    run.start()
    assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0]
    method = model.method
    theta, other = run.theta.detach().clone().requires_grad_(), net[1].weight.detach().clone().requires_grad_()
    loss = other.norm()
    for values, a, b, n in zip(*(v.split([600, 200]) for v in (theta, method.mask, method.trained)), (600, 200)):
        loss = loss + values[a].norm() + values[b & ~a].norm() / (int(a.sum()) / n)
    (0.1 * loss).backward()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.before_step(run)
    assert torch.allclose(run.theta.grad, theta.grad, rtol=1e-6, atol=1e-9)
    assert torch.allclose(net[1].weight.grad, other.grad)
    assert not net[1].bias.grad.any() and not net[0].bias.grad.any()


def test_weights_outside_b_are_frozen():
    run = example(**NO_PENALTY)
    run.optimizer.state[run.theta]["momentum_buffer"] = torch.ones(6, dtype=torch.float64)
    theta = step(run)
    assert theta.flatten()[[1, 2, 3]].tolist() == W.flatten()[[1, 2, 3]].tolist()
    assert theta.flatten()[[0, 4, 5]] == near((W - 0.1 * (0.9 + G)).flatten()[[0, 4, 5]])


def test_inactive_weights_of_b_are_trained():
    run = example(**NO_PENALTY)
    assert step(run) == near([[0.4, -0.2, 0.1], [-0.05, 0.325, -0.8]])
    assert sets(run) == (A, B)
    assert effective(run) == near([[0.4, 0, 0], [0, 0, -0.8]])


def overtake(**options):
    """One step in which .3, of B without A, becomes .7 and overtakes -.4; then one with no gradient but of momentum."""
    run = example(**NO_PENALTY, **options)
    gradient = torch.zeros_like(W)
    gradient[1, 1] = -4
    step(run, gradient)
    assert sets(run) == ([True, False, False, False, True, False], B)
    return run


def test_correct_is_the_default_and_the_literal_form_restarts_at_zero():
    assert effective(overtake()) == near([[0.5, 0, 0], [0, 0.7, 0]])
    assert effective(overtake(mode="correct")) == near([[0.5, 0, 0], [0, 0.7, 0]])
    assert effective(overtake(mode="literal")) == near([[0.5, 0, 0], [0, 0, 0]])


def test_literal_ranks_what_is_active_by_its_working_value():
    # the dense copy of an active weight is overwritten by its working value, here 0
    run = overtake(mode="literal")
    run.optimizer.state.clear()
    step(run, torch.zeros_like(W))
    assert sets(run)[0] == A  # and -.4, which comes from B without A, restarts at 0 as well
    assert effective(run) == near([[0.5, 0, 0], [0, 0, 0]])


def test_literal_trains_on_from_the_working_value():
    run = overtake(mode="literal")
    run.optimizer.state.clear()
    step(run, torch.tensor([[0, 0, 0], [0, -9, 0]], dtype=torch.float64))  # from 0 by .9
    assert effective(run) == near([[0.5, 0, 0], [0, 0.9, 0]])


def test_literal_penalty_is_of_the_working_value():
    run = overtake(mode="literal")
    run.method.chosen["penalty"], run.theta.grad = 0.1, torch.zeros_like(run.theta)
    run.method.before_step(run)
    assert run.theta.grad[run.method.mask] == near([0.1, 0])  # .1 · .5 / |(.5, 0)|, and what has just entered is 0


def test_literal_entry_from_outside_b_takes_up_its_stale_value():
    run = example(**NO_PENALTY, mode="literal")
    step(run, torch.tensor([[4.5, 0, 0], [0, 2.5, -3.7]], dtype=torch.float64))  # A and B shrink to .05, .05 and -.03
    assert sets(run)[0] == [False, True, True, False, False, False]
    assert effective(run) == near([[0, -0.2, 0.1], [0, 0, 0]])


def test_penalty_where_nothing_else_is_trained():
    """With γ = 0 the second norm is of no weight, and without a gradient."""
    run = example(gamma=0.0, penalty=0.1)
    assert sets(run) == (A, A)
    backward(run)
    run.model.method.before_step(run)
    assert run.theta.grad.view(2, 3) == near([[1 + 0.1 * 0.5 / SQUARE, 0, 0], [0, 0, 4 - 0.1 * 0.4 / SQUARE]])


def test_dense_gradient_if_b_is_everything():
    run = example(**NO_PENALTY, gamma=2.0)
    assert sets(run)[1] == [True] * 6
    assert step(run) == near(torch.tensor(DENSE_STEP) + 1e-5 * W, digits=6)  # no weight decay


# ---- schedule and sizes

def renewals(monkeypatch, **options):
    """Steps after which the sets are renewed: 200 epochs of ten steps."""
    run = training("topkast", 0.5, epochs=200, steps_per_epoch=10, interval=100, **options)
    seen = []
    monkeypatch.setattr(run.model.method, "renew", lambda theta: seen.append(run.step))
    for run.step in range(2000):
        run.model.method.before = run.theta.clone()
        run.model.method.after_step(run)
    return seen


def test_sets_are_renewed_at_every_step_of_21_epochs_then_at_intervals(monkeypatch):
    seen = renewals(monkeypatch)
    assert set(range(209)) <= set(seen)  # for the forward passes of epochs 0 to 20
    assert [t for t in seen if t > 210] == list(range(299, 2000, 100))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_sizes_on_vit(gamma):
    torch.manual_seed(0)
    model = SparseModel(build("vit_tiny", 10), "topkast", 0.95, allocation="er_gse", gamma=gamma)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1)
    run.start()
    method = model.method
    assert not (method.mask & ~method.trained).any()
    wider = model.layout.layer_sums(method.trained).tolist()
    for a, b, n, d in zip(model.layer_nnz().tolist(), wider, model.layout.sizes, method.counts):
        assert a == d and abs(b - min((1 + gamma) * a, n)) <= 0.5
    assert int(method.mask.sum()) / model.layout.size == near(0.04972, 5)  # er_gse falls short of .05


def test_ranking_is_per_layer():
    net = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    with torch.no_grad():
        net[0].weight.mul_(100)
    model = SparseModel(net, "topkast", 0.8)
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1).start()
    assert model.layer_nnz().tolist() == [20, 20]


def test_start_as_pytorch_s_default():
    """Weights and biases within 1/√fan_in, also of a grouped convolution; by default they stay the network's."""
    net = nn.Sequential(nn.Conv2d(8, 400, 3, groups=2), nn.Linear(400, 300), nn.Linear(300, 200, bias=False))
    bounds = [1 / 36**0.5, 1 / 20, 1 / 300**0.5]
    for layer in net:
        nn.init.constant_(layer.weight, 7.0)
    model = SparseModel(net, "topkast", 0.9, start_weights="pytorch")
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1)
    run.start()
    biases = [layer.bias.detach() for layer in net[:2]]
    drawn = [*zip(run.theta.detach().split(model.layout.sizes), bounds), *zip(biases, bounds)]
    for values, bound in drawn:
        unit = values / bound
        assert 0.97 < unit.abs().max() <= 1.000001 and unit.square().mean() == pytest.approx(1 / 3, abs=0.05)
    assert int(model.method.mask.sum()) == model.method.budget
    first = model.layout.sizes[0]  # the sets are those of the weights drawn
    assert run.theta[:first][model.method.mask[:first]].abs().min() >= run.theta[:first][~model.method.mask[:first]].abs().max()
    untouched = SparseModel(nn.Linear(30, 20), "topkast", 0.5)
    before = untouched.theta.detach().clone()
    Training(untouched, torch.optim.SGD(untouched.parameters(), lr=0.1), 1, 1).start()
    assert torch.equal(untouched.theta, before)


def test_gse_s_tasks_start_it_so():
    assert settle(Spec("cifar100-vit", "topkast", 0.9, 0))[1]["start_weights"] == "pytorch"
    assert "start_weights" not in settle(Spec("digits", "topkast", 0.9, 0))[1]
    assert "start_weights" not in settle(Spec("cifar100-vit", "set", 0.9, 0))[1]


def test_the_sets_follow_at_every_step_to_the_end_of_epoch_20(monkeypatch):
    run, seen = training("topkast", 0.5, epochs=200, steps_per_epoch=2), []
    monkeypatch.setattr(run.method, "renew", lambda theta: seen.append(run.step))
    for run.step in range(400):
        run.method.after_step(run)
    assert seen == list(range(42))  # epochs 0 to 20


def test_its_penalty_takes_the_place_of_weight_decay():
    run = training("topkast", 0.5)
    run.optimizer.param_groups[0]["weight_decay"] = 0.5
    before = run.theta.clone()
    step(run, torch.zeros_like(W))
    assert (run.theta - before).abs().max() < 1e-3


def test_sparse_gradients_of_an_embedding_are_left_as_they_are():
    net = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    model = SparseModel(net, "topkast", 0.5)
    run = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 2)
    run.start()
    before = net[0].weight.detach().clone()
    torch.nn.functional.cross_entropy(model(torch.tensor([[0, 1], [1, 2]])), torch.tensor([0, 1])).backward()
    expected = before - 0.05 * net[0].weight.grad.to_dense()
    run.update()
    assert torch.equal(net[0].weight, expected) and not torch.equal(before, expected)


@pytest.mark.parametrize("mode", ["correct", "literal"])
def test_a_second_training_goes_on_from_the_dense_weights(mode):
    """Those outside the active set, too, and what an entry into it is without in the literal form."""
    run = overtake(mode=mode)
    working = torch.where(run.model.method.mask, effective(run).flatten(), run.theta.detach())
    with pytest.warns(UserWarning, match="trained before"):
        Training(run.model, run.optimizer, 10, 1).start()
    assert torch.equal(run.theta, working) and int((run.theta != 0).sum()) == 6 - (mode == "literal")

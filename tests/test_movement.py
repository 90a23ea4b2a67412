"""Movement pruning, hard and soft, with worked numbers."""
import pytest
import torch
from canonical import G, W, backward, effective, linear, mask_of, near, of, step, training, two_layers
from test_cycles import small_digits
from test_every_method import make
from torch import nn

from benchmarks.tasks import get_task
from benchmarks.train import Trainer
from methods import SparseModel, Training

AT_ONCE = {"ramp_power": 0}


def test_movement_scores_and_mask():
    run = training("movement", 0.5, **AT_ONCE)
    assert mask_of(run) == [[1, 1, 1], [0, 0, 0]]
    assert backward(run) == near(G * torch.tensor([[1], [0]]))
    run.optimizer.zero_grad(), run.method.zero_grad()
    step(run)
    assert run.method.scores.detach().view(2, 3) == near([[-0.05, -0.04, -0.03], [0.0025, 0.0075, 0.16]])
    assert mask_of(run) == [[0, 0, 0], [1, 1, 1]]


def test_movement_schedule():
    run = training("movement", 0.9, epochs=100, weight=torch.ones(10, 12))
    assert [1 - run.method.scheduled(run, t) for t in (0, 10, 11, 45, 80, 99)] == near([1, 1, 0.961977, 0.2125, 0.1, 0.1], 6)


def test_movement_scores_have_a_group_of_their_own():
    method = SparseModel(nn.Linear(4, 5), "movement", 0.5, score_lr=3.0).method
    group, = method.groups()
    assert group["params"][0] is method.scores and group["lr_scale"] == 3 and group["weight_decay"] == group["momentum"] == 0


def test_movement_scores_are_trained_at_a_multiple_of_each_rate():
    trainer = Trainer(get_task("digits"), "movement", 0.5, 0, {"score_lr": 3.0}, small_digits())
    trainer.set_learning_rate(0.2)
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert rates[id(trainer.model.method.scores)] == pytest.approx(0.6) and rates[id(trainer.model.theta)] == 0.2


@pytest.mark.parametrize("scope, active", [("global", [4, 0]), ("layer", [3, 1])])  # of equal scores the first stay
def test_movement_over_all_weights_or_by_layer(scope, active):
    run = two_layers("movement", 0.5, second=[[0.9, -0.6]], scope=scope, **AT_ONCE)
    assert [int(n) for n in run.model.layer_nnz()] == active


def test_movement_after_a_dense_training():
    run = training("movement", 0.5, pretrain=True, epochs=10)
    assert len(run.cycles) == 2
    for cycle, kept in ((0, 6), (1, 3)):
        run.start(cycle)
        assert run.method.mask.all() and not run.method.scores.any() and not run.optimizer.state
        for _ in range(10):
            step(run, 0.1 * G)
        assert int(run.method.mask.sum()) == kept == run.method.budget_at(cycle) and run.method.scores.any() == cycle


def test_the_dense_training_before_movement_is_dense_s():
    """The scores' gradients have no part in clipping."""
    dense, weights = make("dense", clip=0.1).run(), []
    for _ in make("movement pretrain=true", clip=0.1).steps(cycle_done=lambda run: weights.append(run.model.theta.detach().clone())):
        pass
    assert torch.equal(dense.model.theta, weights[0]) and not torch.equal(*weights)


def soft_movement(weight=W, **options):
    return training("movement", 0.5, weight=weight, pruning="sigmoid", score_penalty=0.4, **{**AT_ONCE, **options})


def test_soft_movement_first_step():
    # sigmoid'(0) = 1/4, so that the penalty adds .1 to each gradient g·w of the scores
    run = soft_movement(tau=0.5)
    penalty, = torch.autograd.grad(run.method.added_loss(run), run.method.scores)
    assert penalty == near([0.1] * 6)
    step(run)
    assert run.method.scores.detach().view(2, 3) == near([[-0.06, -0.05, -0.04], [-0.0075, -0.0025, 0.15]])
    assert mask_of(run) == [[0, 0, 0], [0, 0, 1]] and not run.method.exact and not run.method.settled(run)


@pytest.mark.parametrize("tau, kept", [(0.1, 6), (0.485, 6), (0.4865, 5), (0.489, 4), (0.497, 3), (0.499, 2), (0.53, 1), (0.6, 1)])
def test_soft_movement_keeps_what_is_above_tau(tau, kept):
    # sigmoid of the scores above: .4850, .4875, .4900, .4981, .4994, .5374; above .6 is none, and one is the least
    run = soft_movement(tau=tau)
    step(run)
    assert int(run.method.mask.sum()) == kept and run.method.mask[5]
    assert torch.equal(effective(run) != 0, run.method.mask.view(2, 3))


@pytest.mark.parametrize("size, least", [(6, 1), (199, 1), (200, 2), (400, 3), (1000, 6)])
def test_soft_movement_keeps_more_than_half_a_percent_of_each_layer(size, least):
    generator = torch.Generator().manual_seed(0)
    model = SparseModel(nn.Sequential(nn.Linear(size, 1), nn.Linear(1, 7)), "movement", 0.5, pruning="sigmoid", tau=0.9)
    with torch.no_grad():
        model.method.scores.copy_(torch.randn(size + 7, generator=generator) - 20)
        model.method.scores[-7:] += 40
        model.method.refresh(model.theta, 0.9)
    assert model.layer_nnz().tolist() == [least, 7]
    assert model.method.scores[:size][model.method.mask[:size]].min() > model.method.scores[:size][~model.method.mask[:size]].max()


def test_soft_movement_threshold_and_penalty_follow_the_ramp():
    run = soft_movement(ramp_power=3, epochs=100, tau=0.2)  # from step 10 to 80
    for run.step, share in ((5, 0), (10, 0), (45, 0.875), (80, 1), (99, 1)):
        assert run.method.scheduled(run, run.step) == pytest.approx(0.2 * share)
        assert run.method.added_loss(run).item() == pytest.approx(0.4 * share * 3)  # six sigmoids of a half
    run = soft_movement(ramp_power=3, epochs=100, pretrain=True)
    run.step = 99
    assert run.method.scheduled(run, 99) == 0 == run.method.added_loss(run)


def test_soft_movement_learns_its_sparsity():
    left = []
    for penalty in (0.0, 0.2, 5.0):
        run = soft_movement(epochs=40, ramp_power=3, weight=torch.full((4, 5), 0.1, dtype=torch.float64), tau=0.4, score_lr=20.0)
        run.method.chosen["score_penalty"] = penalty
        for _ in range(40):
            step(run, torch.arange(-10, 10, dtype=torch.float64).view(4, 5) / 100)
        left.append(int(run.method.mask.sum()))
        assert int((effective(run, run.theta) != 0).sum()) == left[-1]
    assert left == [20, 12, 1]


def test_in_each_layer_the_budget_of_all_is_kept():
    layers = [linear(W), linear(W.T.contiguous()), linear(of([[0.9, -0.6, 0.3]]))]
    model = SparseModel(nn.Sequential(*layers), "movement", 0.1, scope="layer", ramp_start=0, ramp_end=0)
    Training(model, torch.optim.SGD(model.parameter_groups(0.1), lr=0.1), 4, 1).start()
    assert int(model.method.mask.sum()) == model.method.budget

"""STR in ST-3's form and in the original one, with worked numbers."""
import math

import pytest
import torch
from canonical import W, backward, effective, momentum, near, step, training
from torch import nn

import methods
from methods import SparseModel, Training

SOFT = [[0.25, 0, 0], [0, 0.05, -0.15]]
MASKED = [[1, 0, 0], [0, -0.25, 4]]
UNMOVED = [[0.399995, -0.199998, 0.099999], [-0.0499995, 0.324997, -0.799996]]  # what is pruned moves by weight decay alone


def test_str_forward_gradient_and_step():
    run = training("str", 0.5, ramp_power=0)
    assert effective(run) == near(SOFT)
    assert backward(run).tolist() == MASKED
    run.optimizer.zero_grad()
    assert step(run) == near(UNMOVED, digits=9)
    assert momentum(run)[0, 1] == near(-0.2e-4, digits=9)


def test_str_weights_may_return():
    run = training("str", 0.5, ramp_power=0)
    with torch.no_grad():
        run.theta[0] = 0.15
    step(run, torch.zeros_like(W))
    assert run.model.method.mask.tolist() == [False, True, False, False, True, True]


def test_str_has_st3s_schedule():
    run = training("str", 0.9, epochs=160, steps_per_epoch=352)
    sparsity = [run.model.method.scheduled(run, done) for done in (5 * 352, 5 * 352 + 1, 6 * 352, 42 * 352 + 176, 80 * 352)]
    assert sparsity == near([0, 0.0001023, 0.0355221, 0.7875, 0.9])


# ---- the original

def original(**options):
    return training("str_original", a0=math.log(1 / 3), **options)  # sigmoid(a) = .25


def test_original_forward_and_gradients():
    run = original()
    assert run.model.method.mask.tolist() == [True, False, False, False, True, True]  # before the first step
    assert run.model.method.thresholds().detach() == near([0.25] * 6)
    assert effective(run) == near(SOFT)
    assert backward(run) == near(MASKED)
    assert run.model.method.a.grad == near([0.609375], digits=6)  # -.1875 (1 - .25 - 4)


def test_original_step_decays_the_threshold_too():
    run = original()
    a = run.model.method.a.item()
    assert step(run) == near(UNMOVED)
    assert run.model.method.a.item() == near(a - 0.1 * (0.609375 + 1e-4 * a))
    assert run.model.method.mask.tolist() == [True, False, False, False, True, True]


def test_original_threshold_of_each_layer():
    model = SparseModel(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), "str_original", a0=-2.0)
    method = model.method
    with torch.no_grad():
        method.a[1] = -1.5
    expected = [1 / (1 + math.exp(2))] * 12 + [1 / (1 + math.exp(1.5))] * 8
    assert method.thresholds().detach().double() == near(expected)
    model(torch.ones(1, 3)).sum().backward()
    assert method.a.grad.shape == (2,) and (method.a.grad != 0).all()


@pytest.mark.parametrize("decay, expected", [(0.0, [1e-4, 0.0]), (0.02, [0.02, 0.02])])
def test_original_sparsity_comes_from_the_weight_decay(decay, expected):
    model = SparseModel(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "str_original", a0=-1.0, decay=decay)
    own = [p for name, p in model.named_parameters() if not name.startswith("net.")]
    assert model.method.a.data_ptr() in {p.data_ptr() for p in own}
    optimizer = torch.optim.SGD([{"params": own, "weight_decay": 1e-4}, {"params": model.net.parameters()}], lr=0.1)
    Training(model, optimizer, 1, 1).start()
    assert [group["weight_decay"] for group in optimizer.param_groups] == expected


def test_original_is_run_where_its_settings_are_known():
    method = methods.get("str_original")
    assert method.skip("imagenet") is None and "ImageNet" in method.skip("cifar10")


def test_original_learns_its_sparsity():
    run = original()
    assert not run.model.method.exact
    for _ in range(30):
        step(run, -0.1 * W)  # keeps the survivors and lowers the threshold
    assert int(run.model.method.mask.sum()) == int((effective(run) != 0).sum()) > 3


def test_original_counts_no_weight_that_is_zero():
    # where the threshold underflows to zero, a zero lies on it
    weight = torch.tensor([[0.5, 0, 0.1], [-0.05, 0, -0.4]], dtype=torch.float64)
    run = training("str_original", weight=weight)
    assert not run.model.method.thresholds().any()
    assert torch.equal(run.model.method.mask, weight.flatten() != 0)


def test_original_start_underflows():
    # a moves through weight decay alone until sigmoid(a) no longer underflows
    run = training("str_original", a0=-3200.0)
    assert torch.equal(effective(run), W)
    step(run)
    assert run.model.method.a.item() == near(-3200 * (1 - 1e-5))


def test_original_second_training_begins_with_the_first_threshold():
    run = original()
    step(run)
    with pytest.warns(UserWarning, match="trained before"):
        Training(run.model, run.optimizer, 10, 1).start()
    assert run.model.method.a.item() == near(math.log(1 / 3))

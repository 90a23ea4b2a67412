"""ProbMask's schedules, with worked numbers: with no gradient, all p are κ."""
import pytest
import torch
from canonical import near, step, training
from torch import nn

from methods import SparseModel
from methods.base import Cycle


def schedule(epochs, **options):
    """{epoch: (κ before its step, T, κ after it)} of each epoch of one step."""
    run = training("probmask", 0.9, epochs=epochs, weight=torch.ones(10, 10, dtype=torch.float64), mask_lr=0.0, trials=1, **options)
    run._batches = lambda n: [(torch.ones(1, 10, dtype=torch.float64), torch.zeros(1, dtype=torch.long))]
    seen = {}
    for epoch in range(epochs):
        p = run.model.method.p.detach()
        assert float(p.max() - p.min()) < 1e-6
        before = float(p.mean()), float(run.model.method.temperature)
        step(run, torch.zeros(10, 10, dtype=torch.float64))
        seen[epoch] = *before, float(run.model.method.p.detach().mean())
    return seen


def cubic(epoch, start, end, final=0.1):
    return final + (1 - final) * (1 - (epoch - start) / (end - start)) ** 3


def test_schedules_of_300_epochs():
    """Each step ends with the budget of its own epoch and the temperature of the next step's, as in the released code."""
    seen = schedule(300)
    assert all(seen[e][2] == 1 - 2 ** -21 for e in range(49))
    assert seen[114][2] == pytest.approx(0.2125, abs=1e-6)
    expected = [cubic(49, 48, 180), cubic(179, 48, 180), 0.1, 0.1]
    assert [seen[e][2] for e in (49, 179, 180, 299)] == pytest.approx(expected, abs=1e-6)
    assert seen[150][1] == near(1 / 0.515)


def test_schedules_of_160_epochs():
    # whole epochs: ts = ⌊.16 · 160⌋ = 25, te = ⌊.6 · 160⌋ = 96
    seen = schedule(160)
    assert [seen[e][1] for e in (0, 80, 159)] == [near(1.0), near(1.9417476), near(27.7296360)]
    assert [seen[e][2] for e in (25, 26, 60, 96)] == pytest.approx([1, cubic(26, 25, 96), cubic(60, 25, 96), 0.1], abs=1e-6)


def test_st3code_is_st3_s_ramp_and_one_bernoulli_mask():
    seen = schedule(160, form="st3code")
    assert [seen[e][0] for e in (5, 6, 40, 80, 159)] == pytest.approx([1, cubic(6, 5, 80), cubic(40, 5, 80), 0.1, 0.1], abs=1e-6)
    assert seen[5][0] == 1 and [seen[e][1] for e in (0, 81)] == [near(1.0), near(1.9417476)]  # the temperature of the step before
    method = SparseModel(nn.Linear(30, 20), "probmask", 0.5, form="st3code", finetune_lr=0.5).method
    assert (method.trials, method.sampling, method.exact) == (1, "bernoulli", False)
    assert method.cycles(160) == [Cycle(160, passes=2), Cycle(10, lr=0.5)]
    assert SparseModel(nn.Linear(30, 20), "probmask", 0.5, form="st3code", trials=3).method.trials == 3


def test_ramp_by_steps_falls_within_an_epoch():
    kept = {}
    for granularity in ("epoch", "step"):
        run = training("probmask", 0.9, epochs=10, steps_per_epoch=4, weight=torch.ones(10, 10, dtype=torch.float64), mask_lr=0.0,
                       ramp_start=0.1, ramp_end=0.5, ramp_granularity=granularity)
        for _ in range(4 + 6):
            step(run, torch.zeros(10, 10, dtype=torch.float64))
        kept[granularity] = float(run.model.method.p.detach().mean())
    assert kept == pytest.approx({"epoch": cubic(2, 1, 5), "step": cubic(2.5, 1, 5)}, abs=1e-6)


def adam_rates(**options):
    run = training("probmask", 0.5, epochs=10, steps_per_epoch=2, **options)
    rates = []
    for _ in range(19):
        step(run)
        rates.append(run.model.method.adam.param_groups[0]["lr"])
    return rates


def test_adam_has_a_cosine_schedule():
    rates = adam_rates()
    assert rates[0] == rates[1] == 6e-3
    assert rates[10:12] == [near(3e-3), near(3e-3)]


def test_adam_has_in_st3_s_form_the_weights_schedule():
    rates = adam_rates(form="st3code")
    assert rates == [6e-3] * 10 + [near(6e-4)] * 6 + [near(6e-5)] * 3  # as ST-3's recipe: a tenth from 1/2, and from 3/4 of training


@pytest.mark.parametrize("epochs, granularity, told", [(1, "epoch", True), (2, "epoch", False), (1, "step", False)])
def test_a_budget_that_falls_at_once_is_told_of(epochs, granularity, told, recwarn):
    training("probmask", 0.5, epochs=epochs, steps_per_epoch=50, trials=1, ramp_granularity=granularity)
    said = [str(warning.message) for warning in recwarn if "once an epoch" in str(warning.message)]
    assert said == ["probmask lowers its budget once an epoch, and so reaches the target at once in a training of 1 epoch: set "
                    "ramp_granularity=step"] * told

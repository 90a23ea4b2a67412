"""ProbMask's hard masks, which are evaluated, counted and fine-tuned, with worked numbers."""
import math

import pytest
import torch
from canonical import effective, step, training
from scoring import linear_in_the_output, started
from torch import nn

from methods import SparseModel
from methods.base import Cycle


# ---- hard masks

def hardened(seed=0, **options):
    batch = torch.eye(40), torch.ones(40, 25)
    return started(nn.Linear(40, 25, bias=False), "probmask", 0.7, [batch], linear_in_the_output, seed=seed, **options)


def test_evaluation_uses_a_hard_mask():
    run = hardened()
    method = run.model.method
    method.p.data.fill_(0.3)
    method.set_mask(method.p > run.random("evaluation"))
    run.model.eval()
    assert torch.equal(method(run.theta), run.theta * method.mask)
    assert torch.equal(method(run.theta), method(run.theta))
    assert float(method.mask.double().mean()) == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("sampling", ["exact", "bernoulli"])
def test_kept_fraction_over_many_draws(sampling):
    run = hardened(sampling=sampling, trials=1)
    method = run.model.method
    p = torch.tensor([0.1, 0.5]).repeat(500)  # Σp is the budget, 300
    masks = []
    for run.step in range(400):
        method.p.data.copy_(p)
        method.harden(run)
        masks.append(method.mask.clone())
        assert torch.equal(method.p.detach(), method.mask.float())
    counts = torch.stack(masks).sum(1)
    frequency = torch.stack(masks).double().mean(0).view(500, 2)
    assert method.exact == (sampling == "exact")
    if sampling == "exact":
        assert set(counts.tolist()) == {300}
    else:
        # Σ p (1 - p) = 170: a standard deviation of 13
        assert 11 < counts.double().std() < 15.5
        assert float(counts.double().mean()) == pytest.approx(300, abs=2.6)
    assert frequency.mean(0) == pytest.approx([0.1, 0.5], abs=0.004)
    # single weights: 400 draws have standard deviations of .015 and .025
    assert (frequency - torch.tensor([0.1, 0.5])).abs().max(0).values.tolist() < [0.07, 0.12]


def test_the_best_of_the_trials_is_kept():
    run = hardened(trials=20)
    method, losses, original = run.model.method, [], run.loss
    method.p.data.fill_(0.3)

    def watched(weights, x, y):
        loss = original(weights, x, y).detach()
        losses.append(float(loss))
        return loss
    run.loss = watched
    method.harden(run)
    assert len(losses) == 20 and len(set(losses)) > 10
    assert watched(run.theta * method.mask, torch.eye(40), torch.ones(40, 25)) == min(losses)
    assert run.model.training


def test_trials_are_judged_as_the_network_trains():
    """Its running statistics, those of relaxed masks until then, say nothing of a hard one."""
    torch.manual_seed(0)
    net, seen = nn.Sequential(nn.Linear(40, 25, bias=False), nn.BatchNorm1d(25), nn.Dropout(0.5)), []
    run = started(net, "probmask", 0.7, [(torch.randn(8, 40), torch.ones(8, 25))], linear_in_the_output)
    net.register_forward_hook(lambda *_: seen.append([module.training for module in net.modules()]))
    run.method.harden(run)
    assert seen == [[True] * 4] * 10 and net[1].num_batches_tracked == 10 and run.model.training


def test_a_single_trial_needs_no_judge():
    run = started(nn.Linear(40, 25, bias=False), "probmask", 0.7, None, linear_in_the_output, trials=1)
    run.method.harden(run)
    assert int(run.method.mask.sum()) == 300


def test_the_mask_that_is_counted_follows_the_budget_of_its_epoch():
    """It is drawn after an epoch's first step, in which the budget falls, and after its last, for evaluation."""
    weight = torch.ones(100, 50, dtype=torch.float64)
    run, counts = training("probmask", 0.9, epochs=10, steps_per_epoch=4, weight=weight, ramp_start=0.0), []
    for _ in range(24):
        step(run, torch.zeros_like(weight))
        counts.append(int(run.method.mask.sum()))
    for epoch in range(6):
        within, budget = counts[4 * epoch:4 * epoch + 4], 5000 * (0.1 + 0.9 * (1 - epoch / 6) ** 3)
        assert within[0] == within[1] == within[2] and within[3] != within[0] or epoch == 0
        assert within == pytest.approx([budget] * 4, abs=140)  # four standard deviations at most


def test_of_the_trials_the_mask_with_the_lowest_loss_is_kept():
    """Those without a finite loss are kept only if there is no other."""
    run = training("probmask", 0.5, epochs=1, trials=5, trial_batches=1)
    run._batches = lambda n: [(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.long))]
    for losses, best in (([3.0, 1.0, 2.0, 4.0, 5.0], 1), ([math.nan, 2.0, 1.0, 3.0, math.nan], 2), ([math.inf, math.nan, 7.0, 8.0, math.nan], 2)):
        tried = []

        def loss(weights, x, y):
            tried.append(weights != 0)
            return losses[len(tried) - 1]
        run.loss = loss
        run.model.method.p.data.fill_(0.5)
        with torch.no_grad():
            run.model.method.harden(run)
        assert torch.equal(run.model.method.mask, tried[best]) and len({str(mask.tolist()) for mask in tried}) > 1


# ---- fine-tuning

def test_fine_tuning_cycle():
    method = SparseModel(nn.Linear(30, 20), "probmask", 0.5).method
    assert method.cycles(300) == [Cycle(300, passes=2), Cycle(20, lr=0.01)]  # a constant .001 where the recipe has .1
    assert method.cycles(6) == [Cycle(6, passes=2), Cycle(1, lr=0.01)]  # of so few epochs a fifteenth is none, but an epoch it is
    assert SparseModel(nn.Linear(30, 20), "probmask", 0.5, finetune=0).method.cycles(300) == [Cycle(300, passes=2)]


@pytest.mark.parametrize("form", ["original", "st3code"])
def test_fine_tuning_has_an_optimiser_of_its_own(form):
    run = training("probmask", 0.5, epochs=2, form=form, trial_batches=1)
    run._batches = lambda n: [(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.long))]
    step(run), step(run)
    assert run.optimizer.state[run.theta]["momentum_buffer"].any()
    run.start(1)
    assert bool(run.optimizer.state[run.theta]["momentum_buffer"].any()) == (form == "st3code")  # ST-3's code goes on with the one it has


def test_masks_are_settled_in_fine_tuning_alone():
    """Before it each epoch has another random mask."""
    for sampling in ("exact", "bernoulli"):
        run = training("probmask", 0.5, epochs=30, sampling=sampling)
        assert not run.method.settled(run)
        run.cycle = 1
        assert run.method.settled(run) == (sampling == "exact")


def test_hard_mask_stays_in_fine_tuning():
    run = training("probmask", 0.5, epochs=30, trial_batches=1)
    run._batches = lambda n: [(torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.long))]
    for _ in range(30):
        step(run)
    method = run.model.method
    mask = method.mask.clone()
    assert int(mask.sum()) == 3 and torch.equal(method.p.detach(), mask.double())
    run.start(1)
    for _ in range(2):
        assert torch.equal(effective(run).flatten(), run.theta.detach() * mask)  # in training, too
        step(run)
    assert torch.equal(method.mask, mask) and torch.equal(method.p.detach(), mask.double())

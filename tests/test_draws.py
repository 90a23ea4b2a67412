"""What draws from torch's global generator in training, as dropout does: it follows from seed, cycle and epoch, and goes on where a run does."""
import copy

import pytest
import torch
from test_cycles import small_digits, trainer

from benchmarks.tasks import get_task
from benchmarks.train import Trainer


def draws(run):
    """What each step of the run draws, once it is made."""
    found, step = [], run.step
    run.step = lambda x, y: found.append(torch.rand(()).item()) or step(x, y)
    return found


def drawn(seed=0):
    """Of two cycles of two epochs of four steps."""
    run = trainer("lrr", 0.2)
    run.seed, found = seed, draws(run)
    run.run()
    return found


def test_each_epoch_of_each_cycle_has_draws_of_its_own_and_the_same_in_every_run():
    first = drawn()
    assert len(set(first)) == 16
    torch.rand(1000)
    assert drawn() == first and not set(drawn(seed=1)) & set(first)


def test_draws_go_on_where_a_run_does():
    """Within an epoch and at its end, whatever has been drawn meanwhile."""
    whole, states = trainer("lrr", 0.2), []
    expected = draws(whole)
    for _ in whole.steps(within=lambda run: states.append(copy.deepcopy(run.state_dict()))):
        pass
    for steps in (1, 4, 10):
        resumed = trainer("lrr", 0.2)
        resumed.load_state_dict(states[steps - 1])
        found = draws(resumed)
        torch.rand(1000)
        resumed.run()
        assert found == expected[steps:]


def test_each_seed_begins_with_a_network_of_its_own():
    first, again, other = (Trainer(get_task("digits"), "st3", 0.9, seed, {}, small_digits()).model.theta for seed in (0, 0, 1))
    assert torch.equal(first, again) and (first != other).all()


@pytest.mark.parametrize("step, place", [(5, "epoch 1"), (9, "epoch 0 of cycle 1")])
def test_where_a_loss_was_no_number_is_said(step, place):
    """Of two cycles of two epochs of four steps; of the first nothing is said."""
    run = trainer("lrr", 0.2)
    taken, own = [], run.step

    def falls(x, y):
        taken.append(own(x, y))
        if len(taken) == step:
            run.loss_sum.fill_(float("nan"))

    run.step = falls
    with pytest.raises(FloatingPointError, match=rf"\Athe loss is nan in {place}\Z"):
        run.run()

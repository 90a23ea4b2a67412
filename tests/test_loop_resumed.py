"""Mistakes in going on from a saved state, and in starting more than once: each is refused, or told of, in one line."""
import io
import warnings

import numpy as np
import pytest
import torch
from test_loop_exported import planned
from torch import nn

from methods import SparseModel, Training


def parts(method="rigl", epochs=4, steps=10, **options):
    torch.manual_seed(0)
    model = SparseModel(nn.Linear(40, 10), method, 0.9, **{**({"interval": 5} if method == "rigl" else {}), **options})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, Training(model, optimizer, epochs, steps)


def saved(steps, *given, **options):
    """The states of a training after so many steps."""
    model, optimizer, training = made = parts(*given, **options)
    training.start()
    go_on(training, steps)
    return [part.state_dict() for part in made]


def go_on(training, steps):
    for _ in range(steps):
        training.model(torch.randn(8, 40)).square().sum().backward()
        training.update()


@pytest.mark.parametrize("steps", [5, 20])
def test_another_number_of_steps_per_epoch_is_refused_in_the_middle(steps):
    state = saved(13)[2]
    training = parts(steps=steps)[2]
    with pytest.raises(ValueError, match=rf"\Athis training had 10 steps per epoch and would go on with {steps}, elsewhere in its [^\n]*\Z"):
        training.load_state_dict(state)
    assert not training.started and training.step == 0


def test_a_state_that_is_not_in_the_middle_has_no_steps_to_keep():
    for state in (parts()[2].state_dict(), saved(0)[2]):
        parts(steps=20)[2].load_state_dict(state)
    ended = saved(40)[2]
    parts(steps=5)[2].load_state_dict(ended)
    with pytest.raises(ValueError, match="had 10 steps per epoch"):
        parts(epochs=20, steps=5)[2].load_state_dict(ended)  # which goes on


def test_a_state_of_another_method_is_refused():
    with pytest.raises(ValueError, match=r"\Athis is the state of a training with set, not with rigl: build the model with that method\Z"):
        parts()[2].load_state_dict(saved(3, "set", interval=5)[2])


@pytest.mark.parametrize("epochs", [4, 8])
def test_the_same_training_goes_on_and_a_longer_one(epochs):
    made = parts(epochs=epochs)
    for part, state in zip(made, saved(13)):
        part.load_state_dict(state)
    assert (made[2].step, made[2].epoch, made[2].total_steps) == (13, 1, 10 * epochs)
    go_on(made[2], 10 * epochs - 13)
    assert int(made[0].method.mask.sum()) == 40 and made[2].step == made[2].total_steps


def test_a_length_in_numbers_of_numpy_is_saved():
    model, optimizer, training = parts(epochs=np.int64(4), steps=np.int64(10))
    training.start()
    torch.save(training.state_dict(), file := io.BytesIO())
    file.seek(0)
    assert torch.load(file, weights_only=True) == training.state_dict()


def test_a_start_in_the_middle_is_told_of():
    _, training, epoch = planned("gmp", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training.start()  # nothing is lost
    epoch()
    with pytest.warns(UserWarning, match=r"\Astart\(\) begins this cycle anew, after 6 of its 12 steps: call it once, before the loop\Z") as told:
        training.start()
    assert told[0].filename == __file__ and training.step == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epoch(), epoch()
        training.start()  # of a training that has ended, another begins


def test_the_next_cycle_may_be_started_in_the_middle(recwarn):
    _, training, epoch = planned("lrr", 2)
    epoch()
    training.start(1)
    assert not recwarn


def test_a_new_optimiser_goes_on_in_a_new_training():
    model, _, training = parts(interval=10)
    training.start()
    go_on(training, 13)
    mask = model.method.mask.clone()
    again = Training(model, torch.optim.Adam(model.parameters()), 4, 10)
    again.load_state_dict(training.state_dict())
    assert again.step == 13 and torch.equal(model.method.mask, mask)
    go_on(again, 27)
    assert again.step == again.total_steps and not torch.equal(model.method.mask, mask)
    with pytest.raises(ValueError, match="another Training has begun with this model since"):
        training.update()


def test_a_step_of_ones_own_while_another_model_is_updated():
    """Each with its optimiser, as of runs in turns: no word of two models in one."""
    (_, optimizer, own), (_, _, other) = parts("static"), parts("static")
    own.start(), other.start()
    own.model(torch.randn(8, 40)).square().sum().backward()
    apply = other.apply

    def and_mine():
        apply()
        with pytest.raises(ValueError, match=r"\Acall training.update\(\) and not optimizer.step\(\)"):
            optimizer.step()
    other.apply = and_mine
    go_on(other, 1)
    assert other.step == 1

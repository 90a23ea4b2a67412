"""`update_with_optimizer`: in loops of frameworks (Lightning, Hugging Face's Trainer), which take the optimiser's step themselves."""
import copy
import warnings

import pytest
import torch
from test_own_loop import Net, batches
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils._pytree import tree_leaves

from methods import SparseModel, Training


def begun(method, storage="masked", scheduled="after"):
    """(model, optimiser, training, schedule) of two epochs of six steps, the schedule made before or after the training."""
    torch.manual_seed(0)
    changes = {"rigl": {"interval": 2}, "gse_uniform": {"interval": 2, "score_batches": "train_batch"}}.get(method, {})
    model = SparseModel(Net(), method, 0.5, storage=storage, **changes)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    schedules = [ExponentialLR(optimizer, 0.5)] if scheduled == "before" else []
    training = Training(model, optimizer, 2, 6, clip=1.0, batches=lambda n: batches()[:n])
    return model, optimizer, training, schedules


def passes(model, optimizer, x, y):
    """What a framework gives an optimiser as its closure."""
    optimizer.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    return loss


def theirs(closure, scheduled, *given):
    model, optimizer, training, schedules = begun(*given, scheduled)
    training.update_with_optimizer()
    schedule = (schedules or [ExponentialLR(optimizer, 0.5)])[0]
    training.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a schedule complains of an optimiser that takes no steps, or other ones
        for _ in range(2):
            for x, y in batches():
                training.batch = (x, y)
                if closure:
                    loss = optimizer.step(lambda: passes(model, optimizer, x, y))
                    assert loss.item() > 0
                else:
                    passes(model, optimizer, x, y)
                    assert optimizer.step() is None
            schedule.step()
    return model, training


def ours(*given):
    model, optimizer, training, _ = begun(*given)
    schedule = ExponentialLR(optimizer, 0.5)
    training.start()
    for _ in range(2):
        for x, y in batches():
            passes(model, optimizer, x, y)
            training.update((x, y))
        schedule.step()
    return model, training


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize("scheduled", ["before", "after"])
@pytest.mark.parametrize("given", [*((method, "masked") for method in ("dense", "st3", "rigl", "gse_uniform", "probmask")), ("gse_uniform", "sparse")])
def test_a_step_of_the_optimiser_is_an_update(given, scheduled, closure):
    (model, training), (expected, own) = theirs(closure, scheduled, *given), ours(*given)
    assert training.step == own.step == 12
    tensors, wanted = ([value for value in tree_leaves(one.state_dict()) if torch.is_tensor(value)] for one in (model, expected))
    assert len(tensors) == len(wanted) > 4 and all(map(torch.equal, tensors, wanted))


def test_the_next_training_takes_the_optimiser_over():
    """Its steps are updates of the new training alone."""
    model, optimizer, first, _ = begun("static")
    first.update_with_optimizer()
    first.start()
    second = Training(model, optimizer, 1, 6)
    second.update_with_optimizer()
    second.start()
    before = model.theta.clone()
    optimizer.step(lambda: passes(model, optimizer, *batches()[0]))
    assert (first.step, second.step) == (0, 1) and not torch.equal(model.theta, before)


def test_the_next_training_may_have_a_loop_of_its_own():
    model, optimizer, first, _ = begun("static")
    first.update_with_optimizer()
    second = Training(model, optimizer, 1, 6)
    second.start()
    passes(model, optimizer, *batches()[0])
    second.update()
    assert (first.step, second.step) == (0, 1)


@pytest.mark.parametrize("scheduled", ["before", "after"])
def test_a_copy_of_all_goes_on_by_itself(scheduled):
    model, optimizer, training, schedules = begun("rigl", scheduled=scheduled)
    training.update_with_optimizer()
    training.start()
    copied, other, again = copy.deepcopy((model, optimizer, training))
    for x, y in batches():
        for net, steps in ((model, optimizer), (copied, other)):
            steps.step(lambda net=net, steps=steps, x=x, y=y: passes(net, steps, x, y))
    assert training.step == again.step == 6 and torch.equal(model.theta, copied.theta)


def test_the_line_for_a_scaler_goes_with_it():
    thetas = []
    for told in (False, True):
        model, optimizer, training, _ = begun("rigl")
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        training.update_with_optimizer()
        if told:
            training.take_step = lambda optimizer=optimizer, scaler=scaler: scaler.step(optimizer)
        training.start()
        for x, y in batches():
            scaler.scale(cross_entropy(model(x), y)).backward()
            if told:
                scaler.unscale_(optimizer)
                training.update((x, y))
            else:
                scaler.step(optimizer)
            scaler.update()
        thetas.append(model.theta)
        assert training.step == 6
    torch.testing.assert_close(*thetas)


def test_what_asks_for_the_loss_itself_is_refused():
    model, *_ = begun("static")
    with pytest.raises(ValueError, match=r"\ALBFGS asks for the loss within its step: call training.update\(\) in a loop of your own\Z"):
        Training(model, torch.optim.LBFGS(model.parameters()), 1, 1).update_with_optimizer()


def test_no_step_scores_on_the_batch_of_another():
    model, optimizer, training, _ = begun("gse_uniform")
    training.update_with_optimizer()
    training.start()
    training.batch = batches()[0]
    with pytest.raises(ValueError, match=r"passes the training batch once more: call update\(\(x, y\)\), or set training.batch before\Z"):
        for x, y in batches():
            optimizer.step(lambda x=x, y=y: passes(model, optimizer, x, y))
    assert training.step > 0


class Wrapper:
    """An optimiser in another one's place, as accelerate has it: no hooks, and a step that hands on."""

    def __init__(self, optimizer):
        self.optimizer, self.param_groups, self.state = optimizer, optimizer.param_groups, optimizer.state

    def step(self, closure=None):
        self.optimizer.step(closure)


def test_the_step_of_a_wrapper_is_an_update():
    results = []
    for wrapped in (False, True):
        model, optimizer, training, _ = begun("rigl")
        if wrapped:
            training = Training(model, Wrapper(optimizer), 2, 6, clip=1.0)
        training.update_with_optimizer()
        training.start()
        for x, y in batches():
            passes(model, optimizer, x, y)
            training.optimizer.step()
        results.append(model.theta)
        assert training.step == 6
    assert torch.equal(*results)


def test_a_step_without_gradients_says_so():
    _, optimizer, training, _ = begun("rigl")
    training.update_with_optimizer()
    training.start()
    with pytest.raises(ValueError, match=r"\Athere are no gradients: call loss.backward\(\) before update\(\)\Z"):
        optimizer.step()


def test_a_batch_that_the_loop_leaves_out_is_no_step():
    """As Lightning's, whose training_step gave None; gradients of batches before are used."""
    model, optimizer, training, _ = begun("static")
    training.update_with_optimizer()
    training.start()
    before, (x, y) = model.theta.detach().clone(), batches()[0]
    assert optimizer.step(lambda: None) is None and training.step == 0 and torch.equal(model.theta, before)
    passes(model, optimizer, x, y)
    assert optimizer.step(lambda: None) is None and training.step == 1 and not torch.equal(model.theta, before)
    with pytest.raises(ValueError, match="no gradients"):
        optimizer.step(lambda: 0.0)


def test_who_takes_a_step_without_it_is_told():
    _, optimizer, training, _ = begun("rigl")
    training.start()
    with pytest.raises(ValueError, match=r"where a framework takes it, call training.update_with_optimizer\(\) once"):
        optimizer.step()


def test_a_scaler_takes_the_step():
    """And leaves one out whose gradients overflow, mask and all."""
    thetas = []
    for scaler in (torch.amp.GradScaler("cpu", init_scale=1024.0), torch.amp.GradScaler("cpu", enabled=False)):
        model, optimizer, training, _ = begun("rigl")
        training.update_with_optimizer()
        training.start()
        for x, y in batches():
            scaler.scale(cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()
        thetas.append(model.theta.detach().clone())
        assert training.step == 6
        if scaler.is_enabled():
            mask = model.method.mask.clone()
            (scaler.scale(cross_entropy(model(x), y)) * float("inf")).backward()
            scaler.step(optimizer)
            assert training.step == 6 and torch.equal(model.theta, thetas[0]) and torch.equal(model.method.mask, mask)
    torch.testing.assert_close(*thetas)


@pytest.mark.parametrize("closure", [True, False])
def test_a_pass_without_gradients_after_the_last_step_is_none(closure):
    """Lightning's averaging of weights ends with one, for the statistics of normalisation."""
    model, optimizer, training, _ = begun("rigl")
    training.update_with_optimizer()
    training.start()
    for x, y in [*batches(), *batches()]:
        passes(model, optimizer, x, y)
        optimizer.step()
    before = model.theta.detach().clone()
    with torch.no_grad():
        loss = cross_entropy(model(x), y)
    assert optimizer.step(*[lambda: loss] * closure) is (loss if closure else None)
    assert training.step == 12 and torch.equal(model.theta, before)

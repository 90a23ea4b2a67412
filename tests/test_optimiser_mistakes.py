"""Mistakes in how a loop of one's own makes the optimiser of a `SparseModel`: each is refused in one line."""
import warnings
from contextlib import nullcontext

import pytest
import torch
from test_own_loop import Net, batches
from torch import nn
from torch.nn.functional import cross_entropy

from methods import SparseModel, Training, get


def test_an_optimiser_of_other_parameters_is_refused():
    net = Net()
    other = torch.optim.SGD(net.parameters(), 0.05)  # as it is before SparseModel has made theta of them
    with pytest.raises(ValueError, match=r"build it over model.parameters\(\)"):
        Training(SparseModel(net, "rigl", 0.5), other, 1, 6)


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_weights_that_loading_has_replaced_are_no_longer_the_optimiser_s(storage):
    """Without a word, theta would stay as it was loaded, while other parameters are trained."""
    model = SparseModel(nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4)), "rigl", 0.8, storage=storage)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 4, 4)
    run.start()
    own = {name: value for name, value in model.state_dict().items() if "bias" in name}
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    for name, bias in own.items():  # the optimiser's own, which go on
        model.net.get_parameter(name.removeprefix("net.")).data = bias
    model(torch.randn(8, 12)).square().mean().backward()
    with pytest.raises(ValueError, match=r"build it over model.parameters\(\)"):
        run.update()


def test_parameters_that_are_to_be_trained_otherwise_have_a_group_of_their_own():
    model = SparseModel(Net(), "movement", 0.5, score_lr=0.25)
    said = (r"\Amovement has parameters that are to be trained otherwise than the weights: [^\n]* model.parameter_groups\(lr\) instead of "
            r"model.parameters\(\)\Z")
    with pytest.warns(UserWarning, match=said) as told:
        Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6)
    assert told[0].filename == __file__
    optimizer = torch.optim.SGD(model.parameter_groups(0.04), 0.05, momentum=0.9, weight_decay=0.1)
    first, scores = optimizer.param_groups
    assert (first["lr"], first["momentum"], first["weight_decay"]) == (0.04, 0.9, 0.1)
    assert (scores["lr"], scores["momentum"], scores["weight_decay"], scores["params"]) == (0.04 * 0.25, 0.0, 0.0, [model.method.scores])
    assert {*first["params"], *scores["params"]} == {*model.parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Training(model, optimizer, 1, 6)
        likewise = SparseModel(Net(), "movement", 0.5)  # at the same rate, and of momentum and decay there are none
        Training(likewise, torch.optim.SGD(likewise.parameters(), 0.05), 1, 6)
        plain = SparseModel(Net(), "st3", 0.5)
        Training(plain, torch.optim.SGD(plain.parameters(), 0.05), 1, 6)


def test_a_group_of_a_method_with_a_learning_rate_is_refused():
    class Own(get("movement")):
        def groups(self):
            return [dict(params=[self.scores], lr=0.01)]
    model = SparseModel(Net(), Own, 0.5)
    for use in (lambda: Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6), lambda: model.parameter_groups(0.1)):
        with pytest.raises(ValueError, match=r"\Agroups\(\) of Own gives lr: give lr_scale, [^\n]*\Z"):
            use()


@pytest.mark.parametrize("kind", [lambda own: dict(params=[own.scores]), lambda own: [own.scores], lambda own: [dict(params=own.parameters())],
                                  lambda own: [dict(params=own.scores)], lambda own: [dict(weight_decay=0.0)], lambda own: None])
def test_groups_of_another_form_are_refused(kind):
    """An iterator as `params`, which torch takes, would be empty when the optimiser asks."""
    class Own(get("movement")):
        groups = kind
    with pytest.raises(ValueError, match=r"\Agroups\(\) of Own must return a list of dictionaries such as {'params': \[self\.scores\]}\Z"):
        SparseModel(Net(), Own, 0.5).parameter_groups(0.1)


@pytest.mark.parametrize("method", ["movement", "str_original", "dst_mask", "probmask"])
def test_an_optimiser_without_what_the_method_learns_is_refused(method):
    model = SparseModel(Net(), method, 0.5)
    groups = [dict(params=[model.theta], weight_decay=1e-4), dict(params=model.net.parameters())]
    with pytest.raises(ValueError, match=rf"\A{method} learns parameters that the optimiser does not hold: add model.method.parameters\(\) to one"):
        Training(model, torch.optim.SGD(groups, 0.05), 1, 6, batches=lambda n: batches()[:n])
    groups.append(dict(params=model.method.parameters()))
    Training(model, torch.optim.SGD([*groups[:1], dict(params=model.net.parameters()), groups[2]], 0.05), 1, 6, batches=lambda n: batches()[:n])


def test_what_is_no_optimiser_and_a_cycle_that_is_not_there_are_refused():
    model = SparseModel(Net(), "rigl", 0.5)
    with pytest.raises(ValueError, match=r"\ATraining takes an optimiser, not generator\Z"):
        Training(model, model.parameters(), 1, 6)
    with pytest.raises(ValueError, match=r"\Arigl has no cycle 1 here: there are 1, from 0 on\Z"):
        Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6).start(1)


def test_one_training_after_another_has_the_optimiser():
    model = SparseModel(Net(), "rigl", 0.5)
    optimizer, trainings = torch.optim.SGD(model.parameters(), 0.05), []
    for again in (False, True):
        trainings.append(training := Training(model, optimizer, 1, 1))
        said = "trained before, by 1 updates of another Training: start.. gives it the mask that rigl begins"
        with pytest.warns(UserWarning, match=said) if again else nullcontext():
            training.start()
        cross_entropy(model(batches()[0][0]), batches()[0][1]).backward()
        training.update()
    with pytest.raises(ValueError, match=r"call training.update\(\) and not optimizer.step\(\)"):
        optimizer.step()
    with pytest.raises(ValueError, match=r"\Aanother Training has begun with this model since: go on with that one\Z"):
        trainings[0].update()


def test_two_models_in_one_optimiser_are_told_what_to_do():
    models = [SparseModel(nn.Linear(20, 10), "static", 0.5) for _ in range(2)]
    optimizer = torch.optim.SGD([p for model in models for p in model.parameters()], 0.05)
    trainings = [Training(model, optimizer, 1, 2) for model in models]
    for training in trainings:
        training.start()
    sum(model(torch.ones(1, 20)).sum() for model in models).backward()
    with pytest.raises(ValueError, match=r"\A[^\n]*another SparseModel's training: two SparseModels need an optimiser each, or one [^\n]*\Z"):
        trainings[0].update()
    with pytest.raises(ValueError, match=r"\Acall training.update\(\) and not optimizer.step\(\)"):
        optimizer.step()

"""What a loop of one's own may do with gradients and optimisers."""
import copy
import re
from pathlib import Path

import pytest
import torch
from test_own_loop import STORAGES, Net, batches
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from methods import SparseModel, Training


def test_groups_added_later_are_clipped_and_watched_too():
    model, late = SparseModel(Net(), "st3", 0.5), nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    training = Training(model, optimizer, 2, 1, clip=1.0)
    optimizer.add_param_group({"params": [late]})
    training.start()
    late.grad = torch.full_like(late, 100.0)
    training.update()
    assert 0.99 < late.norm() < 1.01
    late.grad = torch.full_like(late, torch.inf)
    with pytest.raises(FloatingPointError, match="diverged in epoch 1"):
        training.update()


class Wrapped(torch.optim.Optimizer):
    """As accelerate's: of the class, and with nothing that its __init__ makes."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def step(self):
        self.optimizer.step()


def test_an_optimiser_in_a_wrapper_without_hooks_trains():
    model, ((x, y), *_) = SparseModel(Net(), "rigl", 0.5, interval=1), batches()
    training = Training(model, Wrapped(torch.optim.SGD(model.parameters(), 0.05)), 1, 6)
    training.start()
    before = model.theta.detach().clone()
    cross_entropy(model(x), y).backward()
    training.update()
    assert not torch.equal(model.theta, before)


def test_an_optimiser_that_asks_for_the_loss_trains():
    model, losses = SparseModel(Net(), "rigl", 0.5, interval=2), []
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=3)
    training = Training(model, optimizer, 1, 6)
    x, y = batches()[0]

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        return loss
    training.take_step = lambda: optimizer.step(closure)
    training.start()
    for _ in range(6):
        closure()
        training.update()
    assert losses[-1] < losses[0] and model.outside() == 0 and int(model.method.mask.sum()) == model.method.budget


@pytest.mark.parametrize("name, storage", [("gse_uniform", "masked"), ("gse_grabo", "masked"), ("gse_uniform", "sparse"), ("rigl", "sparse")])
def test_a_method_that_passes_the_training_batch_again_asks_for_it(name, storage):
    options = {"score_batches": "train_batch"} if name != "rigl" else {}
    model, ((x, y), *_) = SparseModel(Net(), name, 0.5, interval=1, storage=storage, **options), batches()
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6)
    training.start()
    with pytest.raises(ValueError, match=rf"\A{name} passes the training batch once more: call update\(\(x, y\)\), or set training.batch before\Z"):
        for _ in range(3):
            cross_entropy(model(x), y).backward()
            training.update()


@pytest.mark.parametrize("name", ["rigl", "st3", "gmp", "probmask", "str", "topkast", "movement"])
def test_averaged_weights_are_as_sparse(name):
    model = SparseModel(Net(), name, 0.5)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 3, 2, batches=lambda n: batches()[:n])
    training.start()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for x, y in batches():
        for _ in range(training.passes):
            cross_entropy(model(x), y).backward()
        training.update((x, y))
        averaged.update_parameters(model)
    average = averaged.module
    assert torch.equal(average.method.mask, model.method.mask) and not torch.equal(average.theta, model.theta)
    assert average.outside() == 0 and int(average.method.mask.sum()) == model.method.budget
    weights = average.layout.flatten([average.export().get_parameter(entry.name) for entry in average.layout.entries])
    assert not weights[~model.method.mask].any()


@pytest.mark.parametrize("name, storage", [("st3", "masked"), ("feather", "masked"), ("str", "masked"), ("rigl", "masked"), ("rigl", "sparse")])
def test_an_average_of_the_weights_in_use(name, storage):
    """By the code of examples/README.md; that of theta is another one where a method has thresholds."""
    page = (Path(__file__).parent.parent / "examples" / "README.md").read_text(encoding="utf-8")
    begin, update, end = re.search(r"```python\n(from torch\.optim\.swa_utils .*?)(averaged\.update_parameters.*?\n)(.*?)```", page, re.S).groups()
    torch.manual_seed(0)
    model = SparseModel(Net(), name, 0.5, storage=storage, **({"interval": 2} if name == "rigl" else {}))
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6)
    training.start()
    names, of_theta, expected = {"model": model}, AveragedModel(copy.deepcopy(model), multi_avg_fn=get_ema_multi_avg_fn(0.5)), None
    exec(begin.replace("0.999", "0.5"), names)
    averaged = names["averaged"]
    for x, y in batches():
        cross_entropy(model(x), y).backward()
        training.update((x, y))
        exec(update, names)
        now = {name: parameter.detach().clone() for name, parameter in model.plain().named_parameters()}
        expected = {name: (value + now[name]) / 2 for name, value in expected.items()} if expected else now
        if storage == "masked":
            of_theta.update_parameters(model)
    exec(end, names)
    for weight, mask in model.masks().items():
        expected[weight] *= mask
    assert all(torch.allclose(parameter, expected[name], atol=1e-7) for name, parameter in averaged.module.named_parameters())
    kept = sum(int(averaged.module.get_parameter(weight).count_nonzero()) for weight in model.masks())
    assert 0.9 * model.method.budget < kept <= model.method.budget
    if storage == "masked":
        theirs = of_theta.module.plain().get_parameter("second.weight")
        assert torch.allclose(theirs, expected["second.weight"], atol=1e-7) == (name == "rigl")


@pytest.mark.parametrize("decay, others, told", [
    (0.0, 0.1, True), (0.1, 0.0, False), (0.1, 0.1, False), (0.0, 0.0, False), (0.0, None, True), (0.1, None, False)])
@pytest.mark.parametrize("storage", STORAGES)
def test_weights_that_are_taken_for_a_bias_are_told_of(storage, decay, others, told, recwarn):
    """others: the weight decay of a group of all else; None: theta's is of all, beside an empty one with decay."""
    model = SparseModel(Net(), "rigl", 0.5, interval=2, storage=storage)
    rest = [p for p in model.parameters() if p is not model.theta]
    groups = [dict(params=[model.theta, *(rest if others is None else [])], weight_decay=decay),
              dict(params=[] if others is None else rest, weight_decay=0.1 if others is None else others)]
    recwarn.clear()
    Training(model, torch.optim.AdamW(groups, 0.01), 1, 6)
    assert [(w.filename, "takes it for a bias" in str(w.message)) for w in recwarn] == [(__file__, True)] * told


def test_decay_of_what_a_method_learns_is_no_sign_of_that(recwarn):
    model = SparseModel(Net(), "movement", 0.5)
    learned = [*model.method.parameters()]
    rest = [p for p in model.parameters() if all(p is not own for own in learned)]
    Training(model, torch.optim.SGD([dict(params=rest), dict(params=learned, weight_decay=0.1)], 0.01), 1, 6)
    assert learned and not recwarn.list


@pytest.mark.parametrize("name", ["rigl", "st3"])
def test_a_compiled_model_trains_as_the_model(name):
    def after(compiled):
        torch.manual_seed(0)
        model = SparseModel(Net(), name, 0.5, **({"interval": 2} if name == "rigl" else {}))
        training, net = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6), compiled(model)
        training.start()
        for x, y in batches():
            cross_entropy(net(x), y).backward()
            training.update((x, y))
        return model.theta.detach(), model.method.mask
    (theta, mask), (other, same) = after(lambda model: model), after(lambda model: torch.compile(model, backend="aot_eager"))
    assert torch.allclose(theta, other, atol=1e-6) and torch.equal(mask, same)

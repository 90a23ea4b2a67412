"""What `export` says of a network that is not what was asked for, and what is refused before and after `SparseModel` takes a network."""
import re
import warnings
from pathlib import Path

import pytest
import torch
from test_own_loop import STORAGES, Net, batches
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from methods import SparseModel, Training


def planned(method, epochs, **options):
    """(model, training, what makes its steps) of a training planned for so many epochs of six steps."""
    torch.manual_seed(0)
    model = SparseModel(Net(), method, 0.5, **options)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), epochs, 6)
    training.start()

    def epoch():
        for x, y in batches():
            cross_entropy(model(x), y).backward()
            training.update((x, y))
    return model, training, epoch


def said(model):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.export()
    assert all(w.filename == __file__ for w in told)
    return [str(w.message) for w in told]


def test_a_network_that_is_not_as_sparse_as_asked_for_is_exported_with_a_warning(recwarn):
    model, _, epoch = planned("gmp", 3)
    epoch()
    with pytest.warns(UserWarning, match=r"exported network has \d+ weights, not the \d+ .* the end of its schedule") as told:
        model.export()
    assert told[0].filename == __file__
    epoch(), epoch()
    recwarn.clear()
    weights = [p for p in model.export().parameters() if p.dim() > 1]
    assert not recwarn and sum(int((w != 0).sum()) for w in weights) == model.method.budget == model.layout.size // 2


@pytest.mark.parametrize("method", ["probmask", "lrr"])
def test_a_network_whose_cycles_were_not_all_trained_is_exported_with_a_warning(method, recwarn):
    """ProbMask's mask has its size after the first of two."""
    model, training, epoch = planned(method, 1, **({"trials": 1} if method == "probmask" else {}))
    for cycle in range(len(training.cycles)):
        training.start(cycle)
        epoch()
        recwarn.clear()
        model.export()
        left = len(training.cycles) - 1 - cycle
        assert len(recwarn) == (left > 0)
        if left and method == "probmask":
            assert f"of the cycles that probmask trains, {left} were not begun: training.start(cycle)" in str(recwarn[0].message)


@pytest.mark.parametrize("method, left", [("lrr", 4), ("imp", 4), ("lamp_oneshot", 1)])
def test_cycles_that_were_not_begun_are_named_first(method, left):
    """After one loop, as for a method of one cycle, and before its end."""
    model, _, epoch = planned(method, 2)
    for _ in range(2):
        epoch()
        line, = said(model)
        assert line == (f"the exported network has {model.layout.size} weights, not the {model.method.budget} that were asked for: "
                        f"of the cycles that {method} trains, {left} were not begun: training.start(cycle) begins the next "
                        "(examples/README.md, methods of several cycles)")


def test_a_training_shorter_than_planned_is_told_in_numbers():
    model, training, epoch = planned("gmp", 20)
    epoch()
    line, = said(model)
    assert line.endswith("its training has not come to the end of its schedule: 6 of 120 updates were made; steps_per_epoch counts calls of update()")
    del training, epoch
    line, = said(model)  # nobody knows how many
    assert line.endswith("its training has not come to the end of its schedule, or it is an average of models, which has to leave out their buffers "
                         "(use_buffers=False)")


@pytest.mark.parametrize("method", ["gmp", "st3"])
def test_the_best_state_may_be_of_before_the_sparsity_was_reached(method):
    model, training, epoch = planned(method, 2)
    best = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(2):
        epoch()
    last = {name: value.clone() for name, value in model.state_dict().items()}
    assert not said(model)
    model.load_state_dict(best)
    assert training.step == training.total_steps
    line, = said(model)
    assert line.endswith(": the state that was loaded last is of an earlier moment of the training, with the mask of that moment")
    model.load_state_dict(last)
    assert not said(model)


def test_a_training_that_went_on_after_a_state_was_loaded_has_not_that_reason():
    model, training, epoch = planned("gmp", 2)
    epoch()
    model.load_state_dict(model.state_dict())
    epoch()
    training.model.method.mask.fill_(True)
    assert "gmp did not reach them in all of its schedule" in said(model)[0]


@pytest.mark.parametrize("method", ["dst_mask", "str_original", "srigl"])
def test_a_sparsity_that_is_far_from_what_was_asked_for_is_told_of_once(method):
    model, _, epoch = planned(method, 1)
    epoch()
    for active, lines in ((0.5, 0), (0.495, 0), (0.505, 0), (0.52, 1), (0.48, 1)):
        with torch.no_grad():  # a mask of so many
            model.method.mask.copy_(torch.arange(model.layout.size) < active * model.layout.size)
        model.outside = lambda: 0
        found = said(model)
        assert len(found) == lines
        if lines:
            assert found[0].startswith("the exported network has ")
            assert found[0].endswith(f"asked for: where {method} ends depends on its options, too")


def test_one_that_has_not_ended_has_another_reason():
    model, _, epoch = planned("dst_mask", 2)
    epoch()
    line, = said(model)
    assert "the end of its schedule: 6 of 12 updates" in line


def test_a_mask_that_was_averaged_with_others_says_what_to_leave_out(recwarn):
    torch.manual_seed(0)
    model = SparseModel(Net(), "rigl", 0.8, interval=2)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6)
    training.start()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    for x, y in batches():
        cross_entropy(model(x), y).backward()
        training.update((x, y))
        averaged.update_parameters(model)
    recwarn.clear()
    model.export()
    assert not recwarn
    averaged.module.export()
    assert re.search(r"not the 222 that were asked for: .* average of models, .*\(use_buffers=False\)", str(recwarn.pop().message))


class DistributedDataParallel(nn.parallel.DistributedDataParallel):
    """One that needs no processes."""

    def __init__(self, module):
        nn.Module.__init__(self)
        self.module = module


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("wrapper", [nn.DataParallel, DistributedDataParallel])
def test_a_network_that_is_wrapped_is_refused(wrapper, storage):
    net = Net()
    line = f"SparseModel takes the network itself: wrap the SparseModel instead, {wrapper.__name__}(SparseModel(net, …))"
    with pytest.raises(ValueError, match=rf"\A{re.escape(line)}\Z"):
        SparseModel(wrapper(net), "static", 0.5, storage=storage)
    SparseModel(net, "static", 0.5, storage=storage)  # which is whole


@pytest.mark.parametrize("storage", STORAGES)
def test_weights_that_come_too_late_are_told_when_to_come(storage):
    pretrained, model, other = Net().state_dict(), *(SparseModel(Net(), "static", sparsity, storage=storage) for sparsity in (0.5, 0.9))
    line = "\tThere is no theta: load pretrained weights into the network before SparseModel takes it"
    with pytest.raises(RuntimeError, match=rf"Missing key[^\0]*\n{line}\Z"):
        model.load_state_dict(pretrained)
    assert model.load_state_dict(pretrained, strict=False).missing_keys
    with pytest.raises(RuntimeError) as plain:
        model.load_state_dict({**other.state_dict(), "another": torch.zeros(1)})
    assert "There is no theta" not in str(plain.value)
    assert not model.load_state_dict(other.state_dict(), strict=True).missing_keys


@pytest.mark.parametrize("storage", STORAGES)
def test_weights_come_back_laid_out_as_they_were(storage):
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8, 4))
    net[2].to(memory_format=torch.channels_last)
    plain = SparseModel(net, "static", 0.5, storage=storage).export()
    assert plain[0].weight.is_contiguous() and not plain[2].weight.is_contiguous()
    assert plain[2].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_network_in_evaluation_mode_is_trained_so_only_with_a_warning(storage):
    def training(net):
        model = SparseModel(net, "static", 0.5, storage=storage)
        model(torch.randn(5, 8)).sum().backward()
        run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 2)
        run.start()
        return model, run
    model, run = training(nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6)).eval())
    assert not model.training
    with pytest.warns(UserWarning, match="in evaluation mode, as where it was .*: call model.train\\(\\) before the loop"):
        run.update()
    net = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6))
    net[1].eval()  # frozen, as is meant
    model, run = training(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.update()
    assert model.training and not net[1].training


@pytest.mark.parametrize("storage", STORAGES)
def test_weights_that_are_no_numbers_are_said_to_have_diverged(storage):
    model = SparseModel(nn.Linear(8, 6), "static", 0.5, storage=storage)
    model.theta.data[3] = torch.nan
    assert said(model)[-1] == "the exported weights are NaN or infinite: the training has diverged" and "besides" not in str(said(model))


def test_a_state_of_the_other_storage_is_named_and_its_connections_can_be_taken():
    """As examples/README.md has it."""
    model = SparseModel(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(32, 4)), "gmp", 0.8, ramp_start=0.0, ramp_end=0.0)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 2)
    run.start()
    plain = model.export()
    fixed = SparseModel(model.export(), "static", 0.8, storage="sparse")
    with pytest.raises(RuntimeError, match="This is the state of a model with storage=masked"):
        fixed.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="This is the state of a model with storage=sparse"):
        model.load_state_dict(fixed.state_dict())
    page = (Path(__file__).parent.parent / "examples/README.md").read_text(encoding="utf-8")
    code, = re.findall(r"```python\n(fixed = .*?)```", page, re.S)
    found = dict(SparseModel=SparseModel, model=model, plain=plain, sparsity=0.8)
    exec(code, found)
    x = torch.randn(3, 4, 4, 4)
    assert torch.allclose(found["fixed"](x), plain(x), atol=1e-6) and found["fixed"].method.mask.sum() == model.method.mask.sum()

"""Mistakes in a training loop of one's own around `SparseModel`: each is refused, or told of, in one line."""
import copy
import pickle
import sys
from itertools import cycle, islice

import pytest
import torch
from test_loop_exported import planned
from test_own_loop import STORAGES, Net, batches
from torch import nn
from torch.nn.functional import cross_entropy

from methods import SparseModel, Training, get


@pytest.mark.parametrize("method, options", [("rigl", {"interval": 1}), ("st3", {})])  # one that reads the gradient, one that does not
def test_a_step_out_of_order_is_refused(method, options):
    model, ((x, y), *_) = SparseModel(Net(), method, 0.5, **options), batches()
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6)
    cross_entropy(model(x), y).backward()
    with pytest.raises(ValueError, match=r"training.start\(\)"):
        training.update()
    training.start()
    training.update()
    with pytest.raises(ValueError, match=r"loss.backward\(\)"):
        training.update()


@pytest.mark.parametrize("epochs, steps", [(0, 6), (1, 0)])
def test_a_training_of_no_step_is_refused(epochs, steps):
    model = SparseModel(Net(), "rigl", 0.5)
    with pytest.raises(ValueError, match="at least one epoch of one step"):
        Training(model, torch.optim.SGD(model.parameters(), 0.05), epochs, steps)


@pytest.mark.parametrize("epochs, steps, said", [(2, 1000 / 128, "7.8125"), ("2", 6, "'2'")])
def test_a_length_that_is_no_whole_number_is_refused(epochs, steps, said):
    model = SparseModel(Net(), "rigl", 0.5)
    with pytest.raises(ValueError, match=rf"\Aepochs and steps_per_epoch are whole numbers, not {said}\Z"):
        Training(model, torch.optim.SGD(model.parameters(), 0.05), epochs, steps)


@pytest.mark.parametrize("wrapped", [nn.DataParallel, lambda model: model.net])
def test_what_is_no_sparse_model_is_refused(wrapped):
    model = SparseModel(Net(), "rigl", 0.5)
    with pytest.raises(ValueError, match=r"\ATraining takes the SparseModel, not [^\n]*\Z"):
        Training(wrapped(model), torch.optim.SGD(model.parameters(), 0.05), 1, 6)


@pytest.mark.parametrize("method, storage", [("rigl", "masked"), ("st3", "masked"), ("set", "sparse")])
def test_copies_for_several_gpus_in_one_process_are_refused(method, storage, monkeypatch):
    model = SparseModel(Net(), method, 0.5, storage=storage)
    copied = sys.modules["torch.nn.parallel.replicate"]  # what nn.DataParallel calls at each step, here without GPUs
    monkeypatch.setattr(copied, "_broadcast_coalesced_reshape", lambda tensors, devices, detach=False: [tensors] * len(devices))
    assert len(copied.replicate(Net(), [0, 1])) == 2
    with pytest.raises(ValueError, match=r"\Ann.DataParallel copies the network at each step, [^\n]*DistributedDataParallel[^\n]*\Z"):
        copied.replicate(model, [0, 1])


def test_a_method_of_another_file_has_not_the_name_of_the_one_it_extends():
    class Own(get("rigl")):
        pass

    class Named(get("rigl")):
        name = "mine"

    class Recipe(get("rigl")):
        original = {"cifar": dict(epochs=1)}
    called = [SparseModel(Net(), method, 0.5).method.called for method in ("rigl", "gse", Own, Named, Recipe)]
    assert called == ["rigl", "gse_uniform", "Own", "mine", "Recipe"]
    assert SparseModel(nn.Sequential(nn.Linear(8, 8)), "rigl", 0.5, storage="sparse").method.called == "rigl"
    model = SparseModel(Net(), Own, 0.5, score_batches="ceil10")
    with pytest.raises(ValueError, match=r"\AOwn scores connections on training batches: give Training batches=function\(n\)\Z"):
        Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6).check_batches()


def test_a_copy_of_a_model_is_in_no_training():
    """And has no gradient of a backward pass that it has not made."""
    model, ((x, y), *_) = SparseModel(Net(), "rigl", 0.5), batches()
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6)
    training.start()
    cross_entropy(model(x), y).backward()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.trained_by is None and other.collected is None
        other.theta.grad = None
        cross_entropy(other(x), y).backward()
        assert torch.equal(other.dense_gradient, model.dense_gradient)


@pytest.mark.parametrize("storage, method, options", [
    ("masked", "snip", {}), ("masked", "gse_graest", {"interval": 2}), ("sparse", "gse_uniform", {"interval": 2}), ("masked", "fisher_diag", {}),
    ("masked", "probmask", {}), ("masked", "rigl", {"interval": 2, "score_batches": "ceil10"})])
def test_a_method_that_scores_batches_asks_for_them_before_the_first_step(storage, method, options):
    model = SparseModel(Net(), method, 0.5, storage=storage, **options)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 2, 6)
    with pytest.raises(ValueError, match=rf"{method} scores connections on training batches: give Training batches=function\(n\)"):
        training.start()


def test_batches_are_a_function_that_gives_some():
    def masks(given):
        torch.manual_seed(0)
        model = SparseModel(Net(), "snip", 0.5)
        Training(model, torch.optim.SGD(model.parameters(), 0.05), 2, 6, batches=given).start()
        return model.method.mask
    first = masks(lambda n: batches()[:n])
    assert torch.equal(masks(lambda n: islice(batches(), n)), first)
    for more in (lambda n: batches(), lambda n: cycle(batches())):  # a whole loader, one without an end
        with pytest.raises(ValueError, match=r"\Abatches= of Training gave more than the 1 asked for: let it give itertools.islice"):
            masks(more)
    with pytest.raises(ValueError, match=r"\Abatches= takes a function\(n\) that gives n batches \(x, y\), not list\Z"):
        masks(batches())
    with pytest.raises(ValueError, match=r"\Asnip scores connections on training batches: batches= of Training gave none\Z"):
        masks(lambda n: [])
    x, y = batches()[0]
    for given, what in (((x, y), "Tensor"), ([(x,)], "tuple of 1"), ([{"x": x}], "dict")):
        with pytest.raises(ValueError, match=rf"\Abatches= of Training must give batches \(x, y\), pairs, not {what}: several inputs are [^\n]*\Z"):
            masks(lambda n: given)


@pytest.mark.parametrize("method, options", [
    ("gse_uniform", {"score_batches": "train_batch", "interval": 2}), ("rigl", {"interval": 2}), ("set", {"interval": 2}),
    ("probmask", {"trials": 1})])
def test_one_that_scores_none_does_not(method, options):
    model = SparseModel(Net(), method, 0.5, **options)
    Training(model, torch.optim.SGD(model.parameters(), 0.05), 2, 6).start()


def test_a_mask_that_would_never_change_is_said(recwarn):
    model = SparseModel(Net(), "rigl", 0.5, interval=10, update_end=0.75)
    for epochs, said in ((2, 1), (3, 0)):
        Training(model, torch.optim.SGD(model.parameters(), 0.05), epochs, 6).start()
        assert sum("cannot change its mask in time" in str(w.message) for w in recwarn) == said
        recwarn.clear()


@pytest.mark.parametrize("storage", STORAGES)
def test_a_step_besides_those_of_update_is_refused(storage):
    model, ((x, y), *_) = SparseModel(Net(), "rigl", 0.5, interval=1, storage=storage), batches()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    training = Training(model, optimizer, 1, 6)
    cross_entropy(model(x), y).backward()
    optimizer.step()  # dense, before the start
    training.start()
    for _ in range(2):
        cross_entropy(model(x), y).backward()
        before = model.theta.detach().clone()
        with pytest.raises(ValueError, match=r"training.update\(\) and not optimizer.step\(\)"):
            optimizer.step()
        assert torch.equal(model.theta, before)
        training.update((x, y))
    with pytest.raises(ValueError, match="there are no gradients"):
        training.update((x, y))
    cross_entropy(model(x), y).backward()
    with pytest.raises(ValueError, match=r"training.update\(\) and not optimizer.step\(\)"):
        optimizer.step()  # also after an update that was refused
    del training
    optimizer.step()  # the network is somebody else's again


def test_steps_that_were_not_planned_are_told_of_once(recwarn):
    _, training, epoch = planned("static", 1)
    epoch()
    assert not recwarn and training.step == training.total_steps
    epoch()
    assert len(recwarn) == 1 and "after the 6 steps that were planned: its schedules have ended" in str(recwarn[0].message)


def test_a_method_of_several_cycles_wants_a_start_for_each(recwarn):
    model, training, epoch = planned("lrr", 1)
    epoch()
    with pytest.warns(UserWarning, match=r"training.start\(1\) for the next of its 5 cycles"):
        epoch()
    recwarn.clear()
    for cycle in range(len(training.cycles)):
        training.start(cycle)
        epoch()
    plain = model.export()
    assert not recwarn and int(model.method.mask.sum()) == model.method.budget
    assert torch.allclose(plain(batches()[0][0]), model(batches()[0][0]), atol=1e-6)


def test_what_is_no_method():
    layout = SparseModel(Net(), "rigl", 0.5).layout
    with pytest.raises(ValueError, match=r"\Aa method is given by its name or its class, RigL, not by an object of it\Z"):
        SparseModel(Net(), get("rigl")(layout, 0.5))
    for method in (None, nn.Linear):
        with pytest.raises(ValueError, match=r"\Aunknown method [^\n]+\Z"):
            SparseModel(Net(), method)


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_a_sparsity_that_is_forgotten(storage):
    """Nothing would be pruned, and nothing would say so."""
    with pytest.raises(ValueError, match=r"\Aset needs a sparsity, the share of zeros in \[0, 1\), as in [^\n]+ sparsity=0\.9\)\Z"):
        SparseModel(Net(), "set", storage=storage)
    models = SparseModel(Net(), "set", 0, storage=storage), SparseModel(Net(), "dense")
    assert [model.method.budget for model in models] == [models[1].layout.size] * 2


def test_what_a_method_is_printed_as():
    assert "(method): RigL(sparsity=0.5, interval=7)" in str(SparseModel(Net(), "rigl", 0.5, interval=7))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("when", ["epoch", "export"])
@pytest.mark.parametrize("replace", [lambda net: setattr(net, "head", nn.Linear(32, 10)),
                                     lambda net: setattr(net.head, "weight", nn.Parameter(torch.zeros(10, 32)))])
def test_a_layer_or_a_weight_that_is_replaced_in_training_is_refused(replace, when, storage):
    """Its weights would be left out without a word."""
    model = SparseModel(Net(), "static", 0.5, storage=storage)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6)
    training.start()
    with pytest.raises(ValueError, match=r"\Ahead.weight was given after SparseModel had taken the network, [^\n]*\Z"):
        for x, y in batches()[:6 if when == "epoch" else 2]:
            cross_entropy(model(x), y).backward()
            if training.step == 1:
                replace(model.net)
            training.update((x, y))
        model.export()
    assert training.step == (5 if when == "epoch" else 2)

"""A network and a training loop of one's own around `SparseModel`, in both storages: what may be done between its passes, and mistakes."""
import copy
from itertools import islice

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu
from torch.utils.checkpoint import checkpoint

from methods import SparseModel, Training

STORAGES = ("masked", "sparse")


class Net(nn.Module):
    """Two convolutions, perhaps computed again in the backward pass, and a linear layer."""

    def __init__(self, again=False, flatten=torch.flatten):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8 * 4, 10)
        self.again, self.flatten = again, flatten

    def body(self, x):
        return relu(self.second(relu(self.first(x))))

    def forward(self, x):
        return self.head(self.flatten(checkpoint(self.body, x, use_reentrant=False) if self.again else self.body(x), 1))


def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 3, 6, 6, generator=generator), torch.randint(10, (16,), generator=generator)) for _ in range(6)]


def trained(storage, passes=1, **options):
    """Six steps of RigL, two of which change connections; each gradient is the sum of `passes` backward passes."""
    torch.manual_seed(0)
    model = SparseModel(Net(**options), "rigl", 0.5, interval=2, storage=storage)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), 1, 6)
    training.start()
    for x, y in batches():
        losses = [cross_entropy(model(part), target) / passes for part, target in zip(x.chunk(passes), y.chunk(passes))]
        for loss in losses:
            loss.backward()
        training.update((x, y))
    return model


@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("storage", STORAGES)
def test_what_is_computed_again_has_the_weights_of_its_pass(storage, passes):
    model, again = trained(storage, passes), trained(storage, passes, again=True)
    assert torch.equal(model.theta, again.theta)
    assert model.state_dict().keys() == again.state_dict().keys() and len(list(model.parameters())) == 4
    assert again.net.first._parameters["weight"] is None  # nothing stays when the pass has ended
    assert not any(layer.given for layers in getattr(again, "layers", ()) for layer in layers)
    copied, (x, _) = copy.deepcopy(again), batches()[0]
    assert torch.equal(copied(x), again(x))


@pytest.mark.parametrize("storage", STORAGES)
def test_gradients_of_the_input_leave_no_weights_behind(storage):
    model, (x, _) = trained(storage, again=True), batches()[0]
    torch.autograd.grad(model(x.requires_grad_()).sum(), x)
    assert model.net.first._parameters["weight"] is None and "net.first.weight" not in model.state_dict()


class Fails(torch.autograd.Function):
    """Its backward pass ends in an error."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("on purpose")


@pytest.mark.parametrize("storage", STORAGES)
def test_a_backward_pass_that_fails_leaves_no_weights_in_the_next(storage):
    model, (x, _) = trained(storage, again=True), batches()[0]
    with pytest.raises(RuntimeError, match="on purpose"):
        model(Fails.apply(x.clone().requires_grad_())).sum().backward()
    model(x).sum()
    assert model.net.first._parameters["weight"] is None
    assert not any(layer.given for layers in getattr(model, "layers", ()) for layer in layers)
    model(x).sum().backward()


@pytest.mark.parametrize("storage", STORAGES)
def test_a_view_of_a_convolution_is_refused_in_one_line(storage):
    with pytest.raises(RuntimeError, match=r"\Aconvolutions [^\n]* write x.flatten\(1\)[^\n]*\Z"):
        trained(storage, flatten=lambda x, _: x.view(len(x), -1))


@pytest.mark.parametrize("storage", STORAGES)
def test_a_scaled_loss_skips_the_step_of_infinite_gradients(storage):
    model = SparseModel(Net(), "rigl", 0.5, interval=4, storage=storage)
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), torch.amp.GradScaler("cpu", init_scale=1024.0)
    training = Training(model, optimizer, 1, 6)
    training.take_step = lambda: scaler.step(optimizer)
    training.start()
    for step, (x, y) in enumerate(batches()):
        before = model.theta.detach().clone()
        scaler.scale(cross_entropy(model(x), y) * (float("inf") if step == 2 else 1)).backward()
        scaler.unscale_(optimizer)
        training.update((x, y))
        scaler.update()
        if step != 4:  # where connections change
            assert torch.equal(model.theta, before) == (step == 2)
    assert scaler.get_scale() == 512 and int(model.method.mask.sum()) == model.method.budget


def test_a_scaled_loss_is_clipped():
    model = SparseModel(Net(), "st3", 0.5)
    optimizer, scaler = torch.optim.SGD(model.parameters(), 1.0), torch.amp.GradScaler("cpu", init_scale=1024.0)
    training = Training(model, optimizer, 1, 6, clip=1e-3)
    training.take_step = lambda: scaler.step(optimizer)
    training.start()
    before, (x, y) = [p.detach().clone() for p in model.parameters()], batches()[0]
    scaler.scale(cross_entropy(model(x), y)).backward()
    scaler.unscale_(optimizer)
    training.update((x, y))
    moved = torch.cat([(p.detach() - old).flatten() for p, old in zip(model.parameters(), before)]).norm()
    assert 0.99e-3 < moved < 1.01e-3


@pytest.mark.parametrize("storage", STORAGES)
def test_densify_is_export(storage):
    model, (x, _) = trained(storage), batches()[0]
    torch.testing.assert_close(model.densify()(x), model(x))


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


def test_an_optimiser_of_other_parameters_is_refused():
    net = Net()
    other = torch.optim.SGD(net.parameters(), 0.05)  # as it is before SparseModel has made theta of them
    with pytest.raises(ValueError, match=r"build it over model.parameters\(\)"):
        Training(SparseModel(net, "rigl", 0.5), other, 1, 6)


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
    assert torch.equal(masks(lambda n: islice(batches(), n)), masks(lambda n: batches()[:n]))
    with pytest.raises(ValueError, match=r"\Abatches= takes a function\(n\) that gives n batches \(x, y\), not list\Z"):
        masks(batches())
    with pytest.raises(ValueError, match=r"\Asnip scores connections on training batches: batches= of Training gave none\Z"):
        masks(lambda n: [])


@pytest.mark.parametrize("method, options", [
    ("gse_uniform", {"score_batches": "train_batch", "interval": 2}), ("rigl", {"interval": 2}), ("set", {"interval": 2}), ("probmask", {"trials": 1})])
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
    del training
    optimizer.step()  # the network is somebody else's again


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


def test_a_loaded_training_goes_on_without_start():
    """start() would prune the trained weights anew."""
    def loop():
        torch.manual_seed(0)
        model = SparseModel(nn.Linear(40, 10), "gmp", 0.9)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return model, optimizer, Training(model, optimizer, epochs=2, steps_per_epoch=4)

    def steps(training, number):
        for _ in range(number):
            training.model(torch.randn(8, 40)).square().sum().backward()
            training.update()
    first = loop()
    first[2].start()
    steps(first[2], 7)
    states, mask = [part.state_dict() for part in first], first[0].method.mask.clone()
    second = loop()
    for part, state in zip(second, states):
        part.load_state_dict(state)
    with pytest.raises(ValueError, match=r"goes on from a saved state, .*: start\(\) would prune anew; go on with update"):
        second[2].start()
    assert torch.equal(second[0].method.mask, mask) and second[2].step == 7
    steps(second[2], 1)
    assert int(second[0].method.mask.sum()) == 40
    second[2].start()  # of a training that has ended, another begins
    assert second[2].step == 0

"""A network and a training loop of one's own around `SparseModel`, in both storages: what may be done between its passes."""
import copy
from collections import UserDict
from types import SimpleNamespace

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


class Again(nn.Module):
    """A part whose layers keep other tensors for the backward pass where their weights want no gradient: without biases."""

    def __init__(self, again):
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16), nn.ReLU())
        self.head, self.again = nn.Linear(16, 10), again

    def forward(self, x):
        return self.head(checkpoint(self.part, x, use_reentrant=False) if self.again else self.part(x))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("storage, method", [("masked", "st3"), ("masked", "static"), ("sparse", "static")])
def test_weights_that_are_lent_again_want_gradients(storage, method, precision):
    gradients, (x, y) = [], batches()[0]
    for again in (False, True):
        torch.manual_seed(0)
        model = SparseModel(Again(again), method, 0.5, storage=storage)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            cross_entropy(model(x).float(), y).backward()
        gradients.append([p.grad for p in model.parameters()])
    assert len(gradients[0]) == 5 and all(torch.equal(one, two) for one, two in zip(*gradients))


@pytest.mark.parametrize("kind", [SimpleNamespace, lambda logits: UserDict(logits=logits), lambda logits: SimpleNamespace(parts=[logits])])
@pytest.mark.parametrize("storage", STORAGES)
def test_weights_are_lent_again_whatever_holds_the_output(storage, kind):
    class Holds(Net):
        def forward(self, x):
            return kind(logits=super().forward(x))

    gradients, (x, y) = [], batches()[0]
    for again in (False, True):
        torch.manual_seed(0)
        model = SparseModel(Holds(again), "static", 0.5, storage=storage)
        output = model(x)
        logits = output["logits"] if isinstance(output, UserDict) else getattr(output, "logits", None)
        cross_entropy(output.parts[0] if logits is None else logits, y).backward()
        gradients.append(model.theta.grad)
    assert torch.equal(*gradients) and gradients[0].any()


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


class Kept(Net):
    """Keeps what it computed in a list and a dictionary, and has a state besides its tensors."""

    def forward(self, x):
        self.features, self.named = [self.body(x)], {"features": self.body(x)}
        self.named["itself"] = self.named
        return self.head(self.features[0].flatten(1))

    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        self.extra = state


@pytest.mark.parametrize("storage", STORAGES)
def test_what_a_network_keeps_of_its_last_pass_is_exported(storage):
    model, (x, _) = SparseModel(Kept(), "static", 0.5, storage=storage), batches()[0]
    torch.testing.assert_close(model.export()(x), model(x))
    torch.testing.assert_close(model.export()(x), model(x))  # now there is something


def test_a_state_besides_its_tensors_is_rewound():
    model = SparseModel(Kept(), "imp", 0.5)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6)
    training.start()
    training.snapshot("here")
    training.rewind("here")
    assert model.net.extra == {"steps": 3}


@pytest.mark.parametrize("storage, method", [("masked", "gse_grabo"), ("masked", "gse_graest"), ("sparse", "gse_grabo"), ("sparse", "rigl"), ("sparse", "gse_uniform"),
                                             ("masked", "rigl")])
def test_single_images_train(storage, method):
    """Without the dimension of a batch, as in reinforcement learning, they give what batches of one do."""
    def after(single):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(0 if single else 1), nn.Linear(128, 4))
        model = SparseModel(net, method, 0.5, storage=storage, interval=1)
        images = [(x[0], y[0] % 4) if single else (x[:1], y[:1] % 4) for x, y in batches()]
        training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6, batches=lambda n: images[:n])
        training.start()
        for x, y in images:
            cross_entropy(model(x), y).backward()
            training.update((x, y))
        return model.export().state_dict().values()
    for one, other in zip(after(True), after(False)):
        torch.testing.assert_close(one, other)


def test_a_state_from_before_the_start_is_started():
    states = None
    for _ in range(2):
        torch.manual_seed(0)
        model = SparseModel(nn.Linear(20, 10), "static", 0.9)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        parts = model, optimizer, Training(model, optimizer, 1, 3)
        for part, state in zip(parts, states or ()):
            part.load_state_dict(state)
        states = [part.state_dict() for part in parts]
    training = parts[2]
    assert not training.started
    training.start()
    assert training.started and int(model.layer_nnz()) == 20


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
    with pytest.warns(UserWarning, match=r"\Astart\(\) begins this cycle anew, after 8 of its 8 steps"):
        second[2].start()  # of a training that has ended, another begins
    assert second[2].step == 0


def test_a_warning_names_the_line_of_the_loop():
    """However many of torch's functions and of the suite's lie between the two."""
    net = nn.Sequential(SparseModel(nn.Linear(40, 10), "gmp", 0.9))
    model = net[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = Training(model, optimizer, epochs=1, steps_per_epoch=1)
    training.update_with_optimizer()
    training.start()

    def step():
        model(torch.randn(8, 40)).square().sum().backward()
        optimizer.step()
    step()
    for does, words in ((step, "goes on after the 1 steps"), (lambda: SparseModel(nn.Linear(40, 10), "gmp", 0.9).densify(), "has 400 weights, not the 40"),
                        (lambda: net.to(torch.bfloat16), "too coarse for small steps")):
        with pytest.warns(UserWarning, match=words) as told:
            does()
        assert {one.filename for one in told} == {__file__}

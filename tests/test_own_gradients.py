"""What a loop of one's own may do with gradients: throw them away, look at them, freeze, take them by torch.func, add up those of several passes."""
import pytest
import torch
from test_own_loop import STORAGES, Net, batches
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.functional import cross_entropy

from methods import SparseModel, Training


def begun(storage):
    """(model, optimiser, training) of six steps of RigL, of which every second changes connections."""
    torch.manual_seed(0)
    model = SparseModel(Net(), "rigl", 0.5, interval=2, storage=storage)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    training = Training(model, optimizer, 1, 6)
    training.start()
    return model, optimizer, training


def skipped(model, optimizer, x, y):
    (cross_entropy(model(x), y) * float("nan")).backward()
    optimizer.zero_grad()


def zeroed(model, optimizer, x, y):
    cross_entropy(model(x), y).backward()
    optimizer.zero_grad(set_to_none=False)


def attacked(model, optimizer, x, y):
    cross_entropy(model(x.clone().requires_grad_()), y).backward()
    model.zero_grad()


def asked(model, optimizer, x, y):
    torch.autograd.grad(cross_entropy(model(x), y), model.theta)


def by_torch_func(model, optimizer, x, y):
    def loss(parameters, x, y):
        return cross_entropy(functional_call(model, parameters, (x[None],)), y[None])
    vmap(grad(loss), (None, 0, 0))({name: p.detach() for name, p in model.named_parameters()}, x, y)
    assert model.dense_gradient is None


@pytest.mark.parametrize("thrown", [skipped, zeroed, attacked, asked, by_torch_func])
@pytest.mark.parametrize("storage", STORAGES)
def test_gradients_that_were_thrown_away_change_no_connection(storage, thrown):
    def after(between):
        model, optimizer, training = begun(storage)
        for x, y in batches():
            if storage == "masked" or thrown is not by_torch_func:
                between(model, optimizer, -x, y)
            for part, target in zip(x.chunk(2), y.chunk(2)):
                cross_entropy(model(part), target).backward()
            training.update((x, y))
        return model.theta
    assert torch.equal(after(lambda *_: None), after(thrown))


@pytest.mark.parametrize("method", ["st3", "ste_soft", "dnw", "topkast", "rigl", "str", "probmask"])  # the first four pass gradients straight through
def test_transforms_of_torch_func_give_the_gradients_of_a_backward_pass(method):
    torch.manual_seed(0)
    model, (x, y) = SparseModel(Net(), method, 0.5).double(), batches()[0]
    Training(model, torch.optim.SGD(model.parameters(), 0.05), 2, 6, batches=lambda n: batches()[:n]).start()
    x, weights = x.double(), {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights, x, y):
        torch.manual_seed(1)  # of ProbMask's noise
        return cross_entropy(functional_call(model, weights, (x,)), y)

    torch.manual_seed(1)
    cross_entropy(model(x), y).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    assert expected["theta"].any()
    found = grad(loss)(weights, x, y)
    each = vmap(grad(loss), (None, 0, 0), randomness="same")(weights, x[:, None], y[:, None])
    along = {name: torch.randn_like(p) for name, p in weights.items()}
    slope = jvp(lambda weights: loss(weights, x, y), (weights,), (along,))[1]
    assert slope.item() == pytest.approx(sum(float((expected[name] * along[name]).sum()) for name in along), rel=1e-6)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-12) and torch.allclose(each[name].mean(0), value, atol=1e-12), name


@pytest.mark.parametrize("storage", STORAGES)
def test_gradients_may_be_thrown_away_between_the_two_passes(storage):
    """As loops of a generator and a discriminator do, whose pass before has left gradients."""
    def after(early):
        model, optimizer, training = begun(storage)
        for x, y in batches():
            cross_entropy(model(-x), y).backward()  # of another network's loss
            if early:
                optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            training.update((x, y))
        return model.theta
    assert torch.equal(after(True), after(False))


def test_a_gradient_that_is_only_looked_at_is_none_of_the_step_s():
    model, ((x, y), *_) = SparseModel(Net(), "rigl", 0.5), batches()
    cross_entropy(model(x), y).backward()
    whole, model.theta.grad = model.dense_gradient, None
    loss = cross_entropy(model(x), y)
    torch.autograd.grad(loss, model.theta, retain_graph=True)
    loss.backward()
    assert torch.equal(model.dense_gradient, whole)


def with_momentum(method):
    """A started training whose optimiser moves weights without a gradient, too."""
    torch.manual_seed(0)
    model = SparseModel(Net(), method, 0.5)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-2), 1, 6, batches=lambda n: batches()[:n])
    training.start()
    return model, training


@pytest.mark.parametrize("method", ["topkast", "probmask", "mest", "st3", "granet", "static"])
def test_a_loss_of_the_dense_parameters_alone_is_a_step(method):
    """As where losses take turns."""
    model, training = with_momentum(method)
    for number, (x, y) in enumerate(batches()):
        before = model.theta.detach().clone()
        (model.net.head.bias.sum() if number == 3 else cross_entropy(model(x), y)).backward()
        training.update((x, y))
        if number == 3 and method != "topkast":  # whose penalty has a gradient of its own
            assert torch.equal(model.theta, before)  # neither momentum nor weight decay moves what has no gradient
    assert model.theta.isfinite().all() and model.theta.grad is None


@pytest.mark.parametrize("method", ["topkast", "probmask", "mest", "st3", "granet", "static"])
def test_a_frozen_theta_stays_while_all_else_learns(method):
    model, training = with_momentum(method)
    for number, (x, y) in enumerate(batches()):
        model.theta.requires_grad_(number not in (2, 3))
        before = model.theta.detach().clone(), model.net.head.bias.detach().clone()
        cross_entropy(model(x), y).backward()
        training.update((x, y))
        assert torch.equal(model.theta, before[0]) == (number in (2, 3)) and not torch.equal(model.net.head.bias, before[1])


def test_growth_by_gradients_that_are_not_there_is_refused():
    model = SparseModel(Net(), "rigl", 0.5, interval=1)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6)
    training.start()
    (x, y), *_ = batches()
    cross_entropy(model(x), y).backward()
    training.update()
    model.net.head.bias.sum().backward()
    with pytest.raises(ValueError, match=r"\Arigl grows connections by their gradients, and this step's loss does not depend on the prunable weights\Z"):
        training.update()


@pytest.mark.parametrize("together", [True, False])
def test_gradients_of_several_passes_add_up(together):
    model, ((x, y), *_) = SparseModel(Net(), "rigl", 0.5), batches()
    cross_entropy(model(x), y).backward()
    whole, model.theta.grad = model.dense_gradient, None
    losses = []
    for part, target in zip(x.chunk(2), y.chunk(2)):
        losses.append(cross_entropy(model(part), target) / 2)
        if not together:
            losses.pop().backward()
    if together:
        sum(losses).backward()
    torch.testing.assert_close(model.dense_gradient, whole)

"""GSE's samplers: what they make of the inputs and output gradients of each layer."""
import itertools

import pytest
import torch
from canonical import W, linear, near
from scoring import linear_in_the_output, prepared, started
from torch import nn
from torch.nn import functional as F

from methods.activity import Activity
from methods.training import Training

H = torch.tensor([[1, -2], [0.5, 1], [-1, 3]])  # inputs x batch
DELTA = torch.tensor([[1.0, -1], [2, 1]])       # outputs x batch
GRADIENT = [[3, -0.5, -4], [0, 2, 1]]


def two_samples(method, **options):
    return started(linear(W.float()), method, 0.0, [(H.T, DELTA.T)], linear_in_the_output, **options)


def sums(run, signs, **options):
    """(Σ δ, Σ h) of the only layer, with the signs as given."""
    activity = Activity(run, run.batches(), signs, **options)
    return next(iter(activity.sums.values()))


def test_gradient_of_the_example():
    run = two_samples("gse_uniform")
    assert run.gradient(run.theta, run.batches()).view(2, 3) == near(GRADIENT, 6)


def test_grabo():
    run = two_samples("gse_grabo")
    (g, f), = run.model.method.explore(run, run.batches())[0]
    assert f / f.sum() == near([[0.3529412, 0.1764706, 0.4705882]], 6) and g / g.sum() == near([0.4, 0.6], 6)
    assert torch.outer(g, f[0]).tolist() == [[6, 3, 8], [9, 4.5, 12]]
    assert not any(module._forward_hooks for module in run.model.net.modules())  # what was listened to is as it was


def test_an_input_may_be_given_by_its_name():
    net = linear(W.float())
    by_name = type("Named", (type(net),), {"__call__": lambda self, x: super(type(self), self).__call__(input=x)})
    expected = sums(two_samples("gse_grabo"), lambda n: None)
    net.__class__ = by_name
    run = started(net, "gse_grabo", 0.0, [(H.T, DELTA.T)], linear_in_the_output)
    assert all(torch.equal(a, b) for a, b in zip(expected, sums(run, lambda n: None)))


def test_graest(monkeypatch):
    run = two_samples("gse_graest")
    monkeypatch.setattr(torch, "randint", lambda *args, **options: torch.tensor([1, 0]))  # the signs +, -
    (g, f), = run.model.method.explore(run, run.batches())[0]
    assert f / f.sum() == near([[0.4, 0.0666667, 0.5333333]], 6) and g / g.sum() == near([2 / 3, 1 / 3], 6)


def test_graest_is_unbiased():
    run = two_samples("gse_graest")
    products = []
    for signs in itertools.product([1.0, -1], repeat=2):
        outputs, inputs = sums(run, lambda n: torch.tensor(signs))
        products.append(torch.outer(outputs, inputs[0]))
    assert torch.stack(products).mean(0).tolist() == GRADIENT


def test_each_of_several_processes_draws_signs_of_its_own(monkeypatch):
    """Else samples of two processes, each of which has its part of a batch, would count as one."""
    run, drawn = two_samples("gse_graest"), {}
    for processes, rank in ((1, 0), (2, 0), (2, 1)):
        monkeypatch.setattr("methods.processes.world_size", lambda group: processes)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda group: rank)
        drawn[processes, rank] = [torch.rand(1, generator=run.generator("signs", own=own)).item() for own in (False, True)]
    assert drawn[1, 0][0] == drawn[1, 0][1] == drawn[2, 0][0] == drawn[2, 1][0] and drawn[2, 0][1] != drawn[2, 1][1]


@pytest.mark.parametrize("score_batches, same, own", [("ceil10", True, False), ("ceil10", False, True), ("train_batch", True, True)])
def test_signs_are_a_process_s_own_where_its_batch_is(monkeypatch, score_batches, same, own):
    """With batches that all processes score alike, they are together what one is alone."""
    run, asked, generator = two_samples("gse_graest", score_batches=score_batches), [], Training.generator
    run.same_batches = same
    monkeypatch.setattr(Training, "generator", lambda self, purpose, own=False: asked.append(own) or generator(self, purpose))
    run.model.method.explore(run, run.batches())
    assert asked == [own]


def test_layers_without_activity_are_sampled_uniformly():
    run = prepared(linear(W.float()), "gse_grabo", 0.0, [(torch.zeros(2, 3), torch.ones(2, 2))], linear_in_the_output)
    (g, f), = run.model.method.explore(run, run.batches())[0]
    assert g.tolist() == [2, 2] and f.tolist() == [[1, 1, 1]]
    assert [tuple(t.tolist() for t in pair) for pair in two_samples("gse_uniform").model.method.explore(run, [])[0]] == [
        ([1, 1], [[1, 1, 1]])]


def test_layers_that_are_not_followed_are_sampled_uniformly():
    x, delta = torch.ones(2, 4, 5, 3, 3), torch.ones(2, 6, 3, 1, 1)
    run = prepared(nn.Conv3d(4, 6, 3, groups=2), "gse_grabo", 0.0, [(x, delta)], linear_in_the_output)
    (g, f), = run.model.method.explore(run, run.batches())[0]
    assert g.tolist() == [1] * 6 and f.tolist() == [[1] * 54]


class Fixed(nn.Module):
    """The first layer is passed without gradients."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)

    def forward(self, x):
        with torch.no_grad():
            x = self.first(x)
        return self.last(x)


def test_layers_without_gradients_are_sampled_uniformly():
    run = prepared(Fixed(), "gse_grabo", 0.0, [(H.T, DELTA.T)], linear_in_the_output)
    (g, f), (outputs, _) = run.model.method.explore(run, run.batches())[0]
    assert g.tolist() == [1] * 4 and f.tolist() == [[1] * 3] and torch.equal(outputs, DELTA.abs().sum(1))


@pytest.mark.parametrize("storage, method", [("masked", "gse_grabo"), *(("sparse", method) for method in ("rigl", "gse_uniform", "gse_grabo"))])
def test_what_has_no_gradient_does_not_hinder_an_update(storage, method):
    run = started(Fixed(), method, 0.5, [(H.T, DELTA.T)], linear_in_the_output, storage=storage, interval=1)
    before = sum(run.model.layer_nnz().tolist())
    linear_in_the_output(run.model(H.T), DELTA.T).backward()
    run.update((H.T, DELTA.T))
    assert run.step == 1 and sum(run.model.layer_nnz().tolist()) == before


def test_a_single_image_is_a_batch_of_one():
    x, delta, found = torch.randn(2, 5, 5), torch.randn(3, 5, 5), []
    for batch in ((x, delta), (x[None], delta[None])):
        torch.manual_seed(0)
        run = prepared(nn.Conv2d(2, 3, 3, padding=1), "gse_grabo", 0.0, [batch], linear_in_the_output)
        found += run.model.method.explore(run, run.batches())[0]
    assert all(torch.allclose(one, two) for one, two in zip(*found)) and len({*found[0][0].tolist()}) == 3


class Padding(nn.Conv2d):
    """What it pads it pads itself, and its module says nothing of it."""

    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1)))


def test_a_forward_of_its_own_is_not_followed():
    run = prepared(Padding(2, 3, 3), "gse_grabo", 0.0, [(torch.ones(2, 2, 4, 4), torch.ones(2, 3, 4, 4))], linear_in_the_output)
    (g, f), = run.model.method.explore(run, run.batches())[0]
    assert g.tolist() == [1] * 3 and f.tolist() == [[1] * 18]


@pytest.mark.parametrize("method", ["gse_grabo", "gse_graest"])
@pytest.mark.parametrize("after", [False, True])
def test_a_compiled_network_is_refused(method, after):
    """In it no hook is called. A compiled SparseModel scores with the network as it is."""
    def compiled(module):
        return torch.compile(module, backend="eager")
    run = two_samples(method)
    compiled(run.model)(H.T)
    assert run.model.method.explore(run, run.batches())
    net = nn.Sequential(linear(W.float()))
    run = started(net if after else compiled(net), method, 0.0, [(H.T, DELTA.T)], linear_in_the_output)
    if after:
        run.model.net = compiled(run.model.net)
    run.model(H.T)
    with pytest.raises(ValueError, match=rf"\A{method} sees no layer at work: compile the SparseModel .*\Z"):
        run.model.method.explore(run, run.batches())


def test_small_sums_count():
    """Late in training output gradients are far below one."""
    run = started(linear(W.float()), "gse_grabo", 0.0, [(1e-4 * H.T, 1e-4 * DELTA.T)], linear_in_the_output)
    (g, f), = run.model.method.explore(run, run.batches())[0]
    assert f / f.sum() == near([[0.3529412, 0.1764706, 0.4705882]], 6) and g / g.sum() == near([0.4, 0.6], 6)


def test_inputs_that_overflow_are_drawn_uniformly():
    x = H.T.clone()
    x[0, 1] = torch.inf  # a draw by it is refused
    run = started(linear(W.float()), "gse_grabo", 0.0, [(x, DELTA.T)], linear_in_the_output)
    (outputs, inputs), = run.method.explore(run, run.batches())[0]
    assert outputs.tolist() == [2, 3] and inputs.tolist() == [[1, 1, 1]]


def test_sums_of_half_precision_are_not_in_half_precision():
    """600 samples of 1 and output gradients of 1: bfloat16 has no 513."""
    def sums(x, delta):
        run = prepared(linear(torch.eye(2).to(x.dtype)), "gse_graest", 0.0, [(x, delta)], linear_in_the_output)
        return next(iter(Activity(run, run.batches(), lambda n: torch.ones(n)).sums.values()))
    for outputs in sums(torch.ones(513, 2, dtype=torch.bfloat16), torch.ones(513, 2, dtype=torch.bfloat16)):
        assert outputs.dtype == torch.float32 and outputs.flatten().tolist() == [513, 513]

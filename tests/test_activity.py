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


def test_graest_draws_a_sign_for_each_sample_position_and_batch():
    x = torch.ones(2, 1, 4, 4)
    run = prepared(nn.Conv2d(1, 2, 2, bias=False), "gse_graest", 0.0, [(x, torch.ones(2, 2, 3, 3))] * 2, linear_in_the_output)
    drawn = []
    Activity(run, run.batches(), lambda n: drawn.append(n) or torch.ones(n))
    assert drawn == [18, 18]
    weights = [run.model.method.explore(run, run.batches())[0] for _ in range(2)]
    assert torch.equal(weights[0][0][1], weights[1][0][1])  # from (seed, step) alone
    seen = []
    for run.step in range(300):
        (g, _), = run.model.method.explore(run, run.batches())[0]
        seen.append(float(g[0]))
    # |Σ of 36 independent signs|; did both batches share their signs, the mean of its square would be 72
    assert torch.tensor(seen).square().mean() == pytest.approx(36, rel=0.35)


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


# ---- convolutions against sums over all patches, one by one

CONVOLUTIONS = {
    "plain": dict(kernel_size=3),
    "strided": dict(kernel_size=3, stride=(2, 1), padding=1),
    "grouped": dict(kernel_size=(3, 2), groups=2, padding=(1, 0)),
    "depthwise": dict(kernel_size=3, groups=4, stride=2),
    "dilated": dict(kernel_size=2, dilation=(1, 2), padding=2),
    "same": dict(kernel_size=(3, 5), padding="same"),
    "circular": dict(kernel_size=3, padding=1, padding_mode="circular"),
    "reflect": dict(kernel_size=3, padding=2, padding_mode="reflect", groups=2),
}


def convolution(name, method="gse_grabo", size=(6, 5), batch=3):
    torch.manual_seed(0)
    module = nn.Conv2d(4, 8, **CONVOLUTIONS[name])
    x = torch.randn(batch, 4, *size)
    return prepared(module, method, 0.0, [(x, torch.randn_like(module(x)))], linear_in_the_output)


def all_patches(module, x):
    """[(sample, row, column of the output, patch (channels, kh, kw))]."""
    left, right, top, bottom = module._reversed_padding_repeated_twice
    x = F.pad(x, (left, right, top, bottom), mode="constant" if module.padding_mode == "zeros" else module.padding_mode)
    (kh, kw), (sh, sw), (dh, dw) = module.kernel_size, module.stride, module.dilation
    rows, columns = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1, (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    return [(b, i, j, x[b, :, i * sh:i * sh + dh * kh:dh, j * sw:j * sw + dw * kw:dw][:, :kh, :kw])
            for b in range(len(x)) for i in range(rows) for j in range(columns)]


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("signed", [False, True])
def test_sums_of_a_convolution(name, signed):
    run = convolution(name)
    module, ((x, delta),) = run.model.net, run.batches()
    patches = all_patches(module, x)
    assert len(patches) == delta.shape[0] * delta.shape[2] * delta.shape[3]
    signs = torch.where(torch.arange(len(patches)) % 3 == 0, -1.0, 1.0)
    f, g = torch.zeros(4, *module.kernel_size), torch.zeros(8)
    for (b, i, j, patch), r in zip(patches, signs):
        f += r * patch if signed else patch.abs()
        g += r * delta[b, :, i, j] if signed else delta[b, :, i, j].abs()
    outputs, inputs = sums(run, (lambda n: signs) if signed else (lambda n: None))
    assert torch.allclose(outputs, g, atol=1e-5)
    f = f.view(module.groups, -1, *module.kernel_size).permute(0, 2, 3, 1).flatten(1)  # the layout's order: kernel, then channel
    assert inputs.shape == f.shape and torch.allclose(inputs, f, atol=1e-5)


def bound_and_gradient(run):
    (g, f), = run.model.method.explore(run, run.batches())[0]
    group = torch.arange(len(g)) * len(f) // len(g)
    return (g[:, None] * f[group]).flatten(), run.gradient(run.theta, run.batches()).abs()


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_grabo_bounds_the_gradient(name):
    bound, gradient = bound_and_gradient(convolution(name))
    assert (gradient <= bound * (1 + 1e-5)).all() and (gradient < 0.9 * bound).any()


def test_grabo_is_the_gradient_for_one_sample_and_one_patch():
    for name, size in (("plain", (3, 3)), ("grouped", (1, 2)), ("depthwise", (3, 3))):
        bound, gradient = bound_and_gradient(convolution(name, size=size, batch=1))
        assert torch.allclose(bound, gradient, rtol=1e-5) and gradient.any()


def test_grabo_of_tokens():
    torch.manual_seed(0)
    x, delta = torch.randn(2, 5, 3), torch.randn(2, 5, 4)
    run = prepared(nn.Linear(3, 4), "gse_grabo", 0.0, [(x, delta), (2 * x, delta)], linear_in_the_output)
    (g, f), = run.model.method.explore(run, run.batches())[0]
    assert torch.allclose(f[0], 3 * x.abs().sum((0, 1))) and torch.allclose(g, 2 * delta.abs().sum((0, 1)))


def test_literal_graest_sees_the_first_position_alone():
    run = convolution("strided", "gse_graest")
    _, delta = run.batches()[0]
    signs = torch.where(torch.arange(90) % 3 == 0, -1.0, 1.0)[:delta[:, 0].numel()]
    literal, corrected = (sums(run, lambda n: signs, literal=literal) for literal in (True, False))
    assert torch.allclose(literal[0], signs.sum() * delta[0, :, 0, 0])
    assert not torch.allclose(literal[0], corrected[0], rtol=0.1)
    assert torch.equal(literal[1], corrected[1])


def test_literal_graest_has_the_signs_of_the_first_batch_in_all():
    """So that an output is drawn by the sum of its gradients over the batches, and not by a random mixture of them."""
    run = convolution("strided", "gse_graest")
    run.model.method.chosen["signs"] = "literal"
    (x, delta), = run.batches()
    (outputs, _), = run.model.method.explore(run, [(x, delta), (x, delta.flip(0))])[0]
    expected = (delta[0, :, 0, 0] + delta[-1, :, 0, 0]).abs()
    assert torch.allclose(outputs / outputs.sum(), expected / expected.sum(), atol=1e-5)
    run.model.method.explore(run, [(x, delta), (x[:1], delta[:1])])  # a smaller batch, such as an epoch's last, has signs of its own


def test_graest_is_corrected_by_default():
    def outputs(**options):
        run = convolution("strided", "gse_graest")
        run.model.method.chosen.update(options)
        return run.model.method.explore(run, run.batches())[0][0][0]
    assert torch.equal(outputs(), outputs(signs="corrected"))
    assert not torch.allclose(outputs(), outputs(signs="literal"))
    run = two_samples("gse_graest", signs="literal")  # linear layers have no slip
    assert torch.equal(run.model.method.explore(run, run.batches())[0][0][0],
                       two_samples("gse_graest").model.method.explore(run, run.batches())[0][0][0])


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


@pytest.mark.parametrize("signs", [lambda n: None, lambda n: 1.0 - 2 * (torch.arange(n) % 3 == 0)])
@pytest.mark.parametrize("options", [dict(padding=1), dict(stride=2, groups=2), dict(dilation=2, padding=2, padding_mode="circular")])
def test_a_signal_is_an_image_of_one_row(options, signs):
    signal, found = nn.Conv1d(4, 8, 3, **options), []
    rows = dict(padding=0, stride=1, dilation=1)
    image = nn.Conv2d(4, 8, (1, 3), **{name: (rows[name], value) if name in rows else value for name, value in options.items()})
    image.load_state_dict({name: value.view(image.state_dict()[name].shape) for name, value in signal.state_dict().items()})
    x = torch.randn(3, 4, 9)
    delta = torch.randn_like(signal(x))
    for net, shape in ((signal, 3), (image, 4)):
        batch = tuple(part if shape == 3 else part.unsqueeze(2) for part in (x, delta))
        found.append(sums(prepared(net, "gse_grabo", 0.0, [batch], linear_in_the_output), signs))
    for one, other in zip(*found):
        assert one.abs().min() > 0 and torch.allclose(one, other, atol=1e-5)

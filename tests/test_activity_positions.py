"""GSE's samplers where a weight acts at several positions: in convolutions, against sums over all patches, and in tokens."""
import pytest
import torch
from scoring import linear_in_the_output, prepared
from test_activity import sums, two_samples
from torch import nn
from torch.nn import functional as F

from methods.activity import Activity


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

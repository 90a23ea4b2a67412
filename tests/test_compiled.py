"""A compiled pass of a network computes what the network does, and is compiled once for all runs of it."""
import contextlib
import copy

import pytest
import torch
from test_every_method import make, read, saved
from torch._dynamo.backends.debugging import aot_eager
from torch._inductor import config as inductor
from torch.nn.functional import cross_entropy

from benchmarks import models, train
from benchmarks.gpu.capture import ANEW
from benchmarks.gpu.compiled import Compiled, with_narrow_convolutions, worthwhile
from benchmarks.gpu import narrow
from benchmarks.tasks import TASKS
from methods import SparseModel, counting

IMAGES = 8
NEAR = {"fp32": 1e-4, "bf16": 0.1}  # of a norm
SMALL = "resnet8_digits", (1, 8, 8)  # is traced in a third of the time
graphs = []


def near(one, two, precision):
    return (one.float() - two.float()).norm() <= NEAR[precision] * two.float().norm()


def traced(graph, inputs):
    """As on a GPU, whose compiler makes kernels of the same graph."""
    graphs.append(with_narrow_convolutions(graph))
    return aot_eager(graph, inputs)


def batch(images=IMAGES, seed=0, shape=(3, 32, 32)):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(images, *shape, generator=draw).to(memory_format=torch.channels_last)
    return x, torch.randint(10, (images,), generator=draw)


def joined(name, method="st3", seed=0, **options):
    torch.manual_seed(seed)
    net = models.build(name, 10, **options)
    for module in net.modules():
        if isinstance(module, (torch.nn.Dropout, torch.nn.Dropout2d)):
            module.p = 0.0  # drawn in another order
    if name == "wrn34x2":  # its three kinds of blocks: of other channels, of the same, of another size
        net.blocks = net.blocks[:2] + net.blocks[5:6]
        net.bn, net.fc = torch.nn.BatchNorm2d(64), torch.nn.Linear(64, 10, bias=False)
    return SparseModel(net, method, 0.5)


@pytest.fixture(autouse=True)
def anew():
    torch._dynamo.reset()
    graphs.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name, options, precision", [
    ("resnet20", {"width": 0.5}, "fp32"), (SMALL[0], {}, "bf16"), *(("vit_tiny", {}, precision) for precision in NEAR),
    ("wrn34x2", {}, "fp32"), ("vgg16_small", {"width": 0.25}, "fp32")])
def test_a_compiled_pass_is_the_networks(name, options, precision):
    model = joined(name, **options)
    other = copy.deepcopy(model)
    compiled = Compiled(model, IMAGES, traced)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for seed in range(2):
            x, y = batch(seed=seed, shape=SMALL[1] if name == SMALL[0] else (3, 32, 32))
            got, expected = compiled(x).float(), other(x).float()
            assert near(got, expected, precision)
            cross_entropy(got, y).backward(), cross_entropy(expected, y).backward()
        assert len(graphs) == 1
        biases = {f"net.{prefix}.bias" for prefix, module in model.net.named_modules() if isinstance(module, torch.nn.Conv2d)}
        for (name, one), two in zip(model.named_parameters(), other.parameters()):
            if name not in biases:  # a normalisation takes those away again: their gradients are rounding
                assert near(one.grad, two.grad, precision), name
        for (name, one), two in zip(model.named_buffers(), other.buffers()):
            assert near(one, two, precision), name
        model.eval(), other.eval()
        with torch.no_grad():
            got, expected = compiled.apply_weights(model.method(model.theta), x), other(x)
        assert near(got, expected, precision)
    assert "compute" not in vars(model)  # its own passes are as they were


def test_convolutions_of_few_channels_are_the_kernels():
    x, _ = batch()
    Compiled(joined("resnet20").train(), IMAGES, traced)(x)
    assert sum(node.target is narrow.conv2d for node in graphs[0].graph.nodes) == 21
    assert not [node for node in graphs[0].graph.nodes if node.target is torch.conv2d]


def test_an_image_without_a_batch_is_not_the_kernels():
    x, weight = torch.randn(3, 8, 8), torch.randn(4, 3, 3, 3)
    assert torch.equal(narrow.conv2d(x, weight, padding=1), torch.conv2d(x, weight, padding=1))


def test_all_runs_of_a_network_are_compiled_once():
    for seed, method in enumerate(("st3", "rigl", "dense")):
        for width in (0.5, 1):
            model, (x, _) = joined(SMALL[0], method, seed, width=width), batch(shape=SMALL[1])
            compiled = Compiled(model, IMAGES, traced)
            compiled(x).sum().backward()
            model.eval()
            with torch.no_grad():
                compiled.apply_weights(model.method(model.theta), x)
    assert len(graphs) == 4  # in training and in evaluation


class Launched:
    """A kernel of Triton's whose launch ends in an error, or in none."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, grid):
        def launch(*_):
            if self.error:
                raise self.error
        return launch


@pytest.mark.parametrize("error, works", [(None, True), (RuntimeError("no C compiler"), False),
                                          (RuntimeError("Triton Error [CUDA]: out of memory"), None)])
def test_where_triton_makes_no_kernels_nothing_is_compiled_and_it_is_said(error, works, monkeypatch):
    """A GPU that is full at the moment says nothing of it."""
    monkeypatch.setattr(counting, "has_triton", lambda: True)
    monkeypatch.setattr(counting, "_nothing", Launched(error), raising=False)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    counting.triton_works.cache_clear()
    try:
        if works is None:
            with pytest.raises(RuntimeError, match="out of memory"):
                counting.triton_works()
            monkeypatch.setattr(counting, "_nothing", Launched(None))
            assert counting.triton_works()
        else:
            with contextlib.nullcontext() if works else pytest.warns(UserWarning, match=r"^Triton makes no kernels here \(RuntimeError: no C "):
                assert counting.triton_works() == works
        device, told = torch.device("cuda"), hasattr(inductor, "deterministic")  # from torch 2.10 on
        assert worthwhile(TASKS["cifar10-resnet20"], device) == (works is not False and told)
        assert not worthwhile(TASKS["digits"], device) and not worthwhile(TASKS["cifar10-resnet20"], torch.device("cpu"))
    finally:
        counting.triton_works.cache_clear()


class Traced(Compiled):
    def __init__(self, model, images):
        super().__init__(model, images, traced)


@pytest.mark.parametrize("name", ["st3", "rigl", "snip", "grasp", "synflow"])  # some score with passes of their own, which stay uncompiled
def test_a_run_with_a_compiled_network_is_the_run(name, monkeypatch):
    plain = make(name, record=ANEW).run()
    monkeypatch.setattr(train, "worthwhile", lambda *_: True)
    monkeypatch.setattr(train, "Compiled", Traced)
    states = []
    whole = make(name, record=ANEW).run(lambda trainer: states.append(saved(trainer)))
    assert len(graphs) == 2  # in training and in evaluation
    first, compiled = plain.progress.curves, whole.progress.curves
    assert [curve["train_loss"] for curve in compiled] == pytest.approx([curve["train_loss"] for curve in first], rel=0.02)
    counters = [(one, two) for (name, one), two in zip(plain.model.named_buffers(), whole.model.buffers()) if name.endswith("num_batches_tracked")]
    assert len(counters) == 6 and all(torch.equal(one, two) and int(one) >= whole.training.step for one, two in counters)
    again = make(name, record=ANEW)
    again.load_state_dict(read(states[0]))
    assert torch.equal(again.run().model.theta, whole.model.theta)


def test_other_batches_are_the_models_own(monkeypatch):
    """The last one of an epoch, and those of an evaluation that are smaller than its first."""
    (name, shape), model = SMALL, joined(SMALL[0])
    compiled = Compiled(model, IMAGES, traced)
    x, _ = batch(3, shape=shape)
    assert torch.equal(compiled(x), joined(name)(x))
    model.eval()
    with torch.no_grad():
        weights = model.method(model.theta)
        compiled.apply_weights(weights, batch(shape=shape)[0])
        assert torch.equal(compiled.apply_weights(weights, x), model(x))
    assert len(graphs) == 1


@pytest.mark.parametrize("changes", [dict(groups=4), dict(dilation=2, padding=2), dict(stride=(1, 2)), dict(padding=0)])
def test_a_convolution_of_another_kind_is_the_librarys(changes, monkeypatch):
    def refuse(*_):
        raise AssertionError("not made for it")
    monkeypatch.setattr(narrow, "convolution", refuse)
    inputs = 16 // changes.get("groups", 1)
    x, weight = torch.randn(2, 16, 6, 6), torch.randn(16, inputs, 3, 3)
    options = {"padding": 1, **changes}
    assert torch.equal(narrow.conv2d(x, weight, **options), torch.conv2d(x, weight, **options))
    wide = torch.randn(2, 48, 6, 6)  # more than those that float32 is faster for
    assert torch.equal(narrow.conv2d(wide, torch.ones(8, 48, 3, 3), padding=1), torch.conv2d(wide, torch.ones(8, 48, 3, 3), padding=1))


def test_a_convolution_of_too_many_numbers_for_the_kernels_is_the_librarys(monkeypatch):
    """Their offsets have 32 bits. Of such a convolution without its memory: what it asks for."""
    asked = []
    monkeypatch.setattr(narrow, "convolution", lambda *_: asked.append("ours"))
    monkeypatch.setattr(torch, "conv2d", lambda *_: asked.append("library's"))
    weight = torch.zeros(64, 3, 3, 3, dtype=torch.bfloat16)
    for images in (2 ** 15 - 1, 2 ** 15):  # of 32 x 32 pixels and 64 channels
        narrow.conv2d(torch.zeros(1, dtype=torch.bfloat16).expand(images, 3, 32, 32), weight, padding=1)
    assert asked == ["ours", "library's"]


def test_a_convolution_with_a_bias_and_its_gradients():
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=draw, dtype=torch.float32).requires_grad_() for shape in ((2, 5, 6, 6), (7, 5, 3, 3), (7,)))
    for stride in (1, 2):
        got, expected = narrow.conv2d(x, weight, bias, stride, 1), torch.conv2d(x, weight, bias, stride, 1)
        assert torch.allclose(got, expected, atol=1e-5)
        gradient = torch.randn(got.shape, generator=draw)
        for one, two in zip(torch.autograd.grad(got, (x, weight, bias), gradient), torch.autograd.grad(expected, (x, weight, bias), gradient)):
            assert torch.allclose(one, two, atol=1e-4)

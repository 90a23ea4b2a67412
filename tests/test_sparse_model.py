"""`SparseModel` in a loop of one's own: saving, inputs and outputs of all kinds, nonsense."""
import copy
import inspect
import io
import re

import pytest
import torch
from networks import Keywords, Loop, small_vit
from torch import nn
from torch.nn.functional import cross_entropy

import methods
from methods import SparseModel, Training
from methods.sparse.model import AlwaysSparse

every_method = pytest.mark.parametrize("name", methods.available())


def flat(module):
    return torch.cat([value.double().flatten() for value in module.state_dict().values() if torch.is_tensor(value)])


def stored(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


@every_method
def test_saved_training_goes_on_bit_for_bit(name):
    whole, resumed = Loop("odd", name), Loop("odd", name, seed=1)
    whole.training.start()
    for _ in range(2):
        whole.step()
    state, copied = stored(whole.state()), copy.deepcopy(whole)
    pickled = torch.load(stored((whole.model, whole.optimizer, whole.training.state_dict())), weights_only=False)
    for _ in range(3):
        whole.step(), copied.step()
    expected = flat(whole.model)
    assert torch.equal(expected, flat(copied.model))
    resumed.load(torch.load(state, weights_only=True))
    resumed.x, resumed.y = whole.x, whole.y
    assert not torch.equal(expected, flat(resumed.model))
    for _ in range(3):
        resumed.step()
    assert torch.equal(expected, flat(resumed.model))
    model, optimizer, state = pickled  # whole objects
    again = Loop("odd", name)
    again.model, again.optimizer, again.x, again.y = model, optimizer, whole.x, whole.y
    again.training = Training(model, optimizer, 5, 1, batches=again.batches)
    again.training.load_state_dict(state)
    for _ in range(3):
        again.step()
    assert torch.equal(expected, flat(model))


@every_method
def test_several_arguments_and_a_dictionary(name):
    model, y = SparseModel(Keywords(), name, 0.5), torch.randint(10, (3,))
    batch = {"a": torch.randn(3, 6), "b": torch.randn(3, 4), "scale": 0.5}, y
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1, batches=lambda n: [batch] * n,
                   criterion=lambda output, y: cross_entropy(output["logits"], y))
    run.start()
    cross_entropy(model(**batch[0])["logits"], y).backward()
    run.update(batch)
    assert not model.method.exact or int(model.method.mask.sum()) == model.method.budget_at(0)


@pytest.mark.filterwarnings("ignore:the exported network")  # of several cycles after one
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_method
def test_half_precision(name, dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)).to(dtype)
    x, y = torch.randn(4, 8, 6, dtype=dtype), torch.randint(10, (4,))
    model = SparseModel(net, name, 0.7)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.01), 1, 2, batches=lambda n: [(x, y)] * n)
    run.start()
    for _ in range(2):
        cross_entropy(model(x).float(), y).backward()
        run.update((x, y))
    assert model.theta.dtype == torch.float32 and model(x).dtype == dtype
    assert {value.dtype for value in model.export().state_dict().values()} == {dtype}
    assert not model.method.exact or int(model.method.mask.sum()) == model.method.budget_at(0)


def test_a_network_of_16_bits_may_become_one_of_32():
    torch.manual_seed(0)
    model, x = SparseModel(nn.Linear(3, 4).bfloat16(), "dense"), torch.randn(2, 3)
    assert model.to("cpu")(x.bfloat16()).dtype == torch.bfloat16
    assert torch.equal(model.float()(x), nn.functional.linear(x, model.theta.view(4, 3), model.net.bias))
    assert model.export().weight.dtype == torch.float32


@pytest.mark.parametrize("net", [nn.Linear(3, 4), nn.Linear(3, 4).bfloat16()])
def test_weights_that_become_16_bits_are_said(net, recwarn):
    model = SparseModel(net, "dense").cpu()
    assert not recwarn
    with pytest.warns(UserWarning, match="trained in torch.bfloat16 now") as told:
        model = model.bfloat16()
    assert told[0].filename == __file__ and model.theta.dtype == torch.bfloat16


def test_hooks_do_not_pile_up():
    # the dense method hands theta itself to the network
    model = SparseModel(nn.Linear(3, 2), "dense")
    for _ in range(3):
        model.dense_gradient = None
        model(torch.ones(1, 3)).sum().backward()
    assert torch.equal(model.dense_gradient, torch.ones(6)) and not model.theta._backward_hooks


# ---- nonsense is refused in one line

def refused(action, *words):
    with pytest.raises((ValueError, FloatingPointError)) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300 and all(word in message for word in words), message


@every_method
def test_nothing_to_prune(name):
    refused(lambda: SparseModel(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), name, 0.5), "no weight that can be pruned")
    refused(lambda: SparseModel(nn.LSTM(3, 4), name, 0.5), "no weight that can be pruned", "weight_ih_l0 (of a recurrent layer, ")


def test_a_budget_below_one_weight_per_layer():
    for name in set(methods.available()) - {"dense", "dnw"}:  # dnw rounds up in each layer: one weight is left at any sparsity
        net = small_vit()
        refused(lambda: SparseModel(net, name, 0.9999), "0.9999", "layers")
        assert net(torch.randn(1, 3, 32, 32)).shape == (1, 10)


@every_method
def test_a_loss_that_is_no_number(name):
    loop = Loop("lstm", name)
    with torch.no_grad():
        loop.model.net.head.bias.fill_(torch.nan)
    with pytest.raises((ValueError, FloatingPointError), match=r"\A[^\n]*(NaN|finite)[^\n]*\Z"):
        loop.training.start()
        for _ in range(5):
            loop.step()


def test_networks_that_are_none():
    x = nn.Linear(3, 2), nn.Linear(3, 2).double()
    refused(lambda: SparseModel(lambda x: x, "gmp", 0.5), "nn.Module")
    refused(lambda: SparseModel(nn.Sequential(nn.LazyLinear(3)), "gmp", 0.5), "0.weight", "lazy")
    refused(lambda: SparseModel(nn.Sequential(*x), "gmp", 0.5), "dtype")
    refused(lambda: SparseModel(x[0], "gmp", 0.5, skip=("wieght",)), "wieght")
    refused(lambda: SparseModel(x[0], "gmp", 0.5, skip="weight"), "no weight that can be pruned", "weight (skipped on request)")
    refused(lambda: SparseModel(nn.Linear(3, 2, device="meta"), "gmp", 0.5), "weight is on the meta device", "storage='sparse'")
    nn.init.constant_(x[0].bias, torch.inf)
    refused(lambda: SparseModel(x[0], "gmp", 0.5), "infinity", "bias")


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_a_network_has_one_sparse_model(storage):
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    SparseModel(net, "static", 0.5, storage=storage)
    for other in ("masked", "sparse"):
        refused(lambda: SparseModel(nn.Sequential(net, nn.Linear(6, 2)), "static", 0.5, storage=other), "0.0.weight already belongs")
        refused(lambda: SparseModel(net[0], "static", 0.5, storage=other), "weight already belongs to another SparseModel", "export()")


class Peeks(nn.Module):
    """Its forward uses a layer of another network, as it is."""

    def __init__(self, other):
        super().__init__()
        self.head, self.other = nn.Linear(6, 6), [other]

    def forward(self, x):
        return self.head(self.other[0](x))


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_a_weight_that_is_not_there_is_explained(storage):
    body = nn.Linear(6, 6)
    model = SparseModel(Peeks(body), "static", 0.5, storage=storage)
    SparseModel(body, "static", 0.5)
    with pytest.raises(TypeError, match=r"NoneType.*forward alone; skip=\[its name\] .* export\(\)"):
        model(torch.ones(2, 6))


class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.other, self.inner = nn.Linear(6, 6), nn.ModuleDict({"projection": nn.Linear(6, 6)})

    def forward(self, x):  # as transformers' ViT does
        return self.inner.projection(self.other(x).to(self.inner.projection.weight.dtype))


class Aliased(Patches):
    def forward(self, x):
        layer = self.other
        return layer(x).to(layer.weight.dtype)


@pytest.mark.parametrize("kind, names", [
    (Patches, ["1.inner.projection.weight", "2.inner.projection.weight"]), (Aliased, ["1.other.weight", "2.other.weight"])])
def test_layers_whose_weight_another_module_reads_are_named(kind, names):
    """In all modules that would be the next to fail."""
    net = nn.Sequential(nn.Linear(6, 6), kind(), kind())
    with pytest.raises(AttributeError, match=rf"which sparse storage has not; it stays dense with skip={re.escape(str(names))}\)\Z"):
        SparseModel(copy.deepcopy(net), "static", 0.5, storage="sparse")(torch.ones(2, 6))
    SparseModel(net, "static", 0.5, skip=names, storage="sparse")(torch.ones(2, 6))


def test_a_layer_that_only_has_the_name_of_one_that_can_be_sparse_is_told_apart():
    """As timm has a Linear."""
    class Linear(nn.Linear):
        def forward(self, input):
            return super().forward(input)

    with pytest.raises(ValueError, match=rf"\Asparse storage holds Linear, Conv1d and Conv2d layers, no {__name__}.Linear; these stay dense with skip="):
        SparseModel(nn.Sequential(nn.Linear(6, 6), Linear(6, 6)), "static", 0.5, storage="sparse")


def test_a_class_without_a_forward_of_its_own_computes_as_torch_s_and_is_sparse():
    class Head(nn.Linear):
        """With a start of its own, say."""

    class Kernel(nn.Conv2d):
        pass

    class Scaled(nn.Conv2d):
        def _conv_forward(self, input, weight, bias):
            return super()._conv_forward(input, 2 * weight, bias)

    def net(kernel):
        return nn.Sequential(kernel(3, 4, 3), nn.Flatten(), Head(16, 5))

    model, x = SparseModel(net(Kernel), "static", 0.5, storage="sparse"), torch.randn(2, 3, 4, 4)
    assert len(model.theta) == model.method.budget and torch.allclose(model(x), model.export()(x), atol=1e-6)
    with pytest.raises(ValueError, match=r"no Scaled; these stay dense with skip=\['0\.weight'\]\Z"):
        SparseModel(net(Scaled), "static", 0.5, storage="sparse")


def test_an_output_that_view_cannot_flatten_is_explained():
    """With several threads a sparse linear layer's is one, which the message says."""
    class Net(nn.Sequential):
        def forward(self, x):
            return super().forward(x).view(-1)

    model = SparseModel(Net(nn.Linear(16, 32)), "static", 0.5, storage="sparse")
    try:
        torch.set_num_threads(2)
        with pytest.raises(RuntimeError, match=r"sparse storage's linear layers transposed ones, [^\n]+x\.reshape\(\.\.\.\) instead\Z"):
            model(torch.randn(3, 4, 16))
    finally:
        torch.set_num_threads(1)


def test_its_arguments_are_those_that_are_shown():
    shown, own = (inspect.signature(what).parameters for what in (SparseModel, SparseModel.__init__))
    assert [(p.name, p.kind) for p in shown.values()] == [(p.name, p.kind) for p in own.values()][1:]
    with pytest.raises(TypeError, match="required positional argument: 'method'"):
        SparseModel(nn.Linear(8, 4))


def test_an_heir_has_the_storage_of_what_it_derives_from():
    class Heir(SparseModel):
        pass

    class Inner(SparseModel):
        def __init__(self):
            super().__init__(nn.Linear(8, 4), "static", 0.5, storage="sparse")

    class SparseHeir(AlwaysSparse):
        pass

    assert type(Heir(nn.Linear(8, 4), "static", 0.5)) is Heir
    with pytest.raises(ValueError, match=r"\AHeir has masked storage: derive it from methods.sparse.model.AlwaysSparse for storage='sparse'\Z"):
        Heir(nn.Linear(8, 4), "static", 0.5, storage="sparse")
    with pytest.raises(ValueError, match=r"\AInner has masked storage"):
        Inner()
    model = SparseHeir(nn.Linear(8, 4), "static", 0.5, storage="sparse")
    assert type(model) is SparseHeir and len(model.theta) == 16


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_zeros_are_counted_in_the_weights_and_not_in_the_mask(storage):
    """An active weight that is 0 is one of them."""
    torch.manual_seed(0)
    model = SparseModel(nn.Linear(8, 4), "static", 0.75, storage=storage)
    Training(model, torch.optim.SGD(model.parameters(), 0.1), 1, 1).start()
    active = model.theta if storage == "sparse" else model.theta[model.method.mask]
    assert model.zeros() == 24 and active.all()
    with torch.no_grad():
        model.theta[model.method.mask.nonzero()[:3]] = 0
    assert model.zeros() == 27 == (model.export().weight == 0).sum() and int(model.layer_nnz()) == 8

"""What a loop of one's own would get wrong without any error of torch's: each is refused, or told of, in one line."""
import copy
import io
import warnings

import pytest
import torch
from test_own_loop import STORAGES, batches
from torch import nn
from torch.nn.functional import cross_entropy

from methods import SparseModel, Training
from methods.layout import Layout
from methods.networks import differs, order_of, tensors


class Two(nn.Module):
    """Two layers of one shape, made in this order, and used in alphabetical order."""

    def __init__(self, first, second):
        super().__init__()
        for name in (first, second):
            setattr(self, name, nn.Linear(8, 8))

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


@pytest.mark.parametrize("storage", STORAGES)
def test_a_checkpoint_goes_to_layers_of_the_same_names_alone(storage):
    torch.manual_seed(0)
    model, other, same = (SparseModel(Two(*names), "set", 0.5, storage=storage) for names in ("ab", "ba", "ab"))
    state, x = model.state_dict(), torch.randn(4, 8)
    with pytest.raises(ValueError, match=r"\Athe checkpoint is of a network with other layers, or with layers in another order: its weight 1 is "
                                         r"a\.weight 8x8, here b\.weight 8x8\Z"):
        other.load_state_dict(state)
    same.load_state_dict(state)
    assert torch.equal(same(x), model(x)) and "order" in state
    more = SparseModel(nn.Sequential(nn.Linear(8, 8)), "set", 0.5, storage=storage)
    with pytest.raises(ValueError, match="other layers"):
        more.load_state_dict(state)
    nested, within = (nn.ModuleDict({"one": one}) for one in (model, same))
    within.load_state_dict(nested.state_dict())
    with pytest.raises(ValueError, match="another order"):
        nn.ModuleDict({"one": other}).load_state_dict(nested.state_dict())


@pytest.mark.parametrize("method", ["dst_mask", "mest", "mest_s", "probmask", "rigl", "topkast"])
def test_an_update_without_a_backward_pass_changes_nothing(method):
    (x, y), *_ = batches()
    model = SparseModel(nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 10)), method, 0.5)
    training = Training(model, torch.optim.SGD(model.parameter_groups(0.05), 0.05), 1, 6, batches=lambda n: batches()[:n])
    training.start()
    before = model.theta.detach().clone()
    with pytest.raises(ValueError, match=r"there are no gradients: call loss.backward\(\) before update\(\)"):
        training.update((x, y))
    assert torch.equal(model.theta, before) and training.step == 0


def test_probmask_says_how_normalisation_is_frozen():
    (x, y), *_ = batches()
    model = SparseModel(nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 10)), "probmask", 0.5)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6, batches=lambda n: batches()[:n])
    training.start()
    model.eval()
    cross_entropy(model(x), y).backward()
    with pytest.warns(UserWarning, match="evaluation mode"), pytest.raises(ValueError, match=r"call model.train\(\); to freeze normalisation, its"):
        training.update((x, y))


@pytest.mark.parametrize("y, said", [
    (torch.randn(16, 3), "y's do not"), (torch.ones(16, 3), "y's do not"), (torch.eye(3)[torch.arange(16) % 3], ""), (torch.arange(16) % 3, "")])
def test_a_criterion_that_does_not_fit_is_refused_where_it_could_be_used(y, said):
    """Of a regression, or of several labels an image, cross-entropy would compute a number, and scores would follow it."""
    x = torch.randn(16, 8)
    model = SparseModel(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), "snip", 0.5)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6, batches=lambda n: [(x, y)] * n)
    if said:
        with pytest.raises(ValueError, match=rf"{said}: give Training criterion=, a function of output and y\Z"):
            training.start()
    else:
        training.start()


def test_a_network_whose_output_is_no_tensor_needs_a_criterion():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x
    model, x = SparseModel(Pair(8, 3), "snip", 0.5), torch.randn(16, 8)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6, batches=lambda n: [(x, torch.zeros(16).long())] * n)
    with pytest.raises(ValueError, match=r"\Athe network's output is a tuple, of which snip asks for the loss: give Training criterion=, [^\n]+\Z"):
        training.start()


def test_top_kasts_penalty_is_alone_with_a_new_optimiser_too():
    (x, y), *_ = batches()
    model = SparseModel(nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 10)), "topkast", 0.5)
    first, second = (Training(model, torch.optim.SGD(model.parameters(), 0.05, weight_decay=1e-2), 1, 6) for _ in range(2))
    first.start()
    second.load_state_dict(first.state_dict())
    cross_entropy(model(x), y).backward()
    second.update()
    assert [group["weight_decay"] for group in second.optimizer.param_groups] == [0]


def test_a_model_that_goes_on_in_another_training_is_not_told_of():
    model = SparseModel(nn.Linear(8, 8), "rigl", 0.5, interval=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    first, second = Training(model, optimizer, 1, 6), Training(model, optimizer, 1, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first.start()
        second.start()  # the first has made no update
        model(torch.ones(1, 8)).sum().backward()
        second.update()
        Training(model, optimizer, 1, 6).load_state_dict(second.state_dict())
        lrr = SparseModel(nn.Linear(8, 8), "lrr", 0.5)
        training = Training(lrr, torch.optim.SGD(lrr.parameters(), 0.05), 1, 1)
        for cycle in range(2):  # of one training
            training.start(cycle)
            lrr(torch.ones(1, 8)).sum().backward()
            training.update()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("name", ["weights", "views"])
def test_a_network_may_call_its_inputs_as_it_likes(storage, name):
    scope = {}
    exec(f"def forward(self, x, {name}):\n    return self.layer(x) * {name}\n", scope)
    kind = type("Named", (nn.Module,), {"forward": scope["forward"]})
    net = kind()
    net.layer = nn.Linear(8, 8)
    model, x = SparseModel(net, "set", 0.5, storage=storage), torch.randn(2, 8)
    assert torch.equal(model(x=x, **{name: 2}), model(x, 2))


def test_another_default_device_is_refused():
    with torch.device("meta"), pytest.raises(ValueError, match=r"\Atorch's default device is meta, and methods draw on the CPU: leave it [^\n]+\Z"):
        SparseModel(nn.Linear(8, 8), "rigl", 0.5)
    model = SparseModel(nn.Linear(8, 8), "rigl", 0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with torch.device("meta"), pytest.raises(ValueError, match="default device is meta"):
        Training(model, optimizer, 1, 6)


@pytest.mark.parametrize("kind", ["set", "in place"])
def test_a_network_that_sets_its_own_weights_is_told_of_once(kind):
    """As braindecode's layers with a largest norm: of a SparseModel's weights it has only a view."""
    class Largest(nn.Linear):
        def forward(self, x):
            if kind == "set":
                self.weight.data = torch.renorm(self.weight.data, 2, 0, 0.5)
            else:
                with torch.no_grad():
                    self.weight.renorm_(2, 0, 0.5)
            return super().forward(x)
    model, x = SparseModel(nn.Sequential(nn.Linear(8, 8), Largest(8, 8)), "set", 0.5), torch.randn(2, 8)
    if kind == "set":
        with pytest.warns(UserWarning, match=r"sets 1\.weight, which reaches only the copy of one pass: skip=\['1\.weight'\] leaves it dense"):
            model(x)
    else:
        with pytest.raises(RuntimeError, match=r"the network's own forward changes: skip=\[its name\] leaves it dense"):
            model(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = SparseModel(nn.Sequential(nn.Linear(8, 8), Largest(8, 8)), "set", 0.5, skip=["1"])
        assert plain(x).shape == (2, 8) and plain.net[1].weight.norm(dim=1).max() <= 0.5 + 1e-5


class Stopped(nn.Module):
    """A ReLU whose backward pass is interrupted, as by Ctrl-C, while `now` is set."""

    now = False

    def forward(self, x):
        if self.now:
            x.register_hook(self.stop)
        return torch.relu(x)

    def stop(self, gradient):
        raise KeyboardInterrupt


def stopped(method, storage):
    """(model, its optimiser, (x, y)): a model whose backward pass was interrupted in the first step."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), Stopped(), nn.Linear(8, 4))
    model, (x, y) = SparseModel(net, method, 0.5, storage=storage), (torch.randn(6, 8), torch.randint(0, 4, (6,)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    training = Training(model, optimizer, 1, 6)
    training.start()
    net[1].now = True
    with pytest.raises(KeyboardInterrupt):
        cross_entropy(model(x), y).backward()
    net[1].now = False
    assert model.lent
    return model, optimizer, (x, y)


@pytest.mark.parametrize("within", [False, True], ids=["alone", "within another network"])
@pytest.mark.parametrize("method, storage", [("st3", "masked"), ("rigl", "masked"), ("set", "sparse")])
def test_what_an_interrupted_backward_pass_leaves_is_in_no_state_copy_or_optimiser(method, storage, within):
    def after(use):
        model, _, (x, _) = stopped(method, storage)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return use(nn.Sequential(model) if within else model), x

    def saved(model):
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    fresh = SparseModel(nn.Sequential(nn.Linear(8, 8), Stopped(), nn.Linear(8, 4)), method, 0.5, storage=storage)
    names = {f"{'0.' * within}{name}" for name, _ in fresh.named_parameters()}
    state, x = after(lambda model: model.state_dict())
    (nn.Sequential(fresh) if within else fresh).load_state_dict(state)
    for use in (copy.deepcopy, saved, lambda model: model.double().float(), lambda model: model.load_state_dict(state) and model):
        again, x = after(use)
        assert torch.equal(again(x), fresh(x)) and {name for name, _ in again.named_parameters()} == names
    parameters, _ = after(lambda model: [*model.parameters()])
    assert len(parameters) == len(names) and all(p.is_leaf for p in parameters)
    assert {name for name, _ in after(lambda model: [*model.named_parameters()])[0]} == names
    after(lambda model: torch.optim.SGD(model.parameters(), 0.1))


def test_a_cell_that_is_run_again_prunes_anew_with_a_word_and_without_the_gradients_of_an_interrupted_step():
    (x, y), model = (torch.randn(6, 8), torch.randint(0, 4, (6,))), SparseModel(nn.Linear(8, 4), "rigl", 0.5)

    def cell(updates):
        """In a function of its own: as in a notebook, nothing holds the training of the cell before."""
        training = Training(model, torch.optim.SGD(model.parameters(), 0.0), 1, 6)
        training.start()
        for _ in range(updates):
            cross_entropy(model(x), y).backward()
            training.update((x, y))
        cross_entropy(model(x), y).backward()  # interrupted between this and the update
        return model.theta.grad.norm().item()

    alone = cell(0)
    assert cell(3) == alone  # nothing was trained: no word
    for made, said in ((0, 3), (2, 0), (1, 2)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert cell(made) == alone
        words = [str(one.message) for one in caught if "trained before" in str(one.message)]
        assert len(words) == (said > 0) and all(f"by {said} updates of another Training" in one for one in words)
    with pytest.warns(UserWarning, match="trained before, by 1 updates"):  # a copy has been trained, too
        other = copy.deepcopy(model)
        Training(other, torch.optim.SGD(other.parameters(), 0.1), 1, 6).start()


def test_what_stays_dense_is_told_of_from_a_tenth_on(recwarn):
    SparseModel(nn.Sequential(nn.Embedding(2, 5), nn.Linear(10, 10)), "static", 0.5)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="15 weights stay dense besides the 100 "):
        SparseModel(nn.Sequential(nn.Embedding(3, 5), nn.Linear(10, 10)), "static", 0.5)


def test_a_checkpoint_of_fewer_layers_names_the_first_that_lacks():
    one, two = (order_of(Layout(nn.Sequential(*(nn.Linear(8, 8) for _ in range(n))))) for n in (1, 2))
    assert differs(one, two) == "its weight 2 is nothing, here 1.weight 8x8" and differs(two, one) == "its weight 2 is 1.weight 8x8, here nothing"


def test_tensors_of_what_contains_itself():
    tensor = torch.ones(2)
    nested = [tensor]
    nested.append({"again": nested})
    assert [found is tensor for found in tensors(nested, set())] == [True]

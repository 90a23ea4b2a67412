"""States, layers, optimisers, losses and batches that a loop of one's own brings: what does not fit is refused, or told of, in one line."""
import copy

import pytest
import torch
from test_own_loop import STORAGES, Net, batches
from torch import nn
from torch.nn.functional import cross_entropy

from methods import SparseModel, Training
from methods.ranking import keep


def made(method="rigl", seed=0, storage="masked", epochs=2, **options):
    model = SparseModel(Net(), method, 0.5, storage=storage, **options)
    return model, Training(model, torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), epochs, 6, seed=seed, batches=lambda n: batches()[:n])


def trained(model, training, epochs=1):
    for x, y in batches() * epochs:
        cross_entropy(model(x), y).backward()
        training.update((x, y))


def test_a_start_that_discards_a_loaded_mask_is_told_of(recwarn):
    """As where a network is trained on in another process, without the training's state."""
    model, training = made(interval=2)
    training.start()
    trained(model, training)
    again, later = made(interval=2, seed=1)
    again.load_state_dict(model.state_dict())
    later.start()
    told, = recwarn
    assert str(told.message).startswith(f"this model was loaded with a mask of {model.method.budget} weights: start() gives it the one that rigl begins")
    assert told.filename == __file__ and not torch.equal(again.method.mask, model.method.mask)


def test_a_start_of_a_loaded_training_that_has_ended_is_told_of(recwarn):
    """Once: then it is begun like any other."""
    model, training = made(interval=2, epochs=1)
    training.start()
    trained(model, training)
    other, later = made(interval=2, epochs=1)
    other.load_state_dict(model.state_dict()), later.load_state_dict(training.state_dict())
    assert not list(recwarn)
    for _ in range(2):
        later.start()
        trained(other, later)
    assert [str(w.message).partition(":")[0] for w in recwarn] == ["start() begins this cycle anew, after 6 of its 6 steps"]


@pytest.mark.parametrize("method, options", [("gmp", {}), ("rigl", {"interval": 2}), ("lrr", {})])
def test_a_model_that_is_resumed_after_start_without_its_training_is_told_of_once(method, options, recwarn):
    """As by transformers' Trainer: the schedule would begin anew, with trained weights."""
    model, training = made(method, **options)
    training.start()
    trained(model, training)
    whole, later = made(method, **options), made(method, **options)
    whole[0].load_state_dict(model.state_dict()), whole[1].load_state_dict(training.state_dict())
    trained(*whole)
    assert not list(recwarn)
    later[1].start()
    later[0].load_state_dict(model.state_dict())
    trained(*later)
    told, = recwarn
    assert told.filename == __file__
    assert str(told.message) == ("a state was loaded into the model after start(), and the training is at its first step: to resume, load the "
                                 "training's state_dict, too, in place of start()")


@pytest.mark.parametrize("storage", STORAGES)
def test_a_state_from_before_the_start_asks_for_it(storage):
    """As after a search for a learning rate: without a start, the mask would stay the one of all weights."""
    model, training = made(storage=storage)
    states = copy.deepcopy((model.state_dict(), training.state_dict()))
    training.start()
    trained(model, training)
    model.load_state_dict(states[0]), training.load_state_dict(states[1])
    with pytest.raises(ValueError, match=r"\Acall training.start\(\) once before the first update"):
        trained(model, training)


@pytest.mark.parametrize("replace", [lambda net: setattr(net.head, "weight", nn.Parameter(torch.zeros(10, 32))),
                                     lambda net: setattr(net, "head", nn.Linear(32, 10))])
@pytest.mark.parametrize("storage", STORAGES)
def test_weights_that_come_after_the_network_was_taken_are_refused(storage, replace):
    model, training = made(storage=storage)
    replace(model.net)
    with pytest.raises(ValueError, match=r"\Ahead.weight was given after SparseModel had taken the network, [^\n]*\Z"):
        training.start()


def test_another_seed_is_refused_on_resuming():
    """What the method draws would be other numbers from there on."""
    model, training = made("set", seed=3)
    training.start()
    trained(model, training)
    again, later = made("set", seed=4)
    again.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"\Athis training had seed=3 and would go on with the random numbers of 4: Training\(…, seed=3\)\Z"):
        later.load_state_dict(training.state_dict())
    later.load_state_dict({name: value for name, value in training.state_dict().items() if name != "seed"})  # saved by an earlier version


def test_lbfgs_forgets_what_it_saw_of_other_connections():
    """So that a run with sparse storage, whose vector has other connections after an update, is the masked one."""
    losses = {}
    for storage in STORAGES:
        torch.manual_seed(0)
        model, losses[storage] = SparseModel(Net().double(), "rigl", 0.5, interval=3, noise=0.0, storage=storage), []
        optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=3)
        training = Training(model, optimizer, 2, 6)
        training.start()
        if storage == "masked":
            keys, values = model.method.mask.nonzero()[:, 0], model.theta.detach().clone()
        else:
            model.replace(values[keys]), model.connect(keys)
        x, y = batches()[0]

        def closure():
            optimizer.zero_grad()
            loss = cross_entropy(model(x.double()), y)
            loss.backward()
            return loss
        training.take_step = lambda: losses[storage].append(optimizer.step(closure).item())
        for _ in range(12):
            closure()
            training.update((x.double(), y))
    assert losses["masked"] == pytest.approx(losses["sparse"], rel=1e-9) and losses["masked"][-1] < losses["masked"][0]


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimisation in the form of its much used implementation: a wrapper with an optimiser of its own."""

    def __init__(self, params, base, rho=0.5, **options):
        super().__init__(params, dict(rho=rho, **options))
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for group in self.param_groups for p in group["params"]]).norm()
        for p in (p for group in self.param_groups for p in group["params"]):
            self.state[p]["old_p"] = p.clone()
            p.add_(p.grad * self.param_groups[0]["rho"] / norm)
        self.zero_grad()


def test_an_optimiser_that_wraps_another_is_trained_by_the_one_within(recwarn):
    """The program that examples/README.md has for it: what grows starts at zero, without an earlier connection's momentum."""
    torch.manual_seed(0)
    model = SparseModel(Net(), "rigl", 0.5, interval=2)
    sam = SAM(model.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9)
    Training(model, sam, 2, 6)
    assert ["SAM wraps another optimiser, whose momentum rigl does not reach" in str(w.message) for w in recwarn] == [True]
    training, grown = Training(model, sam.base_optimizer, 2, 6), 0
    training.start()
    for step, (x, y) in enumerate(batches() * 2):
        cross_entropy(model(x), y).backward()
        sam.first_step()
        cross_entropy(model(x), y).backward()
        for p in model.parameters():
            p.data = sam.state[p]["old_p"]
        before = model.method.mask.clone()
        training.update((x, y))
        new = model.method.mask & ~before
        grown += int(new.sum())
        momentum = sam.base_optimizer.state[model.theta]["momentum_buffer"]
        assert not model.theta[new].any() and not momentum[new].any()
    assert grown and model.outside() == 0


@pytest.mark.parametrize("criterion, said", [(lambda output, y: cross_entropy(output, y).item(), "float"),
                                             (lambda output, y: cross_entropy(output, y).detach(), "one of shape \\(\\) without a gradient"),
                                             (lambda output, y: output - 1, "one of shape \\(\\d+, \\d+\\)")])
def test_a_criterion_gives_one_number_with_a_gradient(criterion, said):
    model = SparseModel(Net(), "snip", 0.5)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6, batches=lambda n: batches()[:n], criterion=criterion)
    with pytest.raises(ValueError, match=rf"criterion= must return the loss of output and y, a tensor of one number with a gradient, not {said}\Z"):
        training.start()


def test_a_snapshot_that_was_never_taken_is_no_rewinding():
    model, training = made("static")
    training.start()
    training.rewind("best")  # the loop makes these, where there is validation
    training.snapshot("early")
    with pytest.raises(ValueError, match=r"\Astatic rewinds to 'erly', of which there is no snapshot \(there are: 'early'\)\Z"):
        training.rewind("erly")


@pytest.mark.parametrize("added, said", [(lambda run: run.theta, r"one of shape \(\d+,\)"), (lambda run: 0.5, "float")])
def test_an_added_loss_is_one_number(added, said):
    model, training = made("static")
    model.method.added_loss = added
    training.start()
    with pytest.raises(ValueError, match=rf"\Aadded_loss of static must return a tensor of one number or None, not {said}\Z"):
        trained(model, training)


def test_a_mask_by_scores_that_are_no_numbers_is_told_of():
    with pytest.warns(UserWarning, match=r"\Athe largest scores, by which a mask is chosen, are NaN: [^\n]*\Z"):
        keep(torch.full((8,), torch.nan), 3)


def test_no_clipping_is_zero():
    model = SparseModel(Net(), "rigl", 0.5)
    with pytest.raises(ValueError, match=r"\Aclip is the largest norm of all gradients, 0 for none, not None\Z"):
        Training(model, torch.optim.SGD(model.parameters(), 0.05), 1, 6, clip=None)


@pytest.mark.parametrize("storage", STORAGES)
def test_complex_weights_stay_dense(storage):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4, dtype=torch.complex64))
    with pytest.warns(UserWarning, match="32 weights stay dense"):
        model = SparseModel(net, "rigl", 0.5, storage=storage)
    assert model.layout.dense == [("1.weight", "complex")] and model.layout.size == 64


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_scripted_network_is_refused():
    with pytest.raises(ValueError, match=r"\ASparseModel takes the plain network, not a scripted or traced one: [^\n]*\Z"):
        SparseModel(torch.jit.script(nn.Sequential(nn.Linear(8, 4))), "rigl", 0.5)


@pytest.mark.parametrize("method", ["rigl", "granet"])
def test_weights_that_are_frozen_are_not_taken_for_a_missing_backward_pass(method):
    model = SparseModel(Net(), method, 0.5, interval=1)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 2, 6)
    training.start()
    model.theta.requires_grad_(False)
    with pytest.raises(ValueError, match=rf"\A{method} grows connections by their gradients, and this step's loss does not depend on the prunable"):
        trained(model, training, epochs=2)

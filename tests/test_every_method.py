"""What every method must fulfil. A method that `available()` lists is tested by itself."""
import functools
import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import methods
from benchmarks import models
from benchmarks.batches import Split
from benchmarks.data import load
from benchmarks.grid import Spec
from benchmarks.tasks import settle
from benchmarks.train import Trainer
from methods import SparseModel, Training

SPARSITY, EPOCHS = 0.8, 4
MOVING = dict(weight_decay=0.05, momentum=0.95, lr=0.02)  # these move stored weights that have no gradient
# what options add to a method's state and schedule
VARIANTS = (
    "st3 ft_epochs=2", "st3 rewind_finetune=true", "st3 ft_epochs=1 rewind_finetune=true",
    "gmp mask_form=nonsticky", "gmp mask_form=literal", "gmp scope=layer", "gmp scope=layer every=3", "static sampler=bernoulli",
    "granet regenerate=false",
    "static init=sparse allocation=er_gse", "rigl scope=global regrow=no skip_step=false score_batches=ceil10",
    "imp rewind_epoch=1",
    "lrr source=last momentum=keep", "lrr_st3 mask_form=frozen_in_cycle", "probmask finetune=0.34 sampling=bernoulli",
    "topkast mode=literal", "feather theta=0.5", "powerprop_gmp decay_of=q", "movement pretrain=true scope=layer", "movement pruning=sigmoid score_lr=300", "srigl ablation=false", "spartan budget_of=all", "granet initial_sparsity=0", "gse_uniform score_batches=train_batch scope=layer",
)
EXAMPLES = [f"{Path(__file__).parent.parent}/examples/{name}"
            for name in ("my_method.py:MyMethod", "my_running_mean.py:RunningMean", "my_growth.py:GrowByMomentum")]
every_method = pytest.mark.parametrize("name", methods.available())
every_variant = pytest.mark.parametrize("name", [*methods.available(), *VARIANTS, *EXAMPLES])


@functools.cache
def small_digits(images=256, others=100):
    """So many of the training images, four batches an epoch, and of the others: in real training otherwise."""
    data = load("digits", "data")

    def first(split, n):
        return Split(split.images[:n], split.labels[:n])
    return replace(data, train=first(data.train, images), val=first(data.val, others), test=first(data.test, others))


def make(name, seed=0, record=None, data=None, device="cpu", **changes):
    """A Trainer of "method option=value ...", by default on very few digits, in small batches: as many steps in half of the time."""
    name, *words = name.split()
    options = {"interval": 3} if "interval" in methods.get(name).options() else {}
    options.update(word.split("=") for word in words)
    task, options = settle(Spec("digits", name, SPARSITY, seed, EPOCHS, options=options))
    if not data:
        data, changes = small_digits(64, 40), {"batch_size": 16, **changes}
    return Trainer(replace(task, **changes), name, SPARSITY, seed, options, data, device, record)


def saved(trainer):
    file = io.BytesIO()
    torch.save(trainer.state_dict(), file)
    return file.getvalue()


def read(state):
    return torch.load(io.BytesIO(state), weights_only=True)


def lasting(trainer):
    """All of a trainer's state but the clock's."""
    return timeless(saved(trainer))


def timeless(state):
    """What of a saved state is no clock's."""
    state = read(state)
    for clock in ("seconds", "step_seconds"):
        del state["progress"][clock]
    return state


def difference(a, b, path="state"):
    """Where two states differ, bit for bit; None if nowhere."""
    if type(a) is not type(b):
        return path
    if isinstance(a, dict):
        inner = ((a[key], b[key], f"{path}.{key}") for key in a) if a.keys() == b.keys() else [(0, 1, path)]
        return next((found for pair in inner if (found := difference(*pair))), None)
    if isinstance(a, (list, tuple)):
        return difference(dict(enumerate(a)), dict(enumerate(b)), path)
    if torch.is_tensor(a):
        return None if a.dtype == b.dtype and torch.equal(a, b) else path
    return None if a == b or (a != a and b != b) else path  # NaN is NaN


@functools.cache
def trained(name):
    """A Trainer after its whole run, its saved states after each epoch (`states`), in the middle of the second of each cycle (`middles`)
    and before the first is evaluated (`unevaluated`), and how many weights outside the mask were not zero after each epoch (`outside`).

    Tests must leave it as it is."""
    run = SimpleNamespace(trainer=make(name, **MOVING), states=[], middles=[], outside=[])

    def save(trainer):
        run.states.append(saved(trainer))
        run.outside.append(int(weights_of(trainer.model)[~trainer.model.method.mask].count_nonzero()))
    for step, _ in enumerate(run.trainer.steps(save=save), 1):
        if in_the_middle(run.trainer):
            run.middles.append(saved(run.trainer))
        if step == run.trainer.training.steps_per_epoch:
            run.unevaluated = saved(run.trainer)
    return run


def in_the_middle(trainer):
    progress = trainer.progress
    return progress.epoch == trainer.training.cycles[progress.cycle].first + 1 and progress.index == 2


@torch.no_grad()
def weights_of(model):
    model.eval()
    return model.method(model.theta)


@every_variant
def test_exact_budget(name):
    method = trained(name).trainer.model.method
    assert method.mask.dtype is torch.bool and method.mask.shape == (method.layout.size,)
    if method.exact:
        assert int(method.mask.sum()) == method.budget
        expected = 1 if name == "dense" else 1 - SPARSITY
        others = method.layout.others if "budget_of=all" in name else 0  # which count, and stay
        assert abs(method.budget + others - expected * (method.layout.size + others)) <= len(method.layout.sizes)


@pytest.mark.filterwarnings("ignore")
@every_variant
def test_another_training_of_a_model_begins_as_the_first(name):
    """With as many active weights, and with what the method learns besides weights as it was then."""
    name, *words = name.split()
    torch.manual_seed(0)
    model = SparseModel(nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 4)), name, SPARSITY,
                        **dict(word.split("=") for word in words))
    batches = [(torch.randn(16, 12), torch.randint(4, (16,))) for _ in range(4)]

    def begin():
        optimizer = torch.optim.SGD(model.parameter_groups(lr=0.1), lr=0.1, momentum=0.9)
        training = Training(model, optimizer, 4, 4, batches=lambda n: (batches * n)[:n])
        training.start()
        return training, int(model.method.mask.sum()), [p.clone() for p in model.method.parameters()]

    training, active, learned = begin()
    for cycle in range(len(training.cycles)):
        if cycle:
            training.start(cycle)
        while training.step < training.total_steps:
            for x, y in batches:
                for _ in range(training.passes):
                    (nn.functional.cross_entropy(model(x), y) / training.passes).backward()
                training.update((x, y))
    _, now_active, now_learned = begin()
    assert now_active == active and all(map(torch.equal, learned, now_learned))


@every_variant
def test_inactive_weights_are_zero_at_every_epoch(name):
    outside = trained(name).outside
    assert len(outside) >= EPOCHS and not any(outside)


@pytest.mark.parametrize("name", [*methods.available(), *EXAMPLES])
def test_gradient_class(name):
    model = trained(name).trainer.model
    generator = torch.Generator().manual_seed(0)
    upstream = torch.rand(model.layout.size, generator=generator) + 0.5  # ∂L/∂q of L = Σ G ⊙ q
    model.train()
    theta = model.theta.detach().clone().requires_grad_()
    gradient, = torch.autograd.grad((model.method(theta) * upstream).sum(), theta)
    if model.method.gradient == "dense":
        assert torch.equal(gradient, upstream)
    elif model.method.gradient == "superset":
        assert (gradient != 0)[model.method.mask].all()
        assert model.method.mask.sum() < (gradient != 0).sum() < model.layout.size
    elif model.method.gradient == "shaped":
        assert (gradient != 0)[model.method.mask].all() and not torch.equal(gradient, upstream)
    else:
        assert model.method.gradient == "masked"
        assert torch.equal(gradient != 0, model.method.mask)


def resumed_from(name, state):
    resumed = make(name, **MOVING)
    assert difference(lasting(trained(name).trainer), lasting(resumed))
    resumed.load_state_dict(read(state))
    return resumed


@every_variant
def test_resumed_training_equals_uninterrupted_training(name):
    """From the middle of an epoch, in the ramp; of several cycles also from the end of the first to the middle of the second, and on."""
    run = trained(name)
    for state in (run.middles[0], *run.middles[1:2]):
        resumed = resumed_from(name, state).run()
        assert difference(lasting(run.trainer), lasting(resumed)) is None
        assert torch.equal(weights_of(run.trainer.model), weights_of(resumed.model))
    if len(run.middles) > 1:
        resumed = resumed_from(name, run.states[EPOCHS - 1])
        next(() for _ in resumed.steps() if in_the_middle(resumed))
        assert difference(timeless(run.middles[1]), lasting(resumed)) is None


@every_method
def test_training_resumed_at_the_last_step_of_an_epoch(name):
    """It evaluates first: what that makes serves the steps after it."""
    resumed, states = resumed_from(name, trained(name).unevaluated), []
    for _ in resumed.steps(save=lambda trainer: states.append(saved(trainer))):
        if len(states) == 2:
            break
    expected, found = (read(state) for state in (trained(name).states[1], states[1]))
    assert difference(expected["model"], found["model"]) is None
    assert difference(expected["optimizer"], found["optimizer"]) is None


@every_method
def test_masking_spares_biases_and_norms_and_survives_ties(name):
    # learning rate 0, all weights equal: what changes besides theta's mask was changed by the method
    trainer = make(name, lr=0.0)
    model, generator = trainer.model, torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.theta.fill_(0.1)
        for parameter in model.net.parameters():
            parameter.uniform_(0.5, 1, generator=generator)
    before = {key: value.clone() for key, value in model.net.named_parameters()}
    assert set(before) & {entry.name for entry in model.layout.entries} == set() and before
    trainer.run()
    assert difference(before, {key: value.clone() for key, value in model.net.named_parameters()}) is None
    if model.method.exact:
        assert int(model.method.mask.sum()) == model.method.budget


@every_method
def test_only_conv_and_linear_weights_are_counted(name):
    net = models.build("resnet8_digits", 10)
    layers = {name: module for name, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    prunable = {f"{name}.weight": module.weight.numel() for name, module in layers.items()}
    model = SparseModel(net, name, SPARSITY)
    assert {e.name: e.size for e in model.layout.entries} == prunable
    assert model.layout.size == sum(prunable.values()) == model.method.mask.numel()


@every_method
def test_evaluation_changes_nothing(name):
    trainer = trained(name).trainer
    before, random = lasting(trainer), torch.get_rng_state()
    trainer.model.train()  # as an epoch of training leaves it
    accuracy = trainer.evaluate(trainer.data.test)
    assert difference(before, lasting(trainer)) is None
    assert torch.equal(random, torch.get_rng_state())
    assert trainer.evaluate(trainer.data.test) == accuracy
    assert 0 <= accuracy <= 100


@every_method
def test_export(name):
    trainer = trained(name).trainer
    model, before = trainer.model, lasting(trainer)
    net = model.export()
    x = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = models.build("resnet8_digits", 10)
    plain.load_state_dict(net.state_dict(), strict=True)
    for network in (model.eval(), net.eval(), plain.eval()):
        assert torch.allclose(network(x), model(x), rtol=1e-4, atol=1e-4)
    exported = model.layout.flatten([net.get_parameter(entry.name).detach() for entry in model.layout.entries])
    assert torch.equal(exported, weights_of(model))
    assert not exported[~model.method.mask].any()
    with torch.no_grad():  # a copy: nothing is shared with the model
        for parameter in net.parameters():
            parameter.zero_()
    assert difference(before, lasting(trainer)) is None

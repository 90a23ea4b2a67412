"""The dense reference and gradual magnitude pruning, with worked numbers."""
import copy

import pytest
import torch
from canonical import DENSE_STEP, W, backward, effective, mask_of, momentum, near, step, training
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.models import build
from methods import SparseModel, Training

AT_ONCE = {"ramp_power": 0}
AFTER_ONE_STEP = {"epochs": 2, "ramp_start": 0.0, "ramp_end": 0.5}  # dense for one step, then the final sparsity
SECOND = torch.tensor([[3, 0, 0], [0, 0, 0]], dtype=torch.float64)  # brings the weight .399995 near 0


def test_dense_step():
    run = training("dense", 0.9)
    assert torch.equal(effective(run), W)
    assert step(run) == near(DENSE_STEP, digits=9)
    assert run.model.method.budget == 6 == int(run.model.method.mask.sum())


def test_dense_equals_plain_training_bit_for_bit():
    torch.manual_seed(0)
    plain = build("resnet8_digits", 10)
    model = SparseModel(copy.deepcopy(plain), "dense")
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)
    settings = dict(lr=0.1, momentum=0.9, weight_decay=1e-4)
    sgd = torch.optim.SGD(plain.parameters(), **settings)
    run = Training(model, torch.optim.SGD(model.parameters(), **settings), 1, 3)
    run.start()
    for _ in range(3):
        cross_entropy(plain(x.to(memory_format=torch.channels_last)), y).backward()
        sgd.step(), sgd.zero_grad()
        cross_entropy(model(x.to(memory_format=torch.channels_last)), y).backward()
        run.update()
    exported = model.export().state_dict()
    assert all(torch.equal(value, exported[name]) for name, value in plain.state_dict().items())


@pytest.mark.parametrize("form, expected", [
    ("sticky", [[0.399995, 0, 0], [0, 0.324997, -0.799996]]),
    ("nonsticky", [[0.399995, -0.199998, 0.099999], [-0.0499995, 0.324997, -0.799996]]),
])
def test_gmp_step(form, expected):
    run = training("gmp", 0.5, mask_form=form, **AT_ONCE)
    assert effective(run) == near([[0.5, 0, 0], [0, 0.3, -0.4]])
    assert backward(run).tolist() == [[1, 0, 0], [0, -0.25, 4]]
    run.optimizer.zero_grad()
    assert step(run) == near(expected, digits=9)


def test_sticky_is_the_default():
    assert torch.equal(step(training("gmp", 0.5, **AT_ONCE)), step(training("gmp", 0.5, mask_form="sticky", **AT_ONCE)))


def pruned_after_one_step(form):
    run = training("gmp", 0.5, mask_form=form, **AFTER_ONE_STEP)
    assert run.model.method.mask.all()
    step(run)
    assert run.model.method.mask.tolist() == [True, False, False, False, True, True]
    return run


def test_sticky_clears_momentum_and_never_returns():
    run = pruned_after_one_step("sticky")
    assert momentum(run).flatten()[1:4].tolist() == [0, 0, 0]
    theta = step(run, SECOND)
    assert theta.flatten()[1:4].tolist() == [0, 0, 0]
    assert run.model.method.mask.tolist() == [True, False, False, False, True, True]


def test_literal_moves_by_momentum_and_may_return():
    run = pruned_after_one_step("literal")
    assert run.theta[1:4].tolist() == [0, 0, 0]
    assert momentum(run)[0, 1] == near(-2.00002)
    theta = step(run, SECOND)
    assert run.model.method.mask.tolist() == [False, False, True, False, True, True]
    assert theta[0, 2] == near(-0.2700009)  # -lr · .9 · 3.00001: a zeroed weight moved
    assert theta[0, 0] == 0


def test_nonsticky_keeps_pruned_weights():
    run = pruned_after_one_step("nonsticky")
    assert run.theta.detach().view(2, 3) == near(DENSE_STEP, digits=9)
    theta = step(run, SECOND)
    assert theta[0, 1] == near(0.000002 + 0.1 * 0.9 * 2.00002)
    assert run.model.method.mask.tolist() == [False, False, True, False, True, True]


def test_sticky_keeps_an_active_weight_at_zero_before_pruned_ones():
    run = training("gmp", 0.5, **AT_ONCE)
    with torch.no_grad():
        run.theta.zero_()
    step(run, torch.zeros_like(W))
    assert mask_of(run) == [[1, 0, 0], [0, 1, 1]]


def test_nonsticky_masks_change_every_few_steps_after_the_ramp_too():
    run, masks = training("gmp", 0.5, mask_form="nonsticky", every=5, epochs=20, **AT_ONCE), []
    with torch.no_grad():
        run.theta.copy_(W.flip(0).flatten())
    for _ in range(5):
        step(run, torch.zeros_like(W))
        masks.append(mask_of(run))
    assert masks == [[[1, 0, 0], [0, 1, 1]]] * 4 + [[[0, 1, 1], [1, 0, 0]]]


@pytest.mark.parametrize("options, cut", [
    ({}, [1, 2, 3, 4]), ({"every": 2}, [2, 4]), ({"every": 3}, [3, 4, 6]), ({"scope": "layer"}, [1, 2, 3, 4]),
    ({"mask_form": "nonsticky"}, [*range(1, 9)])])
def test_sticky_weights_are_not_ranked_again_where_as_many_stay(options, cut, monkeypatch):
    """Sparsity rises in steps 1 to 4 of 8."""
    run, done = training("gmp", 0.9, weight=torch.randn(20, 20), epochs=8, ramp_start=0.0, ramp_end=0.5, **options), []
    monkeypatch.setattr(run.model.method, "cut", lambda run, *kept, own=run.model.method.cut: (done.append(run.step + 1), own(run, *kept)))
    for _ in range(8):
        step(run, torch.randn(20, 20))
    assert done == cut and int(run.model.method.mask.sum()) == run.model.method.budget


def test_pruning_activates_nothing():
    run = training("gradual", 0.5)
    run.method.prune(run, 3)
    with pytest.raises(ValueError, match="^gradual cannot prune to 4 weights: 3 are active$"):
        run.method.prune(run, 4)
    run.method.prune(run, 3)
    assert run.method.mask.tolist() == [True, False, False, False, True, True]


@pytest.mark.parametrize("form", ["sticky", "nonsticky", "literal"])
def test_everything_is_active_before_the_ramp(form):
    run = training("gmp", 0.5, mask_form=form, weight=torch.zeros_like(W), epochs=160)
    assert run.model.method.mask.all()
    step(run)
    assert run.model.method.mask.all()


@pytest.mark.parametrize("form, nested", [("sticky", True), ("nonsticky", False)])
def test_masks_are_nested_only_if_sticky(form, nested):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    run = training("gmp", 0.9, mask_form=form, weight=weight, epochs=60)
    returned = 0
    for t in range(60):
        before = run.model.method.mask.clone()
        step(run, torch.randn(weight.shape, generator=generator, dtype=torch.float64))
        returned += int((run.model.method.mask & ~before).sum())
    assert (returned == 0) == nested
    assert int(run.model.method.mask.sum()) == 400 - int(399 * 0.9) - 1


def test_the_ramp_of_str_s_repository():
    """By layer and by epoch, from 20 to 80 of 100."""
    run = training("gmp", 0.9, epochs=100, steps_per_epoch=10, weight=torch.ones(10, 12), mask_form="nonsticky", scope="layer",
                   ramp_granularity="epoch", ramp_start=0.2, ramp_end=0.8)
    assert [run.method.scheduled(run, 10 * e + 5) for e in (19, 20, 50, 79, 99)] == near([0, 0, 0.7875, 0.899996, 0.9], 6)


def test_mean_cost_follows_the_mask():
    assert training("dense").model.method.training_cost(1.0, 1.0) == 3
    assert training("gmp", 0.5).model.method.training_cost(0.1, 1.0) == pytest.approx(0.3)  # §5: masked gradients
    assert training("st3", 0.5).model.method.training_cost(0.1, 1.0) == pytest.approx(1.2)


@pytest.mark.parametrize("name, options, expected", [
    ("set", {}, 0.3), ("rigl", {}, 0.3), ("gse_uniform", {}, 0.3),  # and what their updates read and pass
    ("topkast", {"gamma": 0.5}, 0.35),                 # the backward pass of the weights has 1 + γ times as many
    ("topkast", {"gamma": 20.0}, 1.2),                 # but no more than all
    ("probmask", {}, 0.2 + 20 / 21 + 0.1 / 21),        # of each of its passes: 20 of 21 in 10 epochs take the gradient of all probabilities
    ("probmask", {"finetune": 0.0}, 1.2),
    ("dst_mask", {}, 1.2), ("spartan", {}, 1.2),       # all weights have gradients
])
def test_mean_cost_of_methods_with_a_formula_of_their_own(name, options, expected):
    """Of §5's example: the sparse forward pass costs .1 of the dense one."""
    assert training(name, 0.5, **options).model.method.training_cost(0.1, 1.0) == near(expected)


def two_layers(form, epochs, **options):
    """400 weights of standard deviation 1 and 101 ten times as small, of which a global ranking would leave none."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 20, bias=False), nn.Linear(101, 1, bias=False)).double()
    with torch.no_grad():
        net[0].weight.normal_(), net[1].weight.normal_(std=0.1)
    model = SparseModel(net, "gmp", 0.9, mask_form=form, **options)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), epochs, 1)
    run.start()
    return run


def trained(run):
    """The number of weights in each layer, and the mask, after each step by random gradients."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(run.total_steps):
        run.theta.grad = torch.randn(run.theta.shape, generator=generator, dtype=torch.float64) * run.method.mask
        run.update()
        found.append((run.method.mask.view(-1)[:400].sum().item(), run.method.mask.view(-1)[400:].sum().item(), run.method.mask.clone()))
    return found


@pytest.mark.parametrize("form", ["sticky", "nonsticky", "literal"])
def test_each_layer_keeps_the_same_share(form):
    by_layer, globally = (trained(two_layers(form, 60, scope=scope)) for scope in ("layer", "global"))
    assert [sum(counts[:2]) for counts in by_layer] == [sum(counts[:2]) for counts in globally]  # the schedule is the same
    assert all(abs(second / 101 - first / 400) < 0.011 for first, second, _ in by_layer)
    assert by_layer[-1][:2] == (40, 10) and globally[-1][1] == 0
    if form == "sticky":
        assert not any((after & ~before).any() for (*_, before), (*_, after) in zip(by_layer, by_layer[1:]))


@pytest.mark.parametrize("scope, counts", [("layer", [40, 10]), ("global", [50, 0])])
def test_a_schedule_without_a_ramp_ranks_as_every_other_from_the_first_step_on(scope, counts):
    run = two_layers("sticky", 10, scope=scope, **AT_ONCE)
    assert [int(piece.sum()) for piece in run.method.mask.split([400, 101])] == counts


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_pruning_every_few_steps(scope):
    """The mask changes at steps 7, 14, ... and at the end of the ramp, step 30, after which it stays."""
    often, seldom = (trained(two_layers("sticky", 60, scope=scope, every=every)) for every in (1, 7))
    changes = [step + 2 for step, ((*_, before), (*_, after)) in enumerate(zip(seldom, seldom[1:])) if not torch.equal(before, after)]
    assert changes == [7, 14, 21, 28, 30]
    assert [seldom[step - 1][:2] for step in changes] == [often[step - 1][:2] for step in changes]


def test_a_number_of_steps_is_one_at_least():
    with pytest.raises(ValueError, match="^option every takes a whole number of at least 1, not 0$"):
        training("gmp", 0.5, every=0)


def test_one_pruning_at_least_where_training_ends_before_the_first():
    run = two_layers("sticky", 10, every=100)
    assert int(trained(run)[-1][2].sum()) == run.method.budget == 501 - int(500 * 0.9) - 1

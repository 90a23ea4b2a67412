"""ST-3, ST-3σ and the straight-through arms, with worked numbers."""
import numpy as np
import pytest
import torch
from canonical import DENSE_STEP, G, W, backward, effective, linear, momentum, near, step, training
from scipy.optimize import brentq
from scipy.stats import norm as normal
from torch import nn

from benchmarks.cost import layer_macs
from benchmarks.models import build
from methods import SparseModel, Training
from methods.base import Cycle, ramp
from methods.layout import Layout

AT_ONCE = {"ramp_power": 0}  # the final sparsity from the first step on
MASK = [[1, 0, 0], [0, 1, 1]]
B = torch.tensor([[0.51, -0.6]], dtype=torch.float64)

FORWARD = [  # (method, rescale, effective weights at s = .5, where the threshold is .25)
    ("st3", "smoothed", [[0.3976369, 0, 0], [0, 0.0535336, -0.1606007]]),
    ("st3", "paper", [[0.4, 0, 0], [0, 0.0535714, -0.1607143]]),
    ("ste_soft_rescale", "smoothed", [[0.3976369, 0, 0], [0, 0.0535336, -0.1606007]]),
    ("ste_soft", "off", [[0.25, 0, 0], [0, 0.05, -0.15]]),
    ("ste_hard", "off", [[0.5, 0, 0], [0, 0.3, -0.4]]),
    ("ste_hard_rescale", "paper", [[0.8, 0, 0], [0, 0.3214286, -0.4285714]]),
    ("ste_hard_rescale", "smoothed", [[0.7952738, 0, 0], [0, 0.3212013, -0.4282684]]),
]


@pytest.mark.parametrize("method, rescale, expected", FORWARD)
def test_forward_and_straight_through_step(method, rescale, expected):
    run = training(method, 0.5, rescale=rescale, **AT_ONCE)
    assert run.model.method.mask.view(2, 3).tolist() == [[bool(m) for m in row] for row in MASK]
    assert effective(run) == near(expected)
    assert torch.equal(backward(run), G)
    run.optimizer.zero_grad()
    assert step(run) == near(DENSE_STEP, digits=9)


@pytest.mark.parametrize("method, defaults", [("st3", "smoothed"), ("st3_sigma", "smoothed"), ("ste_hard_rescale", "smoothed"),
                                              ("ste_soft", "off"), ("ste_hard", "off")])
def test_default_rescale(method, defaults):
    chosen, default = (training(method, 0.5, **AT_ONCE, **options) for options in ({"rescale": defaults}, {}))
    assert torch.equal(effective(chosen), effective(default))


def test_scale_of_each_filter():
    for rescale, scale in (("paper", [1.6, 1.0714286]), ("smoothed", [1.5905477, 1.0706711])):
        q = effective(training("ste_hard_rescale", 0.5, rescale=rescale, **AT_ONCE))
        assert [(q / W)[0, 0].item(), (q / W)[1, 1].item()] == near(scale)


def test_l1_norm_per_filter():
    whole = W.abs().sum(1)
    for method, expected in (("ste_hard_rescale", whole), ("st3", [0.4, 0.2142857])):
        q = effective(training(method, 0.5, rescale="paper", **AT_ONCE))
        assert q.abs().sum(1) == near(expected)


def test_scale_of_an_empty_filter():
    weight = torch.tensor([[1.0, 2, 3], [0.1, 0.2, 0.3]], dtype=torch.float64)
    for rescale, scale in (("smoothed", 1.01 / (1e-6 / 0.200001 + 0.01)), ("paper", 1)):  # 100.95
        run = training("st3", 0.5, weight=weight, rescale=rescale, **AT_ONCE)
        assert run.model.method.filter_scale(run.theta.detach().abs(), run.model.method.mask)[1].item() == near(scale)
        assert torch.equal(effective(run, weight)[1], torch.zeros(3, dtype=torch.float64))
        assert torch.isfinite(run.model.method.gain).all()


@pytest.mark.parametrize("method", ["st3", "st3_sigma", "ste_hard_rescale", "str", "feather"])
def test_a_second_training_begins_with_all_weights_as_they_are(method):
    """Neither the threshold nor the scale of the first one's end is left."""
    first = training(method, 0.5)
    for _ in range(10):
        step(first)
    assert not torch.equal(effective(first), first.theta.view(2, 3))
    with pytest.warns(UserWarning, match="trained before"):
        Training(first.model, torch.optim.SGD(first.model.parameters(), lr=0.1), 10, 1).start()
    assert torch.equal(effective(first), first.theta.view(2, 3))


@pytest.mark.parametrize("method, options, expected", [
    ("ste_hard_rescale", {"rescale": "smoothed"}, [[1.5905477, 0, 0], [0, -0.2676678, 4.2826843]]),
    ("ste_hard", {}, [[1, 0, 0], [0, -0.25, 4]]),
    ("st3", {"rescale": "smoothed"}, [[1.5905477, 0, 0], [0, -0.2676678, 4.2826843]]),
    ("ste_soft", {}, [[1, 0, 0], [0, -0.25, 4]]),
])
def test_arms_without_straight_through(method, options, expected):
    run = training(method, 0.5, straight_through=False, **options, **AT_ONCE)
    assert effective(run) == near(effective(training(method, 0.5, **options, **AT_ONCE)), digits=12)
    assert backward(run) == near(expected)
    assert run.model.method.gradient == "masked"


@pytest.mark.parametrize("method", ["st3", "st3_sigma", "ste_hard", "ste_hard_rescale", "ste_soft"])
def test_before_the_ramp_equals_dense(method):
    arm, dense = training(method, 0.9, epochs=160), training("dense", epochs=160)
    for _ in range(4):  # the ramp begins after five steps
        assert torch.equal(effective(arm), arm.theta.view(2, 3))
        assert torch.equal(step(arm), step(dense))


def test_soft_is_continuous_at_the_threshold_and_hard_is_not():
    weight = torch.randn(100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    smallest = {method: effective(training(method, 0.5, weight=weight, **AT_ONCE), weight).abs().flatten().sort().values[5000]
                for method in ("ste_soft", "ste_hard")}
    assert 0 < smallest["ste_soft"] < 1e-3
    assert smallest["ste_hard"] == pytest.approx(0.674, abs=0.02)  # the median of |N(0, 1)|


def test_momentum_of_inactive_weights_accumulates():
    run = training("st3", 0.5, **AT_ONCE)
    step(run)
    assert run.model.method.mask.view(2, 3).tolist() == [[True, False, False], [False, True, True]]
    assert momentum(run) == near(G + 1e-4 * W)
    step(run, torch.zeros_like(G))
    assert momentum(run) == near(0.9 * G, digits=3)


def test_masked_weights_may_return():
    run = training("st3", 0.5, **AT_ONCE)
    assert effective(run)[0, 2] == 0
    step(run, torch.tensor([[0.0, 0, -20], [0, 0, 0]], dtype=torch.float64))
    assert run.theta[2] > 2 and effective(run)[0, 2] > 0


# ---- fine-tuning

@pytest.mark.parametrize("options, cycles", [({"ft_epochs": 1}, 2), ({"rewind_finetune": True}, 2),
                                             ({"ft_epochs": 1, "rewind_finetune": True}, 3)])
def test_sparse_weights_are_folded_once(options, cycles):
    run = training("st3", 0.5, epochs=2, **options, **AT_ONCE)
    assert len(run.cycles) == cycles
    q, mask = effective(run), run.model.method.mask.clone()
    for cycle in range(1, cycles):
        run.start(cycle)
        assert effective(run) == near(q, digits=12) and torch.equal(run.model.method.mask, mask)


def test_fine_tuning_goes_on_from_the_last_weights_and_the_second_schedule_from_the_best():
    run = training("st3", 0.5, epochs=2, ft_epochs=1, rewind_finetune=True, **AT_ONCE)
    run.snapshot("best")
    step(run)
    last = effective(run)
    run.start(1)
    assert effective(run) == near(last, digits=12) and not torch.equal(last, effective(training("st3", 0.5, **AT_ONCE)))
    run.snapshot("best")
    step(run)
    run.start(2)
    assert effective(run) == near(last, digits=12)


@pytest.mark.parametrize("options", [{"ft_epochs": 1}, {"rewind_finetune": True}])
def test_after_the_ramp_the_next_cycle_begins_at_the_target(options):
    run = training("st3", 0.5, epochs=4, **options)
    assert run.method.mask.all()
    for _ in range(4):
        step(run, 0.01 * G)
    last = effective(run)
    run.start(1)
    assert int(run.method.mask.sum()) == 3 and effective(run) == near(last, digits=12)


def test_schedules_of_fine_tuning():
    method = training("st3", 0.5, ft_epochs=10, rewind_finetune=True, **AT_ONCE).model.method
    assert method.cycles(160) == [Cycle(160), Cycle(10, lr=0.01), Cycle(160)]  # at a hundredth of the rate, then as at first
    assert training("st3", 0.5).model.method.cycles(160) == [Cycle(160)]


def test_fine_tuning_masks_gradients():
    run = training("st3", 0.5, epochs=2, ft_epochs=1, **AT_ONCE)
    run.start(1)
    theta = step(run).flatten()  # all stored weights are now those of the mask
    assert theta[~run.model.method.mask].tolist() == [0, 0, 0] and theta[run.model.method.mask].all()
    assert momentum(run).flatten()[~run.model.method.mask].tolist() == [0, 0, 0]


def test_the_second_schedule_masks_gradients_too():
    run = training("st3", 0.5, epochs=2, ft_epochs=1, rewind_finetune=True, **AT_ONCE)
    for cycle in (1, 2):
        run.start(cycle)
        theta, outside = step(run).flatten(), ~run.model.method.mask
        assert not theta[outside].any() and not momentum(run).flatten()[outside].any()


# ---- schedule

def at(run, epoch, batch):
    """The sparsity that the step `batch` of `epoch` leaves."""
    run.step = epoch * run.steps_per_epoch + batch
    return run.method.scheduled(run, run.step + 1)


def test_cubic_schedule():
    run = training("st3", 0.9, epochs=160, steps_per_epoch=352)
    for epoch, batch, sparsity in ((0, 0, 0), (4, 351, 0), (5, 0, 0.0001023), (5, 351, 0.0355221), (42, 175, 0.7875),
                                   (79, 351, 0.9), (80, 0, 0.9), (159, 351, 0.9)):
        assert at(run, epoch, batch) == near(sparsity), (epoch, batch)
    assert run.method.scheduled(run, 0) == 0


@pytest.mark.parametrize("method", ["st3", "str", "gmp"])
def test_the_first_pass_has_the_sparsity_before_any_step(method):
    run = training(method, 0.5, epochs=2, ramp_start=0.0, ramp_end=0.5)  # a ramp of one step
    assert run.method.mask.all() and torch.equal(effective(run), W)
    step(run, torch.zeros_like(W))
    assert int(run.method.mask.sum()) == 3


def test_a_ramp_without_length_is_a_step():
    assert [ramp(t, 5, 5) for t in (4, 5, 6)] == [0, 1, 1]
    assert [ramp(t, 0, 4, 1) for t in (0, 1, 4)] == [0, 0.25, 1]
    assert ramp(0, 5, 80, 0) == 1


def test_schedule_by_epoch_changes_only_between_epochs():
    by_step, by_epoch = (training("st3", 0.9, epochs=160, steps_per_epoch=352, ramp_granularity=g) for g in ("step", "epoch"))
    assert at(by_epoch, 42, 0) == at(by_epoch, 42, 175) == at(by_epoch, 42, 350) == at(by_step, 41, 351)
    assert at(by_epoch, 42, 351) == at(by_step, 42, 351) > at(by_epoch, 42, 350)
    assert at(by_epoch, 159, 0) == 0.9


def test_mean_sparsity_of_the_ramp():
    run = training("st3", 0.9, epochs=160, steps_per_epoch=10)
    assert sum(at(run, e, b) for e in range(160) for b in range(10)) / 1600 == pytest.approx(0.7663983, abs=5e-4)


def test_mask_follows_the_schedule_at_every_step():
    weight = torch.randn(30, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = training("st3", 0.95, epochs=16, steps_per_epoch=4, weight=weight)
    seen = []
    for t in range(64):
        step(run, torch.zeros_like(weight))
        x = min(max((t + 1 - 2) / 30, 0), 1)
        s = 0.95 * (1 - (1 - x) ** 3)
        seen.append(int(run.method.mask.sum()))
        assert seen[-1] == (1200 - int(1199 * s) - 1 if s else 1200), t
        assert torch.equal(effective(run, weight).flatten() != 0, run.method.mask)
    assert seen[0] == 1200 and len(set(seen)) > 25 and seen[-1] == 60


@pytest.mark.parametrize("threshold, kept", [("quantile_lerp", 3), ("topk_exact", 3), ("kth_value", 4)])
def test_threshold_primitives_at_a_third(threshold, kept):
    # of 6 at .45: 6 - floor(5 · .45) - 1, round(6 · .55), 6 - int(6 · .45)
    run = training("ste_hard", 0.45, threshold=threshold, **AT_ONCE)
    assert run.model.method.budget == int(run.model.method.mask.sum()) == (effective(run) != 0).sum() == kept


@pytest.mark.parametrize("method", ["st3", "st3_sigma", "ste_hard", "gmp", "feather"])
def test_nnz_of_resnet20(method):
    for sparsity, nnz in ((0.8, 54_179), (0.9, 27_090), (0.95, 13_545), (0.98, 5_418), (0.99, 2_709)):
        model = SparseModel(build("resnet20", 10), method, sparsity, **AT_ONCE)
        Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1).start()
        assert model.layout.size == 270_896
        assert model.method.budget == nnz == int(model.method.mask.sum()) == int((model.method(model.theta) != 0).sum())


# ---- ST-3σ

@pytest.mark.parametrize("norm, macs", [("fan_in", (818, 409, 204, 82, 41)), ("shape_sum", (785, 398, 204, 84, 43)), ("numel", (397, 173, 78, 28, 14)),
                                        (None, (1416, 888, 555, 304, 196))])
def test_predicted_macs_of_resnet50(norm, macs):
    """From the distributions of Kaiming's weights alone, each layer's scaled as the ranking sees it; None: ST-3's, unscaled. A search for numel's
    thresholds that ends at 100 gives 43 at the last two sparsities; they are 124 and 216."""
    with torch.device("meta"):
        net = build("resnet50", 1000)
    entries, cost = Layout(net).entries, layer_macs(net, (3, 224, 224))
    measure = {"fan_in": lambda e: e.fan_in, "shape_sum": lambda e: sum(e.shape), "numel": lambda e: e.size, None: lambda e: 1}[norm]
    spread = np.array([(2 * measure(e) / e.fan_in) ** 0.5 for e in entries])
    sizes, costs = np.array([e.size for e in entries]), np.array([cost[e.name.removesuffix(".weight")] for e in entries])
    for sparsity, millions in zip((0.8, 0.9, 0.95, 0.98, 0.99), macs):
        threshold = brentq(lambda t: (sizes * 2 * normal.sf(t / spread)).sum() / sizes.sum() - (1 - sparsity), 0, 10 * spread.max())
        assert round((costs * 2 * normal.sf(threshold / spread)).sum() / 1e6) == pytest.approx(millions, abs=1)

def two_layers(method, sparsity, **options):
    model = SparseModel(nn.Sequential(linear(W), linear(B)), method, sparsity, **options, **AT_ONCE)
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1).start()
    return model.theta.detach(), model.method.mask, model.method(model.theta).detach()


@pytest.mark.parametrize("method, options, sparsity, kept", [
    ("st3_sigma", {"norm": "fan_in"}, 0.6, [0.5, 0.51, -0.6]),
    ("st3_sigma", {"norm": "shape_sum"}, 0.6, [0.5, -0.4, -0.6]),
    ("st3_sigma", {}, 0.6, [0.5, -0.4, -0.6]),
    ("st3_sigma", {"norm": "numel"}, 0.75, [0.5, -0.4]),
    ("st3_sigma", {"norm": "shape_sum"}, 0.75, [0.5, -0.6]),
    ("st3", {}, 0.75, [0.51, -0.6]),
])
def test_sigma_ranking(method, options, sparsity, kept):
    theta, mask, _ = two_layers(method, sparsity, **options)
    assert theta[mask].tolist() == kept


def test_sigma_thresholds_are_in_raw_units():
    theta, mask, q = two_layers("st3_sigma", 0.6, norm="shape_sum", rescale="off")
    threshold = (theta.abs() - q.abs())[mask]
    assert threshold == near([0.396035, 0.396035, 0.511280], digits=6)
    theta, mask, q = two_layers("st3_sigma", 0.6, norm="shape_sum", rescale="paper")
    k_w, k_b = 0.8 / 0.5, 1.11 / 0.6
    assert q[0] == near(k_w * (0.5 - 0.396035), digits=5) and q[7] == near(-k_b * (0.6 - 0.511280), digits=5)

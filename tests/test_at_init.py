"""Pruning at initialisation: SNIP and GraSP, and what SynFlow shares with them, with worked numbers."""
import copy
from dataclasses import replace

import pytest
import torch
from canonical import G, W, linear, near
from scoring import linear_in_the_output, prepared, started
from torch import nn
from torch.nn import functional as F

from benchmarks.data import load
from benchmarks.models import MODELS, build
from benchmarks.tasks import get_task
from benchmarks.train import Trainer
from methods import SparseModel, at_init

EYE = torch.eye(3, dtype=torch.float64)
ONCE = [(EYE, G.T)]  # one batch; the gradient at the weights is G
IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8)


def mask_of(run):
    return run.model.method.mask.view(2, 3).int().tolist()


@pytest.fixture
def asked(monkeypatch):
    """[(scores, number kept, mask)] of each ranking."""
    calls, keep = [], at_init.keep

    def record(score, k):
        calls.append((score.clone(), k, keep(score, k)))
        return calls[-1][2]
    monkeypatch.setattr(at_init, "keep", record)
    return calls


# ---- SNIP

def test_snip_scores_and_mask(asked):
    run = started(linear(W), "snip", 0.5, ONCE, linear_in_the_output)
    assert asked[0][0].view(2, 3) == near([[0.5, 0.4, 0.3], [0.025, 0.075, 1.6]])
    assert mask_of(run) == [[1, 1, 0], [0, 0, 1]]
    assert run.theta.detach().view(2, 3) == near([[0.5, -0.2, 0], [0, 0, -0.4]])


def test_snip_sums_over_batches_and_ignores_the_scale(asked):
    def at_scale(scale):
        batches = [(EYE, G.T), (EYE, -3 * G.T)]
        return started(linear(W), "snip", 0.5, batches, lambda output, delta: scale * (output * delta).sum())
    masks = [mask_of(at_scale(scale)) for scale in (1, 1e-3, 1e3)]
    assert asked[0][0].view(2, 3) == near([[1, 0.8, 0.6], [0.05, 0.15, 3.2]])  # |G - 3 G|
    assert masks == [[[1, 1, 0], [0, 0, 1]]] * 3


# ---- GraSP

def halved_square(output, y):
    return 0.5 * (output - y).square().sum()


def test_grasp_scores_and_mask(asked):
    x, y = torch.tensor([[1.0, 2, -1]], dtype=torch.float64), torch.tensor([[-1, 1.45]], dtype=torch.float64)
    run = started(linear(W), "grasp", 0.5, [(x, y)], halved_square, temperature=1)
    assert asked[0][0].view(2, 3) == near([[3, -2.4, -0.6], [0.15, -1.8, -1.2]], digits=5)  # the loss is taken in float32
    assert mask_of(run) == [[1, 0, 1], [1, 0, 0]]  # the signed largest


def test_grasp_of_two_batches_against_the_hessian(asked):
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(5, 3, generator=generator, dtype=torch.float64), torch.randint(2, (5,), generator=generator))
               for _ in range(2)]

    def loss(weight):
        return sum(F.cross_entropy(x @ weight.view(2, 3).T / 2, y) for x, y in batches)
    started(linear(W), "grasp", 0.5, batches, F.cross_entropy, temperature=2)
    hessian = torch.autograd.functional.hessian(loss, W.flatten())
    gradient = torch.autograd.functional.jacobian(loss, W.flatten())
    assert asked[0][0] == near(W.flatten() * (hessian @ gradient), digits=6)


def test_grasp_scores_with_the_algorithms_of_training(monkeypatch):
    flags = torch.backends.cudnn
    monkeypatch.setattr(flags, "deterministic", True)
    monkeypatch.setattr(flags, "allow_tf32", False)

    def conv2d():
        return flags.enabled, flags.deterministic, flags.allow_tf32

    def lstm():
        return flags.enabled
    mode = at_init.TwiceDifferentiable()
    assert mode.__torch_function__(conv2d, ()) == (True, True, False) and mode.__torch_function__(lstm, ()) is False
    assert conv2d() == (True, True, False)


def test_grasp_divides_the_logits_by_200():
    assert SparseModel(linear(W), "grasp", 0.5).method.temperature == 200


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_trainer_scores_on_ten_images_a_class(name):
    data, task = load("digits", "data"), get_task("digits")
    for classes, batch_size, expected in ((10, 128, 1), (100, 128, 8), (10, 64, 2)):
        trainer = Trainer(replace(task, batch_size=batch_size), name, 0.5, 0, {}, replace(data, classes=classes))
        assert len(trainer.training.batches()) == expected
        assert len(trainer.training.batches(3)) == 3
    trainer = Trainer(replace(task, batch_size=128), name, 0.5, 0, {}, replace(data, classes=1000))
    assert trainer.training.scoring_batches == 79  # as many as ImageNet's


def test_each_step_of_each_cycle_is_scored_on_other_images():
    trainer, seen = Trainer(get_task("digits"), "snip", 0.5, 0, {}, load("digits", "data")), set()
    for cycle, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        trainer.training.cycle, trainer.training.step = cycle, step
        (x, _), = trainer.batches(1)
        seen.add(x.sum().item())
    assert len(seen) == 3


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_dropout_in_scoring_passes_follows_from_the_seed(name, monkeypatch):
    def dropping(classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Dropout(0.5), nn.Linear(40, classes))
    monkeypatch.setitem(MODELS, "dropping", dropping)
    masks = []
    for before in range(2):
        torch.manual_seed(before)
        trainer = Trainer(replace(get_task("digits"), model="dropping"), name, 0.9, 0, {}, load("digits", "data"))
        next(trainer.steps())
        masks.append(trainer.model.method.mask)
    assert torch.equal(*masks)


@pytest.mark.parametrize("name", ["snip", "grasp"])
@pytest.mark.parametrize("n_batches, asked_for", [(0, 8), (3, 3)])
def test_number_of_scoring_batches(name, n_batches, asked_for):
    run, counts = prepared(linear(W), name, 0.5, [], halved_square, n_batches=n_batches), []
    run.scoring_batches, run._batches = 8, lambda n: counts.append(n) or ONCE
    run.start()
    assert counts == [asked_for]


def test_grasp_of_an_operation_without_second_derivative_is_that_operation():
    x = torch.linspace(-5, 5, 41, dtype=torch.float64)
    with at_init.TwiceDifferentiable():
        found = F.hardsigmoid(x)
        assert torch.autograd.gradgradcheck(lambda x: F.hardsigmoid(x) ** 2, x[1::4].requires_grad_())
    assert torch.equal(found, F.hardsigmoid(x))


@pytest.mark.parametrize("name", ["snip", "grasp"])
def test_a_score_that_is_no_number_is_refused(name):
    """It would be the largest."""
    with pytest.raises(ValueError, match=f"^{name} cannot score this network: a score is not finite$"):
        started(linear(W), name, 0.5, [(EYE, torch.full_like(G.T, torch.nan))], halved_square)


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_scores_that_are_all_0_are_refused(name):
    """They would be ranked by index, which empties layers."""
    net = nn.Sequential(linear(W), linear(torch.zeros(1, 2, dtype=torch.float64)))
    with pytest.raises(ValueError, match=rf"\A{name} cannot score this network: all scores are 0: [^\n]*criterion=[^\n]*\Z"):
        started(net, name, 0.5, [(EYE, torch.zeros(3, 1))], halved_square)


@pytest.mark.parametrize("name", ["snip", "grasp", "gse_uniform"])
def test_cross_entropy_of_a_single_output_is_refused(name):
    net = nn.Sequential(linear(W), linear(torch.ones(1, 2, dtype=torch.float64)))
    with pytest.raises(ValueError, match=r"\Across-entropy of a single output is always 0: give Training criterion=\Z"):
        run = started(net, name, 0.3, [(EYE, torch.zeros(3, dtype=torch.int64))], F.cross_entropy)
        run.method.update(run, 0.5)


# ---- all three

class Masked(nn.Module):
    """A network with a buffer that is no number; with `made`, one that makes a tensor in its forward."""

    def __init__(self, made=False):
        super().__init__()
        self.linear, self.made = nn.Linear(6, 6, bias=False), made
        self.register_buffer("shown", torch.arange(6) < 4)

    def forward(self, x):
        x = self.linear(x) * self.shown
        return torch.ones(1, 6) @ x.T if self.made else x


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_a_network_with_a_buffer_that_is_no_number(name):
    run = started(Masked(), name, 0.5, [(torch.ones(2, 6), None)], lambda output, y: output.square().sum())
    rows = run.model.method.mask.view(6, 6).sum(1).tolist()
    assert sum(rows) == 18 and (name == "grasp" or rows[4:] == [0, 0])  # GraSP's scores may be below 0


def test_what_synflow_cannot_compute_is_said_in_one_line():
    with pytest.raises(ValueError, match=r"\Asynflow cannot score this network: .*\Z"):
        started(Masked(made=True), "synflow", 0.5, [(torch.ones(2, 6), None)], None)


@pytest.mark.parametrize("name, literal", [("snip", 76), ("grasp", 3840 - 3763 + 1), ("synflow", 76)])
def test_literal_counts(name, literal):
    """Of 3,840 weights at 98 % rounding leaves 77, the released codes cut 76.8 off."""
    for count, kept in (("exact", 77), ("literal", literal)):
        torch.manual_seed(0)
        run = started(nn.Linear(60, 64), name, 0.98, [(torch.rand(8, 60), torch.arange(8))], F.cross_entropy, count=count)
        assert int(run.model.method.mask.sum()) == run.model.method.budget == kept
    assert SparseModel(nn.Linear(6, 6), name, 0, count="literal").method.budget == 36


@pytest.mark.parametrize("name, restore", [("snip", False), ("snip", True), ("grasp", False), ("grasp", True), ("synflow", False)])
def test_only_scoring_on_data_moves_running_statistics(name, restore):
    torch.manual_seed(0)
    options = {"restore_bn": True} if restore else {}
    run = prepared(build("resnet8_digits", 10), name, 0.9, [(IMAGES[:, :1, :8, :8], LABELS)], F.cross_entropy, **options)
    before, theta = copy.deepcopy(run.model.net.state_dict()), run.theta.detach().clone()
    run.start()
    after, mask = run.model.net.state_dict(), run.model.method.mask
    assert int(mask.sum()) == run.model.method.budget
    assert torch.equal(run.theta.detach(), theta * mask)
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    assert bool(moved) == (name != "synflow" and not restore)
    assert all("running" in key or "tracked" in key for key in moved)
    assert run.snapshots == {}


@pytest.mark.parametrize("name", ["snip", "grasp", "synflow"])
def test_mask_stays(name):
    run = started(linear(W), name, 0.5, ONCE, halved_square)
    mask = run.model.method.mask.clone()
    for _ in range(3):
        (run.model(EYE) * G.T).sum().backward()
        assert torch.equal(run.theta.grad, G.flatten() * mask)
        run.update()
    assert torch.equal(run.model.method.mask, mask)
    assert not run.theta[~mask].any()

"""`Training`: one step of it, with worked numbers, and what it offers to methods."""
import pytest
import torch
from canonical import DENSE_STEP, G, W, linear, near, step, training
from scoring import prepared
from test_every_method import make
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.batches import AUGMENTATION, epoch_batches
from methods import SparseModel, Training, get
from methods.seeds import stable_seed


@pytest.mark.parametrize("clip, factor", [(3.0, 3 / G.norm()), (6.0, 1), (0.0, 1)])
def test_gradients_are_clipped_and_weight_decay_is_added_after(clip, factor):
    assert 3 < G.norm() < 6
    run = training("st3", 0.5)
    run.clip = clip
    assert step(run) == near(W - 0.1 * (factor * G + 1e-4 * W), digits=6)  # torch adds 1e-6 to the norm
    assert factor != 1 or run.theta.detach().view(2, 3) == near(DENSE_STEP, digits=9)


def test_masking_comes_before_clipping():
    run = training("static", 0.5)
    run.method.set_mask(torch.tensor([False, False, True, False, True, True]))
    run.clip, masked = 3.0, G * run.method.mask.view(2, 3)
    assert 3 < masked.norm() < G.norm() - 0.1
    before = run.theta.detach().view(2, 3).clone()
    assert step(run) == near(before - 0.1 * (3 / masked.norm() * masked + 1e-4 * before), digits=6)


def test_gradients_of_one_norm_are_clipped_together():
    net = nn.Sequential(linear(W), nn.BatchNorm1d(2).double())
    model = SparseModel(net, "dense")
    run = Training(model, torch.optim.SGD(model.parameters(), lr=1.0), 1, 1, clip=1.0)
    run.start()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)  # ten of them: a norm of √40
    before = [parameter.detach().clone() for parameter in model.parameters()]
    run.update()
    for parameter, old in zip(model.parameters(), before):
        assert (old - parameter.detach()) == near(torch.full_like(old, 2 / 40**0.5), digits=5)


@pytest.mark.parametrize("name", ["dense", "st3", "static"])
def test_the_dense_gradient_is_of_one_step(name):
    """Also where the weights are the stored ones themselves, to which a hook would stay."""
    run = training(name, 0.5)
    for scale in (1, 2, 3):
        (run.model(torch.eye(3, dtype=torch.float64)).T * scale * G).sum().backward()
        assert torch.equal(run.dense_gradient.view(2, 3), scale * G)
        run.update()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_connections_are_scored_by_the_loss_that_trains(smoothing):
    trainer = make("static", label_smoothing=smoothing)
    trainer.training.start()
    batch, = trainer.batches(1)
    plain = trainer.model.method(trainer.model.theta)
    scored = trainer.training.gradient(plain, [batch])
    assert torch.allclose(scored, trainer.forward_backward(*batch), rtol=0, atol=1e-6) and scored.abs().max() > 1e-2


def test_losses_that_score_are_of_32_bits():
    """A network that computes in 16 bits has its losses taken in 32, as autocast has it."""
    seen = []

    def criterion(output, y):
        seen.append(output.dtype)
        return cross_entropy(output, y)
    model = SparseModel(nn.Linear(3, 4).bfloat16(), "dense")
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1, criterion=criterion)
    gradient = run.gradient(run.theta, [(torch.randn(5, 3).bfloat16(), torch.arange(5) % 4)])
    assert seen == [torch.float32] and gradient.dtype == run.theta.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_numbers_follow_from_seed_purpose_cycle_and_step(dtype):
    run = training("dense", weight=W.to(dtype))
    first = run.random("mask")
    assert first.dtype == dtype and first.shape == (6,) and torch.equal(first, run.random("mask"))
    others = [run.random("init"), run.random("mask", normal=True)]
    for name in ("step", "cycle", "seed"):
        setattr(run, name, 1)
        others.append(run.random("mask"))
        setattr(run, name, 0)
    assert not any(torch.equal(first, other) for other in others) and torch.equal(first, run.random("mask"))


def test_the_task_s_clipping_is_that_of_its_runs():
    trainer = make("dense", clip=1e-3, lr=1.0, momentum=0.0, weight_decay=0.0)
    before = [parameter.detach().clone() for parameter in trainer.training.parameters]
    trainer.training.start()
    trainer.step(*trainer.batches(1)[0])
    moved = torch.stack([(old - p.detach()).norm() for old, p in zip(before, trainer.training.parameters)]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-2)


def test_the_task_s_optimiser_is_that_of_its_runs():
    groups = make("static", momentum=0.8, nesterov=True).optimizer.param_groups
    assert {(group["momentum"], group["nesterov"]) for group in groups} == {(0.8, True)}


def test_a_step_has_the_learning_rate_of_its_own_epoch():
    trainer, rates = make("static", milestones=(0.5,)), []
    take_step = trainer.training.take_step
    trainer.training.take_step = lambda: rates.append(trainer.optimizer.param_groups[0]["lr"]) or take_step()
    half = trainer.run().training.total_steps // 2
    assert rates == pytest.approx([0.1] * half + [0.01] * half)


@pytest.mark.parametrize("name", ["step", "cycle"])
def test_scoring_batches_are_others_at_every_step_of_every_cycle(name):
    trainer = make("gse_uniform")
    first, again = (trainer.batches(1)[0][0] for _ in range(2))
    setattr(trainer.training, name, 1)
    assert torch.equal(first, again) and not torch.equal(first, trainer.batches(1)[0][0])


def test_all_methods_share_the_first_weights_of_a_seed():
    first, *others = (make(name).model.theta.detach() for name in ("dense", "st3", "rigl", "snip"))
    assert all(torch.equal(first, other) for other in others) and not torch.equal(first, make("dense", seed=1).model.theta.detach())


def test_a_skipped_step_has_its_end_too():
    ended = []

    class Skips(get("static")):
        def before_step(self, run):
            return False

        def after_step(self, run):
            ended.append(run.step)
    run = training(Skips, 0.5)
    before = run.theta.detach().clone()
    step(run)
    step(run)
    assert ended == [0, 1] and torch.equal(run.theta.detach(), before)


def test_batches_that_are_scored_after_the_first_step_are_counted_and_saved():
    run = prepared(nn.Linear(3, 2), "lrr", 0.36, [], lambda output, y: output.sum())
    run.start()
    counts, batches = [], [(torch.ones(1, 3), None)] * 3
    for run.cycle, run.step in ((0, 0), (0, 1), (1, 0)):  # all but those before anything was trained
        run.gradient(run.theta, batches)
        counts.append(run.scored)
    assert counts == [0, 3, 6]
    state, run.scored = {**run.state_dict(), "dense_steps": 5}, 0
    run.load_state_dict(state)
    assert (run.scored, run.dense_steps, run.cycle, run.step) == (6, 5, 1, 0)


def test_a_criterion_is_a_function_and_clip_a_norm():
    model = SparseModel(nn.Linear(3, 2), "rigl", 0.5)
    for clip in (-1, float("nan")):
        with pytest.raises(ValueError, match=rf"\Aclip is the largest norm of all gradients, 0 for none, not {clip}\Z"):
            Training(model, torch.optim.SGD(model.parameters(), 0.1), 1, 1, clip=clip)
    with pytest.raises(ValueError, match=r"\Acriterion= takes a function of output and y, not str\Z"):
        Training(model, torch.optim.SGD(model.parameters(), 0.1), 1, 1, criterion="mse")


@pytest.mark.parametrize("batch, said", [
    ((1, 2, 3), r"\Arigl passes the training batch once more: update\(\) takes batches \(x, y\), pairs, not tuple of 3: several inputs are \(\(a, b\), y\) [^\n]*\Z"),
    ({"x": 1}, r"update\(\) takes batches \(x, y\), pairs, not dict: several inputs "),
    ((torch.ones(4, 3), torch.tensor([[1.0, 1]] * 4)), r"\Across-entropy takes probabilities that sum to 1 over the classes, and y's do not: [^\n]*\Z"),
    ((torch.ones(4, 3), torch.tensor([[-1.0, 2]] * 4)), r"\Across-entropy takes probabilities that sum to 1 over the classes, and y's do not: [^\n]*\Z"),
    ((torch.ones(4, 3), torch.zeros(4, 7, dtype=torch.long)),
     r"\Across-entropy takes outputs \(B, classes, …\) and y \(B, …\), not \(4, 2\) and \(4, 7\): give Training criterion=, a function of output and y\Z")])
def test_a_batch_that_cannot_be_passed_once_more_is_refused_in_one_line(batch, said):
    model = SparseModel(nn.Linear(3, 2), "rigl", 0.5, storage="sparse", interval=1)
    run = Training(model, torch.optim.SGD(model.parameters(), 0.1), 4, 1)
    run.start()
    model(torch.ones(4, 3)).sum().backward()
    run.update((torch.ones(4, 3), torch.zeros(4, dtype=torch.long)))
    model(torch.ones(4, 3)).sum().backward()
    with pytest.raises(ValueError, match=said):
        run.update(batch)


def test_a_loss_without_a_criterion_is_one_line():
    run = prepared(linear(W), "snip", 0.5, [(torch.eye(3).double(), torch.zeros(3, dtype=torch.long))], None)
    with pytest.raises(ValueError, match="snip asks for the loss of a batch: give Training criterion="):
        run.start()


def test_connections_are_scored_on_images_as_the_task_augments_them():
    trainer = make("snip")
    (x, _), = trainer.batches(1)
    seed = stable_seed(trainer.seed, "scoring", 0, 0)
    augmented, _ = next(epoch_batches(trainer.data.train, trainer.data, trainer.task.batch_size, seed, 0, whole=True, **AUGMENTATION["digits"]))
    assert trainer.task.augmentation == "digits" and torch.equal(x, augmented)


@pytest.mark.parametrize("precision, dtype", [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_a_run_is_trained_and_evaluated_in_its_precision(precision, dtype):
    trainer, seen = make("dense", precision=precision), {True: [], False: []}
    layer = next(module for module in trainer.model.net.modules() if isinstance(module, nn.Conv2d))
    layer.register_forward_hook(lambda module, args, output: seen[module.training].append(output.dtype))
    next(trainer.steps())
    trainer.hits_on(trainer.data.test)
    assert {*seen[True]} == {*seen[False]} == {dtype}


def test_the_losses_of_several_passes_are_averaged(monkeypatch):
    gradients = []
    for passes in (1, 2):
        monkeypatch.setattr(Training, "passes", passes)
        trainer = make("dense")
        trainer.training.start()
        trainer.forward_backward(*trainer.batches(1)[0])
        gradients.append(trainer.model.theta.grad)
    torch.testing.assert_close(*gradients)

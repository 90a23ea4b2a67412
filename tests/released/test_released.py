"""Ours against the released programs of ST-3 and GSE, over a training: what they gave lies in numbers.csv (`record.py` made it)."""
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import course  # noqa: E402

from methods import SparseModel, Training, get  # noqa: E402


@pytest.fixture(autouse=True)
def float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def model_of(method, **options):
    """A model of course.py's network, with its first weights."""
    model = SparseModel(course.network(), method, course.SPARSITY, **options)
    fill(model, model.theta, course.weights())
    return model


@torch.no_grad()
def fill(model, vector, tensors):
    for view, tensor in zip(model.layout.views(vector), tensors):
        view.copy_(tensor)


def step_of(model, training):
    """A step as course.py's training takes it."""
    def step(number, x, y, criterion):
        loss = criterion(model(x), y)
        loss.backward()
        training.update((x, y))
        return loss
    return step


def agrees(arm, model, losses):
    """Whether all that is noted of a training of `model` is what the released program gave; sums and losses to nine digits."""
    masks, kept = (model.layout.views(vector) for vector in (model.method.mask, model.method(model.theta).detach()))
    ours, theirs = course.row(arm, losses, kept, masks), course.recorded()[arm]
    assert (ours["nnz"], ours["places"]) == (int(theirs["nnz"]), int(theirs["places"]))
    numbers = [name for name in theirs if name.startswith("loss") and theirs[name]] + ["size"]
    assert [float(ours[name]) for name in numbers] == pytest.approx([float(theirs[name]) for name in numbers], rel=1e-9)
    return True


def test_all_that_was_recorded_is_compared():
    assert set(course.recorded()) == {*course.ST3, *course.GROWN, *course.SCORED, "topkast"}


@pytest.mark.parametrize("arm", course.ST3)
def test_st3_and_what_its_program_has_beside_it(arm):
    method, options = course.ST3[arm]
    model = model_of(method, ramp_start=course.FIRST / course.EPOCHS, ramp_end=course.LAST / course.EPOCHS, **options)
    groups = [{"params": [model.theta], "weight_decay": 1e-4}, {"params": list(model.net.parameters())}]
    training = Training(model, torch.optim.SGD(groups, lr=course.LR, momentum=0.9), course.EPOCHS, course.PER_EPOCH, clip=course.CLIP)
    training.start()
    assert agrees(arm, model, course.trained(step_of(model, training)))


@pytest.mark.parametrize("arm", course.GROWN)
def test_what_drops_and_grows(arm, monkeypatch):
    method = get(arm)
    if arm.startswith("gse"):
        def drawn(self, run, weights):
            chosen = torch.zeros_like(self.mask)
            fill(model, chosen, [course.candidates(run.step, layer) for layer in range(len(course.SHAPES))])
            return chosen & ~self.mask
        monkeypatch.setattr(method, "sample", drawn)
    options = dict(scope="global", score_batches="ceil10", skip_step=False, update_end=course.END, drop_fraction=0.2, interval=course.EVERY)
    model = model_of(arm, **options, **({} if arm.startswith("gse") else dict(regrow="no", noise=0.0)))
    optimizer = torch.optim.SGD(model.parameters(), lr=course.LR, momentum=0.9, weight_decay=1e-4)
    training = Training(model, optimizer, course.EPOCHS, course.PER_EPOCH, batches=lambda n: course.scoring(training.step), scoring_batches=2)
    training.start()
    fill(model, model.theta, course.weights())
    fill(model, model.method.mask, course.first_masks())
    training.clear(~model.method.mask)

    def mask_first(step, *batch):
        # the released program has a step's mask before its forward pass; ours, which may score on the step's own batch, after it
        if course.updates(step):
            assert model.method.before_step(training) is True
        with monkeypatch.context() as changed:
            changed.setattr(type(model.method), "before_step", lambda *_: True)
            return step_of(model, training)(step, *batch)

    assert agrees(arm, model, course.trained(mask_first))


@pytest.mark.parametrize("arm", course.SCORED)
def test_pruning_at_initialisation(arm):
    model = model_of(arm, count="literal" if arm != "grasp" else "exact")
    training = Training(model, torch.optim.SGD(model.parameters(), lr=course.LR), course.EPOCHS, course.PER_EPOCH,
                        batches=lambda n: course.scoring(0)[:n], scoring_batches=2)
    training.start()
    assert agrees(arm, model, ())


def test_topkast():
    model = model_of("topkast", mode="literal", allocation="uniform", interval=course.EVERY, every_step_until=course.EXPLORE / course.STEPS,
                     penalty=course.PENALTY)
    method = model.method
    method.counts, method.wider = course.largest(1 - course.SPARSITY), course.largest(2 * (1 - course.SPARSITY))
    method.density.fill_(1 - course.SPARSITY)
    training = Training(model, torch.optim.SGD(model.parameters(), lr=course.LR, momentum=0.9), course.EPOCHS, course.PER_EPOCH)
    training.start()
    assert agrees("topkast", model, course.trained(step_of(model, training)))

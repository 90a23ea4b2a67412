"""Methods of several cycles: LRR, its variants and IMP, with worked numbers."""
import functools
import io
from dataclasses import replace

import pytest
import torch
from canonical import W, backward, effective, near, step, training

from benchmarks.batches import Split
from benchmarks.data import load
from benchmarks.tasks import get_task
from benchmarks.train import Trainer

LEVELS = [0, 0.2, 0.36, 0.488]


@functools.cache
def small_digits():
    """256 of the training images: four steps an epoch."""
    data = load("digits", "data")
    return replace(data, train=Split(data.train.images[:256], data.train.labels[:256]))


def trainer(name, sparsity=0.488, epochs=2, data=None, task=None, **options):
    return Trainer(replace(get_task("digits"), epochs=epochs, **(task or {})), name, sparsity, 0, options, data or small_digits())


def watched(trainer):
    """Runs it; what it looked like at the start of each cycle."""
    seen, start = [], trainer.training.start

    def record(cycle):
        before, drawn = {"trained": trainer.model.theta.detach().clone()}, torch.rand(()).item()
        start(cycle)
        training, net = trainer.training, trainer.model.net
        seen.append({**before, "theta": training.theta.detach().clone(),
                     "net": {k: v.clone() for k, v in net.state_dict().items()},
                     "snapshots": {name: {k: v.clone() for k, v in s.items()} for name, s in training.snapshots.items()},
                     "mask": trainer.model.method.mask.clone(), "optimizer": len(trainer.optimizer.state),
                     "lr": trainer.learning_rate(training.step), "epoch": training.epoch, "drawn": drawn})
    trainer.training.start = record
    trainer.run()
    return seen


def test_each_cycle_starts_with_draws_of_its_own():
    """Of dropout in scoring passes, the same after a checkpoint at the end of a cycle."""
    seen = [watched(trainer("lrr", 0.36, epochs=1)), None]
    torch.rand(3)
    seen[1] = watched(trainer("lrr", 0.36, epochs=1))
    drawn, again = ([start["drawn"] for start in one] for one in seen)
    assert drawn == again and len(set(drawn)) == 3


# ---- LRR

def test_lrr_goes_on_from_the_best_weights():
    seen = watched(trainer("lrr", epochs=3))
    assert len(seen) == 4
    for c, start in enumerate(seen):
        assert start["lr"] == 0.1 and start["optimizer"] == 0 and start["epoch"] == 0
        assert int(start["mask"].sum()) == (19_408 if c == 0 else 19_408 - int(19_407 * LEVELS[c]) - 1)
    for before, after in zip(seen, seen[1:]):
        best = after["snapshots"]["best"]
        assert torch.equal(after["theta"], best["theta"] * after["mask"])
        assert all(torch.equal(value, best[f"net.{key}"]) for key, value in after["net"].items())  # running statistics, too
        assert not (after["mask"] & ~before["mask"]).any()


def test_lrr_from_the_last_weights():
    seen = watched(trainer("lrr", 0.36, source="last"))
    for after in seen[1:]:
        assert after["snapshots"] == {}
        assert torch.equal(after["theta"], after["trained"] * after["mask"])


@pytest.mark.parametrize("momentum, kept", [("reset", False), ("keep", True)])
def test_lrr_momentum(momentum, kept):
    assert bool(watched(trainer("lrr", 0.2, momentum=momentum))[1]["optimizer"]) == kept


def test_best_is_of_the_cycle_and_by_validation():
    run, bests = trainer("lrr", 0.36, epochs=4), []
    snapshot = run.training.snapshot
    run.training.snapshot = lambda name: bests.append((run.progress.cycle, run.progress.epoch)) or snapshot(name)
    run.run()
    validation = [line["val_top1"] for line in run.progress.curves]
    for cycle in range(3):
        curve = validation[4 * cycle:4 * cycle + 4]
        assert [epoch for c, epoch in bests if c == cycle][-1] == curve.index(max(curve))


def test_lrr_masks_weights_and_gradients():
    run = training("lrr", 0.5, level_list="0,0.5")
    assert torch.equal(effective(run), W)
    run.start(1)
    assert effective(run) == near([[0.5, 0, 0], [0, 0.3, -0.4]])
    assert backward(run).tolist() == [[1, 0, 0], [0, -0.25, 4]]


# ---- augmentation

def first_batches(name, data=None, **options):
    """(x, y) of the first step of each cycle, with ST-3's crops and flips."""
    run, seen = trainer(name, data=data, task={"augmentation": "st3"}, **options), []
    step = run.step

    def watch(x, y):
        if run.training.step == 0:
            seen.append((x.clone(), y.clone()))
        step(x, y)
    run.step = watch
    run.run()
    assert len(seen) == 4
    return zip(*seen)


def same(tensors):
    return [torch.equal(tensors[0], t) for t in tensors[1:]]


def test_only_the_reset_variant_repeats_its_batches():
    images, labels = first_batches("lrr_aug_reset")
    assert same(images) == same(labels) == [True] * 3
    images, labels = first_batches("lrr")
    assert same(images) == same(labels) == [False] * 3
    assert same(next(iter(first_batches("lrr_st3")))) == [False] * 3


def test_whole_cycles_repeat():
    run, seen = trainer("lrr_aug_reset", 0.2), []
    step = run.step
    run.step = lambda x, y: seen.append(x.clone()) or step(x, y)
    run.run()
    assert len(seen) == 16 and all(torch.equal(a, b) for a, b in zip(seen[:8], seen[8:]))
    assert not torch.equal(seen[0], seen[4])


@pytest.mark.parametrize("replay, repeated", [("crops", True), ("none", False)])
def test_crops_variant(replay, repeated):
    """Each image is cropped and flipped as in the same epoch of the first cycle, and comes at another time."""
    run, seen = trainer("lrr_aug_reset", 0.2, task={"augmentation": "st3"}, replay=replay), []
    step = run.step
    run.step = lambda x, y: seen.append(x.clone()) or step(x, y)
    run.run()
    images = [sorted(x.numpy().tobytes() for batch in seen[first:first + 4] for x in batch) for first in range(0, 16, 4)]
    assert [images[0] == images[2], images[1] == images[3]] == [repeated] * 2 and images[0] != images[1]
    assert not torch.equal(seen[0].flatten(1).sum(1), seen[8].flatten(1).sum(1))


# ---- LRR with ST-3

HALF = {"level_list": "0.5", "rescale": "off"}  # one cycle at s = .5: the threshold is .25


def shrunk(form):
    """.3 moves to .1, below the threshold of the cycle's start."""
    run = training("lrr_st3", 0.5, mask_form=form, **HALF)
    assert effective(run) == near([[0.25, 0, 0], [0, 0.05, -0.15]])
    gradient = torch.zeros_like(W)
    gradient[1, 1] = 2
    step(run, gradient)
    return run


def test_live_threshold():
    run = shrunk("live")
    assert effective(run)[1, 1] == 0
    assert int(run.model.method.mask.sum()) == 3


def test_frozen_threshold_turns_the_sign():
    assert effective(shrunk("frozen_in_cycle"))[1, 1] == near(-0.15, 5)


def test_live_is_the_default_and_zeroed_weights_may_return():
    run = training("lrr_st3", 0.5, **HALF)
    assert run.model.method.mask_form == "live"
    gradient = torch.zeros_like(W)
    gradient[0, 1] = 4  # -.2 → -.6
    assert backward(run, gradient).tolist() == gradient.tolist()  # dense
    run.update()
    assert run.model.method.mask.tolist() == [True, True, False, False, False, True]
    run = training("lrr_st3", 0.5, mask_form="frozen_in_cycle", **HALF)
    step(run, gradient)
    assert run.model.method.mask.tolist() == [True, False, False, False, True, True]


@pytest.mark.parametrize("form", ["live", "frozen_in_cycle"])
def test_lrr_st3_levels(form):
    run, counts = trainer("lrr_st3", mask_form=form), []
    run.step = lambda x, y, step=run.step: counts.append(int(run.model.method.mask.sum())) or step(x, y)
    seen = watched(run)
    expected = [19_408 if s == 0 else 19_408 - int(19_407 * s) - 1 for s in LEVELS]
    # each cycle has its sparsity from the first step on
    assert counts == [n for n in expected for _ in range(8)]
    for start in seen:
        assert start["lr"] == 0.1 and start["theta"].all()  # the dense weights survive
        assert start["optimizer"] == 0  # the momentum does not
    assert torch.equal(seen[2]["theta"], seen[2]["snapshots"]["best"]["theta"])


@pytest.mark.parametrize("name", ["lrr", "lrr_st3"])
def test_the_best_weights_are_not_the_last(name):
    """With a learning rate that destroys what was learned."""
    seen = watched(trainer(name, 0.36, epochs=4, task={"lr": 1.0, "milestones": ()}))
    best = [start["snapshots"]["best"]["theta"] for start in seen[1:]]
    for start, each in zip(seen[1:], best):
        assert torch.equal(start["theta"], each * start["mask"] if name == "lrr" else each)
    assert any(not torch.equal(start["trained"], each) for start, each in zip(seen[1:], best))


def test_st3s_second_schedule_goes_on_from_the_best_weights():
    first, second = watched(trainer("st3", 0.9, rewind_finetune=True))
    best = second["snapshots"]["best"]
    assert first["snapshots"] == {} and torch.equal(second["theta"] != 0, best["theta"].ne(0) & second["mask"])
    assert all(torch.equal(value, best[f"net.{key}"]) for key, value in second["net"].items())


# ---- IMP

@pytest.mark.parametrize("rewind_epoch", [0, 1])
def test_imp_rewinds_bit_for_bit(rewind_epoch):
    run = trainer("imp", epochs=3, rewind_epoch=rewind_epoch, task={"milestones": (0.5, 0.8)})

    def state(trainer):
        net = {f"net.{key}": value.clone() for key, value in trainer.model.net.state_dict().items()}
        return {"theta": trainer.model.theta.detach().clone(), **net}
    initial, early = state(run), {}

    def save(trainer):
        if trainer.progress.done == rewind_epoch:
            early.update(state(trainer))
    start, seen = run.training.start, []

    def record(cycle):
        start(cycle)
        assert len(run.optimizer.state) == 0
        assert run.training.epoch == (rewind_epoch if cycle else 0)
        assert run.learning_rate(run.training.step) == 0.1
        seen.append((run.model.method.mask.clone(), state(run)))
    run.training.start = record
    run.run(save=save)
    rewound = early or initial
    assert any("running_mean" in key for key in rewound)
    for (before, _), (mask, now) in zip(seen, seen[1:]):
        theta = now.pop("theta")
        assert torch.equal(theta[mask], rewound["theta"][mask]) and not theta[~mask].any()
        assert all(torch.equal(value, rewound[key]) for key, value in now.items())
        assert not (mask & ~before).any()
    assert torch.equal(rewound["theta"], initial["theta"]) == (rewind_epoch == 0)
    assert len(run.progress.curves) == 3 + 3 * (3 - rewind_epoch)
    # the schedule goes by absolute steps: with two milestones, each cycle ends at a hundredth
    assert run.progress.curves[-1]["lr"] == pytest.approx(0.001)


def test_imps_later_cycles_lack_the_epochs_before_the_one_rewound_to():
    run = training("imp", 0.36, epochs=10, rewind_epoch=3)
    assert run.all_epochs == 10 + 7 + 7


def test_imp_prunes_by_the_trained_weights():
    run = training("imp", 1 / 6, level_list="0,0.16666667")
    step(run, torch.tensor([[0, 0, 0], [-4, 2.9, 0]], dtype=torch.float64))  # -.05 → .35, .3 → .01
    run.start(1)
    assert run.model.method.mask.tolist() == [True, True, True, True, False, True]
    assert effective(run) == near([[0.5, -0.2, 0.1], [-0.05, 0, -0.4]])


# ---- resuming

@pytest.mark.parametrize("name, options", [("lrr", {}), ("lrr_aug_reset", {"replay": "crops"}), ("lrr_st3", {}),
                                           ("lrr_st3", {"mask_form": "frozen_in_cycle"}), ("imp", {"rewind_epoch": 1})])
def test_resumed_in_the_middle_of_the_second_cycle(name, options):
    states = {}

    def save(trainer):
        file = io.BytesIO()
        torch.save(trainer.state_dict(), file)
        states[trainer.progress.cycle, trainer.progress.epoch] = file.getvalue()
    whole = trainer(name, 0.36, epochs=3, **options).run(save=save)
    resumed = trainer(name, 0.36, epochs=3, **options)
    resumed.load_state_dict(torch.load(io.BytesIO(states[1, 2]), weights_only=True))
    resumed.run()
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert str(whole.progress.curves) == str(resumed.progress.curves)  # as text, for NaN is not NaN
    assert torch.equal(*(run.optimizer.state[run.model.theta]["momentum_buffer"] for run in (whole, resumed)))

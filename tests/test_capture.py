"""Recorded steps against the same steps made anew, bit for bit, with a recorder that treats tensors as a CUDA graph does.

It notes every operation with the very tensors of the recording and makes them again: what a method replaces instead of writing into
it, and numbers of Python that change from step to step, would be stale, as they are on a GPU.
"""
import functools
import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from test_every_method import every_method, every_variant, make, read, saved
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.gpu import capture

STEPS = 12  # of 16: two epochs and a half, with updates of every method's mask


class Notes(TorchDispatchMode):
    """Makes operations and notes them."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(function), "a recorded part waits for the device"
        results = function(*args, **(kwargs or {}))
        self.made.append((function, args, kwargs or {}, results))
        return results

    def replay(self):
        with torch.no_grad():
            for function, args, kwargs, results in self.made:
                for old, new in zip(tree_leaves(results), tree_leaves(function(*args, **kwargs))):
                    if torch.is_tensor(old) and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


def recorder(tensors):
    """As `capture.cuda_graph`, which runs nothing while it records: what the recording has changed of `tensors()` is put back."""
    def record(function):
        before, numbers, notes = [(t, t.detach().clone()) for t in tensors()], torch.get_rng_state(), Notes()
        with notes:
            result = function()
        torch.set_rng_state(numbers)
        with torch.no_grad():
            for t, value in before:
                t.copy_(value)
        return result, notes.replay
    return record


def carried(trainer):
    """All tensors that a step may change and the next one reads."""
    return [*trainer.model.parameters(), *trainer.model.buffers(), trainer.loss_sum, trainer.hits,
            *(value for state in trainer.optimizer.state.values() for value in state.values() if torch.is_tensor(value))]


def state_of(trainer):
    """All tensors that a part of a step may change."""
    return [*carried(trainer), *(p.grad for p in trainer.training.parameters if p.grad is not None)]


def train(name, steps=STEPS, **changes):
    trainer = make(name, record=recorder(lambda: state_of(trainer)), **changes)
    for _ in zip(range(steps), trainer.steps()):
        pass
    return trainer


@every_variant
def test_recorded_steps_equal_steps_made_anew(name, monkeypatch):
    compare(name, monkeypatch)


@pytest.mark.parametrize("name", ["st3", "probmask", "topkast", "movement"])  # some take gradients away
def test_so_do_those_besides_a_shorter_batch(name, monkeypatch):
    compare(name, monkeypatch, batch_size=18)


def compare(name, monkeypatch, **changes):
    recorded = train(name, **changes)
    assert recorded.forward_backward.replay and recorded.training.apply.replay, "nothing was recorded"
    monkeypatch.setattr(capture, "WARM", 1000)
    anew = train(name, **changes)
    assert not anew.forward_backward.replay
    for one, other in zip(carried(recorded), carried(anew), strict=True):
        assert torch.equal(one, other)
    assert recorded.progress.curves == anew.progress.curves


@pytest.mark.parametrize("name, functions", {
    "st3": "rank", "st3_sigma": "rank", "str": "rank", "ste_hard": "rank", "feather": "rank", "spartan": "rank",
    "gmp": "cut", "dnw": "rank", "topkast": "penalise hold", "probmask": "spend", "dst_mask": "renew"}.items())
def test_what_a_method_does_at_every_step_is_recorded(name, functions):
    recorded = train(name, 14).repeated.recorded
    assert {function for (function, _), (captured, *_) in recorded.items() if captured.replay} >= set(functions.split())


def test_momentum_in_another_place_is_recorded_anew(monkeypatch):
    def trained():
        trainer = make("gmp", record=recorder(lambda: state_of(trainer)))
        steps = trainer.steps()
        for step in range(18):
            if step == 9:
                state = trainer.optimizer.state[trainer.model.theta]
                state["momentum_buffer"] = torch.full_like(state["momentum_buffer"], 0.01)
            next(steps)
        return trainer
    recorded = trained()
    assert not recorded.optimizer.state[recorded.model.theta]["momentum_buffer"][~recorded.model.method.mask].any()
    monkeypatch.setattr(capture, "WARM", 1000)
    assert torch.equal(recorded.model.theta, trained().model.theta)


class Launches(TorchDispatchMode):
    """Counts what a GPU would be asked to do: no views, nothing that only looks at shapes."""

    def __init__(self):
        super().__init__()
        self.made = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        old = {t.data_ptr() for t in tree_leaves(args) if torch.is_tensor(t)} if not function._schema.is_mutable else ()
        self.made += any(torch.is_tensor(t) and t.data_ptr() not in old for t in tree_leaves(results)) or function._schema.is_mutable
        return results


@functools.cache
def launches(name):
    """Operations of the least of three late steps, besides those recorded, which are not replayed here."""
    trainer, made = make(name, record=lambda function: (function(), int)), []
    steps = trainer.steps()
    for _ in range(14):
        with Launches() as count:
            next(steps)
        made.append(count.made)
    return min(made[9], *made[12:])  # between them are the two turns of an epoch's end, which may do next to nothing


@every_method
def test_an_ordinary_step_launches_little_besides_its_recordings(name):
    assert launches(name) <= launches("dense") + 20


def test_numbers_that_a_recording_reads_are_written_where_they_change():
    class Adds(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("sum", torch.zeros(()))

        def add(self, weights, number, share):
            self.sum.copy_(weights.sum() * number + share)

    adds, weights = Adds(), torch.ones(3)
    run = SimpleNamespace(reads=False, scored=0)
    repeated = capture.Repeated(run, [torch.nn.Parameter(weights)], [], adds, recorder(lambda: [adds.sum]), lambda: 0)
    for step in range(3 * capture.WARM):
        number, share = step // 2, step / 8
        repeated(adds.add, weights, number, share)
        assert adds.sum == 3 * number + share
    repeated(adds.add, torch.ones(2), 1, 0.0)  # another object is another recording
    assert adds.sum == 2 and len(repeated.recorded) == 2 and (run.reads, run.scored) == (False, 0)


def test_what_a_replayed_part_reads_and_passes_counts_as_if_made_anew():
    class Scores(torch.nn.Module):
        def score(self, run):
            run.reads = True
            run.scored += 2

        def rest(self, run):
            pass

        def fails(self, run):
            run.reads, run.scored = False, 0
            raise ZeroDivisionError

    scores, run, weight = Scores(), SimpleNamespace(reads=False, scored=0), torch.nn.Parameter(torch.ones(3))
    repeated = capture.Repeated(run, [weight], [], scores, recorder(list), lambda: 0)
    for step in range(1, capture.WARM + 4):
        run.reads = reads = step % 2 == 0  # by the step itself
        repeated(scores.rest, run)
        assert (run.reads, run.scored) == (reads, 2 * step - 2)
        repeated(scores.score, run)
        assert (run.reads, run.scored) == (True, 2 * step)
    assert all(captured.replay for captured, *_ in repeated.recorded.values())
    with pytest.raises(ZeroDivisionError):
        repeated(scores.fails, run)
    assert (run.reads, run.scored) == (True, 2 * step)


def test_what_took_a_recorded_tensors_place_is_copied_into_it():
    module = torch.nn.BatchNorm1d(1)
    weight = module.weight

    def function(x):
        weight.grad = x.sum() * module.running_mean if weight.grad is None else weight.grad * 2
        return module.running_mean + x

    captured = capture.Captured(function, [weight], module, recorder(lambda: [module.running_mean]))
    for step in range(capture.WARM + 3):
        weight.grad, module.running_mean = None, torch.full((1,), float(step))
        assert captured(torch.ones(1) * 10).item() == step + 10 and weight.grad.item() == 10 * step
    assert captured.replay


def test_another_key_or_shape_is_not_replayed():
    key, seen = [0], []
    captured = capture.Captured(lambda x: seen.append(len(x)) or x + key[0], [], torch.nn.Module(), recorder(list), lambda: key[0])
    for length in (2,) * (capture.WARM + 2) + (1, 2):
        assert len(captured(torch.ones(length))) == length
    assert seen == [2] * (capture.WARM + 1) + [1]  # the last of a full epoch is made as it is, and the recording stays
    key[0] = 5
    assert captured(torch.ones(2)).tolist() == [6, 6] and seen[-1] == 2


def lengths_made(*lengths):
    """Those of the calls that were not replayed."""
    made = []
    captured = capture.Captured(lambda x: made.append(len(x)) or x, [], torch.nn.Module(), recorder(list))
    for length in lengths:
        assert len(captured(torch.ones(length))) == length
    return made


def test_a_short_batch_among_the_first_is_not_what_is_recorded():
    whole = [2] * capture.WARM  # from a checkpoint a run may go on with the last steps of an epoch
    assert lengths_made(*whole, 1, *[2] * 9) == [*whole, 1, 2]
    assert lengths_made(1, *whole, *[2] * 9) == [1, *whole, 2]
    assert lengths_made(1, 1, 1, 1, 1, *whole, 2, 1, 2, 2) == [1, 1, 1, 1, *whole, 2, 1]


def test_a_run_goes_on_from_a_checkpoint_with_recorded_steps():
    whole, first = train("st3", 12), train("st3", 6)  # two epochs, and one: each of four steps and two turns of its end
    state = read(saved(first))
    again = make("st3", record=recorder(lambda: state_of(again)))
    again.load_state_dict(state)
    for _ in zip(range(6), again.steps()):
        pass
    assert all(torch.is_tensor(group["lr"]) for group in again.optimizer.param_groups)
    assert torch.equal(whole.model.theta, again.model.theta)


@pytest.mark.parametrize("name", ["st3", "movement"])
def test_a_recorded_step_has_the_learning_rate_of_its_own(name):
    """It is written where it changes alone; a method may have a multiple of it for some of the parameters."""
    trainer = make(name, record=recorder(lambda: state_of(trainer)))
    rates, steps = [], trainer.steps()
    for step in range(14):
        next(steps)
        rates.append(trainer.learning_rate(trainer.training.step - 1))
        own = [rates[-1] * group.get("lr_scale", 1) for group in trainer.optimizer.param_groups]
        assert [float(group["lr"]) for group in trainer.optimizer.param_groups] == pytest.approx(own)
    assert 1 < len(set(rates)) < 12


def test_a_run_that_has_ended_is_gone_at_once():
    """With its recordings, each of which keeps memory of a GPU: nothing of it is left for the garbage collection."""
    gc.disable()
    try:
        trainer = make("st3", record=lambda function: (function(), int), batch_size=18)
        for _ in zip(range(STEPS), trainer.steps()):
            pass
        assert trainer.forward_backward.replay and trainer.training.apply.replay
        assert trainer.repeated.recorded
        gone = [weakref.ref(part) for part in (trainer, trainer.forward_backward, trainer.training.apply, trainer.repeated)]
        del trainer
        assert [ref() for ref in gone] == [None] * 4
    finally:
        gc.enable()

"""GSE's gradual magnitude pruning, with worked numbers."""
import pytest
import torch
from canonical import W, backward, effective, step, training

from benchmarks.models import build
from methods import SparseModel, Training

STEPS = 200 * 390  # of which the schedule has 46,800


def prunings(monkeypatch, sparsity, **options):
    """({step: weights kept} of a whole run on ResNet-56, number of weights)."""
    model = SparseModel(build("resnet56", 10), "gradual", sparsity, interval=1000, **options)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 200, 390)
    seen = {}
    monkeypatch.setattr(model.method, "prune", lambda run, kept: seen.setdefault(run.step, kept))
    for run.step in sorted({*range(999, STEPS, 1000), *range(46_700, 46_900)}):
        assert model.method.before_step(run) is not False
    return seen, model.layout.size


def test_schedule_of_the_released_code(monkeypatch):
    kept, n = prunings(monkeypatch, 0.98, final_snap=False)
    assert list(kept) == list(range(999, 46_000, 1000))
    for t, sparsity in ((999, 0.0011014), (22_999, 0.4768116), (45_999, 0.9792918)):
        assert kept[t] == pytest.approx(n * (1 - sparsity), abs=0.6)
    assert kept[45_999] == 17_580  # 3.5 % above the target of 16,979


def test_released_code_never_reaches_its_target(monkeypatch):
    kept, n = prunings(monkeypatch, 0.9, final_snap=False)
    assert 1 - min(kept.values()) / n == pytest.approx(0.899350, abs=1 / n)


def test_the_default_reaches_it(monkeypatch):
    literal, _ = prunings(monkeypatch, 0.98, final_snap=False)
    default, _ = prunings(monkeypatch, 0.98)
    assert default == {**literal, 46_800: 16_979}
    assert not training("gradual", 0.5, final_snap=False).model.method.exact and training("gradual", 0.5).model.method.exact


def test_an_update_that_falls_on_the_end_of_the_schedule_is_made():
    run = training("gradual", 0.5, epochs=8, interval=2, update_end=0.7, final_snap=False)  # the schedule ends at step 5 of 8
    counts = []
    for _ in range(8):
        step(run)
        counts.append(int(run.model.method.mask.sum()))
    assert counts == [6, 6, 6, 4, 4, 3, 3, 3]


def test_starts_dense_and_is_sticky():
    run = training("gradual", 0.5, epochs=40, interval=2)
    assert run.model.method.mask.all()
    assert torch.equal(effective(run), W)
    counts = []
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        before = run.model.method.mask.clone()
        gradient = backward(run, torch.randn(2, 3, generator=generator, dtype=torch.float64))
        assert not gradient.flatten()[~before].any()
        run.update()
        assert not (run.model.method.mask & ~before).any()  # nested
        assert not effective(run).flatten()[~run.model.method.mask].any()
        counts.append(int(run.model.method.mask.sum()))
    assert counts[0] == 6 and counts[-1] == 3 and len(set(counts)) == 4


def test_prunes_before_the_step_by_magnitude_over_all_layers():
    run = training("gradual", 0.5, epochs=2, interval=1, update_end=0.5)  # the second step is the end of the schedule
    step(run, torch.zeros_like(W))
    assert run.model.method.mask.all()
    with torch.no_grad():
        run.theta.copy_(W.flatten())
    backward(run)
    run.update()
    assert run.model.method.mask.tolist() == [True, False, False, False, True, True]


@pytest.mark.parametrize("epochs, interval, end", [(1, 100, 0.6), (3, 100, 0.6), (10, 3, 0.6), (10, 100, 1.0)])
def test_short_runs_reach_the_target(epochs, interval, end):
    run = training("gradual", 0.5, epochs=epochs, interval=interval, update_end=end)
    for _ in range(epochs):
        step(run)
    assert int(run.model.method.mask.sum()) == 3


@pytest.mark.parametrize("interval, said", [(100, True), (7, True), (6, False)])  # of ten steps, the seventh ends the schedule
def test_a_pruning_all_at_once_is_said(interval, said, recwarn):
    run = training("gradual", 0.5, epochs=10, interval=interval)
    assert [str(w.message) for w in recwarn] == said * [
        f"gradual cannot prune in time: of 10 steps, its first update at step {interval} comes too late; choose a smaller interval"]
    recwarn.clear()
    run.start()
    assert [w.filename for w in recwarn] == said * [__file__]

"""Where the gradients of recorded steps lie: they stay there, as if they were cleared, and nothing is copied."""
import pytest
import torch
from test_capture import recorder, state_of
from test_every_method import make

from benchmarks.gpu import capture


def test_gradients_are_read_where_the_passes_write_them():
    """Also where the first epoch ends, with a smaller batch, before the passes are recorded: else each later step would copy all of them."""
    trainer = make("st3", record=lambda function: (function(), int), batch_size=18)
    assert trainer.training.steps_per_epoch == capture.WARM + 1 and len(trainer.data.train) % trainer.task.batch_size
    for _ in zip(range(12), trainer.steps()):
        pass
    written = dict(zip(trainer.forward_backward.parameters, trainer.forward_backward.gradients, strict=True))
    (rank, *_), = trainer.repeated.recorded.values()
    assert rank.parameters == [trainer.model.theta] and len(written) == 13  # all that a function of theta can touch
    for part in (trainer.training.apply, rank):
        assert part.replay and all(gradient is written[p] for p, gradient in zip(part.parameters, part.read, strict=True))


def test_gradients_of_replays_stay_in_their_places():
    """As if they were cleared: also where some are taken away or replaced, and where a call is made anew; what is not cleared is added to."""
    one, two = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    captured = capture.Captured(lambda x: (x.sum() * one + x.sum() ** 2 * two).sum().backward(), [one, two], torch.nn.Module(), recorder(list))
    for step in range(3 * capture.WARM + 9):
        if step == 2 * capture.WARM + 1:
            two.grad = None
        if step == 2 * capture.WARM + 2:
            one.grad = torch.full((2,), 9.0)
        captured.clear()
        assert (one.grad is None) == (step <= capture.WARM)
        length = 1 if step == 2 * capture.WARM + 5 else 2
        captured(torch.full((length,), step / 8))
        total = length * step / 8
        assert one.grad.tolist() == pytest.approx([total] * 2) and two.grad.tolist() == pytest.approx([total ** 2] * 2)
    captured.clear(at_once=True)
    assert one.grad is None and two.grad is None
    captured(torch.ones(2)), captured(torch.ones(2))
    assert one.grad.tolist() == [4, 4] and two.grad.tolist() == [8, 8]


def test_hooks_at_the_end_of_an_epoch_find_no_gradients():
    trainer = make("static", record=recorder(lambda: state_of(trainer)))
    steps, found = trainer.steps(), []
    for step in range(12):  # two epochs of four steps and two turns of their ends
        next(steps)
        found.append(trainer.model.theta.grad is not None)
    assert found == [False] * 3 + [True] + [False] * 2 + [True] * 4 + [False] * 2

"""SNFS (B5), with its paper's numbers worked out."""
import pytest
import torch
from canonical import G, W, linear, momentum, near, of, step, training, two_layers
from torch import nn

from methods import SparseModel, Training
from methods.beyond import snfs
from methods.beyond.snfs import share_out
from methods.ranking import keep_each

MASK = torch.tensor([1, 1, 0, 0, 1, 1]).bool()


def test_snfs_update():
    run = two_layers("snfs", 0.3)
    method = run.method
    method.set_mask(torch.cat([MASK, torch.tensor([1, 1, 1, 0]).bool()]))
    with torch.no_grad():
        run.theta.copy_(torch.cat([W.flatten(), of([0.9, -0.6, 0.3, 0])]) * method.mask)
    m = MASK.view(2, 3)
    buffer = torch.cat([(G + 1e-4 * W * m).flatten(), of([0.5, -0.1, 0.2, 0.7])])
    run.optimizer.state[run.theta]["momentum_buffer"] = buffer.clone()
    assert torch.equal(run.momentum, buffer)
    method.update(run, 0.5)
    assert method.mask.int().tolist() == [1, 1, 1, 1, 0, 1, 1, 0, 0, 1]
    assert torch.equal(run.momentum, buffer)  # the dense buffer is the method


def test_snfs_shares():
    assert share_out(4, [0.8717435, 0.1282565], [4, 3]) == [3, 1]
    for total, shares, room in ((7, [0.9, 0.05, 0.05], [2, 3, 9]), (3, [1 / 3] * 3, [1, 1, 1]), (2, [0.2] * 5, [1] * 5), (0, [1], [5])):
        shared = share_out(total, shares, room)
        assert sum(shared) == total and all(0 <= n <= most for n, most in zip(shared, room))


def test_snfs_spreads_what_a_layer_cannot_take():
    # 9, .5, .5 with room for 1.98, 2.97, 9.9: 7.02 too many make 1.98, 4.01, 4.01, and 1.04 too many 1.98, 2.97, 5.05
    assert share_out(10, [0.9, 0.05, 0.05], [2, 3, 10]) == [2, 3, 5]


def test_snfs_shares_do_not_depend_on_the_order_of_the_layers():
    generator, grown = torch.Generator().manual_seed(0), torch.zeros(22)
    for _ in range(400):
        shares = 1 + 0.4 * torch.rand(22, generator=generator)
        grown += torch.tensor(share_out(33, (shares / shares.sum()).tolist(), [1000] * 22))
    assert bool(((grown / grown.mean() - 1).abs() < 0.07).all())


@pytest.mark.parametrize("mask, momentum, kept", [
    ([1, 1, 1, 1, 1, 1], 9.0, [6, 0]),   # full, with more than its share: nothing is dropped
    ([1, 1, 1, 1, 1, 1], 0.1, [1, 0]),   # with less
    ([1, 1, 1, 0, 1, 1], 9.0, [4, 0]),   # ⌈5/6⌉, as many as it has room for
    ([1, 1, 0, 0, 1, 1], 9.0, [1, 0])])  # room enough: three quarters of it
def test_snfs_spares_layers_that_are_nearly_full(mask, momentum, kept, monkeypatch):
    run, counts = two_layers("snfs", 0.3), []
    monkeypatch.setattr(snfs, "keep_each", lambda score, wanted, sizes: counts.append(wanted) or keep_each(score, wanted, sizes))
    run.method.set_mask(torch.tensor([*mask, 1, 0, 1, 0]).bool())
    run.optimizer.state[run.theta]["momentum_buffer"] = of([momentum] * 6 + [1.0] * 4)
    run.method.update(run, 0.75)
    assert counts[0] == kept and int(run.method.mask.sum()) == sum(mask) + 2


@pytest.mark.parametrize("every, steps", [(0, [2, 5, 8]), (5, [4, 9]), (4, [3, 7])])
def test_snfs_times_of_updates(every, steps, monkeypatch):
    run, seen = training("snfs", 0.5, epochs=4, steps_per_epoch=3, every=every), []
    monkeypatch.setattr(run.method, "update", lambda run, fraction: seen.append(run.step))
    for run.step in range(12):
        run.method.after_step(run)
    assert seen == steps  # none at the end of training


def test_snfs_says_where_no_update_comes():
    with pytest.warns(UserWarning, match="^snfs cannot change its mask in time: of 4 steps, its first update at step 4 comes too late$"):
        training("snfs", 0.5, epochs=1, steps_per_epoch=4)


def test_snfs_rate():
    run = training("snfs", 0.5, epochs=100)
    for run.step, rate in ((24, 0.4275089), (49, 0.2525)):
        assert run.method.fraction(run) == near(rate)


def test_snfs_momentum_of_inactive_weights_accumulates_and_the_last_epoch_is_fixed():
    run = training("snfs", 0.5, epochs=3, steps_per_epoch=2)
    masks = []
    for t in range(6):
        step(run)
        masks.append(run.method.mask.clone())
        assert not run.theta[~masks[-1]].any() and int(masks[-1].sum()) == 3 and momentum(run).all()
        if t == 0:
            assert (momentum(run) - G).abs().max() < 1e-4  # of all weights, with the decay of the active ones
    assert torch.equal(masks[4], masks[5]) and torch.equal(masks[1], masks[2])


def test_snfs_shares_out_by_what_adam_steps_by():
    """Not by its running mean, with which the layer of a hundred times larger gradients would take all."""
    model, seen = SparseModel(nn.Sequential(linear(W), linear(of([[0.9, -0.6], [0.3, 0.8]]))), "snfs", 0.3), []
    run = Training(model, torch.optim.Adam(model.parameters(), lr=1e-3), 4, 1)
    run.start()
    model.theta.grad = torch.cat([torch.full((6,), 100.0), torch.ones(4)]).double()
    run.method.mask.fill_(True)
    run.update()
    assert run.momentum == near([10 ** 0.5] * 10, 5)  # without the correction of its first steps, as in the released code
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snfs, "share_out", lambda total, shares, room: seen.extend(shares) or share_out(total, shares, room))
        run.method.update(run, 0.5)
    assert seen == near([0.5, 0.5], 6)


@pytest.mark.parametrize("optimiser", [lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), torch.optim.AdamW])
def test_before_the_first_step_momentum_is_zero(optimiser):
    model = SparseModel(linear(W), "static", 0.5)
    run = Training(model, optimiser(model.parameters()), 2, 2)
    assert torch.equal(run.momentum, torch.zeros_like(model.theta))


def test_snfs_needs_momentum():
    model = SparseModel(linear(W), "snfs", 0.5)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 4, 1)
    run.start()
    with pytest.raises(ValueError, match="momentum"):
        step(run)



    run = two_layers("snfs", 0.3)
    run.method.set_mask(torch.tensor([1, 1, 0, 0, 1, 1, 1, 1, 1, 0]).bool())
    with torch.no_grad():
        run.theta.copy_(torch.cat([W.flatten(), of([0.9, -0.6, 0.3, 0])]) * run.method.mask)
    # the momentum of -.2, which is dropped, is the largest
    run.optimizer.state[run.theta]["momentum_buffer"] = of([1, -9, 3, 0.5, -0.25, 4, 0.5, -0.1, 0.2, 0.7])
    run.method.update(run, 0.5)
    assert run.method.mask[1] and run.theta[1].item() == -0.2

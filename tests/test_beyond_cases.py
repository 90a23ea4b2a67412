"""Updates of the methods beyond the papers where a count, a tie, the end of a schedule or a second start decides."""
import pytest
import torch
from canonical import G, W, backward, effective, linear, momentum, near, of, step, training, two_layers
from torch import nn

from methods import SparseModel, Training
from methods.beyond import snfs
from methods.beyond.powerprop import Powerprop
from methods.beyond.snfs import share_out
from methods.beyond.spartan import offset
from methods.cycles import LRR
from methods.ranking import keep_each

NONE = torch.zeros(2, 10, dtype=torch.float64)


# ---- SNFS

def test_snfs_shares_by_the_mean_momentum_of_active_weights(monkeypatch):
    run, seen = two_layers("snfs", 0.3), []
    run.method.set_mask(torch.tensor([1, 1, 0, 0, 1, 1, 1, 1, 1, 0]).bool())
    run.optimizer.state[run.theta]["momentum_buffer"] = torch.cat([G.flatten(), of([0.5, -0.1, 0.2, 0.7])])
    monkeypatch.setattr(snfs, "share_out", lambda total, shares, room: seen.extend(shares) or share_out(total, shares, room))
    run.method.update(run, 0.5)
    assert seen == near([0.8717435, 0.1282565])  # 7.25 / 4 and .8 / 3


def test_snfs_drops_no_more_of_a_nearly_full_layer_than_of_others(monkeypatch):
    run, counts = two_layers("snfs", 0.1, first=torch.ones(4, 5, dtype=torch.float64), second=torch.ones(4, 5)), []
    monkeypatch.setattr(snfs, "keep_each", lambda score, wanted, sizes: counts.append(wanted) or keep_each(score, wanted, sizes))
    run.method.set_mask(torch.tensor(([1] * 17 + [0] * 3) * 2).bool())  # room for 15 %
    run.optimizer.state[run.theta]["momentum_buffer"] = of([9.0] * 20 + [1.0] * 20)
    run.method.update(run, 0.05)
    assert counts[0] == [16, 16]  # ⌈.05 · 17⌉ of both


# ---- MEST

def test_mest_gives_no_momentum_to_what_it_drops():
    weight = of([[0.5, -0.2, 0.1, -0.05, 0.3, -0.4, 0.25, -0.15, 0.35, -0.45]])
    run = training("mest", 0.5, weight=weight, epochs=160)
    run.optimizer.param_groups[0]["weight_decay"] = 0.0
    step(run, torch.ones_like(weight))  # an update, of weights without momentum
    run.step, before, old = 5, momentum(run, weight).clone(), run.method.mask.clone()
    with torch.no_grad():
        run.theta.copy_(weight.flatten() * old)
    run.method.densities = lambda parts: (0.3, 0.5)
    step(run, torch.ones_like(weight))
    dropped = (old & ~run.method.mask).view_as(weight)
    assert dropped.any() and momentum(run, weight)[dropped] == near(0.9 * before[dropped])
    stayed = (old & run.method.mask & (run.theta != 0)).view_as(weight)
    assert momentum(run, weight)[stayed] == near(0.9 * before[stayed] + 1)


def test_mest_grows_where_a_smaller_share_is_more_of_a_layer():
    """Of 6, 6 and 2 weights 10 are 4, 4 and 2 by largest remainders, and 11 are 5, 5 and 1."""
    model = SparseModel(nn.Sequential(linear(W), linear(W), linear(of([[0.9, -0.6]]))), "mest", 3 / 14)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 160, 1)
    run.start()
    run.theta.grad = torch.zeros_like(run.theta)
    run.method.densities = lambda parts: (10 / 14, 11 / 14)
    run.method.mask.fill_(True)
    run.method.update(run, 2)
    assert run.model.layer_nnz().tolist() == [5, 5, 1]


# ---- SRigL

def renewed(size, gradient, mask, *more, **options):
    return training("srigl", 0.5, weight=size, **options).method.renewed(size, gradient, mask, *more).int().tolist()


def test_srigl_drops_no_more_than_its_share():
    size, gradient = of([[4, 3, 2, 1, 0, 0]]), of([[0, 0, 0, 0, 1, 2]])
    assert renewed(size, gradient, size > 0, 4, 0.4, False) == [[1, 1, 1, 0, 0, 1]]  # 1.6 of four weights: one


def test_srigl_keeps_an_active_weight_at_zero_before_inactive_ones():
    size = of([[0, 0, 0, 0, 2]])
    assert renewed(size, torch.zeros_like(size), torch.tensor([[0, 0, 0, 1, 1]]).bool(), 2, 0.0, False) == [[0, 0, 0, 1, 1]]


def test_srigl_without_ablation_keeps_as_many_neurons_as_it_has_weights():
    size = of([[0, 0, 0], [0, 2, 0], [0, 0, 0], [1, 0, 0]])
    assert renewed(size, torch.zeros_like(size), size > 0, 2, 0.0, False) == (size > 0).int().tolist()


def test_srigl_gives_the_inputs_of_an_ablated_neuron_to_the_largest_gradients_of_the_others():
    size, gradient = NONE.clone(), NONE.clone()
    size[:, :4] = of([[5, 5, 5, 5], [1, 0.9, 0.8, 0.1]])
    gradient[0, 4:] = of([0.1, 0.2, 1, 2, 3, 4])
    # one of eight weights drops, so that the second neuron has three salient ones of the four that it needs
    assert renewed(size, gradient, size > 0, 8, 1 / 8, True, gamma=1.0) == [[1, 1, 1, 1, 0, 0, 1, 1, 1, 1], [0] * 10]


@pytest.mark.parametrize("kept, expected", [(5, [[1, 1, 1, 1], [0] * 4]), (0, [[1, 1, 0, 0], [1, 0, 1, 0]])])
def test_srigl_ranks_salient_gradients_over_kept_weights_too(kept, expected):
    size, gradient = of([[4, 3, 0, 0], [2, 1, 0, 0]]), of([[kept, 0, 0, 0], [0, 0, 1, 0]])
    # the second neuron has one salient weight after the drop; its gradient makes another unless a kept weight's is larger
    assert renewed(size, gradient, size > 0, 4, 0.25, True, gamma=1.0) == expected


# ---- LAMP's other arms

def test_lamp_ranks_what_a_layer_lacks_among_the_largest_of_the_others():
    run = two_layers("lamp_oneshot", 0.5, epochs=2, layerwise="uniform")  # 3 of 6 and 2 of 4
    run.method.set_mask(torch.tensor([1, 1, 1, 1, 1, 1, 1, 0, 0, 0]).bool())
    with torch.no_grad():
        run.theta.copy_(of([0.1, -0.2, 0.5, -0.05, 0.3, -0.4, 0.9, 0, 0, 0]))
    run.start(1)
    assert run.theta[run.method.mask].tolist() == [-0.2, 0.5, 0.3, -0.4, 0.9]


# ---- Powerpropagation

class PowerpropLRR(Powerprop, LRR):
    """Several cycles."""


def test_powerprop_takes_the_root_of_the_first_weights_alone():
    model = SparseModel(linear(W), PowerpropLRR, 0.36)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1)
    run.start()
    stored = W.sign() * W.abs().sqrt()
    assert run.theta.detach().view(2, 3) == near(stored)
    run.start(1)
    assert run.theta.detach().view(2, 3) == near(stored * run.method.mask.view(2, 3))


# ---- Spartan

def test_spartan_freezes_the_masks_of_its_last_sharpness():
    run = training("spartan", 0.5, epochs=10)
    for _ in range(8):  # frozen from here on
        step(run, 0.05 * G)
    mask = run.method.mask
    assert int(mask.sum()) == 3 and not run.method.soft[~mask].any()
    mu = torch.logit(run.method.soft[mask]) - 10 * run.theta.detach().abs()[mask]
    assert torch.sigmoid(10 * run.theta.abs() + mu[0]).sum().item() == pytest.approx(3) and mu == near([mu[0]] * 3)


def test_spartan_reaches_its_budget_before_it_freezes():
    run = training("spartan", 0.5, epochs=10, ramp_end=0.8, freeze=0.3)
    for _ in range(10):
        step(run, 0.05 * G)
    assert int(run.method.mask.sum()) == 3


@pytest.mark.parametrize("guess", [0.0, -999.0, -1.0])
def test_spartan_finds_the_offset_where_newtons_steps_lead_nowhere(guess):
    x = of([0, 400, 1000])  # between these the sum of the sigmoids is flat
    assert offset(x, 1.5, of(guess)).item() == pytest.approx(-400, abs=1e-3)


# ---- a second training

@pytest.mark.parametrize("name", ["feather", "st3", "st3_sigma", "str", "ste_hard_rescale", "gmp", "movement", "spartan"])
def test_a_second_training_of_a_model_begins_dense(name):
    run = training(name, 0.5, epochs=10, **({"mask_form": "nonsticky"} if name == "gmp" else {}))
    for _ in range(10):
        step(run, 0.1 * G)
    assert int(run.method.mask.sum()) == 3
    again = Training(run.model, run.optimizer, 10, 1)
    with pytest.warns(UserWarning, match=f"trained before, by 10 updates of another Training: start.. gives it the mask that {name} begins with"):
        again.start()
    assert run.method.mask.all() and torch.equal(run.model.method(run.theta), run.theta)
    assert not getattr(run.method, "scores", of(0)).any()


# ---- DST

def test_dst_prunes_a_weight_at_its_threshold():
    run = training("dst_mask", weight=of([[0.5, 0.0, -0.75]]))
    assert run.method.mask.tolist() == [True, False, True]  # of the first threshold, 0
    with torch.no_grad():
        run.method.thresholds.fill_(0.5)
    run.method.after_step(run)
    assert run.method.mask.tolist() == [False, False, True]
    assert effective(run, run.theta.view(1, 3)).tolist() == [[0, 0, -0.75]]
    # h(0) = 2 and h(.25) = 1: 2 · .5 of the first, 1 + .75 of the last
    assert backward(run, torch.ones(1, 3, dtype=torch.float64)).tolist() == [[1, 0, 1.75]]


@pytest.mark.parametrize("active, after", [(1, 0.0), (2, 0.98)])
def test_dst_starts_a_layer_again_that_has_a_hundredth_left(active, after):
    run = training("dst_mask", weight=torch.linspace(0.01, 0.98, 100, dtype=torch.float64).index_fill(0, torch.arange(active), 1.0).view(1, 100))
    with torch.no_grad():
        run.method.thresholds.fill_(0.98)
    run.method.after_step(run)
    assert run.method.thresholds.tolist() == [after]


# ---- SCULPT

def test_sculpt_to_less_than_its_initial_sparsity_begins_with_the_target():
    assert SparseModel(nn.Linear(10, 10), "sculpt", 0.3, initial_sparsity=0.5).method.budget == 70


def test_powerprop_takes_no_root_where_a_training_goes_on():
    model, again = (SparseModel(linear(W), PowerpropLRR, 0.36) for _ in range(2))
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1)
    run.start()
    step(run, torch.zeros_like(W))
    again.load_state_dict(model.state_dict())
    resumed = Training(again, torch.optim.SGD(again.parameters(), lr=0.1), 1, 1)
    resumed.load_state_dict(run.state_dict())
    for each in (run, resumed):
        each.start(1)
    assert torch.equal(run.theta, resumed.theta)


# ---- Feather in cycles

def test_lrr_with_feather_keeps_the_sparsity_of_its_cycle_at_every_step():
    run, kept = training("lrr_feather", 0.5, epochs=2, level_list="0,0.25,0.5", source="last"), []
    for cycle in range(3):
        run.start(cycle)
        for _ in range(2):
            step(run, 0.01 * G)
            kept.append(int(run.method.mask.sum()))
    assert kept == [6, 6, 4, 4, 3, 3]


# ---- cyclic training

def test_cycles_share_the_epochs_out_by_the_split():
    cycles = SparseModel(nn.Linear(10, 10), "cyclic_static", 0.9, repeats=4, split="linear_down").method.cycles(40)
    assert [cycle.epochs for cycle in cycles] == [64, 48, 32, 16]

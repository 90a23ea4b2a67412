"""When methods beyond the two papers change their masks: first and last steps, phases, cycles, and options at their limits."""
import pytest
import torch
from canonical import G, backward, step, training
from torch import nn

from methods import SparseModel, Training
from methods.beyond.cyclic import cycle_lengths


def spartan_at(beta, moved=0.0):
    run = training("spartan", 0.5, epochs=100)
    with torch.no_grad():
        run.theta[0] += moved
    run.method.refresh(run.theta, 0.5, beta)
    return run


def test_spartan_gradients_have_the_sharpness_of_their_step():
    """β = 4 of 10, against a finite difference of Σ G·W·σ(W)."""
    values = [(G.flatten() * run.theta * run.method.soft).sum().item() for run in (spartan_at(4.0, h) for h in (1e-5, -1e-5))]
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(backward(spartan_at(4.0))[0, 0].item(), abs=1e-6)


@pytest.mark.parametrize("options", [{"ramp_end": 0.0}, {"freeze": 0.0}])
def test_spartan_without_a_ramp_prunes_at_its_first_step(options):
    run, kept = training("spartan", 0.5, epochs=10, **options), []
    for _ in range(10):
        kept.append(int(run.method.mask.sum()))
        step(run, 0.05 * G)
    assert kept == [6] + [3] * 9 and int(run.method.mask.sum()) == 3


@pytest.mark.parametrize("graph", ["random", "synflow"])
def test_sculpt_begins_with_the_graph_of_its_initial_sparsity(graph):
    run, kept = training("sculpt", 0.9, weight=torch.linspace(0.1, 1, 200, dtype=torch.float64).view(10, 20), graph=graph, repeats=2), []
    for cycle in range(2):
        run.start(cycle)
        kept.append(int(run.method.mask.sum()))
    assert kept == [100, 20]


def test_sculpt_of_a_single_cycle_trains_at_its_target():
    run = training("sculpt", 0.9, weight=torch.linspace(0.1, 1, 200, dtype=torch.float64).view(10, 20), repeats=1)
    assert len(run.cycles) == 1 and int(run.method.mask.sum()) == 20 == run.method.budget_at(0)


@pytest.mark.parametrize("split, lengths", [("linear_up", [*range(1, 11)]), ("linear_down", [*range(10, 0, -1)])])
def test_cycle_lengths_that_are_whole_lose_nothing_to_binary_fractions(split, lengths):
    """55 epochs in shares of 1/55 … 10/55; 55 · 7/55 is 6.999… in binary."""
    assert cycle_lengths(split, 55, 10) == lengths


def test_acdc_phases_begin_and_end_with_an_epoch():
    run, sparse = training("acdc", 0.5, epochs=20, steps_per_epoch=3), []
    for _ in range(60):
        sparse.append(int(run.method.mask.sum()) == 3)
        step(run, 0.01 * G)
    begins = range(1, 18, 2)  # epochs 10, 30, … 170 of 200
    assert sparse == [sum(first <= t // 3 for first in begins) % 2 == 1 for t in range(60)]


def test_acdc_second_training_begins_dense():
    run = training("acdc", 0.5, epochs=10)
    for _ in range(10):
        step(run, 0.1 * G)
    assert int(run.method.mask.sum()) == 3
    again = Training(run.model, run.optimizer, 10, 1)
    with pytest.warns(UserWarning, match="trained before, by 10 updates of another Training"):
        again.start()
    assert run.method.mask.all()


@pytest.mark.parametrize("name, option, function", [("spartan", "freeze", "refresh"), ("topkast", "every_step_until", "renew")])
def test_a_share_names_its_last_step(name, option, function, monkeypatch):
    run, seen = training(name, 0.5, epochs=100, **{option: 0.29}), []
    monkeypatch.setattr(run.method, function, lambda *_: seen.append(run.step + 1))
    for run.step in range(100):
        run.method.after_step(run)
    assert seen == [*range(1, 30)]


def test_gradual_ends_at_the_step_that_its_share_names(monkeypatch):
    run, seen = training("gradual", 0.5, epochs=100, update_end=0.29), []
    monkeypatch.setattr(run.method, "prune", lambda *_: seen.append(run.step))
    for run.step in range(100):
        run.method.before_step(run)
    assert seen == [29]


def test_dpf_freezes_at_the_step_that_its_share_names(monkeypatch):
    """.29 of 100 steps are 28.999… in binary."""
    run, seen = training("dpf", 0.5, epochs=100, every=1, ramp_end=0.29), []
    monkeypatch.setattr(run.method, "refresh", lambda theta, sparsity: seen.append(run.step + 1))
    for run.step in range(100):
        run.method.after_step(run)
    assert seen == [*range(1, 30)]


def test_dpf_literal_counts_prune_nothing_at_no_sparsity():
    run = training("dpf", 0.0, threshold="literal")
    assert run.method.mask.all() and run.method.budget == 6


def test_powerprop_refuses_a_group_of_theta_and_one_other():
    model = SparseModel(nn.Linear(3, 2), "powerprop_gmp", 0.0, decay_of="q")
    run = Training(model, torch.optim.SGD([dict(params=[model.theta, model.net.bias], weight_decay=0.2)], lr=0.1), 1, 1)
    with pytest.raises(ValueError, match="decay_of=q needs theta in a parameter group of its own"):
        run.start()


def test_powerprop_refuses_a_power_below_one():
    with pytest.raises(ValueError, match="^option alpha takes a number of at least 1, not 0.5$"):
        SparseModel(nn.Linear(3, 2), "powerprop_gmp", 0.5, alpha=0.5)

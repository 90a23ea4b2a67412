"""LAMP (B13 of the methods beyond the papers), its levels and the other arms of its paper."""
import pytest
import torch
from canonical import two_layers

from benchmarks.models import build
from methods import SparseModel, Training
from methods.allocation import RANKED, allocate
from methods.base import Cycle
from methods.ranking import keep

B = torch.tensor([[0.9, -0.6]], dtype=torch.float64)


def lamp(method, sparsity):
    return two_layers(method, sparsity, second=B, epochs=2)


@pytest.mark.parametrize("kept, left", [(6, [0.5, -0.2, 0.3, -0.4, 0.9, -0.6]), (5, [0.5, 0.3, -0.4, 0.9, -0.6]), (3, [0.5, -0.4, 0.9])])
def test_lamp_prunes(kept, left):
    run = lamp("lamp_oneshot", 1 - kept / 8)
    assert run.method.mask.all() and [cycle.epochs for cycle in run.cycles] == [2, 2]
    run.start(1)
    assert run.theta[run.method.mask].tolist() == left and not run.theta[~run.method.mask].any()


def test_lamp_scores_survivors_alone():
    one, two = lamp("lamp_oneshot", 3 / 8), lamp("lamp_oneshot", 3 / 8)
    two.method.prune(two, 6)
    assert two.method.saliency(two)[0] == 1  # pruned entries add nothing to the sums
    two.start(1), one.start(1)
    assert torch.equal(one.method.mask, two.method.mask)


@pytest.mark.parametrize("layerwise", ["global", "global_l2", "uniform", "uniform_plus", "erk"])
def test_lamps_other_arms_have_their_counts_in_every_cycle_and_masks_are_nested(layerwise):
    torch.manual_seed(0)
    model = SparseModel(build("resnet20", 10), "lamp_imp", 0.98, layerwise=layerwise)
    run, layout = Training(model, torch.optim.SGD([model.theta], lr=0.1), 1, 1), model.method.layout
    for cycle in range(len(run.cycles)):
        before, sizes = model.method.mask.clone(), run.theta.detach().abs()
        run.start(cycle)
        mask, budget = model.method.mask, model.method.budget_at(cycle)
        ranked = layerwise in RANKED
        counts = (layout.layer_sums(keep(RANKED[layerwise](layout, sizes * before), budget)) if ranked else
                  torch.tensor(allocate(layout, layerwise, 1 - budget / layout.size)))
        assert (layout.layer_sums(mask) - counts).abs().max() <= 1 and int(mask.sum()) == budget
        assert not (mask & ~before).any()
        for size, now, then in zip(*(tensor.split(layout.sizes) for tensor in (sizes, mask, before))):
            removed = size[then & ~now]
            assert not len(removed) or size[now].min() >= removed.max()  # the largest of each layer stay
        with torch.no_grad():
            run.theta.add_(0.01 * torch.randn_like(run.theta) * model.method.mask)


def test_lamp_refuses_what_uniform_plus_cannot_share_before_training():
    with pytest.raises(ValueError, match="uniform_plus cannot keep"):
        SparseModel(build("resnet20", 10), "lamp_imp", 0.999, layerwise="uniform_plus")


def test_lamp_imp_levels_of_resnet20():
    method = SparseModel(build("resnet20", 10), "lamp_imp", 0.99).method
    assert [method.budget_at(c) for c in (1, 2, 3, 4, 5, 10, 20)] == [216_717, 173_374, 138_699, 110_959, 88_767, 29_087, 3_123]
    assert method.budget_at(-1) == 2_709


def test_lamp_imp_goes_on_with_weights_and_a_new_optimiser():
    run = lamp("lamp_imp", 0.6)
    assert len(run.cycles) > 2 and all(cycle == Cycle(2) for cycle in run.cycles)  # whole schedules: nothing is rewound
    for cycle in range(len(run.cycles)):
        before = run.theta.detach().clone()
        run.start(cycle)
        assert torch.equal(run.theta, before * run.method.mask) and not run.optimizer.state
        assert int(run.method.mask.sum()) == run.method.budget_at(cycle)
        run.model(torch.eye(3, dtype=torch.float64)).sum().backward()
        run.update()

"""Updates of sparse storage where the budget binds: more connections than it or fewer, full layers, and hooks that must go."""
import pytest
import torch
from test_sparse_equality import convolutional, mlp, pair, same, same_growth, single, train, uneven  # noqa: F401
from torch.nn import functional as F


@pytest.mark.parametrize("method", ["set", "gse_uniform"])
def test_more_connections_than_the_budget(method, same_growth):
    """Drawn each on its own, there may be more of them than were asked for: the smallest go, whatever their place."""
    sparse, masked, batches = pair(mlp, method, sampler="bernoulli", scope="global", interval=1, update_end=0.9, drop_fraction=0.001)
    assert len(sparse.method.keys) > 1.002 * sparse.method.budget
    for run in (sparse, masked):
        train(run, batches, 3)
    same(sparse, masked)
    assert len(sparse.method.keys) == sparse.method.budget


def test_no_connection_is_dropped_by_rounding():
    """1000 (1 - 0.9) is less than 100 in binary."""
    sparse, masked, batches = pair(single, "set", 0.9, scope="global", interval=1, drop_fraction=0.0)
    before = sparse.method.keys
    for run in (sparse, masked):
        train(run, batches, 3)
    same(sparse, masked)
    assert torch.equal(sparse.method.keys, before)


def test_of_a_layer_half_full_every_inactive_weight_is_a_candidate():
    sparse, masked, batches = pair(single, "gse_uniform", 0.5, scope="layer", interval=1, update_end=0.9, allocation="uniform")
    assert 2 * len(sparse.method.keys) == masked.model.layout.size
    for run in (sparse, masked):
        train(run, batches, 3)
    same(sparse, masked)


def hooks(run):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in run.model.modules())


@pytest.mark.parametrize("method", ["rigl", "gse_uniform", "gse_grabo"])
def test_an_update_leaves_no_hooks(method):
    """They would add up in every step from then on."""
    *runs, batches = pair(convolutional, method, interval=2)
    for run in runs:
        before = hooks(run)
        train(run, batches, 4)
        assert hooks(run) == before


def test_an_update_that_fails_leaves_no_hooks():
    run, _, batches = pair(convolutional, "rigl", interval=1)
    before, (x, y) = hooks(run), batches[0]
    F.cross_entropy(run.model(x), y).backward()
    with pytest.raises(IndexError, match="out of bounds"):
        run.update((x, y + 10))
    assert hooks(run) == before


def test_a_layer_grows_no_more_than_it_has_room_for():
    """A full layer, and one with less room than is dropped in it."""
    sparse, masked, batches = pair(uneven, "gse_uniform", 0.6, interval=1, update_end=0.9, drop_fraction=0.9, scope="layer", allocation="er_gse")
    active = [int(mask.sum()) for mask in masked.method.mask.split(masked.model.layout.sizes)]
    room = [n - a for n, a in zip(masked.model.layout.sizes, active)]
    assert room[2] == 0 < room[0] < 0.8 * active[0]
    for run in (sparse, masked):
        train(run, batches, 5)
    same(sparse, masked)
    assert sparse.model.counts == active


@pytest.mark.parametrize("method", ["gse_uniform", "gse_graest"])
@pytest.mark.parametrize("sparsity", [0.5, 0.6])
def test_more_grows_than_the_budget_has_room_for(sparsity, method):
    sparse, masked, batches = pair(uneven, method, sparsity, interval=1, update_end=0.9, drop_fraction=1.0, gamma=20.0, scope="global",
                                   allocation="er_gse")
    assert len(sparse.method.keys) < sparse.method.budget
    for run in (sparse, masked):
        train(run, batches, 12)
    same(sparse, masked)
    assert len(sparse.method.keys) == sparse.method.budget

"""Discovering neural wirings, with worked numbers."""
import pytest
import torch
from canonical import DENSE_STEP, G, W, backward, effective, momentum, near, step, training
from torch import nn

from benchmarks.models import build
from methods import SparseModel


@pytest.mark.parametrize("sparsity, expected", [
    (0.4, [[0.5, -0.2, 0], [0, 0.3, -0.4]]),
    (0.5, [[0.5, 0, 0], [0, 0.3, -0.4]]),
])
def test_dnw(sparsity, expected):
    run = training("dnw", sparsity)  # from step 0 on
    assert effective(run) == near(expected)
    assert torch.equal(backward(run), G)
    run.optimizer.zero_grad()
    assert step(run) == near(DENSE_STEP, digits=9)
    assert momentum(run) == near(G + 1e-4 * W)


def test_dnw_mask_follows_the_weights():
    run = training("dnw", 0.5)
    step(run)
    # the stored weights are now DENSE_STEP
    assert run.model.method.mask.tolist() == [True, False, False, False, True, True]
    step(run, torch.tensor([[3, 0, 0], [0, 0, 0]], dtype=torch.float64))
    assert run.model.method.mask.tolist() == [False, False, True, False, True, True]


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98])
def test_dnw_counts_of_each_layer(sparsity):
    torch.manual_seed(0)
    model = SparseModel(build("resnet20", 10), "dnw", sparsity)
    assert model.method.counts == [n - int(sparsity * n) for n in model.layout.sizes]
    model.method.after_step(model)
    assert model.layer_nnz().tolist() == model.method.counts
    assert model.method.budget == sum(model.method.counts)


def test_dnw_counts_are_free_of_binary_truncation():
    assert SparseModel(nn.Linear(10, 10, bias=False), "dnw", 0.29).method.counts == [71]  # where int(100 · .29) is 28

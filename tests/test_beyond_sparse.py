"""SRigL's constant fan-in in sparse storage: as the masked form, number for number."""
import pytest
import torch
from test_sparse_equality import convolutional, mlp, pair, same, train
from torch import nn

from methods import SparseModel


def net():
    """As `mlp`, without the dropout, whose draws a second pass over the training batch would move."""
    return nn.Sequential(*(layer for layer in mlp() if type(layer).__name__ != "Dropped"))


def test_first_weights_as_in_the_released_code():
    """Normal, with a standard deviation of 2 / 14 for 14 active inputs; biases stay."""
    layer = nn.Linear(144, 320)
    bias = layer.bias.detach().clone()
    model = SparseModel(nn.Sequential(layer), "srigl", 0.9, allocation="uniform", init="grad_flow", storage="sparse")
    assert model.theta.std().item() == pytest.approx(2 / 14, rel=0.03) and 3 < model.theta.abs().max() / model.theta.std() < 6
    assert torch.equal(model.export()[0].bias, bias)


@pytest.mark.parametrize("build, options", [(net, {}), (convolutional, {"gamma": 0.9}), (net, {"ablation": False, "skip_step": False})])
def test_fifty_steps(build, options, monkeypatch):
    monkeypatch.setitem(__import__("test_sparse_equality").INPUTS, net, (30,))
    sparse, masked, batches = pair(build, "srigl", interval=8, update_end=0.9, **options)
    start = sparse.method.keys
    losses = [train(run, batches) for run in (sparse, masked)]
    assert not torch.equal(start, sparse.method.keys) and abs(losses[0] - losses[1]) < 1e-10
    same(sparse, masked)
    for keys, entry, count in zip(sparse.model.local(sparse.method.keys), sparse.model.layout.entries, sparse.method.counts):
        fan_in = torch.bincount(keys // entry.fan_in, minlength=entry.shape[0])
        assert set(fan_in.tolist()) - {0} == {min(count // int((fan_in > 0).sum()), entry.fan_in)}

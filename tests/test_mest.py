"""MEST and MEST-s (B6), with their paper's numbers worked out."""
import pytest
import torch
from canonical import linear, of, step, training
from torch import nn

from benchmarks.models import build
from methods import SparseModel, Training
from methods.allocation import allocate

CIFAR = {"epochs": 160, "steps_per_epoch": 1}


def test_mest_drops_and_grows():
    weight = of([[0.5, -0.2, 0.1, -0.05, 0.3, -0.4, 0.25, -0.15, 0.35, -0.45]])
    run = training("mest", 0.5, weight=weight, **CIFAR)
    method = run.method
    method.mask.fill_(True)
    with torch.no_grad():
        run.theta.copy_(weight.flatten())
        run.theta.grad = 1 / run.theta  # which counts where `lam` says so alone
    run.optimizer.state[run.theta]["momentum_buffer"] = torch.ones_like(run.theta)
    method.densities = lambda parts: (0.4, 0.5)
    method.update(run, 2)
    assert run.momentum.all()  # the optimiser's state stays
    survivors = run.theta.detach() != 0
    assert run.theta[survivors].tolist() == [0.5, -0.4, 0.35, -0.45]
    assert int(method.mask.sum()) == 5 and method.mask[survivors].all()


@pytest.mark.parametrize("name, counts, which", [("mest", [21_672, 24_381, 27_090], 0), ("mest_s", [40_634, 33_862, 27_090], 1)])
def test_mest_counts_of_resnet20(name, counts, which):
    model = SparseModel(build("resnet20", 10), name, 0.9)
    assert [sum(allocate(model.layout, "uniform", 1 - model.method.densities(parts)[which])) for parts in (2, 1, 0)] == counts
    assert model.method.budget == 27_090


@pytest.mark.parametrize("sparsity, lower", [(0.8, 0.18), (0.9, 0.08), (0.95, 0.04), (0.98, 0.016)])
def test_mest_offsets(sparsity, lower):
    assert training("mest", sparsity, weight=torch.ones(20, 20)).method.densities(2)[0] == pytest.approx(lower)


def test_mest_s_grows_to_a_full_layer_at_most():
    assert training("mest_s", 0.02, weight=torch.ones(20, 20)).method.densities(2) == pytest.approx((0.98, 1))


@pytest.mark.parametrize("name", ["mest", "mest_s"])
def test_mest_updates(name):
    weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = training(name, 0.9, weight=weight, **CIFAR)
    masks, nnz = [run.method.mask.clone()], []
    for _ in range(160):
        step(run, 0.01 * torch.ones_like(weight))
        masks.append(run.method.mask.clone())
        nnz.append(int(masks[-1].sum()))
        assert not run.theta[~masks[-1]].any()
    changed = [t for t in range(160) if not torch.equal(masks[t], masks[t + 1])]
    assert changed == [t for t in range(0, 120, 5)] + [120] * (name == "mest_s")
    assert nnz == ([200] * 160 if name == "mest" else [300] * 90 + [250] * 30 + [200] * 40)


def test_mest_stages_begin_between_its_updates_too(monkeypatch):
    run, seen = training("mest_s", 0.9, weight=torch.ones(20, 20), epochs=32, steps_per_epoch=2), []
    run.theta.grad = torch.zeros_like(run.theta)
    monkeypatch.setattr(run.method, "update", lambda run, parts: seen.append((run.step / 2, parts)))
    for run.step in range(64):
        run.method.before_step(run)
    assert seen == [(0, 2), (5, 2), (10, 2), (15, 2), (18, 1), (20, 1), (24, 0), (25, 0), (30, 0)]


def test_mest_importance_counts_gradients_where_asked():
    for lam, kept in ((0.0, 4), (1.0, 0)):
        run = training("mest", 0.5, weight=of([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]]), lam=lam, **CIFAR)
        run.method.mask.fill_(True)
        run.theta.data = torch.arange(1, 11) / of(10)
        run.theta.grad = of([5, 4, 3, 2, 1, 0, 0, 0, 0, 0])
        run.method.densities = lambda parts: (0.4, 0.4)
        run.method.update(run, 2)
        assert int(run.method.mask[6:].sum()) == kept


def test_mest_drops_to_one_weight_a_layer_at_least():
    model = SparseModel(nn.Sequential(*(linear(torch.ones(10, 10, dtype=torch.float64)) for _ in range(3))), "mest", 0.99)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 160, 1)  # 3 weights of 300: a fifth less would be 2.4
    run.start()
    model(torch.ones(2, 10, dtype=torch.float64)).sum().backward()
    run.update()
    assert model.layer_nnz().tolist() == [1, 1, 1]

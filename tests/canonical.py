"""The tensors of the worked numbers as a network whose gradient at the effective weights is exactly G."""
import pytest
import torch
from torch import nn

from methods import SparseModel, Training

W = torch.tensor([[0.5, -0.2, 0.1], [-0.05, 0.3, -0.4]], dtype=torch.float64)
G = torch.tensor([[1, -2, 3], [0.5, -0.25, 4]], dtype=torch.float64)
DENSE_STEP = [[0.399995, 0.000002, -0.200001], [-0.0999995, 0.324997, -0.799996]]  # W - .1 (G + 1e-4 W)


def of(nested):
    return torch.tensor(nested, dtype=torch.float64)


def linear(weight):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def training(method, sparsity=0.0, epochs=10, steps_per_epoch=1, weight=W, **options):
    """A started Training of the one-layer network `weight`: SGD lr .1, weight decay 1e-4, momentum .9. Scoring batches are its columns."""
    model = SparseModel(linear(weight), method, sparsity, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-4, momentum=0.9)
    n = weight.shape[1]
    run = Training(model, optimizer, epochs, steps_per_epoch,
                   batches=lambda count: [(torch.eye(n, dtype=weight.dtype), torch.zeros(n, dtype=torch.long))] * count)
    run.start()
    return run


def two_layers(method, sparsity, first=W, second=((0.9, -0.6), (0.3, 0)), epochs=4, **options):
    """A started Training of a network of two layers, as above without weight decay."""
    model = SparseModel(nn.Sequential(linear(first), linear(torch.as_tensor(second, dtype=first.dtype))), method, sparsity, **options)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), epochs, 1)
    run.start()
    return run


def backward(run, gradient=G):
    """The loss ΣG⊙q through the network: the identity as its input makes its output q, transposed."""
    (run.model(torch.eye(gradient.shape[1], dtype=gradient.dtype)).T * gradient).sum().backward()
    return run.theta.grad.view_as(gradient)


def step(run, gradient=G):
    """One optimiser step with this gradient at the effective weights; returns the stored weights."""
    backward(run, gradient)
    run.update()
    return run.theta.detach().view_as(gradient)


def effective(run, like=W):
    with torch.no_grad():
        return run.model.method(run.theta).view_as(like)


def mask_of(run, like=W):
    return run.method.mask.view_as(like).int().tolist()


def momentum(run, like=W):
    return run.optimizer.state[run.theta]["momentum_buffer"].view_as(like)


def near(expected, digits=7):
    """Equal to numbers that were rounded to this many decimal places."""
    return pytest.approx(torch.as_tensor(expected, dtype=torch.float64).detach().numpy(), rel=0, abs=0.51 * 10**-digits)

"""A mask that leaves no path through some layers (layer collapse) is told of while the training can still be stopped."""
import warnings
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from methods import SparseModel, Training, get
from methods.base import Cycle
from methods.training import LOOKED

SAID = (r"\Aafter 20 steps no gradient reaches {} of {} pruned layers \({}\): they do not learn, because no path of active weights leads through them "
         r"from input to output; a lower sparsity or another distribution over the layers leaves one\Z")


def network(depth=3, bias=True):
    return nn.Sequential(*(layer for _ in range(depth - 1) for layer in (nn.Linear(64, 64, bias=bias), nn.ReLU())), nn.Linear(64, 10))


class Cut(get("static")):
    """Leaves nothing of the layer in the middle."""

    def start(self, run, cycle):
        super().start(run, cycle)
        self.set_mask(self.layout.flatten([view * (number != 1) for number, view in enumerate(self.layout.views(self.mask))]))


class CutLater(Cut):
    """So, too, in a second cycle, which begins at its second epoch."""

    def cycles(self, epochs):
        return [Cycle(epochs), Cycle(epochs, first=1)]


class CutThrough(Cut):
    """So, too, but its gradients reach what is pruned."""

    gradient = "dense"

    def forward(self, theta):
        return theta + (theta * self.mask - theta).detach()


def train(net, method, sparsity, steps=LOOKED + 1, cycle=0, **options):
    """The model after `steps` updates, on random images."""
    torch.manual_seed(0)
    model = SparseModel(net, method, sparsity, **options)
    x, y = torch.randn(256, 64), torch.randint(10, (256,))
    training = Training(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), 2, 40, batches=lambda n: [(x, y)])
    training.start(cycle)
    for _ in range(steps):
        cross_entropy(model(x), y).backward()
        training.update((x, y))
    return model


@contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_layers_that_snip_leaves_empty_are_named(storage):
    net = network()
    with torch.no_grad():
        net[2].weight.mul_(0.01)  # so that its connections, and those before it, matter least
    with pytest.warns(UserWarning, match=SAID.format(2, 3, "0.weight, 2.weight")) as told:
        model = train(net, "snip", 0.98, storage=storage)
    assert model.layer_nnz().tolist() == [0, 0, 177] and len(told) == 1


@pytest.mark.parametrize("method, cycle", [(Cut, 0), (CutLater, 1)])
def test_the_layers_around_an_empty_one_are_lost_with_it(method, cycle):
    """Without biases, even those behind it. The last is not pruned, so it does not count. Three are named."""
    with pytest.warns(UserWarning, match=SAID.format(5, 5, "0.weight, 2.weight, 4.weight, …")) as told:
        train(network(6, bias=False), method, 0.5, cycle=cycle)
    assert len(told) == 1


def test_an_empty_layer_that_gradients_reach_may_come_back():
    with quiet():
        train(network(), CutThrough, 0.5)
    with pytest.warns(UserWarning, match=SAID.format(2, 2, "1.weight, 3.weight")):  # but not of inputs that are all zero
        train(nn.Sequential(nn.Threshold(9, 0), *network(bias=False)), CutThrough, 0.5)


def test_blocks_that_start_at_zero_are_waited_for():
    """Layers before them have no gradients in the first step."""
    net = network()
    nn.init.zeros_(net[4].weight)
    with quiet():
        train(net, "static", 0.5)
    with quiet():
        train(network(), Cut, 0.5, steps=LOOKED)

"""Training of a network on given batches with a given loss, for methods that score connections."""
import torch
from canonical import W

from methods import SparseModel, Training

FOUR = torch.tensor([True, True, False, False, True, True])  # the mask [[1, 1, 0], [0, 1, 1]]
SWAPPED = [[True, False, True], [False, True, True]]         # (0, 2) grown, -.2 dropped


def prepared(net, method, sparsity, batches, criterion, epochs=10, steps_per_epoch=1, seed=0, **options):
    """A Training, not yet started, whose scoring batches are the list `batches`. SGD lr .1, momentum .9."""
    model = SparseModel(net, method, sparsity, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Training(model, optimizer, epochs, steps_per_epoch, seed=seed, batches=lambda n: batches, criterion=criterion,
                    scoring_batches=max(1, len(batches or ())))


def started(*args, **options):
    run = prepared(*args, **options)
    run.start()
    return run


def linear_in_the_output(output, delta):
    """A loss whose gradient at the output is `delta`."""
    return (output * delta).sum()


def with_four_active(run):
    """The canonical layer with FOUR as its mask."""
    run.model.method.set_mask(FOUR)
    with torch.no_grad():
        run.theta.copy_(W.flatten() * FOUR)
    return run

"""Steps whose gradients are not finite, as a GradScaler leaves out now and then: no method chooses connections by them."""
import pytest
import torch
from test_own_loop import Net, batches
from torch.nn.functional import cross_entropy

from methods import SparseModel, Training

DYNAMIC = [("rigl", {}), ("set", {}), ("gse_uniform", {}), ("srigl", {}), ("granet", {"initial_sparsity": 0.5, "prune_end": 0.3}), ("cht", {})]
DUE = {"score_batches": "train_batch", "interval": 2}


def overflowed(method, storage, options):
    """(model, its connections before and after a step that overflows, the weights before and after)."""
    torch.manual_seed(0)
    model = SparseModel(Net(), method, 0.5, storage=storage, **options)
    optimizer, scaler = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), torch.amp.GradScaler("cpu", init_scale=4.0)
    training = Training(model, optimizer, 2, 6, batches=lambda n: batches()[:n])
    training.take_step = lambda: scaler.step(optimizer)
    training.start()
    states = []
    for index, (x, y) in enumerate(batches()[:4]):
        loss = scaler.scale(cross_entropy(model(x), y)) * (float("inf") if index == 3 else 1)
        loss.backward()
        scaler.unscale_(optimizer)
        if index == 3:
            states.append((model.masks(), model.theta.detach().clone()))
        training.update((x, y))
        scaler.update()
    return model, *zip(*states, (model.masks(), model.theta.detach()))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method, options, storage", [*((*given, "masked") for given in DYNAMIC), *((*given, "sparse") for given in DYNAMIC[:4])])
def test_connections_stay_where_the_gradients_overflow(method, options, storage):
    own = {name: value for name, value in DUE.items() if name == "interval" or method in ("rigl", "gse_uniform")}
    model, masks, weights = overflowed(method, storage, {**own, **options})
    assert all(torch.equal(masks[0][name], mask) for name, mask in masks[1].items())
    assert torch.equal(*weights) and weights[0].isfinite().all()
    assert int(model.layer_nnz().sum()) == model.method.budget or not model.method.exact


@pytest.mark.filterwarnings("error")  # that scores are NaN
@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_mest_goes_on_to_its_budget(storage):
    """Which shrinks at this step: the gradients that are no numbers count as zero in its score."""
    torch.manual_seed(0)
    model = SparseModel(Net(), "mest_s", 0.5, storage=storage, lam=0.01)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 4, 1)
    training.start()
    before = None
    for x, y in batches()[:4]:
        cross_entropy(model(x), y).backward()
        if training.epoch == 3:
            before = int(model.layer_nnz().sum())
            model.theta.grad.fill_(torch.nan)
            training.take_step = lambda: None
        training.update((x, y))
    assert int(model.layer_nnz().sum()) == model.method.budget < before
    assert model.theta.isfinite().all()

"""Sparse storage against the masked form: the same weights, connections and optimiser state, number for number."""
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from methods import SparseModel, Training
from methods.ranking import keep_each
from methods.sparse.growth import AtRandom

DYNAMIC = ["set", "rigl", "gse_uniform", "gse_grabo", "gse_graest"]


class SameDraws(Training):
    """Draws for the connections what the masked form draws for them, of (N,) numbers."""

    def random(self, purpose, normal=False):
        draw = torch.randn if normal else torch.rand
        return draw(self.model.layout.size, generator=self.generator(purpose), dtype=self.theta.dtype)[self.method.keys]


@pytest.fixture
def same_growth(monkeypatch):
    """SET and MEST grow what the masked form would."""
    def grow(method, run, bounds, counts, barred):
        score = torch.rand(method.layout.size, generator=run.generator("grow"), dtype=run.theta.dtype)
        score[barred] = -torch.inf
        return keep_each(score, counts, [b - a for a, b in zip(bounds, bounds[1:])]).nonzero().flatten()
    monkeypatch.setattr(AtRandom, "grow", grow)


class Dropped(nn.Module):
    """Dropout whose draws do not depend on how the activations lie in memory."""

    def forward(self, x):
        return x * (torch.rand(x.shape) < 0.8) if self.training else x


def mlp():
    return nn.Sequential(nn.Linear(30, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 50, bias=False), Dropped(), nn.ReLU(),
                         nn.Linear(50, 10)).double()


def convolutional():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, padding=1, bias=False),
                         nn.ReLU(), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 24, 3, padding=1, groups=4), nn.Conv2d(24, 16, 1), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10)).double()


def signals():
    return nn.Sequential(nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 16, 3, 2, bias=False), nn.ReLU(),
                         nn.Conv1d(16, 16, 3, padding=2, dilation=2, groups=4), nn.ReLU(), nn.MaxPool1d(4), nn.Flatten(), nn.Linear(112, 10)).double()


def uneven():
    """Its small layers cannot take what er_gse gives them: the first graph lacks some of the budget."""
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(32, 10)).double()


def single():
    return nn.Sequential(nn.Linear(100, 10)).double()


def tied():
    """Two of its layers have one weight."""
    net = nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 10)).double()
    net[2].weight = net[0].weight
    return net


INPUTS = {single: (100,), tied: (30,), mlp: (30,), convolutional: (3, 8, 8), signals: (3, 60), uneven: (3, 8, 8)}


def pair(build, method, sparsity=0.8, masked_training=Training, sparse_training=SameDraws, **options):
    """Trainings of the sparse and of the masked form of one network, with one graph and the same start."""
    torch.manual_seed(0)
    net = build()
    if method == "rigl" and build is mlp:
        net[4] = nn.Identity()  # its second pass over the training batch would draw other numbers
    batches = [(torch.randn(16, *INPUTS[build], dtype=torch.float64), torch.randint(10, (16,))) for _ in range(4)]
    runs = []
    for storage, kind in (("sparse", sparse_training), ("masked", masked_training)):
        model = SparseModel(copy.deepcopy(net), method, sparsity, storage=storage, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        runs.append(kind(model, optimizer, 10, 5, batches=lambda n: batches[:2], scoring_batches=2))
        runs[-1].start()
    sparse, masked = runs
    mask = torch.zeros(masked.model.layout.size, dtype=torch.bool)
    mask[sparse.method.keys] = True
    masked.method.set_mask(mask)
    with torch.no_grad():
        masked.theta.copy_(masked.model.layout.flatten([net.get_parameter(e.name) for e in masked.model.layout.entries]) * mask)
    return sparse, masked, batches


def same(sparse, masked):
    """The connections are equal, and weights and momentum to 1e-10."""
    keys = masked.method.mask.nonzero().flatten()
    assert torch.equal(sparse.method.keys, keys)
    moments = [run.optimizer.state[run.theta]["momentum_buffer"] for run in (sparse, masked)]
    assert torch.allclose(sparse.theta, masked.theta[keys], rtol=0, atol=1e-10)
    assert torch.allclose(moments[0], moments[1][keys], rtol=0, atol=1e-10)
    other = zip(sparse.model.net.state_dict().items(), masked.model.net.state_dict().items())
    assert all(a == b and torch.allclose(x, y, rtol=0, atol=1e-10) for (a, x), (b, y) in other)


def train(run, batches, steps=50):
    loss = None  # alive during the next forward pass, as in everybody's loop
    for step in range(steps):
        torch.manual_seed(step)
        x, y = batches[step % len(batches)]
        loss = F.cross_entropy(run.model(x), y)
        loss.backward()
        run.update((x, y))
    return loss


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("method", DYNAMIC)
@pytest.mark.parametrize("build", [mlp, convolutional, signals])
def test_fifty_steps_with_five_updates(build, method, scope, same_growth, monkeypatch):
    sparse, masked, batches = pair(build, method, scope=scope, interval=8, update_end=0.9, allocation="er_gse",
                                   **({"regrow": "zeroed"} if method == "set" else {}))
    start, updates = sparse.method.keys, []
    update = type(sparse.method).update
    monkeypatch.setattr(type(sparse.method), "update", lambda *args: updates.append(update(*args)))
    losses = [train(run, batches) for run in (sparse, masked)]
    assert len(updates) == 5 and not torch.equal(start, sparse.method.keys)
    assert abs(losses[0] - losses[1]) < 1e-10
    same(sparse, masked)
    assert scope == "layer" or len(sparse.method.keys) == sparse.method.budget


@pytest.mark.parametrize("options", [dict(regrow="no"), dict(regrow="keeps"), dict(drop_rounding="ceil", noise=0.0)])
@pytest.mark.parametrize("method", ["set", "rigl"])
def test_choices_of_drop_and_grow(method, options, same_growth):
    sparse, masked, batches = pair(mlp, method, 0.6, interval=5, drop_fraction=0.5, **options)
    for run in (sparse, masked):
        train(run, batches, 25)
    same(sparse, masked)


def test_rigl_scores_on_all_of_the_fresh_batches(same_growth):
    sparse, masked, batches = pair(mlp, "rigl", 0.6, interval=5, score_batches="ceil10")
    for run in (sparse, masked):
        train(run, batches, 25)
    same(sparse, masked)


@pytest.mark.parametrize("method", ["rigl", "gse_uniform"])
def test_a_weight_of_two_layers_is_scored_in_both(method):
    sparse, masked, batches = pair(tied, method, interval=5)
    for run in (sparse, masked):
        train(run, batches, 25)
    same(sparse, masked)


def test_growth_at_random_follows_from_the_seed_alone():
    found = []
    for seed, drawn in ((0, 0), (0, 1), (1, 0)):
        run, _, batches = pair(single, "set", interval=1)
        run.seed = seed
        torch.manual_seed(drawn)
        F.cross_entropy(run.model(batches[0][0]), batches[0][1]).backward()
        run.update()
        found.append(run.method.keys)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("method", ["gse_uniform", "gse_grabo"])
def test_gse_scores_on_the_training_batch(method):
    sparse, masked, batches = pair(convolutional, method, interval=5, score_batches="train_batch")
    for run in (sparse, masked):
        train(run, batches, 25)
    same(sparse, masked)


def test_static_and_other_optimisers():
    sparse, masked, batches = pair(convolutional, "static")
    for run in (sparse, masked):
        train(run, batches)
    same(sparse, masked)


@pytest.mark.parametrize("build, options", [(mlp, {}), (convolutional, {"lam": 0.5, "allocation": "erk"})])
@pytest.mark.parametrize("method", ["mest", "mest_s"])
def test_elastic_mutation(method, build, options, same_growth):
    """Without momentum, which in the masked form outlives a connection until it has faded."""
    sparse, masked, batches = pair(build, method, every=2, **options)
    for run in (sparse, masked):
        run.optimizer = torch.optim.SGD(run.model.parameters(), lr=0.1, weight_decay=1e-3)
    seen = []
    for _ in range(10):
        for run in (sparse, masked):
            train(run, batches, 5)
        keys = masked.method.mask.nonzero().flatten()
        assert torch.equal(sparse.method.keys, keys) and torch.allclose(sparse.theta, masked.theta[keys], rtol=0, atol=1e-10)
        seen.append(keys)
    # the extra drop, or growth, falls at epochs 5 and 7; from then on it is none, and at 7 what has grown beyond the budget goes
    changed = [epoch for epoch in range(1, 10) if not torch.equal(seen[epoch - 1], seen[epoch])]
    assert changed == [2, 4, 5, 6] + [7] * (method == "mest_s")
    assert (len(set(map(len, seen))) > 1) == (method == "mest_s")


@pytest.mark.parametrize("method", ["set", "gse_grabo"])
def test_adams_moments_are_carried_along(method, same_growth):
    sparse, masked, batches = pair(mlp, method, interval=5)
    for run in (sparse, masked):
        run.optimizer = torch.optim.Adam(run.model.parameters(), lr=1e-3)
        train(run, batches, 25)
    keys = sparse.method.keys
    assert torch.equal(keys, masked.method.mask.nonzero().flatten())
    for name in ("exp_avg", "exp_avg_sq"):
        ours, theirs = (run.optimizer.state[run.theta][name] for run in (sparse, masked))
        assert torch.allclose(ours, theirs[keys], rtol=0, atol=1e-10)
    assert torch.allclose(sparse.theta, masked.theta[keys], rtol=0, atol=1e-10)


class Skipping(nn.Module):
    """Has weights that stay dense, asked for and not, running statistics, and a layer that its forward uses twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 10)
        self.rest, self.offset = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Parameter(torch.zeros(16, 10))

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        return self.last(self.rest(self.rest(x).relu()).relu().mean((2, 3))) + self.offset


@pytest.mark.parametrize("method, options", [
    ("snip", {}), ("snip", {"restore_bn": True, "n_batches": 1}), ("grasp", {"count": "literal"}), ("synflow", {"rounds": 3})])
@pytest.mark.parametrize("build, shape, skip", [(mlp, (30,), []), (convolutional, (3, 8, 8), ["0"]), (tied, (30,), []), (signals, (3, 60), []),
                                                (lambda: Skipping().double(), (3, 8, 8), ["last"])])
def test_pruned_at_the_start(build, shape, skip, method, options, recwarn):
    """Nothing is taken over from one to the other: both find the mask by themselves."""
    torch.manual_seed(0)
    net, runs = build(), []
    batches = [(torch.randn(16, *shape, dtype=torch.float64), torch.randint(10, (16,))) for _ in range(4)]
    for storage in ("sparse", "masked"):
        model = SparseModel(copy.deepcopy(net), method, 0.8, skip, storage=storage, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        runs.append(Training(model, optimizer, 10, 5, batches=lambda n: batches[:n], scoring_batches=2))
        torch.manual_seed(1)
        runs[-1].start()
        assert runs[-1].scored == 0  # scoring before the first step is not training
        train(runs[-1], batches, 25)
    same(*runs)
    assert sum("stay dense" in str(warned.message) for warned in recwarn) == 2 * (skip == ["last"])  # of each model once, when it is made
    assert 0 < len(runs[0].theta) == int(runs[0].model.layer_nnz().sum()) == runs[1].method.budget < runs[1].model.layout.size / 2


def test_export_is_the_plain_network():
    sparse, masked, batches = pair(convolutional, "gse_uniform", interval=5)
    for run in (sparse, masked):
        train(run, batches, 12)
        run.model.eval()
    plain, theirs = sparse.model.densify(), masked.model.export()
    assert [type(m) for m in plain.modules()] == [type(m) for m in theirs.modules()]
    assert all("forward" not in vars(m) for m in plain.modules())
    for (a, x), (b, y) in zip(plain.state_dict().items(), theirs.state_dict().items()):
        assert a == b and torch.allclose(x, y, rtol=0, atol=1e-10)
    x = batches[0][0]
    assert torch.allclose(plain(x), sparse.model(x), rtol=0, atol=1e-10)
    assert sparse.model.layer_nnz().tolist() == [int((plain.get_parameter(e.name) != 0).sum()) for e in sparse.model.layout.entries]

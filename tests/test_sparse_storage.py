"""Sparse storage as the suite and a user have it: nothing of dense size, the automatic choice of forms, runs that resume."""
import copy
import io
import tracemalloc

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_leaves

from benchmarks import train
from benchmarks.grid import Spec
from benchmarks.tasks import settle
from methods import SparseModel, Training
from methods.sparse import linear as layers
from methods.sparse.linear import SparseLayer
from test_every_method import small_digits


PRUNED = ["snip", "grasp", "synflow"]
FIXED = ["static", *PRUNED]


def linear():
    return nn.Sequential(nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, 600), nn.ReLU(), nn.Linear(600, 600)), torch.randn(4, 600)


def convolutional():
    return nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 128, 3, 2, padding=1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten()), torch.randn(2, 128, 4, 4)


def largest_allocation(call):
    """Bytes of the largest piece of memory that torch allocates in `call()`, those inside its operations included; or of all that numpy
    and Python hold at one moment besides what they held before, if that is more. Call what imports and compiles once before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profile:
        tracemalloc.start()
        call()
        _, others = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return max(others, *(event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"))


def trainer(net, x, method, sparsity=0.99, storage="sparse", **options):
    if method == "mest":
        options |= dict(every=2)
    elif method not in FIXED:
        options |= dict(interval=2, update_end=1.0, scope="global")
    if method not in PRUNED:
        options |= dict(allocation="er_gse")
    model = SparseModel(net, method, sparsity, storage=storage, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    y = torch.zeros(len(x), dtype=torch.int64)
    run = Training(model, optimizer, 10, 1, batches=lambda n: [(x, y)] * n, clip=1.0)
    run.start()

    def steps(n):
        for _ in range(n):
            cross_entropy(model(x), y).backward()
            run.update((x, y))
    return run, steps


@pytest.mark.parametrize("method", ["static", "snip", "set", "mest", "gse_uniform", "gse_grabo", "gse_graest", "rigl"])
@pytest.mark.parametrize("build", [linear, convolutional])
def test_nothing_of_dense_size_is_allocated(build, method):
    torch.manual_seed(0)
    net, x = build()
    dense = min(p.nbytes for p in net.parameters() if p.ndim > 1)
    run, steps = trainer(net, x, method)
    steps(2)
    keys = run.method.keys
    largest = largest_allocation(lambda: steps(4))
    assert method in FIXED or not torch.equal(keys, run.method.keys)
    if method == "rigl":  # its gradient is dense: the watch sees it
        assert largest >= dense
    else:
        assert largest < dense / 2
    held = [run.theta, run.theta.grad, run.method.keys, *run.optimizer.state[run.theta].values()]
    held += tree_leaves([[*vars(layer.pattern).values()] for layers in run.model.layers for layer in layers])
    assert max(t.nbytes for t in held if torch.is_tensor(t)) < dense / 2


def test_a_network_whose_dense_form_does_not_fit():
    """Twice 1.6 GB in float32; built, trained and grown without them."""
    torch.manual_seed(0)
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(20_000, 20_000), nn.ReLU(), nn.Linear(20_000, 20_000))
    made = []

    def work():
        run, steps = trainer(net, torch.randn(4, 20_000), "gse_graest", 0.9999)
        steps(2)
        made.append(run)
    trainer(*linear(), "gse_graest")[1](2)
    assert largest_allocation(work) < 4e6
    assert len(made[0].theta) == 80_000 and made[0].theta.isfinite().all()


# ---- the automatic choice

def test_auto_is_the_sparse_network_with_other_products(monkeypatch, capsys):
    def measure(layer, x):
        layer.seconds, layer.dense = (2.0, 1.0), layer.shape[0] == 128 or layer.shape[1] == 600
    monkeypatch.setattr(SparseLayer, "measure", measure)
    for build in (linear, convolutional):
        runs = []
        for storage in ("sparse", "auto"):
            torch.manual_seed(0)
            net, x = build()
            run, steps = trainer(net.double(), x.double(), "gse_graest", storage=storage)
            steps(5)
            runs.append(run)
        sparse, auto = runs
        assert torch.equal(sparse.method.keys, auto.method.keys)
        assert torch.allclose(sparse.theta, auto.theta, rtol=0, atol=1e-10)
        assert {form for form, *_ in auto.model.forms().values()} == {"dense"}
        assert all(layer.pattern is None for layers in auto.model.layers for layer in layers)
        assert set(form for form, *_ in sparse.model.forms().values()) == {"sparse"}
        assert torch.allclose(auto.model.export()(x.double()), auto.model(x.double()))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[0].startswith("storage auto: 0 of 3 layers compute sparse; faster dense: 0.weight (1e+03 ms, sparse 2e+03)")


def test_auto_measures_once_and_its_choice_is_saved(capsys):
    torch.manual_seed(0)
    net, x = convolutional()
    run, steps = trainer(net, x, "static", storage="auto")
    run.model.eval()(x)
    assert {form for form, *_ in run.model.forms().values()} == {"undecided"}
    run.model.train()
    steps(3)
    forms = run.model.forms()
    for form, sparse, dense in forms.values():
        assert min(sparse, dense) > 0 and form == ("dense" if dense < sparse else "sparse")
    assert capsys.readouterr().err.count("storage auto") == 1
    again, _ = trainer(convolutional()[0], x, "static", storage="auto")
    again.model.load_state_dict(run.model.state_dict())
    assert [form for form, *_ in again.model.forms().values()] == [form for form, *_ in forms.values()]
    assert torch.equal(run.model.eval()(x), again.model.eval()(x)) and run.model.undecided == again.model.undecided == 0
    again.model.train()(x).sum().backward()
    assert not capsys.readouterr().err


@pytest.mark.parametrize("sparse, dense, form", [([9, 2, 9, 9], [3, 3, 4, 5], "sparse"), ([3, 3, 4, 5], [9, 9, 9, 2], "dense")])
def test_auto_compares_the_best_of_some_trials(sparse, dense, form, monkeypatch):
    assert len(sparse) == len(dense) == layers.TRIALS
    seconds = [second for pair in zip(sparse, dense) for second in pair]
    clock = iter([time for i, second in enumerate(seconds) for time in (100 * i, 100 * i + second)])
    monkeypatch.setattr(layers, "_now", lambda x: next(clock))
    model = SparseModel(nn.Linear(600, 600), "static", 0.9, storage="auto")
    model(torch.randn(4, 600))
    assert model.forms() == {"weight": (form, min(sparse), min(dense))} and not [*clock]


class Taught(nn.Module):
    """A layer that no gradient reaches, and one whose forward leaves a tensor with a history."""

    def __init__(self):
        super().__init__()
        self.first, self.teacher = nn.utils.weight_norm(nn.Linear(600, 600)), nn.Linear(600, 600)
        self.head = nn.Linear(600, 600)

    def forward(self, x):
        with torch.no_grad():
            teacher = self.teacher(x)
        return self.head(torch.relu(self.first(x))) + teacher


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("method", ["set", "rigl", "srigl", "gse_uniform", "gse_grabo"])
def test_layers_without_a_gradient(method, capsys):
    torch.manual_seed(0)
    x = torch.randn(4, 600)
    model = SparseModel(Taught(), method, 0.9, storage="auto", skip=["first"], **({} if method == "srigl" else {"interval": 2}))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run = Training(model, optimizer, 10, 1, batches=lambda n: [(x, torch.zeros(4, dtype=torch.int64))] * n)
    run.start()
    for _ in range(4):
        cross_entropy(model(x), torch.zeros(4, dtype=torch.int64)).backward()
        run.update((x, torch.zeros(4, dtype=torch.int64)))
    forms = model.forms()
    assert forms["teacher.weight"][0] == "undecided" and forms["head.weight"][0] != "undecided"
    assert capsys.readouterr().err.count("storage auto") == 1
    model(x)
    assert torch.allclose(model.export().eval()(x), model.eval()(x), atol=1e-5)


@pytest.mark.parametrize("method", ["rigl", "srigl"])
def test_the_training_batch_is_asked_for(method):
    net, x = linear()
    model = SparseModel(net, method, 0.9, storage="sparse", interval=1)
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.01), 10, 1)
    run.start()
    model(x).sum().backward()
    with pytest.raises(ValueError, match=r"call update\(\(x, y\)\)"):
        run.update()


def test_a_whole_model_is_saved_and_copied():
    net, x = convolutional()
    model = SparseModel(net, "static", 0.9, storage="sparse")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (torch.load(file, weights_only=False), copy.deepcopy(model)):
        assert torch.equal(other.eval()(x), model.eval()(x))
    assert torch.equal(model(x[0][None])[0], SparseModel.forward(model, x)[0])


# ---- runs of the suite

def suite_trainer(method, seed=0, sparsity=0.9, **options):
    task, chosen = settle(Spec("digits", method, sparsity, seed, 3, options={"storage": "sparse", **options}))
    return train.Trainer(task, method, sparsity, seed, chosen, small_digits())


@pytest.mark.parametrize("method", [*FIXED, "set", "mest", "mest_s", "rigl", "gse_uniform", "gse_grabo", "gse_graest"])
def test_a_run_resumes_bit_for_bit(method):
    options = {} if method in FIXED else {"every": "1"} if method.startswith("mest") else {"interval": "3", "init": "sparse"}
    whole, states = suite_trainer(method, **options), []

    def save(trainer):
        file = io.BytesIO()
        torch.save(trainer.state_dict(), file)
        states.append(file.getvalue())
    whole.run(save=save)
    resumed = suite_trainer(method, seed=1, **options)
    resumed.seed = resumed.training.seed = 0
    resumed.load_state_dict(torch.load(io.BytesIO(states[1]), weights_only=True))
    resumed.run()
    assert torch.equal(whole.model.theta, resumed.model.theta) and torch.equal(whole.model.method.keys, resumed.model.method.keys)
    assert repr(whole.progress.curves) == repr(resumed.progress.curves)
    assert len(whole.model.theta) == whole.model.method.budget
    torch.manual_seed(1)  # the graph follows from the seed alone
    again = suite_trainer(method, **options)
    fresh = suite_trainer(method, **options)
    assert torch.equal(again.model.method.keys, fresh.model.method.keys) and torch.equal(again.model.theta, fresh.model.theta)


def test_where_no_update_comes_the_first_graph_has_the_budget():
    options = dict(interval="1000", allocation="er_gse", scope="global")
    steps = suite_trainer("gse_uniform", **options).training.total_steps
    for interval in (steps // 4, steps // 4 + 1):  # the last with an update, the first without
        whole = suite_trainer("gse_uniform", sparsity=0.5, init="sparse", update_end="0.25", **options | {"interval": str(interval)})
        assert steps % 4 == 0 and len(whole.model.theta) < whole.model.method.budget
        whole.training.start()
        assert (len(whole.model.theta) == whole.model.method.budget) == (interval > steps // 4) and whole.model.theta.all()
    with pytest.raises(ValueError, match="redistribute"):
        suite_trainer("gse_uniform", sparsity=0.5, **options).training.start()


@pytest.mark.parametrize("options, drawn", [
    ({}, []), ({"first_dense": True}, []), ({"init": "sparse", "last_dense": True}, ["conv.weight"]),
    ({"init": "sparse"}, ["conv.weight", "fc.weight"])])
def test_a_run_begins_with_the_weights_of_its_network(options, drawn):
    """Those of the dense run with the same seed; where it is to start by its graph, that draws all but dense ends."""
    def first(method, **options):
        task, own = settle(Spec("digits", method, 0.5, 0, options=options))
        run = train.Trainer(task, method, 0.5 * (method != "dense"), 0, own, small_digits())
        run.training.start(0)
        return run.model.export().state_dict()
    dense, sparse = first("dense"), first("static", storage="sparse", **options)
    for name in ("conv.weight", "fc.weight"):
        active = sparse[name] != 0
        assert torch.equal(sparse[name][active], dense[name][active]) == (name not in drawn) and active.any()


@pytest.mark.parametrize("method, options, words", [
    ("st3", {}, "storage='sparse' is for static, set, rigl"), ("set", {"storage": "dense"}, "storage takes masked or sparse or auto"),
    ("set", {"count_switches": "true"}, "needs storage=masked")])
def test_nonsense_is_refused(method, options, words):
    with pytest.raises(ValueError, match=words):
        suite_trainer(method, **options)

"""A loop of one's own in several processes: what they have to share, and processes that train each a network of its own."""
import multiprocessing
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from test_own_loop import Net, batches
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu import team
from benchmarks.workers.worker import Worker, preload
from methods import SparseModel, Training, gse
from methods.activity import uniform


def begun(seed=0, net=Net, method="set", steps=6, init=0, optimizer=torch.optim.SGD, wrapped=None, options=(), storage="masked", **more):
    """A started training, and the network that computes."""
    torch.manual_seed(init)
    model = SparseModel(net(), method, 0.5, storage=storage, **dict(options))
    network = wrapped(model) if wrapped else model
    training = Training(model, optimizer(model.parameters(), lr=0.05), 2, steps, seed=seed, batches=lambda n: scored(model)[dist_rank()::2][:n], **more)
    training.start()
    return training, network


def scored(model):
    return [(x.to(model.theta.dtype), y) for x, y in batches()]


def dist_rank():
    return dist.get_rank() if dist.is_initialized() else 0


def trained(training, network, rank):
    """The weights after two epochs on batches of which this process has every second image."""
    for x, y in 2 * batches():
        cross_entropy(network(x[rank::2]), y[rank::2]).backward()
        training.update((x[rank::2], y[rank::2]))
    return training.theta.detach().clone()


def refused(*given, **more):
    """The words of the ValueError."""
    try:
        begun(*given, **more)
    except ValueError as error:
        return str(error)


def together(rank, place):
    """What each of two processes does."""
    torch.set_num_threads(1)
    own, said = {"interval": 2}, {}
    with team.joined(rank, 2, place):
        for name, differs in {"seed": dict(seed=rank), "network": dict(net=[Net, lambda: nn.Linear(8, 10 + rank)][rank]), "steps_per_epoch": dict(steps=6 + rank),
                              "method": dict(method=["set", "rigl"][rank])}.items():
            said[name] = refused(**differs)
        said["fsdp"] = refused(wrapped=lambda model: FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu")))
        said["zero"] = refused(optimizer=lambda parameters, lr: ZeroRedundancyOptimizer(parameters, torch.optim.SGD, lr=lr))
        ddp = DistributedDataParallel
        said["sparse"], said["sparse in ddp"] = (refused(storage="sparse", wrapped=wrapper) for wrapper in (None, ddp))
        result = {"alone": trained(*begun(seed=rank, init=rank, options=own, group=False), rank),
                  "all": trained(*begun(wrapped=ddp, options=own), rank)}
        for method in ("set", "rigl", "snip"):
            result[f"sparse {method}"] = trained(*begun(seed=rank, init=rank, method=method, storage="sparse", group=False), rank)
        group = dist.new_group([0, 1])
        result["group"] = trained(*begun(wrapped=lambda model: ddp(model, process_group=group), options=own, group=group), rank)
        with warnings.catch_warnings(record=True) as told:
            begun(init=rank, options=own)
        said["weights"] = [str(warning.message) for warning in told]
        for score in ("ceil10", "train_batch"):
            result[f"signs {score}"] = signs(begun(method="gse_graest", options={"score_batches": score})[0])
        suite = begun(method="gse_graest")[0]
        suite.same_batches = True
        result["signs of the suite"] = signs(suite)
        result["grasp"] = begun(method="grasp", net=lambda: Net().double(), init=3)[0].method.mask.clone()
    torch.save((said, result), Path(place) / f"result{rank}")


def signs(training):
    """Those that GraEst draws for the first batch."""
    drawn = []

    def seen(run, found, draw, literal):
        drawn.append(draw(64))
        return SimpleNamespace(weights=lambda: uniform(run.model.layout), gradient=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gse, "Activity", seen)
        training.method.explore(training, [])
    return drawn[0]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What the two processes were told, and their results."""
    preload()
    place, context = tmp_path_factory.mktemp("two"), multiprocessing.get_context(Worker.method)
    helpers = [context.Process(target=together, args=(rank, str(place))) for rank in range(2)]
    for helper in helpers:
        helper.start()
    for helper in helpers:
        helper.join()
    assert [helper.exitcode for helper in helpers] == [0, 0]
    return list(zip(*(torch.load(place / f"result{rank}", weights_only=True) for rank in range(2))))


@pytest.mark.parametrize("what", ["seed", "network", "method", "steps_per_epoch"])
def test_processes_that_differ_in_what_they_train_are_refused(two, what):
    """Weights and masks would drift apart within an epoch, or all become those of the first process."""
    assert [said[what] for said in two[0]] == [f"2 processes train one network together, but differ in {what}; if each trains a network of its own, "
                                               "give Training group=False (examples/README.md, several GPUs)"] * 2


def test_weights_that_differ_become_those_of_the_first_with_a_word(two):
    for said in two[0]:
        assert len(said["weights"]) == 1 and "differ in weights: all go on with those of the first" in said["weights"][0]


@pytest.mark.parametrize("kind, said", [("fsdp", "FSDP leaves each process a part of theta"), ("zero", "ZeroRedundancyOptimizer has a part of the mom")])
def test_what_shares_weights_or_momentum_out_is_refused(two, kind, said):
    for words in two[0]:
        assert words[kind].startswith(said) and "DistributedDataParallel" in words[kind] and "\n" not in words[kind]


def test_sparse_storage_is_refused(two):
    for said in two[0]:
        assert said["sparse"] == said["sparse in ddp"]
        assert said["sparse"].startswith("sparse storage trains in one process: ") and said["sparse"].endswith("give Training group=False")


def test_processes_may_train_each_a_network_of_its_own(two):
    for rank, result in enumerate(two[1]):
        assert torch.equal(result["alone"], trained(*begun(seed=rank, init=rank, options={"interval": 2}), rank))


@pytest.mark.parametrize("method", ["set", "rigl", "snip"])
def test_so_may_processes_with_sparse_storage(two, method, monkeypatch):
    """The batches that score connections are those of the process."""
    for rank, result in enumerate(two[1]):
        monkeypatch.setattr(sys.modules[__name__], "dist_rank", lambda: rank)
        assert torch.equal(result[f"sparse {method}"], trained(*begun(seed=rank, init=rank, method=method, storage="sparse"), rank))


def test_a_group_of_all_is_all(two):
    one, other = two[1]
    assert torch.equal(one["all"], other["all"]) and torch.equal(one["group"], one["all"]) and torch.equal(other["group"], one["all"])


def test_processes_with_batches_of_their_own_have_signs_of_their_own(two):
    """With the same ones, an image of each would count as one."""
    one, other = two[1]
    assert torch.equal(one["signs of the suite"], other["signs of the suite"])
    for kind in "signs ceil10", "signs train_batch":
        assert not torch.equal(one[kind], other[kind])


def test_grasp_scores_the_batches_of_all_processes(two):
    torch.manual_seed(3)
    model = SparseModel(Net().double(), "grasp", 0.5)
    training = Training(model, torch.optim.SGD(model.parameters(), 0.05), 2, 6, batches=lambda n: scored(model)[:n], scoring_batches=2)
    training.start()
    assert all(torch.equal(result["grasp"], model.method.mask) for result in two[1])

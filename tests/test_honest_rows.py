"""What a row says of somebody's own method is what it did: accuracy, costs, recipe, seeds."""
import random
from pathlib import Path

import numpy
import pytest
import torch
from stored import record, timeless
from torch import nn

from benchmarks.__main__ import main
from benchmarks.checkpoint import random_state, seed_all, set_random_state
from benchmarks.cost import computed_with
from benchmarks.data import load
from benchmarks.grid import Spec
from benchmarks.kept import plain
from benchmarks.results import Store
from benchmarks.run import run
from benchmarks.tasks import settle
from benchmarks.train import Trainer
from benchmarks.trial import own_methods
from benchmarks.trial.dry_run import dry_run
from methods import SparseModel, Training, get

FILE = '''
import time
import numpy
import torch
from torch.nn import functional as F
from methods.base import Cycle
from methods.dynamic import Static
from methods.probmask import ProbMask

class DenseAtFirst(Static):
    """Has all weights but after the last epoch."""
    gradient = "dense"
    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.register_buffer("part", torch.ones(()))
    def after_step(self, run):
        self.part.fill_(float(run.step + 1 < run.total_steps))
    def forward(self, theta):
        return theta * (self.mask | (self.part > 0))

class Leaks(Static):
    """Trains all weights, and evaluates those of the mask."""
    gradient = "dense"
    def forward(self, theta):
        return theta.clone() if self.training else theta * self.mask

class Sleeps(Static):
    def start(self, run, cycle):
        super().start(run, cycle)
        time.sleep(0.5)

class Draws(Static):
    @torch.no_grad()
    def after_step(self, run):
        run.theta.mul_(1 + 0.01 * numpy.random.randn())

class Breaks(Static):
    @torch.no_grad()
    def after_step(self, run):
        if run.step == 20:
            run.theta.fill_(torch.nan)
            raise RuntimeError("nothing to draw from\\n" * 50)

class Fails(Static):
    def after_step(self, run):
        if run.step == 20:
            raise ValueError("on purpose")

class Adds(Static):
    """A dense layer beside the network."""
    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.extra = torch.nn.Parameter(torch.zeros(10, 64))
    def groups(self):
        return [dict(params=[self.extra])]
    def start(self, run, cycle):
        super().start(run, cycle)
        run.model.net.register_forward_hook(lambda module, x, output: output + x[0].flatten(1) @ self.extra.T)

class Counts(Static):
    """Leaves some weights in training, as many as it was called, and draws."""
    gradient = "dense"
    calls = 0
    def __init__(self, layout, sparsity=0.0, **options):
        super().__init__(layout, sparsity, **options)
        self.register_buffer("seen", torch.zeros(()))
    def forward(self, theta):
        if self.training:
            self.calls += 1
            self.seen += 1
            torch.rand(1)
        return theta * self.mask

class AddsAtOnce(Static):
    def start(self, run, cycle):
        super().start(run, cycle)
        run.model.net.register_forward_hook(lambda module, x, output: output + 10 * x[0].flatten(1)[:, :10])

class Steps(Static):
    def after_step(self, run):
        run.theta.grad = torch.ones_like(run.theta) * self.mask
        run.optimizer.step()

class Passes(Static):
    def before_step(self, run):
        x, y = run.batch
        run.theta.grad += torch.autograd.grad(F.cross_entropy(run.model(x), y), run.theta)[0]

class Says(Passes):
    def before_step(self, run):
        super().before_step(run)
        run.count_passes(1)

class Looks(Static):
    @torch.no_grad()
    def before_step(self, run):
        run.model(run.batch[0])

class Long(Static):
    def cycles(self, epochs):
        return [Cycle(epochs), Cycle(3 * epochs)]

class Wide(Static):
    retained = {"digits": dict(width=4.0, first_dense=True, allocation="uniform")}

class Own(Static):
    retained = {"digits": dict(allocation="uniform")}

class OfTheSuite(ProbMask):
    pass
'''


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("mine.py").write_text(FILE)
    return Store("results")


def made(store, name, epochs=4, seed=0, sparsity=0.9):
    return run(Spec("digits", f"mine.py:{name}", sparsity, seed, epochs=epochs), store)


def test_an_epoch_counts_only_where_the_network_is_as_sparse_as_its_mask(mine):
    row = made(mine, "DenseAtFirst", epochs=6)
    curves = record(mine, Spec("digits", "mine.py:DenseAtFirst", 0.9, 0, epochs=6))["curves"]
    assert curves[4]["val_top1"] > curves[5]["val_top1"] + 20 and row["status"] == "ok"
    assert (row["val_top1"], row["top1_best_val"]) == (curves[5]["val_top1"], row["top1"])


def test_weights_outside_the_mask_that_a_step_computes_with_are_paid_for(mine):
    assert made(mine, "Leaks")["train_flops_fraction"] == pytest.approx(1, abs=0.02)  # as dense; the mask cleared them before the first step
    assert made(mine, "Sleeps")["train_flops_fraction"] < 0.2


def test_counting_leaves_the_method_as_it_is(mine):
    task, options = settle(Spec("digits", "mine.py:Counts", 0.9, 0, epochs=1))
    trainer = Trainer(task, "mine.py:Counts", 0.9, 0, options, load(task.dataset, "data", task.validation))
    drawn = torch.get_rng_state()
    computed_with(trainer.model)
    assert torch.equal(torch.get_rng_state(), drawn) and (trainer.model.method.calls, float(trainer.model.method.seen)) == (0, 0)
    trainer.run()
    assert trainer.model.method.calls == trainer.model.method.seen == trainer.training.total_steps


def test_the_time_of_the_start_is_the_run_s(mine):
    assert made(mine, "Sleeps", epochs=1)["seconds"] > 0.5


def test_what_numpy_draws_follows_from_the_seed(mine):
    first, other = (timeless(made(store, "Draws", epochs=1)) for store in (mine, Store("again")))
    assert first == other and first["loss"] != made(mine, "Sleeps", epochs=1)["loss"]


def test_random_numbers_go_on_from_a_checkpoint(tmp_path):
    cpu = torch.device("cpu")
    torch.save(random_state(cpu), tmp_path / "state")

    def draw():
        return random.random(), numpy.random.rand(), numpy.random.randn(), float(torch.rand(1))
    drawn = draw()
    set_random_state(torch.load(tmp_path / "state", weights_only=True), cpu)
    assert draw() == drawn


def test_what_an_operation_says_of_nan_is_a_diverged_run(mine):
    row = made(mine, "Breaks", epochs=2)
    assert row["status"] == "diverged"
    assert row["error"].startswith("RuntimeError: ") and len(row["error"]) <= 300 and "\n" not in row["error"]
    row = made(mine, "Fails", epochs=2)
    assert (row["status"], row["error"]) == ("failed", "ValueError: on purpose")


def test_what_is_added_to_the_network_makes_no_row(mine):
    row = made(mine, "Adds", sparsity=0.98)
    assert row["status"] == "failed" and "RuntimeError: the plain network with these weights has " in row["error"]
    assert made(mine, "Sleeps", epochs=1)["status"] == "ok"


def test_the_plain_network_computes_what_the_trained_one_does(mine):
    task, options = settle(Spec("digits", "st3", 0.9, 0, epochs=3))
    trainer = Trainer(task, "st3", 0.9, 0, options, load(task.dataset, "data", task.validation)).run()
    split = trainer.data.test
    assert int(trainer.hits_on(split, plain(trainer))) == int(trainer.hits_on(split)) > len(split) / 5


@pytest.mark.parametrize("name, said", [
    ("Steps", "its hooks take 1 step of the optimiser besides the one of update"),
    ("Passes", "its hooks pass 1 batch through the network, which nothing counts: "),
    ("AddsAtOnce", "the plain network with these weights computes something else than the trained one: "),
    ("Long", "cycles() has one of 12 epochs where the recipe has 4, and the row would not say so: train longer with --epochs 12")])
def test_the_trial_names_what_no_column_would_say(mine, name, said):
    with pytest.raises(ValueError, match="mine.py:") as caught:
        dry_run(Spec("digits", f"mine.py:{name}", 0.9, 0, epochs=4), "data")
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["Says", "Looks", "Own", "OfTheSuite"])
def test_the_trial_lets_by_what_is_counted(mine, name):
    dry_run(Spec("digits", f"mine.py:{name}", 0.9, 0, epochs=4), "data")


def test_a_recipe_of_its_own_is_said_by_set(mine, capsys):
    words = ["run", "--task", "digits", "--method", "mine.py:Wide", "--sparsity", "0.9", "--epochs", "1"]
    assert main(words) == 2
    assert capsys.readouterr().err == ("error: mine.py:Wide: retained changes the recipe (width, first_dense), which its rows would not say: run it "
                                       "with --set, and keep options of the method alone there\n")
    assert settle(Spec("digits", "mine.py:Own", 0.9, 0))[1]["allocation"] == "uniform"


def test_other_variants_of_a_method_are_named(mine, capsys, monkeypatch):
    monkeypatch.setattr(own_methods, "rehearse", lambda *arguments: None)
    for gamma in ("0.5", "2.0"):
        run(Spec("digits", "gse_uniform", 0.9, 0, epochs=1, options={"gamma": gamma}), mine)
    words = ["leaderboard", "digits", "--method", "gse_uniform", "--sparsities", "0.9", "--epochs", "1", "--seeds", "1", "--set"]
    assert main([*words, "gamma=2.0"]) == 0
    assert "gse_uniform has rows with other options, too, which are not shown (gamma=0.5): of several, " in capsys.readouterr().err


def test_the_seed_of_a_run_is_pythons_too():
    drawn = []
    for _ in range(2):
        seed_all(0, "x")
        drawn.append((random.random(), numpy.random.rand(), float(torch.rand(1))))
        random.random()
    assert drawn[0] == drawn[1]


def test_active_weights_at_zero_are_computed_with():
    class Zeroes(get("static")):
        def forward(self, theta):
            return theta * 0
    model = SparseModel(nn.Linear(10, 10), Zeroes, 0.5)
    Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1).start()
    assert computed_with(model).tolist() == [50]

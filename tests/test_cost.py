"""The training costs against numbers that were computed by hand or published."""
from pathlib import Path

import pytest
import torch
from test_capture import recorder, state_of
from torch import nn

from benchmarks import cost, models
from benchmarks.data import load
from benchmarks.describe import describe
from benchmarks.grid import Spec
from benchmarks.tasks import settle
from benchmarks.train import Trainer
from methods import SparseModel

READS = '''
from methods import get
from methods.base import Cycle


class Quiet(get("static")):
    pass


class Reads(Quiet):
    def before_step(self, run):
        if run.step % 2:
            run.dense_gradient, run.dense_gradient


class Has(Reads):
    gradient = "dense"


class RigL(get("rigl")):
    pass


class TopKAST(get("topkast")):
    pass


class GSE(get("gse_uniform")):
    pass


class ReadsAll(RigL):
    def before_step(self, run):
        run.dense_gradient
        return super().before_step(run)


class ReadsBoth(RigL):
    def growth_score(self, run):
        run.dense_gradient
        return super().growth_score(run) + 0 * run.dense_gradient


class Formula(ReadsAll):
    def training_cost(self, sparse, dense):
        return 2.0


class Passes(Quiet):
    def after_step(self, run):
        run.loss(run.theta * self.mask, *run.batch)
        run.gradient(run.theta * self.mask, [run.batch])
        run.count_passes(3)


class Twice(Quiet):
    def cycles(self, epochs):
        return [Cycle(epochs, passes=2)]

    def after_step(self, run):
        run.loss(run.theta * self.mask, *run.batch)


class Dearer(get("movement")):
    def after_step(self, run):
        super().after_step(run)
        run.loss(run.theta * self.mask, *run.batch)


class Gathers(Quiet):
    def before_step(self, run):
        self.repeated(self.gather, run)

    def gather(self, run):
        run.dense_gradient
        run.count_passes(2)
'''


@pytest.mark.parametrize("every, scored", [(1, 2), (2, 1)])  # the ramp ends after half of the epochs
def test_batches_that_are_scored_in_training_are_counted(every, scored):
    task, options = settle(Spec("digits", "fisher_diag", 0.9, 0, epochs=4, options={"every": every, "gradients": 7}))
    trainer = Trainer(task, "fisher_diag", 0.9, 0, options, load(task.dataset, "data", task.validation)).run()
    macs = {f"{name}.weight": count for name, count in cost.layer_macs(trainer.model.export(), (1, 8, 8)).items()}
    with_scores, trainer.training.scored = cost.training_cost(trainer, macs), 0
    steps = 4 * trainer.training.steps_per_epoch
    assert with_scores / cost.training_cost(trainer, macs) == pytest.approx(1 + 7 * scored / steps)


def test_scores_before_the_first_step_are_not_counted():
    task, options = settle(Spec("digits", "snip", 0.9, 0, epochs=1))
    trainer = Trainer(task, "snip", 0.9, 0, options, load(task.dataset, "data", task.validation)).run()
    assert trainer.training.scored == 0


def test_dense_gradients_that_a_method_reads_are_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(READS)
    trainer = dict.fromkeys(("Quiet", "Reads", "Has"))
    for name in trainer:
        task, options = settle(Spec("digits", f"mine.py:{name}", 0.9, 0, epochs=2))
        trainer[name] = Trainer(task, f"mine.py:{name}", 0.9, 0, options, load(task.dataset, "data", task.validation)).run()
    macs = {f"{name}.weight": count for name, count in cost.layer_macs(trainer["Quiet"].model.export(), (1, 8, 8)).items()}
    quiet, reads, has = (cost.training_cost(trainer[name], macs) for name in trainer)
    steps = 2 * trainer["Reads"].training.steps_per_epoch
    assert reads - quiet == pytest.approx((steps // 2) / steps * (1 - quiet) / 3) and 0.1 < quiet < 0.2
    assert has == pytest.approx((2 * quiet + 1) / 3)  # whose every step has one, which reading does not make again


def test_what_a_method_of_somebodys_own_does_besides_a_formula_it_inherits_is_counted(tmp_path, monkeypatch):
    """All but the passes before the first step; a formula of its own says all."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(READS)
    costs = {}
    own = "RigL", "TopKAST", "GSE", "ReadsAll", "Formula", "Passes", "Twice", "Dearer"
    for method in ("static", "rigl", "topkast", "gse_uniform", "movement", *(f"mine.py:{name}" for name in own)):
        task, options = settle(Spec("digits", method, 0.9, 0, epochs=2))
        trainer = Trainer(task, method, 0.9, 0, options, load(task.dataset, "data", task.validation)).run()
        macs = {f"{name}.weight": count for name, count in cost.layer_macs(trainer.model.export(), (1, 8, 8)).items()}
        costs[method.rpartition(":")[2]] = cost.training_cost(trainer, macs)
    steps = 2 * trainer.training.steps_per_epoch
    assert costs["RigL"] == pytest.approx(costs["rigl"], rel=0.01) and costs["Formula"] == pytest.approx(2 / 3)
    assert costs["TopKAST"] == costs["topkast"] and costs["GSE"] == pytest.approx(costs["gse_uniform"], rel=0.02)  # another first graph
    assert costs["ReadsAll"] == pytest.approx(costs["static"] + (1 - costs["static"]) / 3, rel=0.02)
    assert costs["Passes"] == pytest.approx(costs["static"] * (1 + 5 * (steps - 1) / steps))
    assert costs["Dearer"] == pytest.approx(costs["movement"] * (1 + (steps - 1) / steps), rel=0.01)  # each by the formula that it inherits
    assert costs["Twice"] == pytest.approx(costs["static"] * (2 + (steps - 1) / steps))  # as much for a pass as for each of a step's two


@pytest.mark.parametrize("method, options, expected", [
    ("dense", {}, 0.3), ("static", {}, 0.3), ("gmp", {}, 0.3), ("str", {}, 0.3), ("st3", {"straight_through": False}, 0.3),
    ("st3", {}, 1.2), ("ste_hard", {}, 1.2), ("feather", {"theta": "0.5"}, 1.2), ("snfs", {}, 1.2), ("movement", {}, 1.2), ("spartan", {}, 1.2),
    ("topkast", {}, 0.4), ("topkast", {"gamma": 0.5}, 0.35), ("topkast", {"gamma": 20.0}, 1.2)])  # of the trained weights, never more than all
def test_what_a_step_costs(method, options, expected):
    """Forward and inputs' gradients sparse, the weights' gradients of active ones or of all; sparse is a tenth of dense."""
    net = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 10))
    found = SparseModel(net, method, 0.8 * (method != "dense"), **options).method.training_cost(0.1, 1.0)
    assert found == pytest.approx(expected)


def test_what_a_step_of_probmask_costs():
    """In 600 of 620 passes probabilities learn, from the gradients of all weights."""
    method = SparseModel(nn.Linear(20, 30), "probmask", 0.8).method
    assert [(cycle.epochs, cycle.passes) for cycle in method.cycles(300)] == [(300, 2), (20, 1)]
    assert method.training_cost(0.1, 1.0) == pytest.approx(0.2 + 600 / 620 + 0.1 * 20 / 620)


@pytest.mark.parametrize("method, options, scored, dense", [
    ("gse_uniform", {}, 4, 0), ("gse_grabo", {}, 4, 0), ("gse_uniform", {"gamma": 2.0}, 4 * 4 / 3, 0), ("gse_uniform", {"gamma": 0.25}, 3, 0),
    ("gse_uniform", {"score_batches": "train_batch"}, 2, 0), ("granet_gse", {}, 3, 0), ("granet", {}, 0, 3), ("srigl", {}, 0, 2),
    ("rigl", {}, 0, 2), ("rigl", {"score_batches": "ceil10"}, 4, 4), ("set", {}, 0, 0),
    ("gse_uniform", {"storage": "sparse", "gamma": 2.0}, 4 * 4 / 3, 0), ("gse_grabo", {"storage": "sparse"}, 8, 0),  # two passes, less memory
    ("rigl", {"storage": "sparse"}, 2, 2), ("rigl", {"storage": "sparse", "score_batches": "ceil10"}, 4, 4), ("set", {"storage": "sparse"}, 0, 0)])
def test_what_growth_costs(method, options, scored, dense):
    """In 38 steps, after every tenth: two updates (GraNet's: three, to the end), each scored on two batches unless on the step's own."""
    task, settled = settle(Spec("digits", method, 0.9, 0, epochs=2, options=options))
    trainer = Trainer(task, method, 0.9, 0, settled, load(task.dataset, "data", task.validation)).run()
    assert (trainer.training.total_steps, trainer.training.scored) == (38, pytest.approx(scored)) and trainer.training.dense_steps == dense
    macs = {f"{name}.weight": count for name, count in cost.layer_macs(trainer.model.export(), (1, 8, 8)).items()}
    found, trainer.training.scored, trainer.training.dense_steps = cost.training_cost(trainer, macs), 0, 0
    steps = cost.training_cost(trainer, macs)  # of a static mask of these sizes
    assert found == pytest.approx(steps * (1 + scored / 38) + dense / 38 * (1 - steps) / 3)


def test_dense_gradients_of_fresh_batches_count_beside_the_step_s_own(tmp_path, monkeypatch):
    """In each of two updates those of two batches; what is read of the step's own, before and after, is there with them."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(READS)
    for score_batches, dense in (("train_batch", 2), ("ceil10", 6)):
        task, options = settle(Spec("digits", "mine.py:ReadsBoth", 0.9, 0, epochs=2, options={"score_batches": score_batches}))
        trainer = Trainer(task, "mine.py:ReadsBoth", 0.9, 0, options, load(task.dataset, "data", task.validation)).run()
        assert trainer.training.dense_steps == dense


def test_what_a_recorded_part_reads_and_passes_is_counted_at_each_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(READS)
    task, options = settle(Spec("digits", "mine.py:Gathers", 0.9, 0, epochs=1))
    trainer = Trainer(task, "mine.py:Gathers", 0.9, 0, options, load(task.dataset, "data", task.validation),
                      record=recorder(lambda: state_of(trainer)))
    trainer.run()
    steps, (captured, *_), = trainer.training.total_steps, *trainer.repeated.recorded.values()
    assert captured.replay and (trainer.training.dense_steps, trainer.training.scored) == (steps, 2 * (steps - 1))


class Tied(nn.Module):
    """Two layers that have one weight, an expansion and the last layer."""

    def __init__(self, classes):
        super().__init__()
        self.up, self.a, self.b, self.last = nn.ConvTranspose2d(1, 2, 2, 2), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(512, classes)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.last(self.b(self.a(self.up(x))).relu().flatten(1))


def test_each_use_of_a_weight_is_counted_at_its_density(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tied", Tied)
    task, options = settle(Spec("digits", "static", 0.75, 0, epochs=1, options={"model": "tied", "allocation": "uniform"}))
    data = load(task.dataset, "data", task.validation)
    trainer = Trainer(task, "static", 0.75, 0, options, data).run()
    row, layers = describe(Spec("digits", "static", 0.75, 0), task, trainer, 1, "ok", "")
    dense = {"up.weight": 64 * 2 * 4, "a.weight": 2 * 32 * 16 * 16, "last.weight": 512 * 10}  # 16 numbers in 2 · 16 rows, twice
    assert row["dense_macs"] == sum(dense.values()) and {line["layer"]: line["macs"] for line in layers} == {name: n / 4 for name, n in dense.items()}
    assert row["macs"] == sum(dense.values()) / 4 and row["train_flops_fraction"] == pytest.approx(0.25)


def test_every_pass_of_a_step_is_counted(monkeypatch):
    """ProbMask takes two in training and one in fine-tuning."""
    task, options = settle(Spec("digits", "probmask", 0.9, 0, epochs=2))
    trainer = Trainer(task, "probmask", 0.9, 0, options, load(task.dataset, "data", task.validation))
    passes, made = [], trainer.network.forward
    monkeypatch.setattr(trainer.network, "forward", lambda x: passes.append(trainer.model.training) or made(x))
    trainer.model.layer_nnz = lambda: torch.tensor(trainer.model.layout.sizes)  # all weights, and so the cost of dense passes
    trainer.run()
    macs = {f"{name}.weight": count for name, count in cost.layer_macs(trainer.model.export(), (1, 8, 8)).items()}
    steps = trainer.training.steps_per_epoch
    assert sum(passes) == steps * (2 * 2 + 1) and cost.training_cost(trainer, macs) == pytest.approx((2 * 2 + 1) / 2)


def test_the_densities_of_an_epoch_are_those_of_its_steps():
    """Of an epoch in which most weights go, eight samples say within 3 % what all steps cost."""
    task, options = settle(Spec("digits", "gmp", 0.9, 0, epochs=1, options={"ramp_end": 1.0}))
    trainer = Trainer(task, "gmp", 0.9, 0, options, load(task.dataset, "data", task.validation))
    seen, step = [], trainer.step
    trainer.step = lambda x, y: seen.append(trainer.model.layer_nnz()) or step(x, y)
    trainer.run()
    macs = {f"{name}.weight": count for name, count in cost.layer_macs(trainer.model.export(), (1, 8, 8)).items()}
    sampled, trainer.nnz_sum, trainer.progress.passes = cost.training_cost(trainer, macs), torch.stack(seen).sum(0), len(seen)
    trainer.progress.samples = len(seen)
    assert sampled == pytest.approx(cost.training_cost(trainer, macs), rel=0.03) and 0.3 < sampled < 0.7

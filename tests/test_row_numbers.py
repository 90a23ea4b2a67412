"""What a row's numbers are of: the best epoch, means over images, the costs of all layers, and the run's own memory."""
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stored import SPEC, record
from torch.nn.functional import cross_entropy

from benchmarks import machine
from benchmarks import run as runner
from benchmarks.data import load
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.tasks import get_task


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_first_and_last_layer_dense(tmp_path, storage):
    options = {"first_dense": "true", "last_dense": "true", "storage": storage, "init": "sparse"}
    store = Store(tmp_path)
    spec = Spec("digits", "static", 0.9, 0, 1, options=options)
    row, layers = runner.run(spec, store), record(store, spec)["layers"]
    first, last = 16 * 9, 10 * 32
    assert (row["status"], row["prunable"]) == ("ok", 19_408 - first - last)
    assert row["nnz"] == round(row["prunable"] * 0.1)
    assert len(layers) == 5 and not {"conv.weight", "fc.weight"} & {line["layer"] for line in layers}
    # every pixel of 8x8 meets the first layer, one vector the last; static trains with masked gradients: one cost throughout
    assert row["macs"] == sum(line["macs"] for line in layers) + 64 * first + last
    assert row["train_flops_fraction"] == pytest.approx(row["macs"] / row["dense_macs"], rel=1e-3)


@pytest.mark.parametrize("storage", ["masked", "sparse"])
def test_dense_ends_decay_like_the_other_weights(storage):
    task = replace(get_task("digits"), last_dense=True, storage=storage)
    trainer = runner.Trainer(task, "static", 0.9, 0, {}, load("digits", "data"))
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    net = trainer.model.net
    assert (trainer.model.theta.numel() < trainer.model.layout.size) == (storage == "sparse")
    assert decays[id(net.fc.weight)] == decays[id(trainer.model.theta)] == 1e-4 and decays[id(net.bn.weight)] == 0


def test_best_epoch_is_the_best_on_validation_after_the_final_sparsity(tmp_path, monkeypatch):
    val, test = (95, 90, 80, 85, 70), (11, 22, 33, 44, 55)  # of each epoch; the ramp ends in the third of five

    def percent(trainer, hits, split):
        return float((val if split is trainer.data.val else test)[trainer.progress.epoch])
    monkeypatch.setattr(runner.Trainer, "percent", percent)
    row = runner.run(replace(SPEC, epochs=5), Store(tmp_path))
    assert (row["val_top1"], row["top1_best_val"], row["top1"]) == (85, 44, 55)
    row = runner.run(replace(SPEC, method="dense", epochs=5), Store(tmp_path))
    assert (row["val_top1"], row["top1_best_val"], row["top1"]) == (95, 11, 55)


@pytest.mark.parametrize("val", [(95, 90, 85, 85, 70), (95, 90, 80, 70, 85)])
def test_of_equally_good_epochs_the_first_counts(tmp_path, monkeypatch, val):
    test = (11, 22, 33, 44, 55)
    monkeypatch.setattr(runner.Trainer, "percent", lambda trainer, hits, split: float(
        (val if split is trainer.data.val else test)[trainer.progress.epoch]))
    row = runner.run(replace(SPEC, epochs=5), Store(tmp_path))
    assert (row["val_top1"], row["top1_best_val"]) == (85, test[val.index(85)])


def test_without_validation_the_last_epoch_alone_counts(tmp_path):
    row = runner.run(replace(SPEC, epochs=1, options={"validation": "false"}), Store(tmp_path))
    assert row["status"] == "ok" and row["top1"] > 5 and row["val_top1"] is None and math.isnan(row["top1_best_val"])


def test_the_best_epoch_of_a_level_is_one_of_its_own_cycle(tmp_path, monkeypatch):
    val, test = (90, 80, 70), (11, 22, 33)  # of each cycle
    monkeypatch.setattr(runner.Trainer, "percent", lambda trainer, hits, split: float(
        (val if split is trainer.data.val else test)[trainer.progress.cycle]))
    store = Store(tmp_path)
    runner.run(Spec("digits", "lrr", 0.5, 0, epochs=2, options={"level_list": "0,0.25,0.5"}), store)
    found = {row["sparsity"]: (row["val_top1"], row["top1_best_val"]) for row in store.rows("digits").values()}
    assert found == {0: (90, 11), 0.25: (80, 22), 0.5: (70, 33)}


@pytest.mark.parametrize("drop_last, sizes", [(False, [800, 397]), (True, [800])])
def test_an_epochs_loss_and_accuracy_are_means_over_images(monkeypatch, drop_last, sizes):
    """Not over batches, whose last one is smaller or left out; with a learning rate that moves nothing."""
    task = replace(get_task("digits"), batch_size=800, lr=1e-12, epochs=1, drop_last=drop_last)
    trainer, batches, step = runner.Trainer(task, "dense", 0.0, 0, {}, load("digits", "data")), [], runner.Trainer.step
    monkeypatch.setattr(runner.Trainer, "step", lambda self, x, y: batches.append((x, y)) or step(self, x, y))
    trainer.run()
    trainer.model.train()
    scores = [(trainer.model(x), y) for x, y in batches]
    loss = sum(cross_entropy(score, y, reduction="sum").item() for score, y in scores) / sum(sizes)
    hits = sum((score.argmax(1) == y).sum().item() for score, y in scores)
    curve, = trainer.progress.curves
    assert [len(y) for _, y in scores] == sizes and trainer.training.steps_per_epoch == len(sizes)
    assert curve["train_loss"] == pytest.approx(loss, rel=1e-5)
    assert curve["train_top1"] == pytest.approx(100 * hits / sum(sizes))


def test_each_epoch_has_its_own_loss_and_accuracy():
    trainer = runner.Trainer(replace(get_task("digits"), epochs=2), "static", 0.9, 0, {}, load("digits", "data"))
    steps = []
    for _ in trainer.steps(within=lambda run: steps.append((run.progress.done, run.loss_sum.item(), run.hits.item()))):
        pass
    for epoch, line in enumerate(trainer.progress.curves):
        within = [(loss, hits) for done, loss, hits in steps if done == epoch]
        assert within[0][0] < 128 * 3 and within[0][1] <= 128  # of one batch
        assert (line["train_loss"], line["train_top1"]) == pytest.approx((within[-1][0] / 1197, 100 * within[-1][1] / 1197))


def test_static_cost_is_its_share_of_the_macs(tmp_path):
    row = runner.run(Spec("digits", "static", 0.9, 0, epochs=1), Store(tmp_path))
    assert row["train_flops_fraction"] == pytest.approx(row["macs"] / row["dense_macs"], rel=1e-3)
    assert row["nnz"] == 1941


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a process's peak")
def test_a_run_does_not_count_what_the_one_before_has_freed():
    code = """
import torch
from benchmarks.machine import one_core, peak_memory, reset_peak_memory
cpu = torch.device("cpu")
one_core()
reset_peak_memory(cpu)
before = peak_memory(cpu)
parts = [torch.ones(2 ** 18) for _ in range(400)]
during = peak_memory(cpu)
del parts
reset_peak_memory(cpu)
print(during - before > 300, peak_memory(cpu) - before < 100)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_where_a_peak_stays_for_ever_it_is_no_run_s_own(monkeypatch):
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    assert machine.peak_memory(torch.device("cpu")) is None

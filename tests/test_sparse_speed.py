"""The bookkeeping of the measurements of sparse storage, on digits. No time is tested."""
import csv
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks import sparse_growth, sparse_speed, sparse_training
from benchmarks.gpu.capture import ANEW
from benchmarks.records import write_table
from methods import SparseModel
from methods.sparse.conv import SparseConv
from methods.sparse.edges import merged
from methods.sparse.linear import gradients
from methods.sparse.pattern import Pattern

SMALL = ["--widths", "0.0625", "--device", "cpu"]


def measured(folder, module, *words):
    rounds = ["--rounds", "1"] * (module is not sparse_training)  # which trains as often as there are seeds
    assert module.main([*SMALL, *rounds, "--results", str(folder), *words]) == 0
    with open(folder / "performance" / f"{module.__name__.partition('.')[2]}.csv", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == module.COLUMNS
    return rows


def test_steps(tmp_path):
    words = ["--tasks", "digits-mlp", "--steps", "1", "--update-rounds", "1"]
    rows = measured(tmp_path, sparse_speed, *words, "--sparsities", "0.9", "0.95")
    found = {(row["sparsity"], row["storage"]): row for row in rows}
    assert set(found) == {(s, m) for s in ("0.9", "0.95") for m in ("masked", "sparse", "auto")} and len(rows) == 6
    for row in rows:
        assert all(row[name] for name in sparse_speed.COLUMNS if name != "dense_layers")
        assert (row["storage"] == "auto") == bool(row["dense_layers"])
        assert int(row["prunable"]) == 64 * (64 + 64 + 10)
        assert 0 < float(row["state_mb"]) < float(row["peak_mb"]) and float(row["update_ms"]) > 0
    masked = found["0.9", "masked"]
    assert masked["ratio"] == "1.0"
    # weights, gradient and momentum in 4 bytes, a mask in one, besides 138 biases
    assert float(masked["state_mb"]) == pytest.approx((13 * 8832 + 12 * 138) / 2**20, abs=2e-3)
    assert float(found["0.95", "sparse"]["state_mb"]) < float(found["0.9", "sparse"]["state_mb"])
    masked["step_ms"] = "-1"
    write_table(tmp_path / "performance" / "sparse_speed.csv", sparse_speed.COLUMNS, rows)
    again = measured(tmp_path, sparse_speed, *words, "--sparsities", "0.95")
    assert len(again) == 6 and [row["step_ms"] for row in again].count("-1") == 1
    more = measured(tmp_path, sparse_speed, *words, "--sparsities", "0.95", "--precision", "bf16", "--storages", "masked", "sparse")
    assert [row["precision"] for row in more if row["sparsity"] == "0.95"] == ["bf16"] * 2 + ["fp32"] * 3  # beside those in fp32


def test_steps_are_timed_with_as_many_weights_as_the_row_says(tmp_path, monkeypatch):
    """GSE's first graph has fewer, which its first update adds."""
    counts, times, entrant = {}, sparse_speed.timed, sparse_speed.entrant

    def timed(entrants, group, rounds):
        counts[group] = {storage: int(made.trainer.model.layer_nnz().sum()) for storage, made in entrants.items()}
        return times(entrants, group, rounds)
    monkeypatch.setattr(sparse_speed, "timed", timed)
    recipe = dict(interval=5, allocation="er_gse", scope="global")  # as of GSE's own tasks, with updates in time
    monkeypatch.setattr(sparse_speed, "entrant", lambda *given, **options: entrant(*given, **options, **recipe))
    rows = measured(tmp_path, sparse_speed, "--tasks", "digits-mlp", "--steps", "1", "--update-rounds", "1", "--sparsities", "0.5")
    assert counts["ordinary"] == {row["storage"]: int(row["nnz"]) for row in rows} == dict.fromkeys(("masked", "sparse", "auto"), 4416)
    assert counts["update"] == dict.fromkeys(("masked", "sparse", "auto"), 4066)


def test_masked_steps_are_recorded_as_those_of_runs_but_for_their_memory(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(sparse_speed, "recorder", lambda task, device: ANEW if task.storage == "masked" else None)
    monkeypatch.setattr(sparse_speed, "state_bytes", lambda trainer, real=sparse_speed.state_bytes: kept.append(trainer.record) or real(trainer))
    times = sparse_speed.timed
    monkeypatch.setattr(sparse_speed, "timed", lambda entrants, *rest: (
        kept.append({name: made.trainer.record for name, made in entrants.items()}), times(entrants, *rest))[1])
    measured(tmp_path, sparse_speed, "--tasks", "digits-mlp", "--steps", "1", "--update-rounds", "0", "--sparsities", "0.9", "--storages", "masked",
             "sparse")
    assert kept == [{"masked": ANEW, "sparse": None}, None, None]


def test_state_holds_what_a_convolution_keeps():
    model = SparseModel(nn.Conv2d(64, 64, 3), "static", 0.9, storage="sparse")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    made = SimpleNamespace(model=model, optimizer=optimizer)
    before = sum(sparse_speed.state_bytes(made))
    model(torch.randn(1, 64, 6, 6)).sum().backward()
    kept = model.layers[0][0].pattern.known[0][1]
    assert sum(sparse_speed.state_bytes(made)) - before == sum(t.nbytes for t in kept) > 12 * len(model.theta)
    optimizer.step()
    # keys in 8 bytes; a weight, its gradient, its momentum and three places in 4, besides 64 biases and where rows begin
    assert sum(sparse_speed.state_bytes(made)) == pytest.approx(32 * len(model.theta), rel=0.02)


def test_peak_is_of_what_is_allocated_at_one_time():
    def work():
        for _ in range(3):
            a = torch.empty(1000)
            b = torch.empty(500)
            del a, b
    assert sparse_speed.peak_bytes(work, torch.device("cpu")) == pytest.approx(6000, abs=200)


def test_the_record_has_what_a_backward_pass_and_sorting_allocate():
    pattern, x, cpu = Pattern(torch.arange(0, 2**20, 8), (1024, 1024)), torch.randn(64, 1024), torch.device("cpu")
    values, keys = torch.randn(pattern.nnz), torch.arange(2**16)
    conv = nn.Conv2d(64, 256, 3)
    layer = SparseConv(conv, conv.weight.shape)
    images, delta, dense = torch.randn(1, 64, 4, 4), torch.randn(1, 256, 2, 2), layer.pattern_of(torch.arange(conv.weight.numel()))
    # a gradient, the values in another order and their products
    assert sparse_speed.peak_bytes(lambda: gradients(x, x, values, pattern), cpu) > 3 * 4 * pattern.nnz
    layer.sampled(dense, images, delta)
    assert sparse_speed.peak_bytes(lambda: layer.sampled(dense, images, delta), cpu) > 4 * 4 * dense.nnz
    assert sparse_speed.peak_bytes(lambda: merged(keys, keys + len(keys)), cpu) >= 2 * 16 * len(keys)


def test_growth(tmp_path):
    rows = measured(tmp_path, sparse_growth, "--nnz", "500", "800", "--wide", "0.125", "--batch-size", "32")
    gse = ("gse_uniform", "gse_grabo", "gse_graest")
    assert {(row["method"], row["width"], row["nnz"]) for row in rows} == {
        *((method, "64", "500") for method in (*gse, "rigl")), *((method, "128", "800") for method in gse)}
    assert all(float(row["update_ms"]) > 0 < float(row["peak_mb"]) for row in rows)


def test_training(tmp_path):
    rows = measured(tmp_path, sparse_training, "--tasks", "digits-mlp", "--first-seed", "4", "--seeds", "1", "--epochs", "1", "--sparsities", "0.9")
    assert [(row["storage"], row["seed"]) for row in rows] == [("masked", "4"), ("sparse", "4")]
    assert all(row["top1"] and bool(row["peak_memory_mb"]) == (sys.platform == "linux") and row["epochs"] == "1" for row in rows)
    assert rows[0]["nnz"] == rows[1]["nnz"]


def test_bad_arguments(tmp_path, capsys):
    for words in (["--rounds", "0"], ["walk"], ["--tasks", "digit"], ["--sparsities", "2", "--tasks", "digits"]):
        assert sparse_speed.main([*words, "--results", str(tmp_path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert sparse_training.main(["--first-seed", "-1"]) == 2 and "--first-seed must be at least 0, not -1" in capsys.readouterr().err

"""From a specification to a stored row, end to end on digits: storing, collecting, damage, resuming."""
import json
import math
import re
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from stored import SPEC, WORDS, record, table, timeless

from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.checkpoint import Stopped
from benchmarks.cost import layer_macs
from benchmarks.grid import Spec
from benchmarks.models import build
from benchmarks.records import RUN_COLUMNS, TABLES, write_table
from benchmarks.results import Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(store, row) of one finished run; tests work on copies."""
    store = Store(tmp_path_factory.mktemp("results"))
    return store, runner.run(SPEC, store)


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished[0].folder, tmp_path / "results")
    return Store(tmp_path / "results")


# ---- one run, one row

def test_row(finished):
    store, row = finished
    macs = layer_macs(build("resnet8_digits", 10), (1, 8, 8))
    assert list(record(store)["runs"][0]) == RUN_COLUMNS and set(row) == set(RUN_COLUMNS)
    identity = {"key": SPEC.key, "suite": "digits", "task": "digits", "dataset": "digits", "model": "resnet8_digits",
                "method": "st3", "options": "", "sparsity": 0.9, "seed": 0, "epochs": 2, "cycles": 1, "precision": "fp32",
                "status": "ok", "error": ""}
    assert {name: row[name] for name in identity} == identity
    assert row["prunable"] == 19_408
    assert row["nnz"] == 19_408 - math.floor(19_407 * 0.9) - 1
    assert row["achieved_sparsity"] == 1 - row["nnz"] / 19_408 and row["zeros"] == 19_408 - row["nnz"]
    assert row["parameters"] == sum(parameter.numel() for parameter in build("resnet8_digits", 10).parameters()) > 19_408
    assert row["dense_macs"] == sum(macs.values()) > 5 * row["macs"] > 0
    assert 0.3 < row["train_flops_fraction"] < 1  # the weight gradient is dense, a third of the cost
    assert all(0 <= row[name] <= 100 for name in ("top1", "top1_best_val", "val_top1")) and row["top1"] > 15
    assert row["loss"] > 0 and row["seconds"] > 0 and row["step_ms"] > 0
    assert row["peak_memory_mb"] > 50 if sys.platform == "linux" else row["peak_memory_mb"] is None
    assert row["device"] and row["torch_version"] and row["code_version"] and row["finished_at"].endswith("+00:00")


def test_curves_and_layers(finished):
    store, row = finished
    curves, layers = record(store)["curves"], record(store)["layers"]
    assert [line["epoch"] for line in curves] == [0, 1] and all(set(line) == set(TABLES["curves"]) for line in curves)
    assert curves[-1]["sparsity"] == row["achieved_sparsity"] and curves[-1]["train_loss"] == row["loss"]
    assert curves[-1]["test_top1"] == row["top1"]
    assert [line["lr"] for line in curves] == pytest.approx([0.1, 0.001])
    final = [line for line in curves if line["sparsity"] >= row["achieved_sparsity"]]
    best = max(final, key=lambda line: line["val_top1"])
    assert (row["val_top1"], row["top1_best_val"]) == (best["val_top1"], best["test_top1"])
    macs = layer_macs(build("resnet8_digits", 10), (1, 8, 8))
    assert [line["layer"] for line in layers] == [name + ".weight" for name in macs]
    assert sum(line["nnz"] for line in layers) == row["nnz"] and sum(line["macs"] for line in layers) == row["macs"]
    for line in layers:
        size = math.prod(map(int, line["shape"].split("x")))
        assert line["macs"] == round(macs[line["layer"].removesuffix(".weight")] * line["nnz"] / size)


def test_same_spec_gives_the_same_row(finished, tmp_path):
    store = Store(tmp_path)
    assert timeless(runner.run(SPEC, store)) == timeless(finished[1])
    again, first = record(store), record(finished[0])
    assert str(again["curves"]) == str(first["curves"])  # as text, for NaN is not NaN
    assert again["layers"] == first["layers"]
    other = runner.run(Spec("digits", "st3", 0.9, 1, epochs=2), store)
    assert other["loss"] != finished[1]["loss"]


def test_a_run_that_has_a_row_is_not_made_again(copied, capsys, monkeypatch):
    monkeypatch.setattr(runner, "run", lambda *a, **k: pytest.fail("was run again"))
    assert main([*WORDS, "--results", str(copied.folder)]) == 0
    assert "is done already" in capsys.readouterr().out
    copied.collect("digits")
    (copied.runs / f"{SPEC.key}.json").unlink()
    assert main([*WORDS, "--out", str(copied.folder)]) == 0  # collected is done too
    assert "is done already" in capsys.readouterr().out
    for device in ("warp", "cuda:99"):  # nonsense stays nonsense
        assert main([*WORDS, "--out", str(copied.folder), "--device", device]) == 2 and device in capsys.readouterr().err


def test_options_of_method_and_task_are_in_the_key_only_if_they_differ(copied, capsys):
    for extra in (["--set", "rescale=smoothed"], ["--set", "lr=0.1"], ["--precision", "fp32"]):
        assert main([*WORDS, *extra, "--results", str(copied.folder)]) == 0
        assert f"{SPEC.key} is done already" in capsys.readouterr().out
    assert main([*WORDS, "--set", "rescale=off", "--set", "lr=0.05", "--results", str(copied.folder)]) == 0
    assert sorted(row["options"] for row in copied.rows("digits").values()) == ["", "lr=0.05 rescale=off"]


def test_a_run_of_several_levels_gives_a_row_for_each(tmp_path):
    spec = Spec("digits", "lrr", 0.5, 0, epochs=1, options={"level_list": "0,0.25,0.5"})
    store = Store(tmp_path)
    assert runner.run(spec, store)["key"] == spec.key
    rows = store.rows("digits")
    for cycle, sparsity in enumerate((0, 0.25, 0.5)):
        row = rows.pop(replace(spec, sparsity=sparsity).key)
        kept = 19_408 - math.floor(19_407 * sparsity) - 1 if sparsity else 19_408
        assert (row["status"], row["sparsity"], row["nnz"], row["cycles"]) == ("ok", sparsity, kept, cycle + 1)
    assert not rows
    assert store.collect("digits") == 3 and len(table(store, "curves")) == 3


# ---- damage

def changed(text, **columns):
    record = json.loads(text)
    del record["checksum"]  # as in rows of before there was one
    record["runs"][0].update(columns)
    return record


DAMAGES = {
    "empty": lambda text: "",
    "one digit changed": lambda text: re.sub(r"(?<=\d)\.(?=\d)", "", text, count=1),
    "cut": lambda text: text[:len(text) // 2],
    "text": lambda text: "hello",
    "null": lambda text: "null",
    "list": lambda text: "[]",
    "no rows": lambda text: json.dumps(changed(text) | {"runs": []}),
    "no curves": lambda text: json.dumps({"runs": changed(text)["runs"]}),
    "unknown column": lambda text: json.dumps(changed(text, more=1)),
    "of another run": lambda text: json.dumps(changed(text, key="0" * 12)),
    "unknown status": lambda text: json.dumps(changed(text, status="perhaps")),
    "binary": lambda text: "\udcff\x00\udcfe" * 50,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_is_named_and_left_out(copied, damage, capsys):
    path = copied.runs / f"{SPEC.key}.json"
    path.write_text(DAMAGES[damage](path.read_text()), errors="surrogateescape")
    assert copied.rows("digits") == {}
    assert copied.collect("digits") == 0
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(str(path) in line and "damaged" in line for line in errors)


def test_a_damaged_row_is_made_again(copied, capsys):
    path = copied.runs / f"{SPEC.key}.json"
    whole = record(copied)
    path.write_bytes(path.read_bytes()[:100])
    assert main([*WORDS, "--results", str(copied.folder)]) == 0
    assert "damaged" in capsys.readouterr().err
    assert timeless(record(copied)["runs"][0]) == timeless(whole["runs"][0])


def test_what_is_no_number_is_an_empty_cell(tmp_path):
    write_table(tmp_path / "table.csv", ["a", "b"], [{"a": math.nan, "b": 1}])
    assert (tmp_path / "table.csv").read_text() == "a,b\n,1\n"


def test_collect_joins_and_is_idempotent(copied):
    other = runner.run(Spec("digits", "static", 0.98, 1, epochs=1), copied)
    key = replace(SPEC, seed=7).key
    failed = {"key": key, "status": "failed", "error": 'a "quoted", text', "seed": 7, "top1": None}
    copied.write({**record(copied)["runs"][0], **failed})
    assert copied.collect("digits") == 3
    def read():
        return {path.name: path.read_bytes() for path in (copied.folder / "digits").glob("*.csv")}

    files = read()
    assert set(files) == {"runs.csv", "curves.csv", "layers.csv"}  # nothing was counted for switches.csv
    rows = {row["key"]: row for row in table(copied, "runs")}
    assert list(rows[SPEC.key]) == RUN_COLUMNS and set(rows) == {SPEC.key, other["key"], key}
    assert float(rows[other["key"]]["top1"]) == other["top1"] and int(rows[other["key"]]["nnz"]) == other["nnz"]
    assert rows[key]["error"] == 'a "quoted", text' and rows[key]["top1"] == ""
    assert [line["key"] for line in table(copied, "curves")].count(SPEC.key) == 2
    assert {line["key"] for line in table(copied, "layers")} == {SPEC.key, other["key"]}
    for name in ("curves", "layers"):  # in the order of their runs, so that a new one changes no other line
        assert list(dict.fromkeys(line["key"] for line in table(copied, name))) == [SPEC.key, other["key"]]
    assert copied.collect("digits") == 3
    assert files == read()
    for path in copied.runs.iterdir():
        path.unlink()
    assert copied.collect("digits") == 3 and set(copied.rows("digits")) == set(rows)
    assert files == read()
    assert copied.rows("cifar10") == {} and copied.collect("cifar10") == 0


# ---- interruption

def interrupted(store, spec, steps):
    asked = []  # before the first step, too
    with pytest.raises(Stopped):
        runner.run(spec, store, stop=lambda: asked.append(1) or len(asked) > steps)
    assert store.checkpoint(spec.key).exists() and store.rows("digits") == {}


@pytest.mark.parametrize("made", [1, 12, 19, 30, 38])  # of two epochs of 19
def test_an_interrupted_run_goes_on_and_gives_the_same_row(finished, tmp_path, monkeypatch, made):
    store = Store(tmp_path)
    interrupted(store, SPEC, made + (made > 19))  # it is asked once more between the epochs
    steps = []
    step = runner.Trainer.step
    monkeypatch.setattr(runner.Trainer, "step", lambda self, x, y: steps.append(1) or step(self, x, y))
    row = runner.run(SPEC, store)
    assert len(steps) == 38 - made
    assert timeless(row) == timeless(finished[1])
    assert str(record(store)["curves"]) == str(record(finished[0])["curves"])
    assert not list(store.runs.glob("*.p*t*"))  # no checkpoint, no part of one


def test_a_run_that_goes_on_elsewhere_names_both_places(tmp_path, capsys):
    store = Store(tmp_path)
    interrupted(store, SPEC, 12)
    state = torch.load(store.checkpoint(SPEC.key), weights_only=True)
    here = {column: values[:] for column, values in state["progress"]["origins"].items()}
    state["progress"]["origins"].update(device=["another machine"], code_version=["1234567890"])
    torch.save(state, store.checkpoint(SPEC.key))
    row = runner.run(SPEC, store)
    assert [row["torch_version"]] == here["torch_version"]
    assert row["device"] == "another machine; " + here["device"][0] and row["code_version"] == "1234567890; " + here["code_version"][0]
    assert main(["status", "digits", "--methods", "st3", "--sparsities", "0.9", "--seeds", "1", "--epochs", "2", "--results", str(tmp_path)]) == 0
    assert "1 run went on with another version of the code than begun with, as code_version says" in capsys.readouterr().out


def test_a_run_that_is_asked_to_stop_while_it_is_set_up_makes_no_step(tmp_path, monkeypatch):
    store, asked, steps = Store(tmp_path), [], []
    step = runner.Trainer.step
    monkeypatch.setattr(runner.Trainer, "step", lambda self, x, y: steps.append(1) or step(self, x, y))
    run = runner.steps(SPEC, store, "data", torch.device("cpu"), lambda: bool(asked))
    assert next(run) == 0
    asked.append(1)
    with pytest.raises(Stopped):
        next(run)
    assert not steps and not list(store.runs.glob("*"))
    interrupted(store, SPEC, 12)
    before = store.checkpoint(SPEC.key).read_bytes()
    run = runner.steps(SPEC, store, "data", torch.device("cpu"), lambda: True)
    assert next(run) == pytest.approx(12 / 38)
    with pytest.raises(Stopped):
        next(run)
    assert len(steps) == 12 and store.checkpoint(SPEC.key).read_bytes() == before


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:len(whole) // 2], lambda whole: b"garbage" * 100])
def test_a_damaged_checkpoint_is_named_and_the_run_starts_anew(finished, tmp_path, monkeypatch, capsys, damage):
    store = Store(tmp_path)
    interrupted(store, SPEC, 19)
    path = store.checkpoint(SPEC.key)
    path.write_bytes(damage(path.read_bytes()))
    row = runner.run(SPEC, store)
    assert f"{path} is damaged" in capsys.readouterr().out
    assert timeless(row) == timeless(finished[1])

"""Rows that no run of this version wrote: odd values, another run's key, other columns, and files that are none."""
import json
import os
from dataclasses import replace

import pandas
import pytest
from stored import ROOT, SPEC, WORDS, table

from benchmarks import results
from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.grid import Spec, names_key
from benchmarks.method_files import digest, mark
from benchmarks.records import RUN_COLUMNS, sealed, write_table
from benchmarks.results import Store, StoreError

COMMANDS = [*WORDS], ["collect", "digits"], ["status", "digits", "--methods", "st3"]
VERSION = "another version of the suite wrote it"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The text of a finished row's file."""
    store = Store(tmp_path_factory.mktemp("made"))
    runner.run(SPEC, store)
    return (store.runs / f"{SPEC.key}.json").read_text()


@pytest.fixture
def store(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Store("results")


def put(store, text, key=SPEC.key, drop=(), lines=None, **changes):
    """Stores the finished row with these changes, sealed again; returns its path and text."""
    record = json.loads(text)
    del record["checksum"]
    record["runs"][0].update(changes)
    for line in record["curves"]:
        line.update(lines or {})
    for name in drop:
        del record["runs"][0][name]
    path = store.runs / f"{key}.json"
    path.write_text(sealed(record))
    return path, path.read_text()


def refused(words, capsys):
    """The one line with which a command ends."""
    capsys.readouterr()
    assert main([*words, "--results", "results"]) == 2
    error, = capsys.readouterr().err.splitlines()
    return error


ODD = [("seed", 1.5), ("seed", True), ("seed", "0"), ("sparsity", float("nan")), ("sparsity", 5), ("top1", "high"), ("top1", [1, 2]), ("top1", 1e9),
       ("cycles", "x"), ("epochs", 10**400), ("nnz", 10**400), ("status", "fine"), ("finished_at", None), ("device", ["cpu"]),
       *((name, value) for name in ("task", "method", "options") for value in (None, 5, [1], {"a": 1}))]


@pytest.mark.parametrize("name, value", ODD)
def test_an_odd_row_is_left_out_and_named(store, made, capsys, name, value):
    path, _ = put(store, made, **{name: value})
    assert store.rows("digits") == {} and f"{path} is damaged and left out" in capsys.readouterr().err
    assert store.row(SPEC.key) is None and store.collect("digits") == 0 and store.read("digits") == []


@pytest.mark.parametrize("text", ["[" * 200_000, "{}", "5", '{"runs": 5}', '{"runs": [5]}', '{"runs": ["ab"]}'])
def test_a_file_of_something_else_is_left_out(store, capsys, text):
    (store.runs / f"{SPEC.key}.json").write_text(text)
    assert store.rows("digits") == {} and "is damaged and left out" in capsys.readouterr().err


def test_odd_lines_of_a_curve_are_left_out_with_their_row(store, made, capsys):
    put(store, made, lines={"lr": "high"})
    assert store.collect("digits") == 0 and "is damaged and left out" in capsys.readouterr().err


def test_all_stored_rows_have_their_own_keys():
    rows = [row for suite in ("digits", "cifar10") for row in Store(ROOT / "results", write=False).read(suite)]
    assert len(rows) > 1800 and all(map(names_key, rows))
    swapped = [(row | {"key": other["key"]}, other | {"key": row["key"]}) for row, other in zip(rows, rows[1:])]
    assert not any(all(map(names_key, two)) for two in swapped)


@pytest.mark.parametrize("spec", [
    SPEC, replace(SPEC, epochs=None), replace(SPEC, precision="bf16"), Spec("digits", "dense", 0.9, 0), replace(SPEC, epochs=9, precision="bf16"),
    Spec("elsewhere", "my file.py:Mine", 1 / 3, 10**6),
    replace(SPEC, options={"note": "a b  c ", "gamma": 0.5, "list": "0,0.5", "none": "", "path": "/a=b"}), replace(SPEC, sparsity=1e-5)])
def test_a_row_names_its_key_whatever_its_task(spec):
    row = {"key": spec.key, "task": spec.task, "method": spec.method, "options": spec.option_text, "sparsity": str(spec.sparsity),
           "seed": str(spec.seed), "epochs": str(spec.epochs or 30), "precision": spec.precision or "fp32"}
    assert names_key(row)
    for name, value in dict(task="digits-mlp", method="gmp", options="gamma=0.7", sparsity="0.7", seed="7", key="0" * 12).items():
        assert (spec.method, name) == ("dense", "sparsity") or not names_key(row | {name: value}), name


@pytest.mark.parametrize("options", [{"note": "a b=1"}, {"a b": 1}, {"note": "\udcff"}])
def test_options_that_a_row_cannot_name_are_refused(options):
    with pytest.raises(ValueError, match="options must be pairs"):
        replace(SPEC, options=options)


def test_a_column_of_keys_sorted_alone_is_refused(store, capsys):
    rows = Store(ROOT / "results", write=False).read("digits")
    keys = sorted(row["key"] for row in rows)
    write_table(store.folder / "digits" / "runs.csv", RUN_COLUMNS, [row | {"key": key} for row, key in zip(rows, keys)])
    error = refused(["collect", "digits"], capsys)
    assert "digits/runs.csv, row 2: the key" in error and "is not that of its task" in error and len(error) < 400


def test_a_row_under_another_runs_key_is_refused_and_stays(store, made, capsys):
    path, text = put(store, made, method="gmp", seed=7, top1=99)
    for words in COMMANDS:
        assert f"{path}: the key {SPEC.key} is not that of its task" in refused(words, capsys)
    with pytest.raises(StoreError):
        store.write(json.loads(made)["runs"][0])
    assert path.read_text() == text


def test_a_row_with_more_columns_is_another_versions_and_stays(store, made, capsys):
    path, text = put(store, made, energy=5.0)
    for words in COMMANDS:
        error = refused(words, capsys)
        assert f"{path}: {VERSION} (it has more columns: energy): use that version here" in error
    with pytest.raises(StoreError, match=VERSION):
        store.write(json.loads(made)["runs"][0])
    path, text = put(store, made, lines={"energy": 5.0})
    assert VERSION in refused(["collect", "digits"], capsys) and path.read_text() == text


@pytest.mark.parametrize("name", ["peak_memory_mb", "train_flops_fraction", "precision", "error", "top1_best_val"])
def test_a_column_that_a_row_lacks_is_empty(store, made, capsys, name):
    path, text = put(store, made, drop=[name])
    assert store.row(SPEC.key)[name] is None
    assert main([*WORDS, "--results", "results"]) == 0 and "done already" in capsys.readouterr().out and path.read_text() == text
    assert store.collect("digits") == 1 and table(store, "runs")[0][name] == ""


def test_a_column_that_was_added_since_is_empty_in_a_table(store, made, capsys, monkeypatch):
    """What is not named as added is asked for as before."""
    put(store, made)
    store.collect("digits")
    path = store.folder / "digits" / "runs.csv"
    pandas.read_csv(path, dtype=str).drop(columns="finished_at").to_csv(path, index=False)
    assert "(it lacks the columns finished_at)" in refused(["status", "digits"], capsys)
    monkeypatch.setattr(results, "ADDED", {"finished_at"})
    assert store.read("digits")[0]["finished_at"] == "" and store.read("digits")[0]["key"] == SPEC.key
    assert store.collect("digits") == 1 and table(store, "runs")[0]["finished_at"]


def test_rows_of_before_the_columns_of_today_stay(store, made, capsys):
    """Both in a table and in a row's own file, which `collect` joins."""
    assert results.ADDED == {"zeros", "parameters"}
    put(store, made, drop=["zeros", "parameters"])
    store.collect("digits")
    path = store.folder / "digits" / "runs.csv"
    pandas.read_csv(path, dtype=str).drop(columns=["zeros", "parameters"]).to_csv(path, index=False)
    assert main([*WORDS, "--results", "results"]) == 0 and "done already" in capsys.readouterr().out
    assert store.collect("digits") == 1 and (table(store, "runs")[0]["zeros"], table(store, "runs")[0]["parameters"]) == ("", "")


def test_without_a_checksum_a_row_with_other_columns_is_damaged(store, made):
    record = json.loads(made)
    del record["checksum"], record["runs"][0]["device"]
    (store.runs / f"{SPEC.key}.json").write_text(json.dumps(record))
    assert store.row(SPEC.key) is None


def test_a_pipe_in_place_of_a_row_is_left_out(store, capsys):
    os.mkfifo(store.runs / f"{SPEC.key}.json")
    assert store.rows("digits") == {} and "is damaged and left out" in capsys.readouterr().err


def test_a_method_whose_file_is_none_has_no_content(tmp_path):
    os.mkfifo(tmp_path / "mine.py")
    for name in (f"{tmp_path}/mine.py:Mine", "/dev/null:Mine", f"{tmp_path}:Mine", "absent.py:Mine", "a\0b:Mine"):
        assert digest(name) == mark(name) == ""

"""The store by itself: what tells a row that was written anew, in which order rows are collected, and that they are on the disk."""
import os

import pytest
from made_up import row
from stored import table

from benchmarks import files
from benchmarks.grid import Spec
from benchmarks.results import Store

SPEC = Spec("digits", "st3", 0.9, 0)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def write(store, spec=SPEC, **changes):
    store.write(row(spec, finished_at="2026-01-01T00:00:00+00:00", **changes))


def test_a_row_that_is_written_anew_has_another_stamp_whatever_the_clock_says(store):
    """Of the same length and the same moment."""
    path, moment = store.runs / f"{SPEC.key}.json", (10**9, 10**9)
    write(store, top1=71.5)
    os.utime(path, ns=moment)
    before, size = store.stamp(SPEC.key), path.stat().st_size
    assert store.since(SPEC.key, before) is None and store.since(SPEC.key, None)["top1"] == 71.5
    write(store, top1=81.5)
    os.utime(path, ns=moment)
    assert path.stat().st_size == size and store.since(SPEC.key, before)["top1"] == 81.5


def test_a_row_that_is_written_while_it_is_read_has_been_written_since(store, monkeypatch):
    write(store, top1=71.5)
    read = Store._record

    def then_written(self, key, only_row):
        found = read(self, key, only_row)
        write(Store(store.folder), top1=81.5)
        return found
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_record", then_written)
        assert store.rows("digits")[SPEC.key]["top1"] == 71.5
    assert store.since(SPEC.key, store.seen[SPEC.key])["top1"] == 81.5


def test_rows_are_in_the_order_of_their_numbers(store):
    """By method, sparsity, epochs and seed as numbers, so that a new one changes no other line; not by the hash that their key is."""
    specs = [Spec("digits", method, sparsity, seed, epochs) for method in ("gmp", "st3") for sparsity in (0.5, 0.9, 0.95)
             for epochs in (9, 10) for seed in (0, 1, 2)]
    for spec in sorted(specs, key=lambda spec: spec.key):
        write(store, spec)
    assert store.collect("digits") == len(specs) == 36 and [line["key"] for line in table(store, "runs")] == [spec.key for spec in specs]
    assert [spec.key for spec in specs] != sorted(spec.key for spec in specs)


def test_a_stored_row_leaves_what_another_process_writes_of_it(store):
    """On a host in whose name .pt's letters are. What is left of its checkpoint goes."""
    others, left = (store.runs / f".{SPEC.key}.{name}.laptop-1.part" for name in ("json", "pt"))
    others.touch(), left.touch()
    write(store)
    assert others.exists() and not left.exists()


def test_what_stands_under_its_name_is_on_the_disk(tmp_path, monkeypatch):
    """All of it, before it gets the name: else a machine that loses its power may keep a name without content."""
    path, synced, sync, replace = tmp_path / "row.json", [], os.fsync, os.replace

    def noted(number):
        synced.append(os.fstat(number).st_size)
        sync(number)
    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", lambda part, whole: replace(part, whole) if synced else pytest.fail("was not flushed"))
    files.write_whole(path, "whole" * 100)
    assert synced == [500] and path.read_text() == "whole" * 100 and os.listdir(tmp_path) == ["row.json"]

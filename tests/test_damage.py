"""Damaged, hostile and edited files, and wrong clocks: what is whole counts, what is not is named, and no code in a file is run."""
import json
import os
import pickle
import random
import time

import pytest
import torch
from faults import STEPS, TRIALS, folder, losses, tally, undisturbed  # noqa: F401
from stored import SPEC, WORDS, record, table

from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.checkpoint import Stopped
from benchmarks.results import Store
from benchmarks.workers.run_claims import Claim, Taken

HALFWAY = 24  # steps, of the 38 of SPEC


@pytest.fixture(scope="module")
def halfway(tmp_path_factory):
    """(bytes of a checkpoint in the middle of a run, bytes of the finished row)."""
    store, asked = Store(tmp_path_factory.mktemp("halfway")), []
    with pytest.raises(Stopped):
        runner.run(SPEC, store, stop=lambda: asked.append(1) or len(asked) > HALFWAY + 1)  # it is asked between the epochs and before them, too
    checkpoint = store.checkpoint(SPEC.key).read_bytes()
    runner.run(SPEC, store)
    return checkpoint, (store.runs / f"{SPEC.key}.json").read_bytes()


def damaged(whole, trial):
    """Cut short, empty, or one bit flipped at a random place."""
    draw = random.Random(trial)
    if trial < 3:
        return b"" if trial == 0 else whole[:draw.randrange(1, len(whole))]
    changed = bytearray(whole)
    changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def test_damaged_rows(halfway, tally, capsys):
    store, lost = Store("results"), 0
    path = store.runs / f"{SPEC.key}.json"
    trials = max(TRIALS, 20)
    for trial in range(trials):
        path.write_bytes(damaged(halfway[1], trial))
        lost += bool(store.rows("digits"))  # a wrong row would be taken for a whole one
        assert f"{path} is damaged and left out; its run will be made again" in capsys.readouterr().err
    path.write_bytes(halfway[1].replace(b"checksum", b"checosum"))  # one bit, in what says that there is a checksum
    lost += bool(store.rows("digits"))
    path.write_bytes(halfway[1])
    assert set(store.rows("digits")) == {SPEC.key}
    tally("row file cut short, empty, or with a flipped bit", trials, lost)


def test_damaged_checkpoints(halfway, undisturbed, tally, monkeypatch, capsys):
    """The run goes on from a checkpoint that loads as it was written, and starts anew from any other."""
    steps, step = [], runner.Trainer.step
    monkeypatch.setattr(runner.Trainer, "step", lambda *args: steps.append(1) or step(*args))
    lost = twice = 0
    for trial in range(max(TRIALS, 5)):
        store = Store(f"results{trial}")
        store.checkpoint(SPEC.key).write_bytes(damaged(halfway[0], trial))
        steps.clear()
        runner.run(SPEC, store)
        told = f"{store.checkpoint(SPEC.key)} is damaged" in capsys.readouterr().out
        assert len(steps) == 2 * STEPS - HALFWAY * (not told) and (told or trial > 2)
        result = losses(store, undisturbed, specs=[SPEC])
        lost, twice = lost + result[0], twice + result[1]
    tally("checkpoint cut short, empty, or with a flipped bit", max(TRIALS, 5), lost, twice)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


def test_a_checkpoint_runs_no_code(undisturbed, tally, folder, capsys):
    store = Store("results")
    torch.save({"model": Evil()}, store.checkpoint(SPEC.key))
    with pytest.raises(FileExistsError):  # it would
        os.mkdir("was-run"), pickle.loads(pickle.dumps(Evil()))
    os.rmdir("was-run")
    runner.run(SPEC, store)
    assert "is damaged, or not of this method (UnpicklingError); the run starts anew" in capsys.readouterr().out and not (folder / "was-run").exists()
    tally("checkpoint with code in it", 1, *losses(store, undisturbed, specs=[SPEC]))


def test_clock_goes_backwards(halfway, undisturbed, tally, monkeypatch, capsys):
    store, clock = Store("results"), time.time()
    monkeypatch.setattr(time, "time", lambda: clock - 1e5 * time.monotonic())
    store.checkpoint(SPEC.key).write_bytes(halfway[0])
    os.utime(store.checkpoint(SPEC.key), (2e9, 2e9))
    with Claim(store, SPEC.key) as claim:
        content = claim.content | {"host": "another", "job": None}
        claim.path.write_text(json.dumps(content))
        with pytest.raises(Taken):
            Claim(store, SPEC.key).__enter__()
        os.utime(claim.path, (2e9, 2e9))  # and its process has died since
        with Claim(store, SPEC.key):
            runner.run(SPEC, store)
    row = store.stamp(SPEC.key)
    os.utime(store.runs / f"{SPEC.key}.json", (1e9, 1e9))
    assert store.stamp(SPEC.key) != row
    row = store.stamp(SPEC.key)
    assert main([*WORDS, "--results", "results"]) == 0 and "done already" in capsys.readouterr().out
    tally("clock goes backwards", 1, *losses(store, undisturbed, {SPEC.key: row}, [SPEC]))


EDITS = {
    "wrong type": (lambda lines: [lines[0], lines[1].replace(",0.9,", ",most,", 1)], "row 2: sparsity is 'most', not a number"),
    "duplicate key": (lambda lines: [*lines, lines[1]], "row 3: the key {key} is in row 2 too"),
    "missing columns": (lambda lines: [line.partition(",")[2] for line in lines], "lacks the columns key"),
    "missing cells": (lambda lines: [lines[0], lines[1].rpartition(",")[0]], "row 2: it has more or fewer cells than columns"),
    "more cells": (lambda lines: [lines[0], lines[1] + ",more"], "row 2: it has more or fewer cells than columns"),
    "half a seed": (lambda lines: [lines[0], lines[1].replace(",0.9,0,", ",0.9,0.5,", 1)], "row 2: seed is '0.5', not a whole number"),
    "a column of somebody's own": (lambda lines: [lines[0] + ",z", *(line + ",1" for line in lines[1:])], "another version of the suite wrote it (it has more columns: z)"),
    "a column twice": (lambda lines: [line + "," + line.partition(",")[0] for line in lines], "(it has more columns: key)"),
    "a merge of git's": (lambda lines: [lines[0], "<<<<<<< HEAD", *lines[1:]], "row 2: git has left the marks of a merge: take one side"),
    "unknown status": (lambda lines: [lines[0], lines[1].replace(",ok,", ",fine,")], "status is one of ok diverged failed"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_csv_edited_by_hand(edit, undisturbed, halfway, tally, capsys):
    store, path = Store("results"), Store("results").folder / "digits" / "runs.csv"
    (store.runs / f"{SPEC.key}.json").write_bytes(halfway[1])
    store.collect("digits")
    whole, (change, message) = path.read_text(), EDITS[edit]
    path.write_text("\n".join(change(whole.splitlines())) + "\n")
    text = path.read_text()
    for command in (["collect", "digits"], ["status", "digits", "--methods", "st3"], ["launch", "digits", "--methods", "st3"]):
        capsys.readouterr()
        assert main([*command, "--results", "results"]) == 2
        error, = capsys.readouterr().err.splitlines()
        assert str(path) in error and message.format(key=SPEC.key) in error
    assert path.read_text() == text
    path.write_text(whole)
    tally(f"runs.csv edited by hand: {edit}", 1, *losses(store, undisturbed, {SPEC.key: store.stamp(SPEC.key)}, [SPEC]))


@pytest.mark.parametrize("name, of", [("curves", "epoch 0"), ("layers", "layer conv.weight")])
def test_a_line_that_is_there_twice_counts_nowhere(name, of, halfway, capsys):
    """As after a merge that keeps both sides: a mean over it would count it twice."""
    store = Store("results")
    (store.runs / f"{SPEC.key}.json").write_bytes(halfway[1])
    store.collect("digits")
    path = store.folder / "digits" / f"{name}.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    capsys.readouterr()
    assert main(["collect", "digits", "--results", "results"]) == 2
    assert f"{path}, row {len(lines) + 1}: the key {SPEC.key}, {of} is in row 2 too; remove one" in capsys.readouterr().err
    path.write_text("\n".join(lines) + "\n")
    assert store.collect("digits") == 1


def test_of_two_rows_of_a_run_the_later_counts(halfway):
    """As where the CSV files come from another machine, which has made what failed here."""
    store = Store("results")
    (store.runs / f"{SPEC.key}.json").write_bytes(halfway[1])

    def collected():
        assert store.collect("digits") == 1
        return {path.name: path.read_bytes() for path in (store.folder / "digits").iterdir()}
    files, row = collected(), record(store)["runs"][0]
    failed = row | {"status": "failed", "error": "no memory", "top1": None}
    store.write(failed | {"finished_at": "2020-01-01T00:00:00+00:00"})
    assert store.rows("digits")[SPEC.key]["status"] == "ok" and collected() == files
    store.write(failed)  # of the same second: what is in runs/ has been written since
    assert store.rows("digits")[SPEC.key]["status"] == "failed"
    collected()
    assert [line["status"] for line in table(store, "runs")] == ["failed"] and not table(store, "curves") + table(store, "layers")


def test_parts_of_checkpoints_that_were_not_finished_go_with_the_row(halfway):
    store = Store("results")
    for name in (f".{SPEC.key}.pt.host-1-2.part", f".{SPEC.key}.pt.laptop-1-2.part", ".other.pt.host-1-2.part"):
        (store.runs / name).touch()
    model = store.folder / "models" / f".{SPEC.key}.pt.host-1-2.part"
    model.parent.mkdir()
    model.touch()
    store.write(json.loads(halfway[1])["runs"][0])
    assert not model.exists()
    assert [path.name for path in store.runs.glob("*.part")] == [".other.pt.host-1-2.part"]

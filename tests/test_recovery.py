"""What is kept when something passes by: a signal, a file that may not be read, a wrong clock."""
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stored import ROOT, SPEC, WORDS, table

from benchmarks import checkpoint, records
from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.files import StoreError, locked
from benchmarks.grid import Spec
from benchmarks.records import RUN_COLUMNS, write_table
from benchmarks.results import Store
from benchmarks.trial.own_methods import outdated
from benchmarks.workers import again, run_claims
from benchmarks.workers.run_claims import Taken

FAILED = dict.fromkeys(RUN_COLUMNS, "") | dict(key=SPEC.key, suite="digits", task="digits", method="st3", sparsity=0.9, seed=0, epochs=2,
                                               status="failed", error="the disk was away", finished_at="2099-01-01T00:00:00+00:00")


def halfway(store, monkeypatch, error, step=24):
    """The row of SPEC, whose training ends with `error`, after a checkpoint at every step."""
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", 0)
    original, made = runner.Trainer.step, []

    def fails(self, x, y):
        made.append(1)
        if len(made) == step:
            raise error
        return original(self, x, y)
    with monkeypatch.context() as patch:
        patch.setattr(runner.Trainer, "step", fails)
        return runner.run(SPEC, store)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_writes_a_checkpoint_first(tmp_path, ending):
    words = [sys.executable, "-m", "benchmarks", *WORDS[:-1], "500", "--results", str(tmp_path)]
    run = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True,  # where this was begun with `&`, Ctrl-C is ignored
                           preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    key, began = replace(SPEC, epochs=500).key, time.monotonic()
    claim = tmp_path / "runs" / f"{key}.claim"
    while not (claim.exists() and '"share"' in claim.read_text()) or json.loads(claim.read_text())["share"] == 0:
        assert run.poll() is None and time.monotonic() < began + 600
        time.sleep(0.2)
    run.send_signal(ending)
    assert "the same command goes on where this one ended" in run.communicate(timeout=600)[1] and run.returncode == 130
    assert torch.load(Store(tmp_path).checkpoint(key))["progress"]["steps"] > 0 and not claim.exists()


def test_a_failed_run_is_made_again(tmp_path, capsys):
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, [FAILED])
    assert main([*WORDS, "--results", str(tmp_path)]) == 0  # whose clock is behind that of the failed one
    assert Store(tmp_path).rows("digits")[SPEC.key]["status"] == "ok"
    assert main(["collect", "digits", "--results", str(tmp_path)]) == 0 and table(Store(tmp_path), "runs")[0]["status"] == "ok"
    assert main([*WORDS, "--results", str(tmp_path)]) == 0 and "is done already" in capsys.readouterr().out


def test_a_row_that_another_process_has_made_since_is_taken(tmp_path, monkeypatch, capsys):
    rows, steps, made = Store.rows, runner.Trainer.steps, []

    def then_made(self, suite):
        found = rows(self, suite)
        runner.run(SPEC, Store(tmp_path))
        return found
    monkeypatch.setattr(Store, "rows", then_made)
    monkeypatch.setattr(runner.Trainer, "steps", lambda self, *rest: made.append(1) or steps(self, *rest))
    assert main([*WORDS, "--results", str(tmp_path)]) == 0 and len(made) == 1 and SPEC.key in capsys.readouterr().out


@pytest.mark.parametrize("error, kept", [(OSError("the file server is away"), True), (MemoryError(), True), (RuntimeError("a mistake"), False),
                                         (RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed."), True)])
def test_what_a_machine_did_costs_no_checkpoint(tmp_path, monkeypatch, error, kept):
    store = Store(tmp_path)
    assert halfway(store, monkeypatch, error)["status"] == "failed"
    assert store.checkpoint(SPEC.key).exists() == kept


@pytest.mark.parametrize("ending", [None, FloatingPointError("the loss is nan"), RuntimeError("a mistake")])
def test_a_run_that_is_taken_over_after_its_last_step_stores_nothing(tmp_path, monkeypatch, ending):
    ended, steps = [], runner.Trainer.steps

    def then_suspended(self, *rest):
        yield from steps(self, *rest)
        ended.append(1)
        if ending:
            raise ending

    def stop():
        if ended:
            raise Taken("process 7 on another")
        return False
    monkeypatch.setattr(runner.Trainer, "steps", then_suspended)
    with pytest.raises(Taken, match="^process 7 on another$"):
        runner.run(replace(SPEC, epochs=1), Store(tmp_path), stop=stop)
    assert not list(tmp_path.rglob("*.json"))


def test_a_claim_of_an_id_that_says_little_counts_by_its_age(tmp_path, monkeypatch):
    """Without /proc: another process may have its id since a crash."""
    monkeypatch.setattr(run_claims, "born", lambda pid: "alive")
    with run_claims.Claim(Store(tmp_path), SPEC.key) as claim:
        assert not run_claims.void(claim.path, claim.content)
        os.utime(claim.path, (time.time() - 1000,) * 2)
        assert run_claims.void(claim.path, claim.content)


@pytest.mark.parametrize("error, gone", [(PermissionError, False), (ProcessLookupError, True)])
def test_a_claim_of_a_process_that_the_system_hides_counts_by_its_age(tmp_path, monkeypatch, error, gone):
    """As /proc with hidepid does for other users: two of them would take a run from each other for ever."""
    def hidden(*_):
        raise error
    with run_claims.Claim(Store(tmp_path), SPEC.key) as claim:
        read = run_claims.Path.read_text
        monkeypatch.setattr(run_claims.Path, "read_text", lambda self, *a, **k: hidden() if self.match("/proc/*/stat") else read(self, *a, **k))
        monkeypatch.setattr(run_claims.os, "kill", hidden)
        assert run_claims.void(claim.path, claim.content) is gone
        os.utime(claim.path, (time.time() - 1000,) * 2)
        assert run_claims.void(claim.path, claim.content)


def test_a_checkpoint_that_may_not_be_read_stays(tmp_path, monkeypatch, capsys):
    """And is no reason for a failed row: somebody else's run may go on from it."""
    store = Store(tmp_path)
    path = store.checkpoint(SPEC.key)
    halfway(store, monkeypatch, OSError())
    (store.runs / f"{SPEC.key}.json").unlink()
    before = path.read_bytes()
    monkeypatch.setattr(checkpoint.zipfile, "ZipFile", lambda path: open(os.path.join(path, "none")))
    assert main([*WORDS, "--results", str(tmp_path)]) == 2
    line, = capsys.readouterr().err.splitlines()[-1:]
    assert line == f"error: the checkpoint {path} cannot be read (Not a directory): make it readable, or move it away and the run starts anew"
    assert path.read_bytes() == before and not store.row(SPEC.key)


def test_no_checkpoint_is_written_before_its_time_nor_for_more_than_its_share(tmp_path):
    saver = checkpoint.Saver(tmp_path / "run.pt")
    saver(None)  # which has no state to write
    saver.last, saver.took = saver.last - 2 * checkpoint.CHECKPOINT_SECONDS, 3.0  # a hundredth of the time: every 300 seconds
    saver(None)
    saver.last -= 200
    with pytest.raises(AttributeError):
        saver(None)


def test_a_row_that_may_not_be_read_is_not_damaged(tmp_path, monkeypatch, capsys):
    store = Store(tmp_path)
    runner.run(SPEC, store)

    def refuses(path, *rest):
        raise PermissionError(13, "Permission denied", path)
    monkeypatch.setattr(records, "open", refuses, raising=False)
    with pytest.raises(StoreError, match=f"{SPEC.key}.json cannot be read .Permission denied.$"):
        store.rows("digits")
    if multiprocessing.get_start_method() == "fork":  # `status` reads in another process, which only a fork takes the refusal along to
        assert main(["status", "digits", "--results", str(tmp_path)]) == 2
    assert "damaged" not in capsys.readouterr().err


def test_a_folder_that_may_not_be_read_is_refused_in_one_line(monkeypatch, tmp_path, capsys):
    def refuses(self):
        raise PermissionError(13, "Permission denied", str(self))
    monkeypatch.setattr("pathlib.Path.is_dir", refuses)
    assert main([*WORDS, "--data", "closed", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: closed cannot be used (Permission denied)\n"


def test_what_writes_nothing_makes_no_folder(tmp_path, capsys):
    folder = tmp_path / "none"
    assert main(["plan", "digits", "--methods", "static", "--sparsities", "0.9", "--seeds", "1", "--epochs", "1", "--results", str(folder)]) == 0
    assert main(["leaderboard", "digits", "--profile", "quick", "--epochs", "3", "--results", str(folder)]) == 2
    assert f"make them with: bash run_all.sh digits --profile quick --epochs 3 --results {folder}\n" in capsys.readouterr().err and not folder.exists()


def test_collecting_makes_no_folder(tmp_path):
    assert main(["collect", "digits", "--results", str(tmp_path / "mistyped")]) == 2 and not list(tmp_path.iterdir())


def test_collecting_waits_for_another_one(tmp_path):
    store = Store(tmp_path)
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, [FAILED])
    done = []
    with locked(store.runs / ".collect.lock"):
        other = threading.Thread(target=lambda: done.append(store.collect("digits")))
        other.start()
        time.sleep(0.5)
        assert not done
        write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, [FAILED, FAILED | {"key": replace(SPEC, seed=1).key, "seed": 1}])
    other.join()
    assert done == [2]


def test_a_row_that_a_longer_run_made_meanwhile_is_not_lost_by_a_failure(tmp_path, monkeypatch):
    short, long = (Spec("digits", "lrr", sparsity, 0, epochs=1, options={"level_list": "0,0.5,0.9"}) for sparsity in (0.5, 0.9))
    step, store, made = runner.Trainer.step, Store(tmp_path), []

    def fails(self, x, y):
        made.append(1)
        if len(made) == 25:
            monkeypatch.setattr(runner.Trainer, "step", step)
            assert runner.run(long, Store(tmp_path))["status"] == "ok"
            raise MemoryError
        return step(self, x, y)
    monkeypatch.setattr(runner.Trainer, "step", fails)
    assert runner.run(short, store) == store.row(short.key) and store.row(short.key)["status"] == "ok"


CANNOT_BE_WRITTEN = """
from methods import get


class Fails(get("static")):
    def after_step(self, run):
        super().after_step(run)
        if run.epochs > 1:
            raise RuntimeError("cannot read caf\\udce9.jpg, \u2192")
"""


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii"])
def test_an_error_that_cannot_be_written_ends_no_other_run(tmp_path, encoding):
    (tmp_path / "mine.py").write_text(CANNOT_BE_WRITTEN)
    words = "-m benchmarks launch digits --methods mine.py:Fails static --sparsities 0.9 --seeds 1 --epochs 2 --jobs 1".split()
    run = subprocess.run([sys.executable, *words], cwd=tmp_path, env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
                         capture_output=True)
    rows = {row["method"]: row for row in table(Store(tmp_path / "results"), "runs")}
    assert run.returncode == 1 and rows["static"]["status"] == "ok" and "caf\\udce9.jpg, \u2192" in rows["mine.py:Fails"]["error"]


@pytest.mark.parametrize("changes, said", [({"sparsity": "nan"}, "sparsity is nan"), ({"sparsity": 1.5}, "sparsity is 1.5"),
                                           ({"seed": -1}, "seed is -1"), ({"top1": "inf"}, "top1 is inf"),
                                           ({"macs": -5}, "macs is -5"), ({"train_flops_fraction": "inf"}, "train_flops_fraction is inf"),
                                           ({"achieved_sparsity": 7}, "achieved_sparsity is 7")])
def test_numbers_that_no_row_has_are_refused(tmp_path, changes, said):
    write_table(tmp_path / "digits" / "runs.csv", RUN_COLUMNS, [FAILED | changes])
    with pytest.raises(StoreError, match=f"row 2: {said}, which it cannot be$"):
        Store(tmp_path).rows("digits")


def test_a_table_that_a_spreadsheet_has_written(tmp_path):
    path = tmp_path / "digits" / "runs.csv"
    write_table(path, RUN_COLUMNS, [FAILED])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert set(Store(tmp_path).rows("digits")) == {SPEC.key}


def test_home_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Store("~/results").runs == tmp_path / "results" / "runs"


def test_no_option_is_abbreviated(capsys):
    assert main(["launch", "digits", "--res", "elsewhere"]) == 2 and "--res elsewhere" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
                                   RuntimeError("Triton Error [CUDA]: out of memory"), MemoryError()])
def test_lack_of_memory_costs_no_checkpoint(tmp_path, monkeypatch, error):
    """Neither in a step, nor while the checkpoint is loaded: there may be more of it the next time."""
    store = Store(tmp_path)
    assert halfway(store, monkeypatch, error)["status"] == "failed"
    before = store.checkpoint(SPEC.key).read_bytes()

    def full(*_):
        raise error
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "loaded", full)
        assert runner.run(SPEC, store)["status"] == "failed" and store.checkpoint(SPEC.key).read_bytes() == before
    row = runner.run(SPEC, store)
    assert row["status"] == "ok" and not store.checkpoint(SPEC.key).exists()


def test_rows_that_are_read_during_a_launch_are_not_taken_for_older_ones(tmp_path):
    """A run that another launch has made meanwhile is then not made again."""
    here, there, lrr = Store(tmp_path), Store(tmp_path), Spec("digits", "lrr", 0.9, 0, epochs=1)
    assert here.rows("digits") == {}
    there.write(FAILED | {"status": "ok", "error": "", "seed": 0, "epochs": 2})
    runner.store_failure(lrr, "its process died", here, None)
    again.renew([lrr], here, "digits")
    assert here.since(SPEC.key, here.seen.get(SPEC.key))["status"] == "ok"


def test_a_failed_row_names_the_content_of_the_file_that_failed(tmp_path, monkeypatch):
    """Not the one with which its author has mended it meanwhile: the next launch makes such a run again."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from methods import get\nclass Mine(get('gmp')):\n    def before_step(self, run):\n        raise KeyError('a mistake')\n")
    made = runner.steps(replace(SPEC, method="mine.py:Mine"), Store("results"), "data", torch.device("cpu"))
    next(made)
    Path("mine.py").write_text("from methods import get\nclass Mine(get('gmp')):\n    pass\n")
    with pytest.raises(StopIteration) as end:
        while True:
            next(made)
    assert end.value.value["status"] == "failed" and outdated(end.value.value)

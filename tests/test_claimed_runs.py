"""Who makes a run: claims of processes, containers, machines and jobs that have died or live, and runs that were taken over meanwhile."""
import json
import os
import socket
import time
from dataclasses import replace

import pytest
from faults import folder  # noqa: F401
from stored import SPEC

from benchmarks import checkpoint, files
from benchmarks import launch as launcher
from benchmarks.__main__ import main
from benchmarks.results import Store
from benchmarks.workers import run_claims
from benchmarks.workers.run_claims import Claim, Taken, held


def stand(store, *cases):
    """Of each (text of a claim, its age, whether it counts) it does or is taken over."""
    path = store.runs / f"{SPEC.key}.claim"
    for text, age, taken in cases:
        path.write_text(text)
        os.utime(path, (time.time() - age,) * 2)
        if taken:
            with pytest.raises(Taken):
                Claim(store, SPEC.key).__enter__()
        else:
            with Claim(store, SPEC.key):
                assert held(store)[SPEC.key]["pid"] == os.getpid()
        path.unlink(missing_ok=True)


def test_claim_of_a_process_that_died(folder):
    """A process id that another process has now, a host that gives no sign of life, a file cut short."""
    store = Store("results")
    mine = Claim(store, SPEC.key).content
    stand(store,
          (json.dumps(mine), 0, True),
          (json.dumps(mine | {"born": "1"}), 0, False),
          (json.dumps(mine | {"pid": 2**22 + 1}), 0, False),
          (json.dumps(mine | {"host": socket.gethostname() + "2"}), 60, True),
          (json.dumps(mine | {"host": socket.gethostname() + "2"}), 1000, False),
          (json.dumps(mine)[:20], 0, True),
          ("", 60, False))


def test_claim_of_a_container_that_shares_the_name_of_its_host(folder):
    """Its process ids say nothing here."""
    store = Store("results")
    other = json.dumps(Claim(store, SPEC.key).content | {"space": 1, "born": "1"})
    stand(store, (other, 60, True), (other, 1000, False))


def test_claim_of_another_start_of_the_machine_or_of_another_machine_of_its_name(folder, monkeypatch):
    """Only what has not been rewritten since this machine was started can be of its own start before."""
    store = Store("results")
    other = json.dumps(Claim(store, SPEC.key).content | {"boot": "another"})
    for up, ages in ((10, ((50, True), (70, False))), (300, ((290, True), (310, False))), (10**6, ((890, True), (910, False)))):
        monkeypatch.setattr(time, "clock_gettime", lambda clock, up=up: up)
        stand(store, *((other, *case) for case in ages))


def test_claim_of_the_same_slurm_job(folder, monkeypatch):
    """Of another of its nodes, or of an earlier start of it."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    store = Store("results")
    node = Claim(store, SPEC.key).content | {"host": "node2"}
    stand(store, (json.dumps(node), 60, True), (json.dumps(node), 1000, False), (json.dumps(node | {"restart": "0"}), 0, False))


TAKEN = """
import json
from pathlib import Path

from benchmarks import checkpoint
from benchmarks.workers import run_claims
from methods import get

checkpoint.CHECKPOINT_SECONDS = run_claims.NOTE_SECONDS = 0


class Taken(get("static")):
    def before_step(self, run):
        if run.epochs == 1:  # the dry run
            return
        claim, = Path("results/runs").glob("*.claim")
        if run.step == %d:
            claim.write_text(json.dumps(json.loads(claim.read_text()) | {"host": "another"}))
            for path in Path("results/runs").glob("*.pt"):
                path.unlink()
            %s
"""


@pytest.mark.parametrize("step, then", [(2, "pass"), (2, "raise RuntimeError('no device')"), (37, "pass")])  # 37: the last of 38
@pytest.mark.parametrize("launched", [False, True])
def test_a_run_that_was_taken_over_meanwhile_stores_nothing(folder, monkeypatch, capsys, launched, step, then):
    """As that of a process which was suspended for longer than a claim counts."""
    for module, name in ((run_claims, "NOTE_SECONDS"), (checkpoint, "CHECKPOINT_SECONDS")):  # which the method's file changes
        monkeypatch.setattr(module, name, getattr(module, name))
    (folder / "taken.py").write_text(TAKEN % (step, then))
    spec, store, lines = replace(SPEC, method="taken.py:Taken"), Store("results"), []
    if launched:
        assert launcher.launch([spec], store, "data", wait=False, report=lines.append) == []
        assert "is being made by process" in lines[0] and lines[0].endswith("on another")
    else:
        assert main(["run", "--task", "digits", "--method", spec.method, "--sparsity", "0.9", "--epochs", "2"]) == 2
        assert f"{spec.key} is being made by process {os.getpid()} on another" in capsys.readouterr().err
    claim, = store.runs.glob("*.claim")
    assert json.loads(claim.read_text())["host"] == "another"
    assert not store.row(spec.key) and not list(store.runs.glob("*.pt"))


def test_a_claim_that_was_taken_over_is_left_alone(folder):
    store = Store("results")
    with pytest.raises(Taken, match="^process 7 on another$"), Claim(store, SPEC.key) as claim:
        theirs = json.dumps(claim.content | {"host": "another", "pid": 7})
        claim.path.write_text(theirs)
        claim.note(0.5)  # not yet
        assert claim.path.read_text() == theirs
        claim.checked = claim.noted = claim.noted - 1000
        claim.note(0.5)
    assert claim.path.read_text() == theirs


def test_two_writers_of_one_file_do_not_share_its_part(monkeypatch):
    """Processes of two hosts or containers may have one number."""
    names = {files.writer()}
    monkeypatch.setattr(os, "getpid", lambda: 7)
    names.add(files.writer())
    for module, name in ((files, "space"), (files, "boot"), (socket, "gethostname")):
        monkeypatch.setattr(module, name, lambda: "another")
        names.add(files.writer())
    assert len(names) == 5

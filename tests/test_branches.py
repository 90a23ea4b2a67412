"""Runs that have their first cycles in common: these are made once, and the rows are those of runs made alone."""
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stored import timeless

from benchmarks import checkpoint, plan
from benchmarks.grid import Spec
from benchmarks.launch import Launch, launch
from benchmarks.levels import branches, levels_of, uncovered
from benchmarks.results import Store
from benchmarks.run import run as make_row
from benchmarks.run import steps
from benchmarks.suites import grid
from benchmarks.workers.run_claims import Claim
from benchmarks.workers.worker import Worker
from methods import available, get

CPU = torch.device("cpu")
LEVELS = [name for name in available() if len(get(name).levels(0.9, {})) > 1]


def ladder(sparsity, method="lrr", seed=0, levels="0,0.5,0.97"):
    return Spec("digits", method, sparsity, seed, epochs=1, options={"level_list": levels})


def test_a_branch_parts_from_the_longest_run_that_passes_its_levels():
    runs = {s: Spec("cifar10-resnet20", "lrr", s, 0) for s in (0.8, 0.9, 0.95, 0.98)}
    other, plain = Spec("cifar10-resnet20", "lrr", 0.9, 1), Spec("cifar10-resnet20", "st3", 0.9, 0)
    assert branches([*runs.values(), other, plain]) == {runs[s]: runs[0.98] for s in (0.8, 0.9, 0.95)}
    assert [len(levels_of(runs[s])) for s in (0.8, 0.9, 0.95, 0.98)] == [9, 12, 15, 19]
    between = Spec("cifar10-resnet20", "lrr", 0.905, 0)  # and 0.9 have all levels but the last in common
    assert branches([runs[0.9], between]) == {runs[0.9]: between}
    assert branches([runs[0.9], Spec("cifar10-resnet20", "lrr", 0.95, 0, options={"source": "last"})]) == {}


def test_in_the_full_grid_no_branch_waits_for_a_branch():
    specs = uncovered(grid("cifar10"))
    found = branches(specs)
    assert {spec.method for spec in found} == set(LEVELS) and not set(found) & set(found.values())
    cycles = sum(len(levels_of(spec)) for spec in specs if len(levels_of(spec)) > 1)
    assert cycles > 2.5 * sum(1 if spec in found else len(levels_of(spec)) for spec in specs if len(levels_of(spec)) > 1)


@pytest.mark.parametrize("method", LEVELS)
def test_the_rows_of_runs_that_part_are_those_of_runs_made_alone(method, tmp_path):
    trunk, branch, store, alone = ladder(0.97, method), ladder(0.6, method), Store(tmp_path / "a"), Store(tmp_path / "b")
    list(steps(trunk, store, "data", CPU, branches=[branch]))
    assert checkpoint.share_done(store.checkpoint(branch.key), branch) == pytest.approx(2 / 3)
    shares = list(steps(branch, store, "data", CPU))
    assert shares[0] == pytest.approx(2 / 3)  # of its three cycles two were made
    assert not list(store.runs.glob("*.pt"))
    for spec in (trunk, branch):
        make_row(spec, alone)
    rows, own = store.rows("digits"), alone.rows("digits")
    assert set(rows) == {level.key for spec in (trunk, branch) for level in levels_of(spec)}
    assert [timeless(rows[key]) for key in rows] == [timeless(own[key]) for key in rows]
    for name in ("curves.csv", "layers.csv"):
        assert store.collect("digits") == alone.collect("digits")
        found = [sorted((folder / "digits" / name).read_text().splitlines()) for folder in (store.folder, alone.folder)]
        assert len(found[0]) == {"curves.csv": 1 + 4, "layers.csv": 1 + 4 * 7}[name] and found[0] == found[1]


def test_a_checkpoint_of_its_own_is_not_overwritten_by_the_run_that_it_parts_from(tmp_path):
    trunk, branch, store = ladder(0.97), ladder(0.6), Store(tmp_path)
    store.checkpoint(branch.key).write_text("its own")
    list(steps(trunk, store, "data", CPU, branches=[branch]))
    assert store.checkpoint(branch.key).read_text() == "its own"


def test_a_branch_that_has_ended_gets_no_checkpoint_when_its_trunk_is_tried_again(tmp_path, monkeypatch):
    """Its trunk, killed after they parted, would leave one that nothing removes."""
    given, give = [], Worker.give
    monkeypatch.setattr(Worker, "give", lambda self, spec, attempt, before, parting: (
        given.append((spec, attempt, parting)), give(self, spec, attempt, before, parting))[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", 60)  # which the method's file changes
    Path("mine.py").write_text(KILLED_ONCE)
    trunk, branch = ladder(0.97, "mine.py:KilledOnce"), ladder(0.6, "mine.py:KilledOnce")
    part = Launch.part
    monkeypatch.setattr(Launch, "part", lambda self, ready: (part(self, ready), self.waiting or Path("parted").touch()))
    assert not launch([trunk, branch], Store("results"), "data", 1, lambda line: None)
    assert [(spec, attempt) for spec, attempt, _ in given if spec == trunk] == [(trunk, 1), (trunk, 2)]
    assert [parting for spec, _, parting in given if spec == trunk] == [[branch], []] and not list(Path("results/runs").glob("*.pt"))


KILLED_ONCE = """
import os
import time
from pathlib import Path

from benchmarks import checkpoint, plan
from methods import get

checkpoint.CHECKPOINT_SECONDS = 0


class KilledOnce(get("lrr")):
    def before_step(self, run):
        if run.cycle == 2 and self.sparsity == 0.97 and not Path("killed").exists() and any(Path("results/runs").glob("*.pt")):
            Path("killed").touch()
            while not Path("parted").exists():
                time.sleep(0.1)
            os._exit(1)
"""

def test_a_method_s_file_may_be_edited_while_its_longest_run_is_made(tmp_path, monkeypatch):
    """The training has the class that it began with; it goes on, stores its rows, and leaves the checkpoint of the branch."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from methods import get\nclass Mine(get('lrr')):\n    pass\n")
    trunk, branch, store = ladder(0.97, "mine.py:Mine"), ladder(0.6, "mine.py:Mine"), Store("results")
    made = steps(trunk, store, "data", CPU, branches=[branch])
    next(made)
    Path("mine.py").write_text("from methods import get\nclass Mine(")  # half of it is written
    list(made)
    assert [store.row(level.key)["status"] for level in uncached_levels(trunk)] == ["ok"] * 3 and store.checkpoint(branch.key).exists()


def uncached_levels(spec):
    """`levels_of` a run of a file that cannot be loaded: those of LRR."""
    return [replace(level, method=spec.method) for level in levels_of(replace(spec, method="lrr"))]


COUNTS = """
from pathlib import Path

from methods import get


class Counts(get("lrr")):
    def start(self, run, cycle):
        super().start(run, cycle)
        with open("cycles.txt", "a") as file:
            file.write(f"{self.sparsity} {run.seed} {cycle}\\n")
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_launch_makes_common_cycles_once(jobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(COUNTS)
    store = Store("results")
    specs = [ladder(sparsity, "mine.py:Counts", seed) for seed in (0, 1) for sparsity in (0.3, 0.6, 0.7, 0.97)]
    assert launch(specs, store, "data", jobs, report=lambda line: None) == []
    cycles = [f"{sparsity} {seed} {cycle}" for sparsity, own in ((0.3, [1]), (0.6, [2]), (0.7, [2]), (0.97, [0, 1, 2]))
              for seed in (0, 1) for cycle in own]
    assert sorted(Path("cycles.txt").read_text().splitlines()) == cycles
    assert all(store.row(spec.key)["status"] == "ok" for spec in specs) and not list(store.runs.glob("*.pt"))


def test_a_branch_of_a_run_that_another_process_makes_is_made(tmp_path):
    """A job of a cluster does not wait for another one."""
    trunk, branch, store = ladder(0.97), ladder(0.6), Store(tmp_path)
    with Claim(store, trunk.key):
        assert launch([trunk, branch], store, "data", 1, report=lambda line: None, wait=False) == []
    assert store.row(branch.key)["status"] == "ok" and not store.row(trunk.key)


def test_a_branch_whose_trunk_ends_early_begins_at_the_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(COUNTS.replace("super().start(run, cycle)", "super().start(run, cycle)\n"
                                              "        if self.sparsity > 0.9: raise KeyError('no')"))
    trunk, branch, store = ladder(0.97, "mine.py:Counts"), ladder(0.6, "mine.py:Counts"), Store("results")
    assert [row["key"] for row in launch([branch, trunk], store, "data", 1, report=lambda line: None)] == [trunk.key]
    assert store.row(branch.key)["status"] == "ok"
    assert Path("cycles.txt").read_text().splitlines() == ["0.6 0 0", "0.6 0 1", "0.6 0 2"]


def test_plan_counts_the_last_cycle_of_a_branch(monkeypatch):
    monkeypatch.setattr(plan, "seconds_of", lambda *_: 30.0)
    said, alone = [], []
    assert plan.estimate([ladder(0.97)], "data", report=alone.append) == 30 and "part" not in alone[0]
    assert plan.estimate([ladder(0.97), ladder(0.6), ladder(0.7)], "data", report=said.append) == 30 + 2 * 10
    assert said == ["[1/1, 0:00:00 to go] digits lrr level_list=0,0.5,0.97 epochs=1: 1 run of 30.0 s, 2 that part from them, of 10.0 s"]

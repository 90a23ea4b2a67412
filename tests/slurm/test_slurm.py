"""Suites on a real SLURM: after whatever happens to a job, the same rows as a local run, bit for bit, none lost, none twice.

All jobs are sent at the start and run side by side; a test looks at what became of its own.
"""
import contextlib
import io
import json
import os
import re
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
from stored import table, timeless

from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.slurm import cluster as sending
from benchmarks.workers.run_claims import held

STEPS = 19  # in an epoch
EPOCHS, LONG = 12, 31
# LONG takes longer than the limit. SLURM signals up to 30 seconds earlier than asked, so that a job has at least 140 to start and to train a little
LIMIT = ["--time", "3", "--signal-delay", "10"]
PATIENCE = 900  # seconds, which only a loaded machine needs
METHODS = '''
import os
import time
from pathlib import Path

from methods import get


class Slow(get("static")):
    """Notes each step in a job, and sleeps there before it was interrupted."""

    def after_step(self, run):
        super().after_step(run)
        if "STEPS" in os.environ:
            with open(Path(os.environ["STEPS"]) / f"{run.total_steps}-{run.seed}", "a+") as file:
                file.write(f"{os.getpid()}\\n")
                file.seek(0)
                time.sleep(run.total_steps / 1900 * (len(set(file)) == 1))  # 0.1 s, and three times as long in the longer run


class Bad(get("static")):
    def after_step(self, run):
        if run.step == 5:  # after all steps of the dry run
            raise RuntimeError("broken on purpose")
'''
GRID = ["digits", "--methods", "static", "snip", "mine.py:Bad", "--sparsity", "0.9", "--seeds", "1", "--epochs", "2"]
SLOW = ["digits", "--methods", "mine.py:Slow", "--sparsity", "0.9", "--seeds"]
DISTURBED = ("requeued", "preempted", "job killed", "run killed")  # by seed
slow = [Spec("digits", "mine.py:Slow", 0.9, seed, epochs=EPOCHS) for seed in range(len(DISTURBED))]
long = Spec("digits", "mine.py:Slow", 0.9, 0, epochs=LONG)


class Project:
    """A working folder with a method file, from which suites are sent."""

    def __init__(self, folder, environment):
        self.folder, self.store, self.steps = folder, Store(folder / "results"), folder / "steps"
        self.steps.mkdir()
        (folder / "mine.py").write_text(METHODS)
        self.environment = {**environment, "STEPS": str(self.steps)}

    def command(self, *words):
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(self.folder)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            status = main([*words, "--results", "results"])
        return SimpleNamespace(returncode=status, stdout=out.getvalue(), stderr=err.getvalue())

    def send(self, *words):
        return self.command("launch", *words, "--launcher", "slurm", "--partition", "debug")

    def slurm(self, *words):
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=True).stdout.split()

    def wait_for(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                logs = [f"{path.name}:\n{path.read_text()[-1500:]}" for path in sorted(self.store.runs.glob("submitted/*log*"))]
                pytest.fail("\n".join([" ".join(self.slurm("squeue")), *logs]))
            time.sleep(0.3)

    def done(self, specs):
        return all(self.store.row(spec.key) for spec in specs)

    def trained(self, spec):
        """The process of each step that was trained, of all starts."""
        path = self.steps / f"{spec.epochs * STEPS}-{spec.seed}"
        return path.read_text().split() if path.exists() else []


@pytest.fixture(scope="module")
def project(cluster, tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"), cluster)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The row of a run made here; also its curves and layers."""
    store, before = Store(tmp_path_factory.mktemp("alone")), os.getcwd()

    def row(spec, folder):
        try:
            os.chdir(folder)
            runner.run(spec, store)
        finally:
            os.chdir(before)
        return comparable(store, spec)
    return row


def comparable(store, spec):
    record = json.loads((store.runs / f"{spec.key}.json").read_text())
    return timeless(record["runs"][0]), str(record["curves"]), record["layers"]


@pytest.fixture(scope="module")
def sent(project):
    """What was said when all jobs were sent; something happens to each slow run in its second epoch or a little later."""
    words = [*SLOW, str(len(slow)), "--epochs", str(EPOCHS)]
    said = {"limit": project.send(*SLOW, "1", "--epochs", str(LONG), *LIMIT), "slow": project.send(*words)}
    project.wait_for(lambda: any(claim["left"] for claim in held(project.store).values() if claim["epochs"] == EPOCHS))
    said["status"] = project.command("status", *words)
    for spec, what in zip(slow, DISTURBED):
        project.wait_for(lambda: len(project.trained(spec)) > STEPS)
        job, worker = held(project.store)[spec.key]["job"], int(project.trained(spec)[-1])
        if what == "requeued":
            project.slurm("scontrol", "requeue", job)
        elif what == "preempted":
            project.slurm("scancel", "--signal=USR2", job)
        else:
            os.kill(worker if what == "run killed" else parent(parent(worker)), signal.SIGKILL)  # it was forked from one of the job's
    said["grid"] = project.send(*GRID, "--runs-per-task", "3", "--array-parallelism", "2")
    said["again"] = project.send(*GRID)
    project.wait_for(lambda: " 1 lost" in project.command("status", *words).stdout)
    said["lost"], said["lost again"] = project.command("status", *words), project.send(*words)
    return {name: done.stdout for name, done in said.items()}


@pytest.fixture(scope="module")
def ended(project, sent):
    project.wait_for(lambda: project.done(slow))


def parent(pid):
    return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])


def test_second_submission_sends_nothing(sent):
    assert "3 runs to send, 0 in the queue" in sent["grid"] and "1 task, 3 runs" in sent["grid"]
    assert re.search("0 runs to send|, 0 to do", sent["again"]) and "job" not in sent["again"]  # some may have ended by now


def test_status_shows_epoch_and_estimate(sent):
    assert re.search(rf"running: digits mine.py:Slow .*: epoch \d+ of {EPOCHS}, 0:\d\d:\d\d to go \(job \d+_\d\)", sent["status"])


@pytest.mark.parametrize("what", DISTURBED)
def test_disturbed_run_goes_on_and_gives_the_same_row(project, sent, ended, alone, what):
    spec = slow[DISTURBED.index(what)]
    assert comparable(project.store, spec) == alone(spec, project.folder)
    processes = project.trained(spec)
    assert len(set(processes)) == 2, "it was never interrupted"
    if what in ("requeued", "preempted"):  # the epoch was ended and a checkpoint written
        assert len(processes) == EPOCHS * STEPS
    if what == "job killed":
        assert "lost: digits mine.py:Slow sparsity 0.9 seed 2: job" in sent["lost"]
        assert re.search(r"^1 run to send, \d in the queue", sent["lost again"], re.MULTILINE)  # others may have ended by now


def test_grid_with_a_failing_method(project, ended, alone):
    good = [Spec("digits", method, 0.9, 0, epochs=2) for method in ("static", "snip")]
    bad = Spec("digits", "mine.py:Bad", 0.9, 0, epochs=2)
    project.wait_for(lambda: project.done([*good, bad]))
    assert all(comparable(project.store, spec) == alone(spec, project.folder) for spec in good)
    assert project.store.row(bad.key)["error"] == "RuntimeError: broken on purpose"
    status = project.command("status", *GRID).stdout
    assert "2 done, 0 diverged, 1 failed" in status and 'raise RuntimeError("broken on purpose")' in status
    assert "0 to do" in project.send(*GRID).stdout
    assert "1 run to send" in project.send(*GRID, "--retry-failed").stdout


def test_time_limit(project, sent, alone):
    spec = long
    project.wait_for(lambda: project.done([spec]))
    assert comparable(project.store, spec) == alone(spec, project.folder)
    assert len(set(project.trained(spec))) >= 2, "SLURM never stopped it"
    assert len(project.trained(spec)) == LONG * STEPS  # nothing was trained twice


def test_every_row_is_there_once(project, ended):
    project.command("collect", "digits")
    keys = [row["key"] for row in table(project.store, "runs")]
    assert len(keys) == len(set(keys)) == 3 + len(DISTURBED) + 1
    project.wait_for(lambda: not held(project.store) and not list(project.store.runs.glob("*.pt")))  # the last one may just be ending


def test_jobs_run_the_code_that_was_sent(project, ended):
    copies = list((project.store.runs / "code").iterdir())
    assert all((copy / "mine.py").read_text() == METHODS and (copy / "benchmarks" / "run.py").exists() for copy in copies)
    scripts = list(project.store.runs.glob("submitted/*.sh"))
    assert copies and scripts and all(str(copies[0].parent) in script.read_text() for script in scripts)


def test_cancel_takes_queued_jobs_out(project, ended, monkeypatch):
    monkeypatch.setattr(sending, "LEAVING_SECONDS", PATIENCE)
    project.wait_for(lambda: not project.slurm("squeue", "--noheader"))
    words = [*SLOW, "3", "--epochs", "7"]
    project.slurm("scontrol", "update", "PartitionName=debug", "State=DOWN")  # which queues jobs and starts none
    try:
        project.send(*words, "--cpus-per-task", "4", "--jobs", "1")
        assert "queued" in project.command("status", *words).stdout
        assert "taken out of the queue" in project.command("cancel", "digits", "--running").stdout
    finally:
        project.slurm("scontrol", "update", "PartitionName=debug", "State=UP")
    assert not project.slurm("squeue", "--noheader"), "it came back before they had ended"
    done = project.command("status", *words)
    assert done.returncode == 0 and "0 queued, 0 lost, 0 started, 3 not started" in done.stdout, done.stdout


@pytest.mark.parametrize("words, part", [
    (["--partition", "nowhere"], "invalid partition"),
    (["--time", "0"], "--time"),
])
def test_what_slurm_refuses_is_one_line(project, words, part):
    done = project.command("launch", *GRID[:-1], "9", "--launcher", "slurm", *words)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and part in done.stderr


def test_what_launch_has_no_option_for_sbatch_takes_from_the_environment(project, monkeypatch):
    monkeypatch.setitem(project.environment, "SBATCH_RESERVATION", "none")
    done = project.send(*GRID[:-1], "9")
    assert done.returncode == 2 and "reservation is invalid" in done.stderr

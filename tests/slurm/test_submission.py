"""Jobs that a real SLURM takes and starts, wherever they are sent from and whatever the environment says."""
import subprocess
import sys
from pathlib import Path

import pytest
from test_slurm import Project

from benchmarks.grid import Spec

ROOT = Path(__file__).resolve().parents[2]
FROM = {  # by sparsity: where a launch runs, and options of it
    0.5: (["salloc", "--ntasks=4"], []),
    0.6: (["salloc", "--nodes=1", "--ntasks=2", "--cpus-per-task=2", "srun", "--ntasks=1"], []),
    0.7: (["salloc", "--mem-per-cpu=100"], ["--mem", "0.5"]),
    0.8: (["salloc", "--mem=1500", "--gpus-per-node=1"], ["--mem", "0.5"]),
    0.9: (["env", "SBATCH_EXPORT=NONE"], []),
}
ONE = ["digits", "--methods", "static", "--seeds", "1", "--epochs", "1", "--sparsity"]


@pytest.fixture(scope="module")
def project(cluster, tmp_path_factory):
    return Project(tmp_path_factory.mktemp("project"), cluster)


@pytest.fixture(scope="module")
def sent(project):
    """All at the start, so that they run side by side."""
    for sparsity, (where, options) in FROM.items():
        words = [sys.executable, "-m", "benchmarks", "launch", *ONE, str(sparsity), "--launcher", "slurm", *options, "--results", "results"]
        environment = {**project.environment, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([*where, *words], cwd=project.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and "job " in done.stdout, done.stderr


def lost(project, sparsity):
    """What `status` says when the run's job is lost."""
    project.wait_for(lambda: " 1 lost" in project.command("status", *ONE, sparsity).stdout)
    return project.command("status", *ONE, sparsity).stdout


@pytest.mark.parametrize("sparsity", FROM)
def test_a_job_sent_from_an_allocation_runs(project, sent, sparsity):
    spec = Spec("digits", "static", sparsity, 0, epochs=1)
    project.wait_for(lambda: project.done([spec]) or " 1 lost" in project.command("status", *ONE, str(sparsity)).stdout)
    assert project.done([spec]), project.command("status", *ONE, str(sparsity)).stdout


def test_a_job_whose_gpu_torch_does_not_see_ends(project):
    done = project.send(*ONE, "0.1", "--gpus-per-task", "1")
    assert done.returncode == 0, done.stderr
    assert "this job has 1 GPU, and torch sees none on " in lost(project, "0.1")


def test_a_job_ends_where_a_command_of_its_setup_fails(project):
    project.send(*ONE, "0.2", "--setup", "true # it goes on", "--setup", "ls /nowhere")
    said = lost(project, "0.2")
    assert "--setup failed: ls /nowhere" in said and "No such file" in said


def test_what_the_environment_says_against_options_does_not_count(project, monkeypatch):
    for name, value in ("PARTITION", "hidden"), ("TIMELIMIT", "1"), ("NO_REQUEUE", "1"), ("JOB_NAME", "mine"), ("SIGNAL", "INT"), ("WAIT", "1"):
        monkeypatch.setitem(project.environment, f"SBATCH_{name}", value)
    assert project.send(*ONE, "0.3", "--setup", "sleep 100", "--signal-delay", "50").returncode == 0
    said = project.slurm("scontrol", "show", "jobs")
    assert "JobName=sparse-digits" in said and "Partition=hidden" not in said
    mine = said[max(place for place, word in enumerate(said) if word == "JobName=sparse-digits"):]
    assert {"Partition=debug", "TimeLimit=04:00:00", "Requeue=1"} <= {*mine}


@pytest.mark.parametrize("name, value", [("SQUEUE_STATES", "PENDING"), ("SQUEUE_PARTITION", "nowhere"), ("LOGNAME", "nobody")])
def test_no_filter_hides_a_job(project, monkeypatch, name, value):
    project.wait_for(lambda: "RUNNING" in project.slurm("squeue", "--noheader", "--format=%T"))
    monkeypatch.setitem(project.environment, name, value)
    assert "1 queued" in project.command("status", *ONE, "0.3").stdout

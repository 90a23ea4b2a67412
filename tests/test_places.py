"""Several GPUs: which one a worker of the local launcher sees. (No GPU is needed: the runs are made on the CPU.)"""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import launch as launcher
from benchmarks.__main__ import parser
from benchmarks.grid import Spec
from benchmarks.machine import default_device
from benchmarks.results import Store
from benchmarks.slurm import cluster, jobs
from benchmarks.workers import places
from benchmarks.workers.worker import PRELOADED, Worker, preload

METHOD = '''
import os
from pathlib import Path

from methods import Sparsifier


class Seeing(Sparsifier):
    def start(self, run, cycle):
        Path(f"seen-{run.seed}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
'''
LOADING = """
import sys

import torch

asked, names = [], ("is_available", "device_count", "_lazy_init", "_cuda_getDeviceCount", "_cuda_init")
for name in names:
    for module in (torch.cuda, torch._C):
        if hasattr(module, name):
            setattr(module, name, lambda *_, name=name: asked.append(name))
for name in sys.argv[1:]:
    __import__(name)
print(asked)
torch.cuda.is_available()
print(asked)
"""


@pytest.mark.skipif("TESTS_ON_GPU" in os.environ, reason="a GPU was asked for")
def test_the_tests_make_their_runs_on_the_cpu():
    """And so do the processes that they start, where there is a GPU, too."""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and default_device() == "cpu" and places.gpus() == []


def test_what_workers_are_forked_from_has_asked_for_no_gpu():
    """Its forks could not open one any more."""
    done = subprocess.run([sys.executable, "-c", LOADING, *PRELOADED], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[]", "['is_available']"], done


def test_workers_are_forked_from_what_has_loaded_most_of_what_they_import(monkeypatch):
    asked = []
    monkeypatch.setattr("multiprocessing.set_forkserver_preload", asked.extend)
    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", lambda: asked.append("begun"))
    preload()
    assert asked == [*PRELOADED, *["begun"] * (Worker.method == "forkserver")]


@pytest.mark.parametrize("runs, gpus, jobs, expected", [
    (9, [], 3, [(None, 1)] * 3),
    (2, [], 3, [(None, 1)] * 2),
    (9, [], 6, [(None, 1)] * 6),
    (9, [], None, [(None, 1)] * 4),
    (9, ["0", "1"], 2, [("0", 2), ("1", 2)]),
    (9, ["2", "3", "5"], None, [("2", places.PACK), ("3", places.PACK), ("5", places.PACK)]),
    (1, ["0", "1"], 3, [("0", 3)]),
])
def test_runs_are_spread_over_the_gpus(runs, gpus, jobs, expected, monkeypatch):
    monkeypatch.setattr(places, "cores", lambda: 4)
    monkeypatch.setattr(places, "room", lambda: 5)
    assert places.spread([Spec("digits", "st3", 0.9, seed) for seed in range(runs)], gpus, jobs) == expected


@pytest.mark.parametrize("task, gpus, expected", [
    ("imagenet-resnet50", ["2", "3"], [("2,3", 1)]), ("imagenet-resnet50", ["2"], [("2", 1)]), ("imagenet-resnet50", [], [(None, 1)] * 4),
    ("cifar10-resnet20", ["2", "3"], [("2", 4), ("3", 4)]),
])
def test_a_run_on_imagenet_takes_all_gpus(task, gpus, expected):
    assert places.spread([Spec(task, "st3", 0.9, seed) for seed in range(9)], gpus, 4) == expected


@pytest.mark.parametrize("task, words, at_a_time, runs", [
    ("digits", "", 1, [1] * 20), ("digits", "--cpus-per-task 12", 12, [12, 8]), ("digits", "--gpus-per-task 1", places.PACK, [8, 8, 4]),
    ("digits", "--gpus-per-task 2", places.PACK, [16, 4]), ("digits", "--gpus-per-task 2 --jobs 3", 3, [6, 6, 6, 2]),
    ("digits", "--gpus-per-task 1 --runs-per-task 11", places.PACK, [11, 9]),
    ("imagenet-resnet50", "--gpus-per-task 4", places.PACK, [1] * 20),
])
def test_a_task_of_a_cluster_has_as_many_runs_as_run_at_a_time(task, words, at_a_time, runs, tmp_path, monkeypatch, capsys):
    sent = []
    monkeypatch.setattr(jobs, "queue", lambda store: {})
    monkeypatch.setattr(cluster, "send", lambda args, folder, code, calls: sent.extend(calls) or [f"7_{i}" for i in range(len(calls))])
    args = parser().parse_args(["launch", task.partition("-")[0], "--launcher", "slurm", *words.split()])
    assert cluster.submit(args, Store(tmp_path), [Spec(task, "static", 0.9, seed) for seed in range(20)], "data") == 0
    assert [len(job.specs) for job in sent] == runs and {job.at_a_time for job in sent} == {at_a_time}


@pytest.mark.parametrize("command", ["plan", "launch", "leaderboard"])
def test_help_names_the_runs_on_a_gpu(command, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    assert f"{places.PACK} on each GPU" in " ".join(capsys.readouterr().out.split())


def test_a_container_gets_as_many_processes_as_its_share_of_time(tmp_path, monkeypatch):
    """And those that fit into its memory; a limit may be that of a group above its own."""
    monkeypatch.setattr(places, "free", lambda: 6e9)
    (inner := tmp_path / "job/step").mkdir(parents=True)
    (tmp_path / "own").write_text("1:cpu:/v1\n0::/job/step\n")
    where, own = (tmp_path, tmp_path / "own"), places.cores(tmp_path / "none")
    for text, expected in (("max 100000", own), ("100000 100000", 1), ("50000 100000", 1), ("150000 100000", min(own, 2)), ("9900000 100000", own)):
        for folder in (tmp_path, inner.parent, inner):
            (folder / "cpu.max").write_text(text + "\n")
            assert places.cores(*where) == expected
            (folder / "cpu.max").unlink()
    for text, expected in (("max", 6), ("100000", 1), ("1900000000", 2)):
        (inner.parent / "memory.max").write_text(text + "\n")
        assert places.room(*where) == expected


def test_memory_that_others_use_has_no_workers(tmp_path, monkeypatch):
    said = tmp_path / "meminfo"
    said.write_text("MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:    2929688 kB\n")
    assert places.free(said) == 2929688 * 1024
    all_of_it = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for text in ("MemTotal: 24000000 kB\n", "MemAvailable: much kB\n"):
        said.write_text(text)
        assert places.free(said) == all_of_it
    assert places.free(tmp_path / "none") == all_of_it
    monkeypatch.setattr(places, "free", lambda: 2929688 * 1024)
    assert places.room(tmp_path, tmp_path) == 3


@pytest.mark.parametrize("named, count, expected", [
    (None, 2, ["0", "1"]), ("2, 5", 2, ["2", "5"]), ("GPU-a,GPU-b", 1, ["GPU-a"]), ("", 0, []), ("-1", 0, []), (None, 0, []),
])
def test_gpus_are_those_that_are_visible(named, count, expected, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert places.gpus() == expected


def test_each_worker_sees_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(METHOD)
    monkeypatch.setattr(places, "gpus", lambda: ["-4", "-7"])
    specs = [Spec("digits", "mine.py:Seeing", 0.0, seed, epochs=1) for seed in range(2)]
    assert launcher.launch(specs, Store("results"), "data", jobs=1, report=lambda line: None) == []
    assert sorted(path.read_text() for path in Path().glob("seen-*")) == ["-4", "-7"]

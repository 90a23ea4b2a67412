"""How arrays are sent, and what their jobs do (fake_slurm.py; tests/slurm: a real one)."""
import os
import shutil
import signal
import subprocess
import threading
import time
from argparse import Namespace
from pathlib import Path

import pytest
from fake_slurm import slurm, store  # noqa: F401

from benchmarks import files, launch, progress
from benchmarks.__main__ import parser
from benchmarks.grid import Spec
from benchmarks.slurm import cluster, jobs, sbatch


def test_a_job_makes_its_runs_as_they_were_sent(store, monkeypatch):
    """With the rows that were seen then, so that one which was written since is taken; SLURM's first signal asks its runs to stop."""
    spec, made, handlers, asked = Spec("digits", "static", 0.9, 0), [], {}, []
    monkeypatch.setattr(launch, "launch", lambda specs, own, *rest, **more: made.append((specs, own.folder, own.seen, own.keep_models, rest, more)))
    monkeypatch.setattr(launch, "ask_to_stop", lambda: asked.append(1))
    monkeypatch.setattr(sbatch.signal, "signal", handlers.__setitem__)
    sbatch.Job([spec], {spec.key: [1, 2, 3]}, str(store.folder), "data", 4, 120, True)()
    assert made == [([spec], store.folder, {spec.key: [1, 2, 3]}, True, ("data", 4), {"wait": False, "grace": sbatch.TERM_SECONDS})]
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert asked


@pytest.mark.parametrize("delay, grace", [(120, 100), (20, 5)])
def test_a_job_whose_time_is_up_stops_its_runs_and_is_sent_again(store, monkeypatch, delay, grace):
    stopped = []
    monkeypatch.setattr(launch, "stop", stopped.append)
    monkeypatch.setattr(sbatch, "CAME", [])
    job = sbatch.Job([Spec("digits", "static", 0.9, 0)], {}, str(store.folder), "data", 4, delay, False)
    assert job.checkpoint().function is job and stopped == [grace] and sbatch.CAME  # so that what the signal interrupts is taken for no mistake


@pytest.mark.parametrize("pings, waits", [
    (["Slurmctld(primary) at a is DOWN", "Slurmctld(primary) at a is DOWN\nSlurmctld(backup) at b is UP"], 1),
    (["Slurmctld(primary) at a is UP"], 0), (["Slurmctld(primary) at a is DOWN"] * 99, 30)])
def test_a_job_is_queued_again_when_slurm_is_back(store, slurm, tmp_path, monkeypatch, pings, waits):
    """Its controller may be restarted just then; a job that is asked for in vain is lost."""
    waited, clock = [], [1000.0]

    def sleep(seconds):
        waited.append(seconds)
        clock[0] += seconds
        (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho '{pings[len(waited)]}'\n")
    monkeypatch.setattr(sbatch, "time", Namespace(sleep=sleep, monotonic=lambda: clock[0]))
    monkeypatch.setattr(launch, "stop", lambda grace: None)
    monkeypatch.setattr(sbatch, "CAME", [])
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho '{pings[0]}'\n")
    (tmp_path / "scontrol").chmod(0o755)
    sbatch.Job([], {}, str(store.folder), "data", 4, 120, False).checkpoint()
    assert len(waited) == waits


def test_what_slurm_is_told_of_a_job(store, monkeypatch):
    """It works in the copy of the code, is queued again when its time is up or its node fails, and has its signal in time."""
    import submitit
    told = {}

    class Executor:
        def __init__(self, folder, **options):
            told.update(options, folder=folder)

        def update_parameters(self, **parameters):
            told.update(parameters)

        def submit_array(self, calls):
            return [Namespace(job_id=f"12_{place}") for place in range(len(calls))]
    monkeypatch.setattr(submitit, "SlurmExecutor", Executor)
    words = "launch digits --launcher slurm --partition gpu --time 30 --mem 1.5 --setup true --signal-delay 90 --gpus-per-task 1".split()
    assert sbatch.send(parser().parse_args(words), store.runs / "submitted", Path("/a copy"), ["one", "two"]) == ["12_0", "12_1"]
    assert told["max_num_timeout"] == 100 and told["additional_parameters"] == {"chdir": "/a copy", "requeue": True, "ntasks": 1}
    assert told["setup"][:3] == ["unset SLURM_EXPORT_ENV", "export PYTHONPATH='/a copy'", "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1"]
    assert len(told["setup"]) == 4 and told["setup"][3].startswith("true\n")
    assert (told["folder"], told["time"], told["signal_delay_s"], told["mem"], told["partition"], told["gpus_per_task"]) == (
        store.runs / "submitted", 30, 90, "1536MB", "gpu", 1)
    sbatch.send(parser().parse_args(["launch", "digits", "--launcher", "slurm", "--mem", "0.0004"]), store.runs / "submitted", Path("/a copy"), [])
    assert told["mem"] == "1MB"  # of 0 SLURM makes all that a node has


SBATCH = """#!/bin/sh
[ "$SLURM_CONF" = hangs ] && exec sleep 60
env | grep -E "^(SBATCH|SLURM)_" | sort > {0}/environment
case $SLURM_CONF in refuses) echo "sbatch: error: invalid partition" >&2; exit 1;; esac
echo Submitted batch job 12
"""


@pytest.fixture
def sbatch_here(slurm, tmp_path):
    """An sbatch that takes all as job 12, unless SLURM_CONF=refuses or =hangs, and notes in `environment` what it found there."""
    for name, text in ("sbatch", SBATCH.format(tmp_path)), ("srun", ""):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)


def test_what_is_not_said_to_launch_sbatch_takes_from_the_environment_alone(store, sbatch_here, tmp_path, monkeypatch):
    """Nothing of an allocation that the launch runs in, either: srun would take its numbers in the job."""
    for name in "PARTITION TIMELIMIT NO_REQUEUE QOS RESERVATION MEM_PER_CPU EXPORT".split():
        monkeypatch.setenv(f"SBATCH_{name}", "NONE")
    monkeypatch.setenv("SLURM_CONF", "of the site")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    for words, given in ("--partition gpu --mem 2", {"PARTITION", "MEM_PER_CPU"}), ("", set()):
        args = parser().parse_args(["launch", "digits", "--launcher", "slurm", *words.split()])
        assert sbatch.send(args, store.runs / "submitted", tmp_path, [print]) == ["12"]
        found = {f"SBATCH_{name}=NONE" for name in {"PARTITION", "QOS", "RESERVATION", "MEM_PER_CPU", "EXPORT"} - given}
        assert {*(tmp_path / "environment").read_text().splitlines()} == found | {"SLURM_CONF=of the site", "SLURM_NTASKS=4"}
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    sbatch.send(args, store.runs / "submitted", tmp_path, [print])
    assert {*(tmp_path / "environment").read_text().splitlines()} == found | {"SLURM_CONF=of the site"}
    assert os.environ["SLURM_NTASKS"] == "4" and os.environ["SBATCH_TIMELIMIT"] == "NONE"


def test_nothing_stays_of_what_slurm_refuses(store, sbatch_here, tmp_path, monkeypatch):
    args, folder = parser().parse_args(["launch", "digits", "--launcher", "slurm"]), store.runs / "submitted"
    assert sbatch.send(args, folder, tmp_path, [print, print]) == ["12_0", "12_1"]
    before = sorted(folder.iterdir())
    assert len(before) == 4
    monkeypatch.setenv("SLURM_CONF", "refuses")
    for calls in [print], [print, print]:
        with pytest.raises(ValueError, match="^SLURM refuses the job: invalid partition$"):
            sbatch.send(args, folder, tmp_path, calls)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("command, ends", [("false", True), ("true # only this", False), ("false; true", False), ('grep "isn.t" /dev/null', True)])
def test_a_command_of_the_setup_that_fails_ends_the_job(command, ends):
    done = subprocess.run(["bash", "-c", sbatch.or_end(command) + "\necho went on"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, f"--setup failed: {command}\n" in done.stderr) == ((1, "", True) if ends else (0, "went on\n", False))


def test_a_job_whose_gpus_torch_does_not_see_says_so(store, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^this job has 2 GPUs, and torch sees none on \S+: check `nvidia-smi` there, and that torch \S+ is built"):
        sbatch.Job([], {}, str(store.folder), "data", 4, 120, False, 2)()


@pytest.mark.parametrize("signals, said", [(0, []), (2, ["stops when sbatch has answered", "sbatch was ended; if SLURM has taken its array"])])
def test_a_launch_says_what_it_waits_for_and_ends_sbatch_at_the_second_ctrl_c(store, sbatch_here, monkeypatch, capfd, signals, said):
    """And remembers nothing then: what SLURM may have taken finds no runs."""
    spec, began = Spec("digits", "static", 0.9, 0), time.monotonic()
    monkeypatch.setattr(sbatch, "waiting", lambda text: progress.waiting(text, 0.1))
    monkeypatch.setenv("SLURM_CONF", "hangs")
    script = Path(shutil.which("sbatch"))
    script.write_text(script.read_text().replace("exec sleep 60", f"{{ touch {store.folder}/began; exec sleep {30 if signals else 1}; }}"))

    def press():
        while not (store.folder / "began").exists():
            time.sleep(0.01)
        for _ in range(signals):
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background may have it ignored
    presser = threading.Thread(target=press)
    try:
        with pytest.raises(KeyboardInterrupt if signals else ValueError):
            presser.start()
            cluster.submit(parser().parse_args(["launch", "digits", "--launcher", "slurm"]), store, [spec], "data")
    finally:
        presser.join()
        signal.signal(signal.SIGINT, before)
    lines = capfd.readouterr().err.splitlines()
    assert time.monotonic() - began < 15 and not jobs.sent(store, "digits") and not [*(store.runs / "submitted").iterdir()]
    starts = ["sbatch has not answered yet", *said]
    assert len(lines) == len(starts) and all(line.startswith(start) for line, start in zip(lines, starts))


def test_a_launch_says_that_it_waits_for_another(store, slurm, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(cluster, "waiting", lambda text: progress.waiting(text, 0.1))
    monkeypatch.setattr(cluster, "send_missing", lambda *rest: 0)
    with files.locked(store.runs / ".jobs.lock"):
        other = threading.Thread(target=cluster.submit, args=(parser().parse_args(["launch", "digits"]), store, [], "data"))
        other.start()
        while not (said := capsys.readouterr().err):
            time.sleep(0.1)
    other.join()
    assert said + capsys.readouterr().err == f"waiting for another launch that sends from {store.folder}\n"

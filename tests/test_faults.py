"""Faults, made for real: after each, every finished row is there once, the others are made again, and a message says what happened."""
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from faults import EPOCHS, SPECS, STEPS, TRIALS, folder, losses, tally, undisturbed  # noqa: F401
from stored import ROOT, SPEC, WORDS

from benchmarks import checkpoint
from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.files import StoreError
from benchmarks.grid import Spec
from benchmarks.results import Store
from benchmarks.workers.run_claims import held


def start(*words, wait=0, specs=SPECS):
    """A launcher of its own, for the store in ./results, which Ctrl-C and SIGHUP reach even where the tests were started in the background."""
    words = ["--methods", *dict.fromkeys(s.method for s in specs), "--sparsities", *dict.fromkeys(str(s.sparsity) for s in specs), *words]
    return subprocess.Popen([sys.executable, "-m", "benchmarks", "launch", "digits", "--seeds", "1", "--epochs", str(EPOCHS), *words],
                            env={**os.environ, "PYTHONPATH": str(ROOT), "WAIT": str(wait), "PYTHONUNBUFFERED": ""}, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, start_new_session=True,
                            preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)])


def wait_for(condition, process):
    """Whether it came to be before the process ended, which a fast machine may see sooner than this look at it."""
    while process.poll() is None:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def steps_made(folder):
    return sum(len(path.read_text().split()) for path in folder.glob("steps-*"))


def stamps(store):
    return {spec.key: store.stamp(spec.key) for spec in SPECS if store.row(spec.key)}


# ---- processes that end

def test_killed_at_random_moments(undisturbed, tally, folder):
    store, lost, twice, stopped, killed, first = Store("results"), 0, 0, {}, 0, 0
    for trial in range(TRIALS):
        draw = random.Random(trial)
        process, begun = start("--jobs", "2", wait=0.02), steps_made(folder)
        moment = draw.randrange(-5, EPOCHS * STEPS * 3)  # in steps of all runs together; below 0: while it starts
        if trial % 2 == 0:
            if moment < 0:
                time.sleep(draw.uniform(0, 3))
            else:
                wait_for(lambda: steps_made(folder) - begun >= moment, process)
            killed += process.poll() is None
            process.kill(), process.wait(), process.stdout.close()  # its workers may be there for a moment
            stopped = stamps(store)
            continue
        # while there are runs: some steps were made before the launcher's end, and it takes the others up from their checkpoints
        moment = draw.randrange(max(1, (len(SPECS) * EPOCHS * STEPS - (begun - first)) // 2))
        wait_for(lambda: held(store) and steps_made(folder) - begun >= moment, process)
        victims = list(held(store).values())
        if victims:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(draw.choice(victims)["pid"], signal.SIGKILL)
                killed += 1
        before = stopped | stamps(store)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        result = losses(store, undisturbed, before)
        lost, twice, stopped = lost + result[0], twice + result[1], {}
        assert not list(store.runs.glob("*.pt")) and not list(store.runs.glob(".*.pt.part")), said
        store, first = Store(renewed("results")), steps_made(folder)
    assert killed >= 0.9 * TRIALS  # a moment may come when the last run has just ended, but seldom
    tally("launcher or worker killed at a random moment", killed, lost, twice)


def renewed(name):
    """The store of this name, put aside."""
    os.rename(name, f"{name}-{time.monotonic_ns()}")
    return name


def test_interrupted_by_ctrl_c(undisturbed, tally, folder):
    """The runs write checkpoints within an epoch, and the second start makes the steps that are missing."""
    store, specs = Store("results"), [SPECS[0], SPECS[2]]
    process = start("--jobs", "2", wait=0.1, specs=specs)
    assert wait_for(lambda: all(store.checkpoint(spec.key).exists() for spec in specs), process), process.communicate()[0]
    os.killpg(process.pid, signal.SIGINT)
    began = time.monotonic()
    said, _ = process.communicate()
    print(f"stopped after {time.monotonic() - began:.1f} s")
    assert process.returncode == 130 and "the same command goes on" in said and "Traceback" not in said, said
    assert not held(store) and not store.rows("digits")
    process = start("--jobs", "2", specs=specs)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    steps = {path.name: path.read_text().split() for path in folder.glob("steps-*")}
    assert len(steps) == 2 and all(made == [str(step) for step in range(EPOCHS * STEPS)] for made in steps.values())  # none twice
    tally("Ctrl-C", 1, *losses(store, undisturbed, specs=specs))


@pytest.mark.parametrize("name, seconds", [("SIGTERM", 4), ("SIGHUP", 0.05)])
def test_what_ends_a_launch_in_the_background_is_its_ctrl_c(name, seconds, folder):
    """It stops its runs, which write their checkpoints, also after a step of some seconds, and says so; Ctrl-C does not reach it there."""
    store, specs = Store("results"), SPECS[:1]
    process = start("--jobs", "1", wait=seconds, specs=specs)
    assert wait_for(lambda: any(path.read_text() for path in folder.glob("steps-*")), process), process.communicate()[0]
    os.killpg(process.pid, getattr(signal, name))  # a terminal that is closed tells all of its processes
    said, _ = process.communicate()
    assert process.returncode == 130 and "the same command goes on" in said and "Traceback" not in said, said
    assert store.checkpoint(specs[0].key).exists() and not held(store) and not store.rows("digits")


def test_a_log_has_each_run_as_it_ends(folder):
    process = start("--jobs", "1", wait=0.05, specs=[SPECS[0], SPECS[2]])  # so that the second takes four seconds
    made = next(len(Store("results").rows("digits")) for line in process.stdout if line.startswith("[1/2"))
    said, _ = process.communicate()
    assert made == 1 and process.returncode == 0 and "[2/2, 0:00:00 to go]" in said


def test_two_launchers_at_once(undisturbed, tally, folder):
    both = [start("--jobs", "1") for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    steps = {path.name: Counter(path.read_text().split()) for path in folder.glob("steps-*")}
    again = sum(max(counts.values()) - 1 for counts in steps.values())
    assert len(steps) == len(SPECS) and all(len(counts) == EPOCHS * STEPS for counts in steps.values())
    lost, twice = losses(Store("results"), undisturbed)
    tally("two launchers at once", 1, lost, twice + again)


@pytest.mark.parametrize("name, text", [("DeviceFull", "OutOfMemoryError: CUDA out of memory"), ("MemoryFull", "allocate")])
def test_out_of_memory_is_a_failed_row(name, text, tally, folder, capfd):
    store, spec = Store("results"), Spec("digits", f"mine.py:{name}", 0.0, 0, epochs=1)
    row = runner.run(spec, store)
    assert row["status"] == "failed" and text in row["error"] and "mine.py" in capfd.readouterr().err
    tally(f"out of memory ({name})", 1, lost=int(store.row(spec.key) is None))


# ---- disks

@pytest.fixture
def disk(tmp_path):
    """The folder of a disk of 2 MB, and a function to mount it anew with options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*words):
        return subprocess.run(["mount", *words, str(folder)], capture_output=True).returncode == 0
    if os.geteuid() or not mount("-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        pytest.skip("mounting a small disk needs root and the right to mount")
    yield folder, mount
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Leave no room; removing the file that is returned gives it back."""
    with open(folder / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return folder / "filler"


def test_full_disk_while_a_run_is_made(disk, undisturbed, tally, monkeypatch, capsys):
    store, step = Store(disk[0]), runner.Trainer.step
    filler = []

    def full_in_the_second_epoch(trainer, x, y):
        if trainer.progress.epoch == 1 and not filler:
            filler.append(fill(disk[0]))
        step(trainer, x, y)
    monkeypatch.setattr(checkpoint, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(runner.Trainer, "step", full_in_the_second_epoch)
    with pytest.raises(StoreError, match="No space left .* nothing that is stored is lost"):
        runner.run(SPEC, store)
    assert "no checkpoint could be written" in capsys.readouterr().out
    assert store.row(SPEC.key) is None and store.checkpoint(SPEC.key).stat().st_size > 1000  # of the first epoch
    filler[0].unlink()
    steps = []
    monkeypatch.setattr(runner.Trainer, "step", lambda *args: steps.append(1) or step(*args))
    runner.run(SPEC, store)
    assert len(steps) == STEPS
    tally("disk full while a run is made", 1, *losses(store, undisturbed, specs=[SPEC]))


def test_full_disk_when_runs_are_launched(disk, undisturbed, tally, capsys):
    words, store = ["--results", str(disk[0])], Store(disk[0])
    runner.run(SPEC, store)
    assert store.collect("digits") == 1
    csv, before = (disk[0] / "digits" / "runs.csv").read_bytes(), store.stamp(SPEC.key)
    filler = fill(disk[0])
    for command in (["collect", "digits"], ["launch", "digits", "--methods", "mine.py:Noted", "--sparsity", "0.9", "--seeds", "1", "--jobs", "1"]):
        capsys.readouterr()
        assert main([*command, *words]) == 2
        error, = capsys.readouterr().err.splitlines()
        assert error.startswith("error: ") and "cannot be written (No space left on device)" in error
    assert (disk[0] / "digits" / "runs.csv").read_bytes() == csv
    filler.unlink()
    tally("disk full at the launch", 1, *losses(store, undisturbed, {SPEC.key: before}, [SPEC]))


def test_read_only_results(disk, undisturbed, tally, capsys):
    folder, mount = disk
    store = Store(folder)
    runner.run(SPEC, store)
    before = store.stamp(SPEC.key)
    assert mount("-o", "remount,ro")
    for command in ([*WORDS, "--seed", "1"], ["collect", "digits"], ["launch", "digits", "--methods", "st3"]):
        capsys.readouterr()
        assert main([*command, "--results", str(folder)]) == 2
        error, = capsys.readouterr().err.splitlines()
        assert str(folder) in error and "Read-only" in error and "--results" in error
    assert main(["status", "digits", "--methods", "st3", "--results", str(folder)]) == 0
    assert mount("-o", "remount,rw")
    tally("results folder read-only", 1, *losses(store, undisturbed, {SPEC.key: before}, [SPEC]))

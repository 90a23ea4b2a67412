"""What `launch --launcher slurm`, `status` and `cancel` make of SLURM's queue and of claims (fake_slurm.py; tests/slurm: a real one)."""
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import threading
import time
from argparse import Namespace

import pytest
from fake_slurm import slurm, store  # noqa: F401

from benchmarks.__main__ import main, parser
from benchmarks.grid import Spec
from benchmarks.run import store_failure
from benchmarks.slurm import cluster, jobs
from benchmarks.status import show, stand
from benchmarks.workers import run_claims

specs = [Spec("digits", "static", 0.9, seed) for seed in range(3)]


@pytest.fixture
def launch(store, monkeypatch):  # noqa: F811
    """A function that sends `specs` with such options to a SLURM that takes all as job 12."""
    monkeypatch.setattr(cluster, "send", lambda args, folder, code, calls: [f"12_{place}" for place in range(len(calls))])
    return lambda *words, specs=specs: cluster.submit(parser().parse_args(["launch", "digits", "--launcher", "slurm", *words]), store, specs, "data")


def claim(store, key, job, silent=0):  # noqa: F811
    """A claim of a process on another machine, which has not rewritten it for so many seconds."""
    content = {"host": "node17", "boot": "another", "space": 1, "pid": 12, "born": "1", "job": job, "restart": "0", "epochs": 30, "share": 0.5}
    path = store.runs / f"{key}.claim"
    path.write_text(json.dumps(content))
    os.utime(path, (time.time() - silent,) * 2)
    return path


def test_a_claim_of_a_job_that_slurm_has_no_longer_is_void(store, slurm, launch, capsys):  # noqa: F811
    """Its node died a moment ago. That of a job which runs, or was not sent from here, says nothing of the sort."""
    began = time.time()
    jobs.remember(store, "digits", "31", {spec.key: f"31_{place}" for place, spec in enumerate(specs)})
    dead, again, other = claim(store, specs[0].key, "31_0"), claim(store, specs[1].key, "31_1"), claim(store, specs[2].key, "99", silent=840)
    slurm("31_1 RUNNING\n")
    show(store, "digits", specs, {})
    said = capsys.readouterr().out
    assert "2 running, 0 queued, 1 lost" in said and "static sparsity 0.9 seed 0: job 31_0" in said
    assert launch() == 0 and not dead.exists() and again.exists() and other.exists()
    said = capsys.readouterr().out
    minutes, seconds = map(int, re.search("1 of them is being made by process 12 on node17: .* given up in 0:(..):(..)", said).groups())
    assert 59 - (time.time() - began) <= 60 * minutes + seconds <= 60
    slurm("31_1 PENDING BeginTime\n12_0 RUNNING\n12_1 RUNNING\n")  # queued again: its process is gone
    show(store, "digits", specs, {})
    assert "1 running, 2 queued, 0 lost" in capsys.readouterr().out


def test_without_an_answer_no_claim_is_void(store, slurm, launch, capsys):  # noqa: F811
    jobs.remember(store, "digits", "31", {specs[0].key: "31_0"})
    path = claim(store, specs[0].key, "31_0")
    slurm("", 1, "no controller")
    with pytest.raises(ValueError, match="no controller"):
        launch()
    show(store, "digits", specs, {})
    assert path.exists() and "1 running" in capsys.readouterr().out


def test_a_claim_that_another_process_has_taken_over_stays(store):  # noqa: F811
    path = claim(store, "k", "31_0")
    read = run_claims.read(path)
    run_claims.drop(store, "k", read | {"pid": 13})
    assert path.exists()
    run_claims.drop(store, "k", read)
    assert not path.exists()
    run_claims.drop(store, "k", read)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="what a process has blocked is read in /proc")
@pytest.mark.parametrize("thread", [False, True])
def test_what_slurm_has_taken_is_remembered_though_ctrl_c_comes_meanwhile(store, slurm, launch, monkeypatch, thread):  # noqa: F811
    """sbatch, which the terminal tells of it, does not see it; nor does a thread of some library's that takes any signal."""
    masks, ended = [], threading.Event()

    def send(*rest):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        masks.append(int(subprocess.run(["grep", "SigBlk", "/proc/self/status"], capture_output=True, text=True).stdout.split()[1], 16))
        return ["12_0", "12_1", "12_2"]
    monkeypatch.setattr(cluster, "send", send)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background may have it ignored
    threading.Thread(target=ended.wait if thread else print).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            launch()
            time.sleep(1)
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        ended.set()
        signal.signal(signal.SIGINT, before)
    assert len(jobs.sent(store, "digits")) == 3 and masks[0] >> signal.SIGINT - 1 & masks[0] >> signal.SIGTERM - 1 & 1
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_cancel_waits_until_what_it_ended_has_left_the_queue(store, slurm, launch, monkeypatch, tmp_path, capsys):  # noqa: F811
    """Its processes end in half a minute, and a launch before that would find it queued."""
    jobs.remember(store, "digits", "7", {specs[0].key: "7_0", specs[1].key: "7_1"})
    slurm("7_0 RUNNING\n7_1 COMPLETING\n")
    (tmp_path / "scancel").write_text("#!/bin/sh\n")  # and none of them leaves
    queues, words = ["7_1 COMPLETING\n", "", "7_1 COMPLETING\n"], ["cancel", "digits", "--running", "--results", str(store.folder)]
    monkeypatch.setattr(cluster, "time", Namespace(sleep=lambda seconds: slurm(queues.pop(0)), monotonic=time.monotonic))
    assert main(words) == 0 and len(queues) == 1
    assert capsys.readouterr().out == "2 tasks of digits taken out of the queue\n"
    assert launch() == 0 and "3 runs to send" in capsys.readouterr().out
    jobs.remember(store, "digits", "7", {specs[0].key: "7_0", specs[1].key: "7_1"})
    slurm("7_0 RUNNING\n")
    (tmp_path / "scancel").write_text("#!/bin/sh\n")
    monkeypatch.setattr(cluster, "LEAVING_SECONDS", -1)
    assert main(words) == 0
    assert capsys.readouterr().out == "1 task of digits taken out of the queue\nnot ended yet: 1 task; until then a launch does not send their runs\n"


def test_a_launch_to_slurm_names_failed_runs(store, slurm, monkeypatch, tmp_path, capsys):  # noqa: F811
    """As one here does, with its exit status; not those that it makes again."""
    monkeypatch.setattr(cluster, "send", lambda *rest: ["12"])
    store_failure(specs[0], "no memory", store, None)
    store.log(specs[0].key).touch()
    words = ["launch", "digits", "--methods", "static", "--sparsities", "0.9", "--launcher", "slurm", "--results", str(store.folder), "--seeds"]
    for seeds, sent in ("1", "0 runs"), ("2", "1 run"):
        assert main([*words, seeds]) == 1
        out, err = capsys.readouterr()
        assert f"{sent} to send" in out and f"no memory (log: {store.log(specs[0].key)})" in err and "1 run failed; `launch` with --retry-failed" in err
    assert main([*words, "2", "--retry-failed"]) == 0 and "2 runs to send" in capsys.readouterr().out


def test_status_of_a_failed_run_that_is_made_again(store, slurm, capsys):  # noqa: F811
    """It is queued, then runs, then fails again, while its job goes on with other runs."""
    spec = specs[0]

    def status():
        show(store, "digits", [spec], store.rows("digits"))
        return capsys.readouterr().out

    def fails():
        store_failure(spec, "no memory", store, None)
        later(store.runs / f"{spec.key}.json")

    def later(path, moments=itertools.count(1)):
        os.utime(path, (next(moments),) * 2)
    fails()
    jobs.remember(store, "digits", "7", {spec.key: "7"})
    later(store.runs / "jobs" / "7.json")
    slurm("7 PENDING\n")
    assert "1 queued" in status()
    slurm("7 RUNNING\n")
    path = claim(store, spec.key, "7")
    assert "1 running" in status()
    path.unlink()
    fails()
    assert "1 failed" in status() and "1 failed" in status()
    slurm("")
    assert "1 failed" in status()


def test_what_its_own_job_has_failed_is_sent_again(store, slurm, launch, capsys):  # noqa: F811
    """While that job goes on with other runs: it makes none of its runs twice."""
    jobs.remember(store, "digits", "7", {spec.key: "7" for spec in specs})
    store_failure(specs[0], "no memory", store, None)
    os.utime(store.runs / "jobs" / "7.json", (1, 1))
    slurm("7 RUNNING\n")
    assert launch() == 0 and "1 run to send, 2 in the queue already" in capsys.readouterr().out
    assert jobs.sent(store, "digits") == {specs[0].key: ["7", "12_0"], specs[1].key: ["7"], specs[2].key: ["7"]}


def test_cancel_takes_no_profile(store, slurm, capsys):  # noqa: F811
    """It takes out all profiles of a suite."""
    assert main(["cancel", "digits", "--profile", "quick"]) == 2
    assert "unrecognized arguments: --profile quick" in capsys.readouterr().err


def test_status_of_a_run_that_is_made_again_after_a_change(store, slurm, capsys):  # noqa: F811
    row = {"key": specs[0].key, "status": "ok", "suite": "digits", "finished_at": "2026"}
    jobs.remember(store, "digits", "7", {specs[0].key: "7"})
    slurm("7 PENDING\n")
    for note, said in (False, "1 done"), (True, "1 queued"):
        store.again(specs[0].key).touch() if note else None
        show(store, "digits", specs[:1], {specs[0].key: row})
        assert said in capsys.readouterr().out
    claim(store, specs[0].key, "7")
    slurm("7 RUNNING\n")
    show(store, "digits", specs[:1], {specs[0].key: row})
    assert "1 running" in capsys.readouterr().out
    slurm("")
    show(store, "digits", specs[:1], {specs[0].key: row})
    assert "1 done" in capsys.readouterr().out


def test_what_is_printed_can_be_used_as_it_is(store, slurm, launch, monkeypatch, capsys):  # noqa: F811
    """The command shows what was sent, and the log is that of the first task, which is no array's where there is one."""
    words = ["--profile", "quick", "--methods", "static", "mine file.py:X", "--sparsities", "0.9", "0.95", "--seeds", "3", "--epochs", "2",
             "--precision", "fp32", "--set", "lr=0.1", "--set", "bn_momentum=0.99"]
    assert launch(*words) == 0
    said = capsys.readouterr().out
    command = re.search(r"; (\S+ -m benchmarks status .*)", said)[1]
    args, asked = (parser().parse_args(found) for found in (shlex.split(command)[3:], ["launch", "digits", *words]))
    names = "suite profile methods sparsities seeds epochs precision set".split()
    assert [getattr(args, name) for name in names] == [getattr(asked, name) for name in names] and args.results == str(store.folder)
    assert f"{store.runs}/submitted/12_0_0_log.out" in said
    (store.runs / "jobs" / "12.json").unlink()
    monkeypatch.setattr(cluster, "send", lambda *rest: ["13"])
    assert launch(specs=specs[:1]) == 0
    said = capsys.readouterr().out
    assert f"{store.runs}/submitted/13_0_log.out" in said and said.splitlines()[1] == "job 13: 1 task, 1 run"
    assert f"status digits --results {store.folder}\n" in said


@pytest.mark.parametrize("sent, queue", [(True, ""), (True, "7_0 PENDING\n"), (False, "")])
def test_a_run_that_ends_while_status_looks_is_done(store, slurm, capsys, sent, queue):  # noqa: F811
    if sent:
        jobs.remember(store, "digits", "7", {specs[0].key: "7_0"})
    slurm(queue)
    store.row = lambda key: {"status": "ok"}  # the rows of the suite were read before
    show(store, "digits", specs[:1], {})
    assert capsys.readouterr().out == "1 run: 1 done, 0 diverged, 0 failed, 0 running, 0 queued, 0 lost, 0 started, 0 not started\n"


def test_what_is_made_again_keeps_its_checkpoint_until_it_is_sent(store, slurm, launch):  # noqa: F811
    """What is refused, and a run in the queue, which goes on from there."""
    paths = [store.checkpoint(spec.key) for spec in specs]
    for path in paths:
        path.touch()
    jobs.remember(store, "digits", "7", {specs[0].key: "7_0"})
    slurm("7_0 PENDING BeginTime\n")

    def again(*words):
        args = parser().parse_args(["launch", "digits", "--launcher", "slurm", *words])
        return cluster.submit(args, store, specs, "data", specs, "--again")
    with pytest.raises(ValueError, match="--mem must be a number of more than 0, not inf"):
        again("--mem", "inf")
    assert all(path.exists() for path in paths) and not any(store.again(spec.key).exists() for spec in specs)
    assert again() == 0
    assert [path.exists() for path in paths] == [True, False, False]
    assert [store.again(spec.key).exists() for spec in specs] == [False, True, True]


def test_a_table_that_cannot_be_read_keeps_no_failed_run_from_its_row(store):  # noqa: F811
    """Of several levels: which of these have rows is not known then."""
    (store.folder / "digits").mkdir()
    (store.folder / "digits" / "runs.csv").write_text("<<<<<<< HEAD\n")
    spec = Spec("digits", "lrr", 0.9, 0)
    row = store_failure(spec, "it broke", store, None)
    assert row["status"] == "failed" and (store.runs / f"{spec.key}.json").exists()


def test_why_a_job_waits_and_with_which_options_is_said(store, slurm, launch, capsys):  # noqa: F811
    jobs.remember(store, "digits", "7", {spec.key: f"7_{place}" for place, spec in enumerate(specs)})
    slurm("7_0 PENDING PartitionTimeLimit\n7_1 PENDING Priority\n7_2 RUNNING None\n")
    show(store, "digits", specs, {})
    assert "  queued: 1 (PartitionTimeLimit)\n" in capsys.readouterr().out
    assert launch() == 0
    assert "0 runs to send, 3 in the queue already, with the code, method file and options they were sent with (`cancel digits --results {} --running` takes".format(
        store.folder) in capsys.readouterr().out
    slurm("7_0 PENDING JobArrayTaskLimit\n7_1 PENDING Resources\n7_2 PENDING None\n")
    assert launch() == 0 and f"(`cancel digits --results {store.folder}` takes" in capsys.readouterr().out
    show(store, "digits", specs, {})
    assert "queued:" not in capsys.readouterr().out


def test_a_job_that_slurm_holds_has_a_way_out(store, slurm, capsys):  # noqa: F811
    jobs.remember(store, "digits", "7", {spec.key: f"7_{place}" for place, spec in enumerate(specs)})
    slurm("7_0 PENDING launch_failed_requeued_held\n7_1 PENDING JobHeldUser\n7_2 PENDING JobHeldUser\n")
    show(store, "digits", specs, {})
    said = capsys.readouterr().out
    assert "2 (JobHeldUser: `scontrol release 7`, or `cancel`), 1 (launch_failed_requeued_held: `scontrol release 7`, or `cancel`)\n" in said


def test_what_was_sent_is_not_called_unstarted_while_slurm_does_not_answer(store, slurm, capsys):  # noqa: F811
    jobs.remember(store, "digits", "7", {specs[0].key: "7_0", specs[1].key: "7_1"})
    claim(store, specs[1].key, "7_1")
    slurm("", 1, "no controller")
    show(store, "digits", specs, {})
    out, err = capsys.readouterr()
    assert "1 running, 0 queued, 0 lost, 0 started, 1 not started, 1 sent to SLURM\n" in out and "not known: SLURM does not answer" in err


@pytest.mark.parametrize("err, out, said", [
    ("a\nslurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***\n" + "b\nc\nd\n", "o",
     ["slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 2026 DUE TO TIME LIMIT ***", "c", "d"]),
    ("slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.\nb\n", "",
     ["slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks have been OOM Killed.", "b"]),
    ("slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026 DUE TO JOB REQUEUE ***\nb\nc\nd\n", "o", ["b", "c", "d"]),  # it went on then
    ("", "\na\nb\nc\nd\n", ["b", "c", "d"]), (None, "a\n", ["a"])])
def test_why_a_job_was_lost_is_in_its_logs(store, err, out, said):  # noqa: F811
    folder = store.runs / "submitted"
    folder.mkdir()
    (folder / "7_0_log.out").write_text(out)
    if err is not None:
        (folder / "7_0_log.err").write_text(err)
    assert stand("k", None, None, ("7", "", ""), store)[1].split("\n      ") == ["job 7", *said]


def test_of_a_lost_job_without_a_log_somebody_else_knows_more(store):  # noqa: F811
    assert stand("k", None, None, ("7_0", "", ""), store) == ("lost", "job 7_0: no log; `sacct -j 7_0` says more")

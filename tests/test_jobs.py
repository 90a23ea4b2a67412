"""What was sent to SLURM, as it is remembered and joined with its queue (fake_slurm.py; tests/slurm: a real one)."""
import os
import threading
from argparse import Namespace

import pytest
from fake_slurm import slurm, store  # noqa: F401

from benchmarks.__main__ import main, parser
from benchmarks.grid import Spec
from benchmarks.levels import levels_of
from benchmarks.results import Store
from benchmarks.slurm import cluster, jobs
from benchmarks.status import stand
from benchmarks.workers import run_claims


def test_what_was_sent_later_counts(store):
    """Job 10 came after job 9, though its name sorts before; a file that is damaged hides no other."""
    jobs.remember(store, "digits", "10", {"a": "10_0", "b": "10_1"})
    jobs.remember(store, "digits", "9", {"a": "9_4", "c": "9_5"})
    jobs.remember(store, "cifar10", "11", {"a": "11_0"})
    for number, text in enumerate(("", "{", "[]", "{}", '{"suite": "digits"}', '{"suite": "digits", "runs": [1]}')):
        (store.runs / "jobs" / f"{number}.json").write_text(text)
    assert jobs.sent(store, "digits") == {"a": ["9_4", "10_0"], "b": ["10_1"], "c": ["9_5"]}
    assert jobs.sent(store, "cifar10") == {"a": ["11_0"]} and jobs.sent(store, "imagenet") == {}


def test_the_queue_has_what_has_not_ended(store, slurm, tmp_path):
    """Each task of an array in a line of its own, or several that wait would be one, such as 7_[0-3]."""
    slurm("7_0 PENDING\n7_1 RUNNING\n7_2 COMPLETED\n7_3 CANCELLED\n7_4 REQUEUED\n7_5 TIMEOUT\n8 COMPLETING\n")
    states = {"7_0": "PENDING", "7_1": "RUNNING", "7_4": "REQUEUED", "8": "COMPLETING"}
    assert jobs.queue(store) == {job: (state, "None") for job, state in states.items()}
    assert "--array" in (tmp_path / "asked").read_text().split()


def test_no_job_is_left_out_of_the_queue(store, slurm, tmp_path, monkeypatch):
    """What filters squeue for people, and another name to log in with, would make jobs lost that run."""
    for name, value in ("SQUEUE_STATES", "PENDING"), ("SQUEUE_PARTITION", "low"), ("LOGNAME", "nobody"):
        monkeypatch.setenv(name, value)
    jobs.queue(store)
    asked = (tmp_path / "asked").read_text()
    assert "SQUEUE_" not in asked and f"--all --noheader --array --user {os.getuid()} " in asked


def test_the_queue_has_the_jobs_of_all_who_send_from_a_folder(store, slurm, tmp_path, monkeypatch):
    """Or the claims of another's running jobs would be void, and their runs be made twice at a time."""
    jobs.remember(store, "digits", "7", {"a": "7_0"})
    senders = {os.getuid(), 4711}
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    jobs.queue(store)
    assert f"--user {','.join(map(str, sorted(senders)))} " in (tmp_path / "asked").read_text()


def test_a_job_of_the_same_number_that_was_sent_from_elsewhere_is_none_of_ours(store, slurm, tmp_path, monkeypatch, capsys):
    """The results came from another cluster, say, whose numbers another job has here: it is not ended, and the run is sent. What was sent
    from here is known however the results are named."""
    spec = Spec("digits", "static", 0.9, 0)
    jobs.remember(store, "digits", "7", {spec.key: "7_0", "b": "7_1"})
    (tmp_path / "named otherwise").symlink_to(store.folder)
    slurm(f"7_0 RUNNING None /home/me/an other | project\n7_1 PENDING None {store.runs}\n")
    assert jobs.queue(store) == {}
    assert cluster.cancel(Namespace(suite="digits", running=True), store) == 0 and not (tmp_path / "told").exists()
    monkeypatch.setattr(cluster, "send", lambda *rest: ["12"])
    assert cluster.submit(parser().parse_args(["launch", "digits", "--launcher", "slurm"]), store, [spec], "data") == 0
    assert "0 in the queue already" in capsys.readouterr().out and jobs.sent(store, "digits")[spec.key] == ["7_0", "12"]
    slurm("7_0 RUNNING\n")
    assert list(jobs.queue(Store(tmp_path / "named otherwise"))) == ["7_0"]


def test_a_queue_that_does_not_answer_is_one_line(store, slurm, monkeypatch):
    slurm("", 1, "slurm_load_jobs error: no controller")
    with pytest.raises(ValueError, match=r"^SLURM does not answer \(slurm_load_jobs error: no controller\)$"):
        jobs.queue(store)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="there is no SLURM here.*--launcher local"):
        jobs.queue(store)


def test_a_run_that_was_sent_again_is_where_its_last_queued_job_is(store, slurm):
    assert jobs.states(*jobs.look(store, "digits")) == {}
    jobs.remember(store, "digits", "7", {"again": "7_0", "lost": "7_1", "first": "7_2"})
    jobs.remember(store, "digits", "8", {"again": "8_0", "first": "8_2", "lost": "8_1"})
    slurm("7_0 RUNNING\n7_2 RUNNING\n8_0 PENDING\n")
    assert jobs.states(*jobs.look(store, "digits")) == {
        "again": ("8_0", "PENDING", "None"), "lost": ("8_1", "", ""), "first": ("7_2", "RUNNING", "None")}


def test_nothing_is_asked_of_a_queue_to_which_nothing_was_sent(store, monkeypatch):
    monkeypatch.setattr(jobs, "queue", lambda store: pytest.fail("was asked"))
    assert jobs.look(store, "digits") == ({}, {})


@pytest.mark.parametrize("words", [["launch", "digits", "--methods", "static", "--sparsities", "0.9", "--seeds", "3", "--set", "recipe=suite"],
                                   ["leaderboard", "digits", "--method", "static", "--sparsities", "0.9", "--seeds", "3"]])
def test_a_launch_here_of_what_waits_for_slurm_says_so(store, slurm, monkeypatch, capsys, words):
    """Its own rows are as good, but whoever sent runs to a cluster does not want them on the node that he logs in to."""
    specs = [Spec("digits", "static", 0.9, seed) for seed in range(3)]
    jobs.remember(store, "digits", "31", {spec.key: f"31_{place}" for place, spec in enumerate(specs)})
    monkeypatch.setattr("benchmarks.launch.launch", lambda todo, *args, **kwargs: [])
    monkeypatch.setattr("benchmarks.leaderboard.rehearse", lambda *args: None)

    def said(queue, **answer):
        slurm(queue, **answer)
        main([*words, "--results", str(store.folder)])
        return capsys.readouterr().err
    assert "SLURM's queue has 2 of these runs" in said("31_0 PENDING\n31_1 RUNNING\n31_2 PENDING\n")
    assert "SLURM" not in said("31_1 RUNNING\n")
    assert "SLURM" not in said("", status=1, err="no controller")


def test_what_is_queued_is_not_sent_twice_and_what_is_lost_is(store, slurm, monkeypatch, capsys):
    """A run of several levels is sent once and remembered for the row of each."""
    specs = [Spec("digits", "static", 0.9, seed) for seed in range(3)] + [Spec("digits", "lrr", 0.9, 0)]
    jobs.remember(store, "digits", "7", {specs[0].key: "7_0", specs[1].key: "7_1"})
    slurm("7_0 PENDING\n")
    store.seen = {specs[2].key: [1, 2, 3]}
    calls = []
    monkeypatch.setattr(cluster, "send", lambda args, folder, code, some: calls.extend(some) or [f"12_{i}" for i in range(len(some))])
    args = parser().parse_args(["launch", "digits", "--launcher", "slurm", "--runs-per-task", "2"])
    todo = specs + levels_of(specs[3])[1:2]
    assert cluster.submit(args, store, todo, "data") == 0
    assert "3 runs to send, 1 in the queue already" in capsys.readouterr().out
    assert [job.specs for job in calls] == [[specs[3], specs[1]], [specs[2]]]
    assert calls[1].seen == {specs[2].key: [1, 2, 3]} and calls[0].seen == dict.fromkeys([specs[3].key, specs[1].key])
    sent = jobs.sent(store, "digits")
    assert {level.key for level in levels_of(specs[3])} == {key for key, ids in sent.items() if ids == ["12_0"]}
    assert sent[specs[1].key] == ["7_1", "12_0"] and sent[specs[2].key] == ["12_1"] and sent[specs[0].key] == ["7_0"]
    slurm("7_0 RUNNING\n12_0 PENDING\n12_1 PENDING\n")
    assert cluster.submit(args, store, todo, "data") == 0 and len(calls) == 2


def test_a_run_is_sent_with_those_that_part_from_it(store, slurm, monkeypatch, capsys):
    """They go on from what it leaves them, in the same job."""
    static, branch, first, second = (Spec("digits", method, sparsity, seed)
                                     for method, sparsity, seed in (("static", 0.9, 0), ("lrr", 0.85, 0), ("lrr", 0.9, 0), ("lrr", 0.9, 1)))
    slurm("")
    calls = []
    monkeypatch.setattr(cluster, "send", lambda args, folder, code, some: calls.extend(some) or [f"12_{i}" for i in range(len(some))])
    args = parser().parse_args(["launch", "digits", "--launcher", "slurm", "--runs-per-task", "1"])
    assert cluster.submit(args, store, [static, branch, first, second], "data") == 0
    assert [job.specs for job in calls] == [[first, branch], [second], [static]]
    assert "job 12: 3 tasks, 4 runs" in capsys.readouterr().out
    assert {jobs.sent(store, "digits")[spec.key][0] for spec in (first, branch)} == {"12_0"}


def test_two_submissions_at_once_send_a_run_once(store, slurm, monkeypatch, capsys):
    """The second begins while the first one sends, and waits until it has noted what it sent."""
    sent, second = [], threading.Thread(target=lambda: cluster.submit(args, store, [Spec("digits", "static", 0.9, 0)], "data"))

    def send(args, folder, code, calls):
        sent.append(calls)
        slurm("7_0 PENDING\n")
        if len(sent) == 1:
            second.start()
            second.join(1)
        return ["7_0"]
    monkeypatch.setattr(cluster, "send", send)
    args = parser().parse_args(["launch", "digits", "--launcher", "slurm"])
    assert cluster.submit(args, store, [Spec("digits", "static", 0.9, 0)], "data") == 0
    second.join()
    assert len(sent) == 1 and "0 runs to send, 1 in the queue already" in capsys.readouterr().out


@pytest.mark.parametrize("running, ended, said", [
    (False, "7_0", "1 task of digits taken out of the queue, 1 goes on"), (True, "7_0 7_1", "2 tasks")])
def test_cancel_takes_what_waits_and_on_request_what_runs(store, slurm, tmp_path, capsys, running, ended, said):
    jobs.remember(store, "digits", "7", {"a": "7_0", "b": "7_0", "c": "7_1", "d": "7_2"})
    slurm("7_0 PENDING\n7_1 RUNNING\n9_0 PENDING\n")  # 9_0 is somebody else's
    assert cluster.cancel(Namespace(suite="digits", running=running), store) == 0
    assert (tmp_path / "told").read_text() == ended + "\n" and capsys.readouterr().out.startswith(said)


def test_cancel_takes_all_jobs_of_a_run_that_was_sent_again(store, slurm, tmp_path, capsys):
    jobs.remember(store, "digits", "7", {"a": "7_0"})
    jobs.remember(store, "digits", "8", {"a": "8_0"})
    slurm("7_0 PENDING\n8_0 PENDING\n")
    assert cluster.cancel(Namespace(suite="digits", running=False), store) == 0
    assert (tmp_path / "told").read_text() == "7_0 8_0\n" and capsys.readouterr().out.startswith("2 tasks of digits taken out of the queue")


@pytest.mark.parametrize("gpus, cpus, said", [("1", "1", True), ("2", "4", False), (None, "1", False)])
def test_that_images_are_read_by_cores_is_said(store, slurm, monkeypatch, capsys, gpus, cpus, said):
    monkeypatch.setattr(cluster, "send", lambda *rest: ["7_0"])
    slurm("")
    words = ["launch", "imagenet", "--launcher", "slurm", "--cpus-per-task", cpus, *["--gpus-per-task", gpus] * bool(gpus)]
    assert cluster.submit(parser().parse_args(words), store, [Spec("imagenet-resnet50", "static", 0.9, 0)], "data") == 0
    assert ("--cpus-per-task 1 leaves no core to read ImageNet's images beside 1 GPU" in capsys.readouterr().err) is said


def test_how_a_run_stands(store):
    """A row counts before all else, but for a failed one which is made again; then a claim, then the queue; then what lies there."""
    claim = {"host": "node", "pid": 12, "born": "1", "job": None, "epochs": 30, "share": 0.5, "left": 3661.0}
    failed = {"status": "failed", "error": "no memory"}
    store.log("k").write_text("one\n\ntwo\nthree\nfour\n")
    assert stand("k", {"status": "ok"}, claim, ("7_0", "RUNNING"), store) == ("done", "")
    assert stand("k", failed, claim | {"left": None}, None, store) == ("running", "epoch 16 of 30 (process 12 on node)")
    assert stand("k", failed, None, None, store) == ("failed", f"no memory (log: {store.log('k')})\n      two\n      three\n      four")
    assert stand("k", failed | {"status": "diverged"}, None, None, store) == ("diverged", f"no memory (log: {store.log('k')})")
    assert stand("k", None, claim, ("7_0", "RUNNING"), store) == ("running", "epoch 16 of 30, 1:01:01 to go (process 12 on node)")
    assert stand("k", None, claim | {"epochs": None, "share": 0.0, "left": None}, None, store) == ("running", "starting (process 12 on node)")
    late = claim | {"share": 1.0, "left": None, "job": "7"}
    assert stand("k", None, late, None, store) == ("running", "epoch 30 of 30 (job 7)")
    assert stand("k", None, None, ("7_0", "PENDING"), store) == ("queued", "")
    (store.runs / "submitted").mkdir()
    (store.runs / "submitted" / "7_0_0_log.err").write_text("killed\n")
    assert stand("k", None, None, ("7_0", ""), store) == ("lost", "job 7_0\n      killed")
    (store.runs / "jobs").mkdir()
    jobs.cancelled(store, "7_0").touch()
    assert stand("k", None, None, ("7_0", ""), store) == ("started", "") and stand("k", None, None, ("7_1", ""), store)[0] == "lost"
    assert stand("k", None, None, None, store) == ("started", "")
    store.log("k").unlink()
    assert stand("k", None, None, None, store) == ("not started", "")
    store.checkpoint("k").touch()
    assert stand("k", None, None, None, store) == ("started", "")


def test_what_is_left_of_a_run_follows_from_what_was_done_since_it_began(store, monkeypatch):
    """Where it went on from a fifth, and has another two fifths after 100 seconds, as long again."""
    clock = [1000.0]
    monkeypatch.setattr(run_claims.time, "monotonic", lambda: clock[0])
    with run_claims.Claim(store, "key") as claim:
        claim.begun(30)
        claim.note(0.2)
        clock[0] += 100
        claim.note(0.6)
        content = run_claims.held(store)["key"]
    assert (content["share"], content["epochs"]) == (0.6, 30) and content["left"] == pytest.approx(100)

"""What was sent to SLURM: `results/runs/jobs/ID.json`, one file per job array, combined with the output of squeue."""
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.files import StoreError, write_whole

ENDING = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


def remember(store, suite, array, runs):
    """Records that the runs {key: job id, such as 12_3} of a suite were sent as the job array `array`."""
    folder = store.runs / "jobs"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made ({error.strerror})") from None
    write_whole(folder / f"{array}.json", json.dumps({"suite": suite, "runs": runs}))


def sent(store, suite):
    """{key: its job ids, the latest last} of all runs of a suite that were sent."""
    found = {}
    for path in sorted((store.runs / "jobs").glob("*.json"), key=lambda path: (len(path.stem), path.stem)):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["suite"] == suite:
                for key, job in content["runs"].items():
                    if re.fullmatch(r"[0-9]+(_[0-9]+)?", str(job)):  # job ids become file names, too
                        found.setdefault(key, []).append(str(job))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # damaged; claims still prevent a run from being made twice at a time
    return found


def queue(store):
    """{job id: (state, such as PENDING or RUNNING, SLURM's reason for it)} of the jobs that were sent from this results folder. Raises
    ValueError in one line if SLURM does not answer.

    These jobs are recognised by their working folder, a copy of the code in this results folder: if the folder came from another cluster, the
    same job id may be another job's.
    """
    if not shutil.which("squeue"):
        raise ValueError("there is no SLURM here (squeue is not installed); use --launcher local")
    # all states and partitions, hidden ones too, because a job that is left out would be sent again; the folder is last: it may contain "|"
    senders = {os.getuid(), *(path.stat().st_uid for path in (store.runs / "jobs").glob("*.json"))}  # several people may share a results folder
    words = ["squeue", "--all", "--noheader", "--array", "--user", ",".join(map(str, sorted(senders))), "--format", "%i|%T|%r|%Z"]
    unfiltered = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="surrogateescape", timeout=60, env=unfiltered)
    except subprocess.TimeoutExpired:
        raise ValueError("SLURM does not answer (squeue took more than a minute)") from None
    if done.returncode:
        raise ValueError(f"SLURM does not answer ({' '.join(done.stderr.split())})")
    code = store.runs.resolve() / "code"
    lines = (line.split("|", 3) for line in done.stdout.split("\n") if line.count("|") >= 3)
    return {job: (state, reason) for job, state, reason, folder in lines if state not in ENDING and Path(folder).parent == code}


def look(store, suite):
    """Returns (what was `sent` of a suite, the `queue`). SLURM is not asked if nothing was sent."""
    known = sent(store, suite)
    return known, queue(store) if known else {}


def states(known, now):
    """{key: (job id, its state, SLURM's reason)} of the runs `sent`, from the `queue`; the state is "" if none of a run's jobs is queued any more."""
    return {key: next(((job, *now[job]) for job in reversed(ids) if job in now), (ids[-1], "", "")) for key, ids in known.items()}


def still_makes(store, key, job):
    """Whether a job that is queued or runs has yet to make the row of a run: no row was written after the job was sent. With one, it goes on with its
    other runs."""
    def written(path):
        return path.stat().st_mtime_ns if path.exists() else 0  # by the file system's clock
    return written(store.runs / "jobs" / f"{job.split('_')[0]}.json") > written(store.runs / f"{key}.json")


def cancelled(store, job):
    """The path whose file says that somebody took this job out of the queue (`cancel`): its runs are not lost."""
    return store.runs / "jobs" / f"{job}.cancelled"


def tell_queued(specs, store, suite):
    """Warns on stderr of Specs that wait in SLURM's queue: a launch on this machine makes them, too. Says nothing if SLURM does not answer."""
    with contextlib.suppress(ValueError):
        found = states(*look(store, suite))
        waiting = sum(found.get(spec.key, ("", "", ""))[1] == "PENDING" for spec in specs)
        if waiting:
            print(f"SLURM's queue has {waiting} of these runs, which this machine makes now: Ctrl-C leaves them to SLURM, `status {suite}` says when "
                  "they are done", file=sys.stderr)


def gone(known, now, claims):
    """The keys of `claims` whose job was sent from here and is not running: it has left the queue, or waits in it again. Nobody is making these
    runs, however recently the claims were rewritten. `claims` must have been read before the queue."""
    return {key for key, claim in claims.items() if claim["job"] in known.get(key, ()) and now.get(claim["job"], ("PENDING",))[0] == "PENDING"}

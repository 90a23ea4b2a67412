"""`python -m benchmarks status SUITE`: the stored rows combined with the runs at work and with SLURM's queue."""
import re
import sys
from collections import Counter, defaultdict

from benchmarks.progress import duration, plain, several, title
from benchmarks.slurm import jobs
from benchmarks.workers import run_claims

LINES = 3  # shown of a log
STATES = ("done", "diverged", "failed", "running", "queued", "lost", "started", "not started")
SENT = "sent to SLURM"  # the state of a sent run if SLURM does not answer
ENDED = re.compile(r"error: \*\*\*(?!.*JOB REQUEUE)|DUE TO (?!JOB REQUEUE)|oom.kill|OOM Kill")  # SLURM's own words: cancelled, memory, …
USUAL = "None Priority Resources JobArrayTaskLimit BeginTime".split()  # SLURM's reasons for waiting that pass by themselves


def show(store, suite, specs, rows):
    """Prints the state of each of `specs`; returns the exit status. `rows`: {key: row} of those that have one."""
    from benchmarks.checkpoint import share_done
    at_work = run_claims.held(store)
    try:
        known, now = jobs.look(store, suite)
        queue = jobs.states(known, now)
        for key in jobs.gone(known, now, at_work):
            del at_work[key]
    except ValueError as error:
        print(f"what is queued is not known: {error}", file=sys.stderr)
        queue = {key: (ids[-1], None, "") for key, ids in jobs.sent(store, suite).items()}
    waiting = defaultdict(list)  # {SLURM's reason, where it does not pass by itself: the job array of each run}
    counts, lines = Counter(), []
    for spec in specs:
        state, line = stand(spec.key, rows.get(spec.key), at_work.get(spec.key), queue.get(spec.key), store)
        if (state == "lost" or state != "running" and spec.key not in rows) and (row := store.row(spec.key)):  # which was written meanwhile
            state, line = stand(spec.key, row, None, None, store)
        counts[state] += 1
        job, stage, reason = queue.get(spec.key, ("", "", ""))
        if state == "queued" and stage == "PENDING" and reason not in USUAL:
            waiting[reason].append(job.split("_")[0])
        if state == "started" and (share := share_done(store.checkpoint(spec.key), spec)):
            line = f"{100 * share:.0f} % in its checkpoint"
        if line:
            lines.append(f"  {state}: {title(spec)}: {line}")
    print(f"{several(len(specs), 'run')}: " + ", ".join(f"{counts[state]} {state}" for state in (*STATES, *[SENT] * (SENT in counts))))
    if waiting:
        most = sorted(waiting.items(), key=lambda item: len(item[1]), reverse=True)
        print("  queued: " + ", ".join(f"{len(arrays)} ({reason}{way_out(reason, arrays)})" for reason, arrays in most))
    for line in lines:
        print(line)
    mixed = sum("; " in (rows.get(spec.key, {}).get("code_version") or "") for spec in specs)
    if mixed:
        print(f"{several(mixed, 'run')} went on with another version of the code than begun with, as code_version says")
    if counts["lost"]:
        print("lost: sent to SLURM, no longer in its queue, and without a row; the same launch sends them again")
    return 1 if counts["failed"] or counts["lost"] else 0


def stand(key, row, claim, job, store):
    """Returns (the run's state, one of STATES or SENT; details in words or "")."""
    if row and not made_again(key, row, claim, job, store):
        if row["status"] == "ok":
            return "done", ""
        tail = lines_of(store.log(key))[-LINES:] if row["status"] == "failed" else ()
        return row["status"], plain(row["error"]) + store.log_note(key) + indented(tail)
    if claim:
        epochs = claim.get("epochs")
        where = plain(f"job {claim['job']}" if claim["job"] else f"process {claim['pid']} on {claim['host']}")
        left = "" if claim.get("left") is None else f", {duration(claim['left'])} to go"
        share = float(claim.get("share") or 0)
        if not epochs:
            return "running", f"starting ({where})"
        return "running", f"epoch {min(int(share * epochs) + 1, epochs)} of {epochs}{left} ({where})"
    if job and job[1]:
        return "queued", ""
    if job and job[1] is None:
        return SENT, ""
    if job and not jobs.cancelled(store, job[0]).exists():
        return "lost", f"job {job[0]}" + why_lost(store.runs / "submitted", job[0])
    return ("started" if store.checkpoint(key).exists() or store.log(key).exists() else "not started"), ""


def made_again(key, row, claim, job, store):
    """Whether a run that has a row is being made or is queued again. A running job alone does not mean so: it may now be making
    other runs."""
    if store.again(key).exists() or row["status"] == "failed" and claim:
        return bool(claim or job and job[1])
    return bool(row["status"] == "failed" and job and job[1] and jobs.still_makes(store, key, job[0]))


def way_out(reason, arrays):
    """The commands for jobs that are held, which will not start by themselves; "" for other reasons."""
    return f": `scontrol release {','.join(sorted({*arrays}))}`, or `cancel`" if "held" in reason.lower() else ""


def why_lost(folder, job):
    """The lines in a job's logs about its end, SLURM's own first, indented."""
    for stream in ("err", "out"):
        if lines := lines_of(folder / f"{job}_0_log.{stream}"):
            ended = [line for line in lines if ENDED.search(line)][1 - LINES:]
            return indented(ended + [line for line in lines if line not in ended][len(ended) - LINES:])
    return f": no log; `sacct -j {job}` says more"


def lines_of(path):
    """The lines of a log that are not blank; [] if there is no log."""
    try:
        return [line for line in path.read_text(encoding="utf-8", errors="replace").split("\n") if line.strip()]
    except OSError:
        return []


def indented(lines):
    return "".join(f"\n      {plain(line.expandtabs()[:200])}" for line in lines)

"""`launch --launcher slurm` and `cancel`: missing runs are submitted as job arrays.

A job makes its runs with the local launcher, from a copy of the code as of its submission, in `results/runs/code/HASH`.
"""
import argparse
import contextlib
import hashlib
import itertools
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.command import with_options
from benchmarks.files import StoreError, locked, writer
from benchmarks.levels import branches, levels_of, uncovered
from benchmarks.method_files import file_of
from benchmarks.progress import duration, several, waiting
from benchmarks.slurm import jobs
from benchmarks.slurm.sbatch import Job, held_back, send
from benchmarks.tasks import settle
from benchmarks.workers import run_claims
from benchmarks.workers.again import renew
from benchmarks.workers.places import PACK

ARRAY = 1000      # SLURM's default MaxArraySize is 1001
LEAVING_SECONDS = 60  # how long `cancel` waits for the jobs that it has ended to leave the queue


def add_arguments(sub):
    """Adds the options of `launch` that are for SLURM."""
    group = sub.add_argument_group("with --launcher slurm")
    group.add_argument("--partition", metavar="P")
    group.add_argument("--gpus-per-task", type=int, metavar="N")
    group.add_argument("--cpus-per-task", type=int, metavar="N", default=1, help="runs at a time in a task without GPUs; for ImageNet on GPUs, 17 a GPU to read its images (default: 1)")
    group.add_argument("--mem", type=float, metavar="GB")
    group.add_argument("--time", type=int, metavar="MINUTES", default=240, help="after it a task goes back into the queue (default: 240)")
    group.add_argument("--array-parallelism", type=int, metavar="N", default=256,
                       help=f"tasks at a time of each array of {ARRAY} (default: 256)")
    group.add_argument("--runs-per-task", type=int, metavar="K", help="default: as many as run at a time")
    for name in ("qos", "account", "constraint"):
        group.add_argument(f"--{name}", metavar="NAME")
    group.add_argument("--setup", action="append", default=[], metavar="COMMAND", help="run in the shell before a task; can be given again")
    group.add_argument("--signal-delay", type=int, default=120, metavar="SECONDS",
                       help="that the runs have to save before the time is up (default: 120)")


def refuse(args):
    """Raises ValueError if an option for SLURM was given: the user does not want to train on this machine."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for name, default in vars(parser.parse_args([])).items():
        if getattr(args, name) != default:
            raise ValueError(f"--{name.replace('_', '-')} belongs to --launcher slurm")


def check(args, folder):
    """Raises ValueError in one line for impossible numbers, and for a results folder whose name has a special meaning to SLURM."""
    if {"%", "\\"} & {*str(folder.resolve())}:
        raise ValueError(f"{folder.resolve()} has a % or a backslash, which SLURM takes for something else: give --results another folder")
    for name in ("partition", "qos", "account", "constraint"):
        value = getattr(args, name)
        if value is not None and not value.isprintable():  # a line break would start a new line in the job script
            raise ValueError(f"--{name} {value!r} has a line break or another control character: leave it out")
    for name in ("gpus_per_task", "cpus_per_task", "mem", "time", "array_parallelism", "runs_per_task", "signal_delay"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"--{name.replace('_', '-')} must be a number of more than 0, not {value}")
    if args.signal_delay >= 60 * args.time:
        raise ValueError(f"--signal-delay {args.signal_delay} (seconds) leaves nothing of --time {args.time} (minutes)")
    if args.signal_delay + 120 > 60 * args.time:  # sbatch's manual: the signal may come up to 60 seconds early
        print(f"--time {args.time} (minutes) with --signal-delay {args.signal_delay} (seconds) leaves a task less than a minute to start and to "
              "train, as SLURM may signal a minute early: it may go back into the queue without having trained", file=sys.stderr)
    if args.jobs and not args.gpus_per_task and args.jobs > args.cpus_per_task:
        print(f"--jobs {args.jobs} is more than --cpus-per-task {args.cpus_per_task}: runs share a core, each slower for it", file=sys.stderr)


def submit(args, store, todo, folder, again=(), by=""):
    """Submits the missing runs that are not queued yet; prints the job ids and how to follow them. Returns the exit status. again: those of them that
    are made again, by the option `by` (`renew`)."""
    check(args, store.folder)
    with contextlib.ExitStack() as stack:
        with waiting(f"waiting for another launch that sends from {store.folder}"):
            stack.enter_context(locked(store.runs / ".jobs.lock"))  # else a simultaneous submission would send the same runs
        return send_missing(args, store, todo, folder, again, by)


def send_missing(args, store, todo, folder, again=(), by=""):
    """Does the work of `submit`, which holds the lock."""
    claims, known = run_claims.held(store), jobs.sent(store, args.suite)
    now = jobs.queue(store)  # before the code is copied: raises ValueError without SLURM
    states = {key: state for key, (job, state, _) in jobs.states(known, now).items() if jobs.still_makes(store, key, job)}
    waiting = {spec: states.get(spec.key, "") for spec in uncovered(todo)}
    fresh, queued = [spec for spec, state in waiting.items() if not state], [state for state in waiting.values() if state]
    out = ["cancel", args.suite, "--results", str(store.folder), *["--running"] * any(state != "PENDING" for state in queued)]
    print(f"{several(len(fresh), 'run')} to send, {len(queued)} in the queue already"
          + f", with the code, method file and options they were sent with (`{shlex.join(out)}` takes them out)" * bool(queued))
    if not fresh:
        return 0
    for key in jobs.gone(known, now, claims):
        run_claims.drop(store, key, claims.pop(key))
    tell_made_elsewhere(store, {spec.key: claims[spec.key] for spec in fresh if spec.key in claims})
    if args.gpus_per_task and args.cpus_per_task < 2 * args.gpus_per_task and any(settle(spec)[0].on_all_gpus for spec in fresh):
        print(f"--cpus-per-task {args.cpus_per_task} leaves no core to read ImageNet's images beside {several(args.gpus_per_task, 'GPU')}, which then "
              "mostly waits: a GPU uses up to 17", file=sys.stderr)
    at_a_time = args.jobs or (PACK if args.gpus_per_task else args.cpus_per_task)
    packs = packed(fresh, args, at_a_time)
    results, first_job = store.folder.resolve(), None
    code = snapshot(store, {spec.method for spec in fresh})
    sent = {level.key for spec in fresh for level in levels_of(spec)}
    renew([spec for spec in again if spec.key in sent], store, args.suite, by)  # only now: what is queued goes on from its checkpoint
    for place in range(0, len(packs), ARRAY):
        part = packs[place:place + ARRAY]
        calls = [Job(pack, {s.key: store.seen.get(s.key) for s in pack}, str(results), str(Path(folder).resolve()), at_a_time, args.signal_delay,
                     store.keep_models, args.gpus_per_task)
                 for pack in part]
        with held_back():
            ids = send(args, results / "runs" / "submitted", code, calls)
            array, first_job = ids[0].split("_")[0], first_job or ids[0]
            jobs.remember(store, args.suite, array, {level.key: job for job, pack in zip(ids, part) for spec in pack for level in levels_of(spec)})
        print(f"job {array}: {several(len(part), 'task')}, {several(sum(map(len, part)), 'run')}")
    print(f"follow them with: squeue --me; {status_of(args, store)}\n"
          f"what the first task prints: {store.runs / 'submitted' / first_job}_0_log.out (and .err); of a run: {store.runs}/KEY.log")
    return 0


def packed(specs, args, at_a_time):
    """The runs of each task of the job arrays, as lists. at_a_time: how many runs share a GPU, or the cores of a task."""
    specs = sorted(specs, key=lambda spec: (spec.task, spec.method))
    together = args.gpus_per_task and any(settle(spec)[0].on_all_gpus for spec in specs)  # such a run takes all GPUs: one at a time
    each = args.runs_per_task or (1 if together else at_a_time * (args.gpus_per_task or 1))
    trunks = branches(specs)
    first = [spec for spec in specs if spec not in trunks]
    packs = [first[place:place + each] for place in range(0, len(first), each)]
    parting = {}
    for spec, trunk in trunks.items():
        parting.setdefault(trunk, []).append(spec)
    return [pack + [branch for spec in pack for branch in parting.get(spec, ())] for pack in packs]  # a run that continues another: into its task


def status_of(args, store):
    """The `status` command for the runs of this launch: with the same options, as far as `status` has them."""
    same = {name: getattr(args, name) for name in ("profile", "methods", "tasks", "sparsities", "seeds", "epochs", "precision", "set")}
    return f"{shlex.quote(sys.executable)} -m benchmarks status {args.suite}{with_options(results=store.folder, **same)}"


def tell_made_elsewhere(store, claims):
    """Says which of the runs to send are being made elsewhere, by these claims, and when the claims lapse without another sign of life."""
    if claims:
        who = sorted({run_claims.words(claim) for claim in claims.values()})
        left = run_claims.VOID_SECONDS - min(abs(run_claims.age(store.runs / f"{key}.claim")) for key in claims)
        print(f"{len(claims)} of them {'is' if len(claims) == 1 else 'are'} being made by {', '.join(who[:3])}{', …' * (len(who) > 3)}: a job that "
              f"begins meanwhile makes none of these (one that shows no sign of life is given up in {duration(max(left, 0))})")


def snapshot(store, methods):
    """Copies the code and the methods' own files to a folder named after their hash, once for the same code. If that copy is no longer as it was
    written (a file was removed, changed or added), it is left to the jobs that use it, and another copy is made beside it."""
    from benchmarks.machine import code_version, sources
    texts = sources()
    for path in {file_of(method) for method in methods} - {""}:
        if not Path(path).is_absolute():  # a file named by its absolute path is used in place
            texts[path] = Path(path).read_bytes()
    texts["code_version"] = code_version().encode()
    digest = hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:12]
    for number in itertools.count(1):
        folder = store.runs.resolve() / "code" / (f"{digest}-{number}" if number > 1 else digest)
        if not os.path.lexists(folder):
            write_copy(folder, texts)
            break
        if as_written(folder, texts):
            break
        print(f"{folder} is not the code as it was copied, or is another user's: jobs get another copy")
    load_there(folder, sorted(method for method in methods if ":" in method))
    return folder


def write_copy(folder, texts):
    """Writes a folder of these files, whole or not at all; does nothing if another process was faster. Raises StoreError."""
    part = folder.with_name(f".{folder.name}.{writer()}.part")
    try:
        for name, text in texts.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(text)
        part.rename(folder)
    except OSError as error:
        if not os.path.lexists(folder):
            raise StoreError(f"the code cannot be copied to {folder} ({error.strerror})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def as_written(folder, texts):
    """Whether a folder has these files, {path: bytes}, and no others. Removes Python's compiled files there, which would be run instead of the
    sources and cannot be compared. (Those of numba stay: a job may be using them.)"""
    found = {}
    try:
        for place, folders, names in os.walk(folder) if not folder.is_symlink() else ():
            for path in (Path(place, name) for name in (*folders, *names)):
                plain = path.is_file() and not path.is_symlink()
                if plain and path.parent.name == "__pycache__":
                    if path.suffix == ".pyc":
                        path.unlink(missing_ok=True)
                elif plain or path.is_symlink() or not path.is_dir():
                    found[path.relative_to(folder).as_posix()] = path.read_bytes() if plain else None
    except OSError:
        return False
    return found == texts


def load_there(code, methods):
    """Raises ValueError if a method's file cannot be loaded from the copy that jobs use, for example because it imports a file beside it."""
    if methods:
        script = "import sys\nfrom methods import get\nfor name in sys.argv[1:]:\n    get(name)"
        done = subprocess.run([sys.executable, "-c", script, *methods], cwd=code, env={**os.environ, "PYTHONPATH": str(code)},
                              capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it ended"])[-1].removeprefix("ValueError: ")
            raise ValueError(f"in a job, which has a copy of the method's file alone: {reason}")


def cancel(args, store):
    """Cancels the queued jobs of a suite (`--running`: running ones, too), and waits until they have left the queue. Returns the exit status."""
    known, now = jobs.look(store, args.suite)
    live = {job: now[job][0] for ids in known.values() for job in ids if job in now}  # also an earlier job of a run that was sent again
    wanted = sorted(job for job, state in live.items() if state == "PENDING" or args.running)
    for place in range(0, len(wanted), ARRAY):
        done = subprocess.run(["scancel", *wanted[place:place + ARRAY]], capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"scancel: {' '.join(done.stderr.split())}")
        for job in wanted[place:place + ARRAY]:
            jobs.cancelled(store, job).touch()
    running = set(live) - set(wanted)
    left = f", {len(running)} {'goes' if len(running) == 1 else 'go'} on (--running ends them too)" if running else ""
    print(f"{several(len(wanted), 'task')} of {args.suite} taken out of the queue{left}")
    deadline = time.monotonic() + LEAVING_SECONDS
    while ending := set(wanted) & set(jobs.queue(store) if wanted else ()):  # a launch would still find them queued and not send their runs
        if time.monotonic() > deadline:
            print(f"not ended yet: {several(len(ending), 'task')}; until then a launch does not send their runs")
            break
        time.sleep(1)
    return 0

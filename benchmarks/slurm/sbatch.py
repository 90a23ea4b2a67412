"""How a job array is sent to SLURM through submitit (which is imported only here), and what a job of it does.

When its time is up or it is preempted, its runs write checkpoints, and it is queued again.
"""
import contextlib
import io
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from benchmarks.files import StoreError
from benchmarks.progress import several, waiting
from benchmarks.results import Store

TIMEOUTS = 100    # how often a job that runs out of time is queued again
AWAY_SECONDS = 60  # that a job which is to be queued again waits for SLURM's controller
TERM_SECONDS = 25  # SLURM kills 30 seconds after SIGTERM, by default
PLAIN = ("partition", "qos", "account", "constraint", "gpus_per_task", "cpus_per_task", "array_parallelism")
OF_SBATCH = {  # what sbatch would take from the environment, SBATCH_…, instead of what it is told
    "partition": "PARTITION", "qos": "QOS", "account": "ACCOUNT", "constraint": "CONSTRAINT", "mem": "MEM_PER_NODE MEM_PER_CPU MEM_PER_GPU",
    "gpus_per_task": "GPUS_PER_TASK GPUS GPUS_PER_NODE GPUS_PER_SOCKET", "cpus_per_task": "CPUS_PER_GPU",
    "time": "TIMELIMIT JOB_NAME SIGNAL REQUEUE NO_REQUEUE ARRAY_INX OUTPUT ERROR OPEN_MODE WAIT"}  # with what no option is for


class Job:
    """What a task of an array does: makes its runs, `at_a_time` on each of its GPUs. Called by submitit, which calls `checkpoint` when
    time is up or on preemption."""

    def __init__(self, specs, seen, results, data, at_a_time, delay, keep_models, gpus=None):
        self.specs, self.seen, self.results, self.data, self.at_a_time, self.delay = specs, seen, results, data, at_a_time, delay
        self.keep_models, self.gpus = keep_models, gpus

    def __call__(self):
        from benchmarks import launch
        if self.gpus:
            must_see(self.gpus)
        signal.signal(signal.SIGTERM, lambda *_: launch.ask_to_stop())  # scancel, requeue, or preemption before its own signal
        store = Store(self.results, keep_models=self.keep_models)
        store.seen = self.seen
        try:
            launch.launch(self.specs, store, self.data, self.at_a_time, wait=False, grace=TERM_SECONDS)
        except launch.Ended:
            time.sleep(TERM_SECONDS)  # for what ends this process: SLURM, or submitit that queues it again
            raise

    def checkpoint(self):
        from submitit.helpers import DelayedSubmission

        from benchmarks import launch
        launch.stop(max(self.delay - 20, 5))
        deadline = time.monotonic() + AWAY_SECONDS
        while away() and time.monotonic() < deadline:  # submitit asks it once; and while it is away, it ends no job
            time.sleep(2)
        return DelayedSubmission(self)


def away():
    """Whether no controller of SLURM answers."""
    try:
        said = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return " is DOWN" in said and " is UP" not in said


def must_see(gpus):
    """Ends a job whose GPUs torch does not see: its runs would share a core of the CPU."""
    import torch
    if not torch.cuda.is_available():
        raise SystemExit(f"this job has {several(gpus, 'GPU')}, and torch sees none on {socket.gethostname()}: check `nvidia-smi` there, and that "
                         f"torch {torch.__version__} is built for a CUDA that its driver has")


@contextlib.contextmanager
def held_back():
    """Ctrl-C, and what else ends a launch, comes when it ends: what SLURM has taken must be remembered. Twice ends sbatch."""
    from benchmarks.workers.worker import SIGNALS, undisturbed
    came, before = [], {}
    try:
        with undisturbed():  # sbatch, too, which the terminal tells of Ctrl-C
            if threading.current_thread() is threading.main_thread():
                ours = [number for number in SIGNALS if signal.getsignal(number) not in (None, signal.SIG_IGN)]
                before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ours}
            with watched(before) if before else contextlib.nullcontext():
                yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            os.kill(os.getpid(), number)


@contextlib.contextmanager
def watched(signals):
    """Another thread hears of these signals, whichever thread they reach, while this one waits for sbatch."""
    ears, mouth = os.pipe()
    os.set_blocking(mouth, False)
    before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    watcher = threading.Thread(target=end_at_the_second, args=(ears, signals, children(), sys.stderr), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(mouth)
        watcher.join()
        os.close(ears)


def end_at_the_second(ears, signals, others, err):
    """End the processes of this one that are not `others` when the second of these signals comes; says so on `err`."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    told = 0
    while number := os.read(ears, 1):
        if number[0] not in signals:
            continue
        told += 1
        if told == 1:
            print("stops when sbatch has answered, as what SLURM takes must be remembered; once more ends sbatch", file=err)
        if told == 2:
            for pid in children() - others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            print("sbatch was ended; if SLURM has taken its array all the same (`squeue --me`), these jobs find nothing to do and end", file=err)


def children():
    """The processes that this one has started and that run."""
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # of a thread that has ended meanwhile
            found |= {*map(int, path.read_text().split())}
    return found


def send(args, folder, code, calls):
    """Send the calls as one job array; returns their job ids. Raises ValueError in one line with what SLURM says against it."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    options = {name: getattr(args, name) for name in PLAIN if getattr(args, name) is not None} | {"time": args.time}
    if args.mem:
        options["mem"] = f"{round(1024 * args.mem)}MB"
    setup = ["unset SLURM_EXPORT_ENV",  # of SBATCH_EXPORT, which srun would keep from the job what this script sets
             f"export PYTHONPATH={shlex.quote(str(code))}", "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1", *map(or_end, args.setup)]
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=TIMEOUTS)
        executor.update_parameters(
            job_name=f"sparse-{args.suite}", signal_delay_s=args.signal_delay, setup=setup,
            srun_args=[f"--cpus-per-task={args.cpus_per_task}"],  # srun does not take it from sbatch since SLURM 22.05
            additional_parameters={"chdir": str(code), "requeue": True, "ntasks": 1}, **options)  # GPUs per task need a number of tasks
        slow = waiting("sbatch has not answered yet; where the queue is full or its controller away, it tries again by itself")
        with slow, own_environment(options), contextlib.redirect_stderr(io.StringIO()):  # the error has sbatch's words
            return [job.job_id for job in executor.submit_array(calls)]
    except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
        raise ValueError(f"SLURM refuses the job: {objection(str(error))}") from None
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror}); nothing was sent") from None
    finally:
        for path in [*folder.glob("[0-9a-f]" * 32 + ".pkl"), *folder.glob(".submission_file_*.sh")]:
            if not path.is_symlink():  # nor renamed, as is what belongs to a job that was sent
                path.unlink()


def or_end(command):
    """A command of the user's for the job's script, which ends where it fails."""
    return f"{command}\n[ $? = 0 ] || {{ echo {shlex.quote(f'--setup failed: {command}')} >&2; exit 1; }}"


@contextlib.contextmanager
def own_environment(options):
    """Without variables that sbatch, or srun in the job, would take instead of these options: of sbatch's, and of an allocation's that the
    launch runs in."""
    names = {f"SBATCH_{name}" for option in options for name in OF_SBATCH.get(option, "").split()}
    if "SLURM_JOB_ID" in os.environ:
        names |= {name for name in os.environ if name.startswith("SLURM_")} - {"SLURM_CONF", "SLURM_CLUSTERS"}
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


def objection(text):
    """What sbatch says against a job, in one line: all of its errors, without the lines that frame them."""
    lines = [line for line in text.splitlines() if line.startswith("sbatch: error")] or text.splitlines()
    words = " ".join(line.removeprefix("sbatch: error:").strip() for line in lines if any(map(str.isalpha, line.removeprefix("sbatch: error:"))))
    words += " (if it has taken them all the same, these jobs find nothing to do and end)" * ("timed out" in words)
    return words + " (--runs-per-task K makes fewer tasks)" * ("job array specification" in words)

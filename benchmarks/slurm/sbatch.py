"""How a job array is sent to SLURM through submitit (which is imported only here), and what each of its jobs does.

When a job's time is up or it is preempted, its runs write checkpoints and the job is queued again.
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

from benchmarks.command import CAME
from benchmarks.files import StoreError
from benchmarks.progress import several, waiting
from benchmarks.results import Store

TIMEOUTS = 100    # how often a job that runs out of time is queued again
AWAY_SECONDS = 60  # how long a job that has to be queued again waits for SLURM's controller
TERM_SECONDS = 25  # by default, SLURM kills 30 seconds after SIGTERM
PLAIN = ("partition", "qos", "account", "constraint", "gpus_per_task", "cpus_per_task", "array_parallelism")
OF_SBATCH = {  # {option: the variables SBATCH_… that would override it}
    "partition": "PARTITION", "qos": "QOS", "account": "ACCOUNT", "constraint": "CONSTRAINT", "mem": "MEM_PER_NODE MEM_PER_CPU MEM_PER_GPU",
    "gpus_per_task": "GPUS_PER_TASK GPUS GPUS_PER_NODE GPUS_PER_SOCKET", "cpus_per_task": "CPUS_PER_GPU",
    "time": "TIMELIMIT JOB_NAME SIGNAL REQUEUE NO_REQUEUE ARRAY_INX OUTPUT ERROR OPEN_MODE WAIT"}  # and what has no option here


class Job:
    """What one task of an array does: it makes its runs, `at_a_time` on each of its GPUs. submitit calls it, and calls `checkpoint` when its time is
    up or it is preempted."""

    def __init__(self, specs, seen, results, data, at_a_time, delay, keep_models, gpus=None):
        self.specs, self.seen, self.results, self.data, self.at_a_time, self.delay = specs, seen, results, data, at_a_time, delay
        self.keep_models, self.gpus = keep_models, gpus

    def __call__(self):
        from benchmarks import launch
        if self.gpus:
            must_see(self.gpus)
        signal.signal(signal.SIGTERM, lambda *_: launch.ask_to_stop())  # by scancel, requeue, or a preemption before submitit's own signal
        store = Store(self.results, keep_models=self.keep_models)
        store.seen = self.seen
        try:
            launch.launch(self.specs, store, self.data, self.at_a_time, wait=False, grace=TERM_SECONDS)
        except launch.Ended:
            time.sleep(TERM_SECONDS)  # until SLURM kills this process, or submitit queues the job again
            raise

    def checkpoint(self):
        from submitit.helpers import DelayedSubmission

        from benchmarks import launch
        CAME.append(signal.SIGUSR2)
        launch.stop(max(self.delay - 20, 5))
        deadline = time.monotonic() + AWAY_SECONDS
        while away() and time.monotonic() < deadline:  # submitit requeues only once; without a controller nothing ends this job
            time.sleep(2)
        return DelayedSubmission(self)


def away():
    """Whether `scontrol ping` reports all controllers of SLURM as down."""
    try:
        said = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return " is DOWN" in said and " is UP" not in said


def must_see(gpus):
    """Ends a job if torch sees none of its GPUs: its runs would share one CPU core."""
    import torch
    if not torch.cuda.is_available():
        raise SystemExit(f"this job has {several(gpus, 'GPU')}, and torch sees none on {socket.gethostname()}: check `nvidia-smi` there, and that "
                         f"torch {torch.__version__} is built for a CUDA that its driver has")


@contextlib.contextmanager
def held_back():
    """Postpones Ctrl-C, and other signals that end a launch, to the end of the `with` block, so that accepted jobs are recorded; a second
    signal kills sbatch."""
    from benchmarks.workers.worker import SIGNALS, undisturbed
    came, before = [], {}
    try:
        with undisturbed():  # also blocks them for sbatch, which the terminal sends Ctrl-C, too
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
    """Has another thread notice these signals, whichever thread receives them, while this thread waits for sbatch."""
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
    """Kills this process's children, except `others`, when the second of these signals arrives; reports both signals on `err`."""
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
    """The ids of this process's running children."""
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            found |= {*map(int, path.read_text().split())}
    return found


def send(args, folder, code, calls):
    """Submits the calls as one job array; returns their job ids. Raises ValueError in one line with SLURM's reason if it refuses."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    options = {name: getattr(args, name) for name in PLAIN if getattr(args, name) is not None} | {"time": args.time}
    if args.mem:
        options["mem"] = f"{max(1, round(1024 * args.mem))}MB"  # 0 would be all of a node's
    setup = ["unset SLURM_EXPORT_ENV",  # set by SBATCH_EXPORT: srun would not pass on what this script exports
             f"export PYTHONPATH={shlex.quote(str(code))}", "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1", *map(or_end, args.setup)]
    try:
        executor = submitit.SlurmExecutor(folder, max_num_timeout=TIMEOUTS)
        executor.update_parameters(
            job_name=f"sparse-{args.suite}", signal_delay_s=args.signal_delay, setup=setup,
            srun_args=[f"--cpus-per-task={args.cpus_per_task}"],  # since SLURM 22.05, srun does not inherit it from sbatch
            additional_parameters={"chdir": str(code), "requeue": True, "ntasks": 1}, **options)  # ntasks: --gpus-per-task needs it
        slow = waiting("sbatch has not answered yet; where the queue is full or its controller away, it tries again by itself")
        with slow, own_environment(options), contextlib.redirect_stderr(io.StringIO()):  # the exception repeats sbatch's output
            return [job.job_id for job in executor.submit_array(calls)]
    except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
        raise ValueError(f"SLURM refuses the job: {objection(str(error))}") from None
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror}); nothing was sent") from None
    finally:
        for path in [*folder.glob("[0-9a-f]" * 32 + ".pkl"), *folder.glob(".submission_file_*.sh")]:
            if not path.is_symlink():  # left by a failed submission; a submitted job's are renamed or links
                path.unlink()


def or_end(command):
    """A user's setup command as lines of the job script, which exits if the command fails."""
    return f"{command}\n[ $? = 0 ] || {{ echo {shlex.quote(f'--setup failed: {command}')} >&2; exit 1; }}"


@contextlib.contextmanager
def own_environment(options):
    """Temporarily removes environment variables that would override these options in sbatch, or in srun within the job: SBATCH_… ones, and those of
    an allocation (SLURM_…) in which the launch runs."""
    names = {f"SBATCH_{name}" for option in options for name in OF_SBATCH.get(option, "").split()}
    if "SLURM_JOB_ID" in os.environ:
        names |= {name for name in os.environ if name.startswith("SLURM_")} - {"SLURM_CONF", "SLURM_CLUSTERS"}
    taken = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


def objection(text):
    """sbatch's reasons for refusing a job, in one line: all of its errors, without the lines around them."""
    lines = [line for line in text.splitlines() if line.startswith("sbatch: error")] or text.splitlines()
    words = " ".join(line.removeprefix("sbatch: error:").strip() for line in lines if any(map(str.isalpha, line.removeprefix("sbatch: error:"))))
    words += " (if it has taken them all the same, these jobs find nothing to do and end)" * ("timed out" in words)
    return words + " (--runs-per-task K makes fewer tasks)" * ("job array specification" in words)

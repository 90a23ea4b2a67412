"""Who is making a run: `results/runs/KEY.claim`, held by one process at a time, rewritten every few seconds with how far it is.

A claim is void when its process is gone: on the same host by process id and start time (without /proc by id and age), or because the host was
started since; in the same SLURM job when that was requeued, elsewhere when it was not rewritten for a while; those of SLURM jobs that have ended,
a launch to SLURM drops. No clock of this machine decides, so it may be wrong. A process that was only suspended finds the claim another's, and
ends the run without storing. Standard library only.
"""
import contextlib
import json
import os
import socket
import time
from pathlib import Path

from benchmarks.files import StoreError, boot, locked, space, writer
from benchmarks.progress import plain

NOTE_SECONDS = 5
VOID_SECONDS = 900      # without a sign of life from where processes cannot be looked up; an evaluation in between can take minutes
RESTARTED_SECONDS = 60  # from a host of this one's name, but of another start: this one before it, or another machine
MOST = 1e12             # of epochs and seconds
UNREADABLE_SECONDS = 5  # for one whose process died while writing it
WHO = ("host", "boot", "space", "pid", "born")  # what tells a process from all others


class Taken(Exception):
    """Another process makes the run; the message says which."""


class Claim:
    """The right to make the run `key` (to be used in a `with`). Raises Taken, or StoreError where it cannot be written."""

    def __init__(self, store, key):
        self.path = store.runs / f"{key}.claim"
        self.lock = store.runs / ".claims.lock"
        self.began = self.noted = self.checked = time.monotonic()
        self.first = None
        self.content = {"host": socket.gethostname(), "boot": boot(), "space": space(), "pid": os.getpid(), "born": born(os.getpid()),
                        "job": own_job(), "restart": restart(), "epochs": None, "share": 0.0, "left": None}

    def __enter__(self):
        try:
            with locked(self.lock):
                try:
                    self._create()
                except FileExistsError:
                    content = read(self.path)
                    if not void(self.path, content):
                        far = f" (if it is no more: remove {self.path}, or wait until it is {VOID_SECONDS // 60} minutes old)"
                        raise Taken(words(content) + far * (content.get("host", socket.gethostname()) != socket.gethostname())) from None
                    self.path.unlink(missing_ok=True)
                    self._create()
        except FileExistsError:  # without locks, another process was faster
            raise Taken("another process") from None
        except OSError as error:
            raise StoreError(f"{self.path} cannot be written ({error.strerror})") from None
        return self

    def _create(self):
        with open(self.path, "x", encoding="utf-8") as file:
            try:
                file.write(json.dumps(self.content))
                file.flush()
            except OSError:  # the disk is full
                self.path.unlink()
                raise

    def begun(self, epochs):
        """The run has begun, and has so many epochs."""
        self.content["epochs"] = epochs

    def check(self):
        """Raises Taken where another process has taken the run over: looked up at most every few seconds. Else returns False, as the
        `stop` of a run does that is to go on."""
        if time.monotonic() - self.checked >= NOTE_SECONDS:
            self._must_be_ours()
        return False

    def _must_be_ours(self):
        self.checked = time.monotonic()
        if other := self._other():
            raise Taken(words(other))

    def _other(self):
        """The claim's content if it is another process's; nothing if it is this one's, or gone or cannot be read: that says of no other."""
        content = read(self.path)
        return content if content and any(content.get(name) != self.content[name] for name in WHO) else {}

    def note(self, share):
        """Rewrite the claim with the share of the run that is done, at most every few seconds. Raises Taken as `check` does."""
        now = time.monotonic()
        if self.first is None:
            self.first = share  # where a resumed run began
        if now - self.noted < NOTE_SECONDS:
            return
        self._must_be_ours()
        gained = share - self.first
        self.content.update(share=share, left=(now - self.began) * (1 - share) / gained if gained > 0 else None)
        part = self.path.with_name(f".{self.path.name}.{writer()}.part")
        try:
            part.write_text(json.dumps(self.content), encoding="utf-8")
            os.replace(part, self.path)
        except OSError:  # no run ends because its progress cannot be shown
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        self.noted = now

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            if not self._other():
                self.path.unlink(missing_ok=True)


def held(store):
    """{key: content} of the claims whose process is at work: host, pid, job, epochs, share (of the run done), left (seconds)."""
    claims = {path.stem: (path, read(path)) for path in store.runs.glob("*.claim")}
    return {key: content for key, (path, content) in claims.items() if content and not void(path, content, same_job=False)}


def drop(store, key, content):
    """Remove a claim whose process is known to be gone, unless it is another's by now."""
    path = store.runs / f"{key}.claim"
    try:
        with locked(store.runs / ".claims.lock"):
            found = read(path)
            if found and all(found.get(name) == content.get(name) for name in WHO):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be removed ({error.strerror})") from None


def words(content):
    """Whose claim it is."""
    return plain(f"process {content['pid']} on {content['host']}") if content else "another process"


def read(path):
    """The content of a claim; empty if it is gone or damaged."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return content if isinstance(content, dict) and {"host", "pid", "born", "job"} <= set(content) and _readable(content) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _readable(content):
    """Whether a claim's values are what can be said in words: numbers of no odd size, texts, or nothing."""
    numbers, texts = ([content.get(name) for name in names] for names in (("epochs", "share", "left"), ("host", "job")))
    return (all(value is None or isinstance(value, (int, float)) and abs(value) < MOST for value in numbers) and isinstance(content["pid"], int)
            and all(value is None or isinstance(value, str) for value in texts))


def void(path, content, same_job=True):
    """Whether a claim's process is gone. `same_job`: the caller is to make the run, so that a claim of an earlier start of its own SLURM job
    (before a requeue) is void; one of the same start belongs to another node of the job.

    Claims of older code have not all of `boot`, `space` and `restart`.
    """
    if content and content["host"] == socket.gethostname() and content.get("space", space()) == space():
        if content.get("boot", boot()) == boot():
            now = born(content["pid"])
            if now != "alive" or content["born"] != "alive":
                return now is None or now != content["born"]
            return abs(age(path)) > VOID_SECONDS  # without /proc another process may have the id by now
        # not rewritten since this machine was started: its process has gone with the start before
        up = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))  # which macOS, without the former, counts alike
        return abs(age(path)) > min(max(up, RESTARTED_SECONDS), VOID_SECONDS)
    if content and same_job and content["job"] and content["job"] == own_job() and content.get("restart") != restart():
        return True
    return abs(age(path)) > (VOID_SECONDS if content else UNREADABLE_SECONDS)  # negative: the clock went backwards


def own_job():
    """The SLURM job that this process belongs to, or None."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


def restart():
    """How often that job was requeued, as text."""
    return os.environ.get("SLURM_RESTART_COUNT", "0")


def born(pid):
    """When a process started, in words that tell it from a later one of the same id; None if it is gone or a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return "alive"


def age(path):
    """Seconds since a file was written, by the clock of its file system: that of a new file beside it."""
    probe = path.with_name(f".probe-{writer()}")
    try:
        probe.write_text("now")
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:  # a folder that this process may only read: by its own clock
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)

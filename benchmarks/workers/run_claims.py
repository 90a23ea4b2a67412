"""Which process is making a run: `results/runs/KEY.claim`, held by one process at a time and rewritten every few seconds with the progress.

A claim is void when its process is gone. On the same host, its process id and start time tell (without /proc: id and age), or a reboot
since. In the same SLURM job, a requeue makes it void. Elsewhere it is void if it was not rewritten for a while. A launch to SLURM also
drops the claims of SLURM jobs that have ended. Ages are by the file system's clock, so this machine's may be wrong. A process that was
only suspended finds its claim taken over, and ends the run without storing anything. Standard library only.
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
VOID_SECONDS = 900      # age of a void claim if its process cannot be looked up; between rewrites, an evaluation can take minutes
RESTARTED_SECONDS = 60  # least age of a void claim of a host of the same name with another boot id: this one before a reboot, or another
MOST = 1e12             # largest plausible number of epochs or seconds
UNREADABLE_SECONDS = 5  # age of a void claim that cannot be read: its process died while writing it
WHO = ("host", "boot", "space", "pid", "born")  # the fields that identify a process


class Taken(Exception):
    """Another process makes the run; the message says which."""


class Claim:
    """The right to make the run `key` (to be used in a `with`). Raises Taken if another process has it, or StoreError if the claim cannot
    be written."""

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
        """Notes that the run has begun, and its number of epochs."""
        self.content["epochs"] = epochs

    def check(self):
        """Raises Taken if another process has taken the run over (looked up at most every few seconds). Else returns False, so that it can serve as
        the `stop` of a run."""
        if time.monotonic() - self.checked >= NOTE_SECONDS:
            self._must_be_ours()
        return False

    def _must_be_ours(self):
        self.checked = time.monotonic()
        if other := self._other():
            raise Taken(words(other))

    def _other(self):
        """The claim's content if it is another process's, else {}; also {} if the file is gone or unreadable, which does not prove another owner."""
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
        except OSError:  # failing to show the progress must not end a run
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        self.noted = now

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            if not self._other():
                self.path.unlink(missing_ok=True)


def held(store):
    """{key: content} of the claims that are not void: host, pid, job, epochs, share (of the run done), left (seconds)."""
    claims = {path.stem: (path, read(path)) for path in store.runs.glob("*.claim")}
    return {key: content for key, (path, content) in claims.items() if content and not void(path, content, same_job=False)}


def drop(store, key, content):
    """Removes a claim whose process is known to be gone, unless another process has it by now."""
    path = store.runs / f"{key}.claim"
    try:
        with locked(store.runs / ".claims.lock"):
            found = read(path)
            if found and all(found.get(name) == content.get(name) for name in WHO):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} cannot be removed ({error.strerror})") from None


def words(content):
    """The owner of a claim, in words."""
    return plain(f"process {content['pid']} on {content['host']}") if content else "another process"


def read(path):
    """The content of a claim; empty if it is gone or damaged."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        whole = isinstance(content, dict) and {"host", "boot", "space", "pid", "born", "job", "restart"} <= set(content)
        return content if whole and _readable(content) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _readable(content):
    """Whether a claim's values can be shown: numbers of plausible size, texts, or None."""
    for name in ("epochs", "share", "left"):
        value = content.get(name)
        if not (value is None or isinstance(value, (int, float)) and abs(value) < MOST):
            return False
    return isinstance(content["pid"], int) and all(isinstance(content[name], (str, type(None))) for name in ("host", "job"))


def void(path, content, same_job=True):
    """Whether a claim's process is gone. `same_job`: the caller is about to make the run, so a claim that its own SLURM job made before a requeue is
    void; one made since the requeue belongs to another node of the job.
    """
    if content and content["host"] == socket.gethostname() and content["space"] == space():
        if content["boot"] == boot():
            now = born(content["pid"])
            if now != "alive":
                return now is None or now != content["born"]
            return abs(age(path)) > VOID_SECONDS  # another process may have the id by now
        # not rewritten since this machine booted: its process ended with the reboot
        up = time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))  # macOS has only the latter, which counts alike there
        return abs(age(path)) > min(max(up, RESTARTED_SECONDS), VOID_SECONDS)
    if content and same_job and content["job"] and content["job"] == own_job() and content["restart"] != restart():
        return True
    return abs(age(path)) > (VOID_SECONDS if content else UNREADABLE_SECONDS)  # a negative age: the clock went backwards


def own_job():
    """The SLURM job that this process belongs to, or None."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


def restart():
    """How often this SLURM job was requeued, as text."""
    return os.environ.get("SLURM_RESTART_COUNT", "0")


def born(pid):
    """When a process started, as text that differs from that of a later process with the same id ("alive" without /proc, or where it hides those
    of other users); None if it is gone or a zombie."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass
    return "alive"


def age(path):
    """Seconds since a file was written, by the clock of its file system, read from a new file beside it."""
    probe = path.with_name(f".probe-{writer()}")
    try:
        probe.write_text("now")
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:  # the folder is read-only for this process, which uses its own clock
        with contextlib.suppress(OSError):
            return time.time() - path.stat().st_mtime
        return 0.0
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)

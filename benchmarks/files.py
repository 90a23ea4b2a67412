"""How files of the results are written: under another name, flushed to disk, then renamed, so that a file is there whole or not at all.

Standard library only.
"""
import contextlib
import errno
import functools
import os
import socket
from pathlib import Path

try:
    import fcntl
except ImportError:  # no POSIX system: there are no locks
    fcntl = None


class StoreError(ValueError):
    """The results folder cannot be used; the message is one line."""


class UnreadableCheckpoint(StoreError):
    """The checkpoint of one run cannot be read; the other runs of a launch go on."""


def folder(name, option):
    """The folder that an option names, as a Path. Expands ~, because a shell does not in --results=~/DIR. Raises StoreError for an empty name, and
    for a ~ that is no known home folder."""
    if not str(name).strip():
        raise StoreError(f"the folder of {option} has no name; leave it out for the usual one")
    path = os.path.expanduser(name)
    if str(path).startswith("~"):
        raise StoreError(f"{option} {name} begins with a home folder that is not known here; name the folder by its whole path")
    return Path(path)


def space():
    """The PID namespace of this process: containers may share a host's name, but have their own process ids. None if unknown."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


@functools.cache
def boot():
    """The id of this boot of this machine, which differs from its other boots and from other machines of the same name. None if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def writer():
    """A text for file names that is unique to this process among all that share the folder."""
    return f"{socket.gethostname()}-{str(boot())[:8]}-{space()}-{os.getpid()}"


@contextlib.contextmanager
def replacing(path):
    """Opens a binary file whose content replaces that at `path` at the end; at any moment, `path` holds all of the old content or all of the new."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{writer()}.part")
    try:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path, content):
    """Writes `content`, text or bytes, by `replacing`. Raises StoreError if that fails; the old content then stays."""
    try:
        with replacing(path) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        gone = " its folder is gone; if it was moved, name it with --results;" * (not Path(path).parent.exists())
        raise StoreError(f"{path} cannot be written ({error.strerror});{gone} nothing that is stored is lost, the same command goes on") from None


@contextlib.contextmanager
def locked(path):
    """A context for one process at a time, if the file system has locks. Raises StoreError if the lock file cannot be written."""
    if fcntl is None:
        yield
        return
    try:
        file = _lock(path)
    except OSError as error:
        why = "it is a link, and a lock is none: remove it" if os.path.islink(path) else error.strerror
        raise StoreError(f"{path} cannot be written ({why})") from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # no locks in this file system; or NFS, which locks no read-only files
            if error.errno == errno.EBADF:
                raise StoreError(f"{path} is another user's, and may not be locked here: remove it, or have its owner remove it") from None
        yield
    finally:
        os.close(file)


def _lock(path):
    """The descriptor of a lock file; links are not followed. A new file can be opened by all who may write into its folder. An old one of another
    user is opened read-only, which is enough for a lock on a local file system."""
    flags = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    try:
        file = os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        try:
            return os.open(path, flags | os.O_RDWR)
        except PermissionError:
            return os.open(path, flags | os.O_RDONLY)
    with contextlib.suppress(OSError):  # the file system has no POSIX permissions
        os.fchmod(file, 0o600 | 0o666 & os.stat(os.path.dirname(path) or ".").st_mode)
    return file

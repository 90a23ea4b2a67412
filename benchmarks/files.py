"""How a file of the results is written: to another name, flushed to disk, then renamed, so that it is there whole or not at all.

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
except ImportError:  # no POSIX system: two processes may do at once what others wait for
    fcntl = None


class StoreError(ValueError):
    """The results folder cannot be used; the message is one line."""


class UnreadableCheckpoint(StoreError):
    """That of one run cannot: the others of a launch go on."""


def folder(name, option):
    """The folder that an option names, as a Path: a shell leaves the ~ of --results=~/DIR as it is. Raises StoreError for one without a name,
    and for a ~ that stands for nobody's home."""
    if not str(name).strip():
        raise StoreError(f"the folder of {option} has no name; leave it out for the usual one")
    path = os.path.expanduser(name)
    if str(path).startswith("~"):
        raise StoreError(f"{option} {name} begins with a home folder that is not known here; name the folder by its whole path")
    return Path(path)


def space():
    """What process ids count in: containers may share a host's name, but have processes of their own. None where there is no such thing."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


@functools.cache
def boot():
    """What tells this start of the machine from its others, and from those of other machines: they may share a name. None where unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def writer():
    """This process's part of a file's name, unlike that of any other which shares the folder."""
    return f"{socket.gethostname()}-{str(boot())[:8]}-{space()}-{os.getpid()}"


@contextlib.contextmanager
def replacing(path):
    """A binary file to write what is to stand at `path`, which at every moment holds all of the old or, at the end, all of the new."""
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
    """Write `content`, text or bytes, by `replacing`. Raises StoreError, the old stays."""
    try:
        with replacing(path) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        gone = " its folder is gone; if it was moved, name it with --results;" * (not Path(path).parent.exists())
        raise StoreError(f"{path} cannot be written ({error.strerror});{gone} nothing that is stored is lost, the same command goes on") from None


@contextlib.contextmanager
def locked(path):
    """One process at a time, where the file system has locks. Raises StoreError for a file that cannot be written."""
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
        except OSError as error:  # a file system without locks, or NFS, where nobody locks what may only be read
            if error.errno == errno.EBADF:
                raise StoreError(f"{path} is another user's, and may not be locked here: remove it, or have its owner remove it") from None
        yield
    finally:
        os.close(file)


def _lock(path):
    """The descriptor of a lock's file: never what a link leads to. Whoever may write into its folder may open a new one; another user's old one
    is opened to be read, which does where the file system is of this machine."""
    flags = os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    try:
        file = os.open(path, flags | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        try:
            return os.open(path, flags | os.O_RDWR)
        except PermissionError:
            return os.open(path, flags | os.O_RDONLY)
    with contextlib.suppress(OSError):  # no file system of POSIX permissions
        os.fchmod(file, 0o600 | 0o666 & os.stat(os.path.dirname(path) or ".").st_mode)
    return file

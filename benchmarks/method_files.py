"""Methods from users' own files, "file.py:Class": their names and hashes of their content. Standard library only."""
import contextlib
import hashlib
import os
from pathlib import Path


def file_of(method):
    """The path in "file.py:Class"; "" for a method of the suite."""
    return method.rpartition(":")[0]


def path_of(method):
    """The normal form of "file.py:Class": a relative path if the file lies below the working folder, else the absolute path."""
    path, _, attribute = method.rpartition(":")
    below = os.path.relpath(path)
    return f"{os.path.abspath(path) if below.startswith(os.pardir) else below}:{attribute}"


def digest(method):
    """The SHA-256 of a method's own file ("file.py:Class"); "" for the suite's methods, and if there is no regular file (a row could name a device,
    which has no end)."""
    path = file_of(method) if isinstance(method, str) else ""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else ""


def mark(method):
    """The file's name and the start of its hash, as `code_version` in a row has them; "" for the suite's methods, and if the file is gone."""
    with contextlib.suppress(OSError):
        return (content := digest(method)) and f"{Path(file_of(method)).name} {content[:10]}"
    return ""


def ask(method, function, *arguments):
    """Calls a class method of a method. A ValueError, its refusal, is passed on; any other exception becomes a ValueError that names both."""
    try:
        return function(*arguments)
    except ValueError:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{method}: {function.__name__} fails ({type(error).__name__}: {error})") from error

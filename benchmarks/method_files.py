"""Methods of somebody's own files, "file.py:Class": their names, and what their content is. Standard library only."""
import contextlib
import hashlib
import os
from pathlib import Path


def file_of(method):
    """The path in "file.py:Class"; "" for a method of the suite."""
    return method.rpartition(":")[0]


def path_of(method):
    """The one name of a method's file, "file.py:Class": relative where it lies below the working folder, else the whole path."""
    path, _, attribute = method.rpartition(":")
    below = os.path.relpath(path)
    return f"{os.path.abspath(path) if below.startswith(os.pardir) else below}:{attribute}"


def digest(method):
    """What tells the content of a method's own file ("file.py:Class") from another; "" for the suite's methods, and where there is no such file:
    what a row names may be a device, which has no end."""
    path = file_of(method) if isinstance(method, str) else ""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and Path(path).is_file() else ""


def mark(method):
    """The file's name and content, as `code_version` of a row has them; "" for the suite's methods, and where it is gone."""
    with contextlib.suppress(OSError):
        return (content := digest(method)) and f"{Path(file_of(method)).name} {content[:10]}"
    return ""


def ask(method, function, *arguments):
    """What a class method of a method says. A ValueError is its refusal; what else it raises becomes one that names both."""
    try:
        return function(*arguments)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{method}: {function.__name__} fails ({type(error).__name__}: {error})") from error

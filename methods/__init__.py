"""Sparse-training methods behind one interface: `available()`, `get(name)`, `SparseModel`, `Training`."""
import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import traceback
import types
from functools import cache
from pathlib import Path

from methods.base import Sparsifier
from methods.model import SparseModel
from methods.options import nearest
from methods.process_state import kept
from methods.training import Training

__all__ = ["Sparsifier", "SparseModel", "Training", "available", "get"]


@cache
def _methods():
    found = {}
    beyond = pkgutil.iter_modules([f"{folder}/beyond" for folder in __path__], "methods.beyond.")
    for module in [*pkgutil.iter_modules(__path__, "methods."), *beyond]:
        try:
            content = importlib.import_module(module.name)
        except ModuleNotFoundError:  # the commands explain this one
            raise
        except (Exception, SystemExit) as error:
            raise ValueError(_broken(importlib.util.find_spec(module.name).origin, error)) from None
        for cls in vars(content).values():
            if inspect.isclass(cls) and issubclass(cls, Sparsifier) and cls.__module__ == module.name and "name" in vars(cls) and cls.name:
                for name in (cls.name, *vars(cls).get("aliases", ())):
                    if not (isinstance(name, str) and name.isidentifier()):  # commands, rows and figures need to read it as one word
                        raise ValueError(f"{name!r} is no name for {cls.__name__} of {module.name}: one of letters, digits and _ is needed")
                    if found.setdefault(name, cls) is not cls:  # the rows of one would be taken for the other's
                        raise ValueError(f"{name!r} is a method of {found[name].__module__} and of {module.name}: give one of them another name")
    return found


def _broken(path, error):
    """One line that says why a file cannot be loaded. If `error` hides an exception that ends the process (a signal's, such as KeyboardInterrupt) as
    its cause, raises that instead: Python before 3.12 wraps it so while a class is being made."""
    if not isinstance(error.__cause__, (Exception, type(None))):
        raise error.__cause__
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
    lines += [error.lineno] if isinstance(error, SyntaxError) and error.lineno else []
    line = f", line {lines[-1]}" if lines else ""
    if isinstance(error, SystemExit):
        return f'{path} cannot be loaded: it ends the program{line}; what runs it as a program belongs under `if __name__ == "__main__":`'
    return f"{path} cannot be loaded: {type(error).__name__}{line}: {error}"


def available():
    """Names of all methods, sorted; a file put into this folder, or into beyond/, is found automatically."""
    return sorted({cls.name for cls in _methods().values()})


def get(method):
    """The Sparsifier class for a name, an alias, "file.py:Class" or the class itself. Raises ValueError, in one line, if there is none."""
    if inspect.isclass(method) and issubclass(method, Sparsifier):
        return method
    if isinstance(method, Sparsifier):
        raise ValueError(f"a method is given by its name or its class, {type(method).__name__}, not by an object of it")
    path, _, attribute = str(method).rpartition(":")
    if not path:
        if attribute.endswith(".py"):
            raise ValueError(f"{method} is a file: name the class in it, {method}:CLASS")
        first, _, options = str(method).partition(" ")
        if "=" in options and first in _methods():
            raise ValueError(f"the options of {first} are given apart from its name, in a command by --set {options}, "
                             f"in Python by {options.split()[0]}")
        if str(method) not in _methods():
            raise ValueError(nearest(str(method), _methods(), "method") + " (`python -m benchmarks options` lists all)")
        return _methods()[str(method)]
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path} for the method {method}")
    if path.endswith(".ipynb"):
        raise ValueError(f"{path} is a notebook: put the class into a .py file")
    if not attribute:
        raise ValueError(f"{method} names no class: {path}:CLASS does")
    name = "method_" + Path(path).stem
    module = sys.modules[name] = types.ModuleType(name)
    module.__file__ = os.path.abspath(path)
    try:  # compiles the text as it is now: an import would reuse cached bytecode if the file's size and second of change are the same
        with kept():
            exec(compile(Path(path).read_bytes(), path, "exec"), vars(module))
    except (Exception, SystemExit) as error:  # with sys.exit() the command would end as if it had done its work
        raise ValueError(_broken(path, error)) from None
    cls = getattr(module, attribute, None)
    if not (inspect.isclass(cls) and issubclass(cls, Sparsifier)):
        there = [name for name, own in vars(module).items()
                 if inspect.isclass(own) and issubclass(own, Sparsifier) and own.__module__ == module.__name__]
        raise ValueError(f"{path} has no class {attribute} derived from methods.Sparsifier" + f"; it has {', '.join(there)}" * bool(there))
    for name in ("skip", "levels", "options", "preset"):
        if not isinstance(inspect.getattr_static(cls, name), (classmethod, staticmethod)):
            raise ValueError(f"{method}: {name} must be a @classmethod, which is asked before there is a network")
    return cls

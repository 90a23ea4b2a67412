"""Suites of your own: each file put into this folder is one, with its data, networks and recipes (`examples/my_suite.py` is one to start from).

With a file that cannot be used, named in FAULTS, no command starts. Imports no torch.
"""
import importlib
from pathlib import Path

TAKEN = ("runs", "models", "performance")  # folders in the results, where each suite has one
FAULTS = []  # what is wrong with the files, a line each


def _load(name):
    """The module of a file; None if it cannot be used."""
    try:
        if not name.isidentifier() or name in TAKEN:
            raise ValueError("a suite's name is letters, digits and _, and not " + " or ".join(TAKEN))
        module = importlib.import_module(f"{__name__}.{name}")
        if lacking := [table for table in ("TASKS", "SIZES") if not getattr(module, table, None)]:
            raise ValueError(f"it has no {' and no '.join(lacking)}")
        return module
    except (Exception, SystemExit) as error:
        _fault(name, str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}")


def _fault(name, what):
    FAULTS.append(f"benchmarks/own_suites/{name}.py cannot be used: {what}; mend it, or take it out of this folder")


NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
FILES = {name: module for name in NAMES if (module := _load(name))}


def joined(table, entries):
    """A table of the project with the entries that the files have in theirs of the same name. An entry that is there already stays as it is."""
    for name, module in FILES.items():
        own = getattr(module, table, {})
        for key in own.keys() & entries.keys():
            _fault(name, f"{table} has {key!r} already")
        entries = {**own, **entries}
    return entries


def refuse_faults():
    """Raises ValueError, in one line, if a file cannot be used."""
    if FAULTS:
        raise ValueError(FAULTS[0])

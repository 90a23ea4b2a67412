"""Suites of your own: each file put into this folder is one, with its data, networks and recipes (`examples/my_suite.py` is one to start from).

With a file that cannot be used, named in FAULTS, no command starts. Imports no torch.
"""
import hashlib
import importlib
from dataclasses import replace
from pathlib import Path

from benchmarks.recipes import Dataset, Task

# the project's suites; folders that the results and the figures have beside those of suites; what run_all.sh does instead of a suite
TAKEN = "digits cifar10 cifar100 imagenet runs models performance paper setup test".split()
FAULTS = []  # what is wrong with the files, a line each


def _load(name):
    """The module of a file; None if it cannot be used."""
    try:
        if not name.isidentifier() or name in TAKEN:
            raise ValueError(f"a suite's name is letters, digits and _, and none of {', '.join(TAKEN)}")
        module = importlib.import_module(f"{__name__}.{name}")
        _check(name, module)
        source = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
        module.TASKS = {task: replace(recipe.checked(), source=source) for task, recipe in module.TASKS.items()}
        return module
    except (Exception, SystemExit) as error:
        _fault(name, str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}")


def _check(name, module):
    """Raises ValueError for a table that the project could not use."""
    for table, wanted in (("DATASETS", Dataset), ("TASKS", Task), ("READERS", None), ("MODELS", None), ("SIZES", None)):
        entries = getattr(module, table, {})
        if not isinstance(entries, dict):
            raise ValueError(f"its {table} is no dictionary")
        for key, entry in entries.items():
            if not isinstance(entry, wanted) if wanted else table != "SIZES" and not callable(entry):
                raise ValueError(f"{table} has for {key!r} no {wanted.__name__ if wanted else 'function'}, but {entry!r}")
    if lacking := [table for table in ("TASKS", "SIZES") if not getattr(module, table, None)]:
        raise ValueError(f"it has no {' and no '.join(lacking)}")
    for task in module.TASKS:
        if not isinstance(task, str) or task.partition("-")[0] != name:  # the name of a task decides in which suite its rows are stored
            raise ValueError(f"TASKS: a task of it is named {name} or {name}-…, not {task}")
    for profile in ("paper", "quick"):
        match module.SIZES.get(profile):
            case (tuple() | list() as sparsities, epochs) if sparsities and all(isinstance(s, float) and 0 < s < 1 for s in sparsities) and (
                    epochs is None or type(epochs) is int and epochs > 0):
                pass
            case size:
                raise ValueError(f"SIZES: profile {profile} needs (sparsities, epochs), such as ((0.9, 0.95), 10), not {size}")


def _fault(name, what):
    FAULTS.append(f"benchmarks/own_suites/{name}.py cannot be used: {what}; mend it, or take it out of this folder")


NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[!.]*.py") if path.stem != "__init__")
FILES = {name: module for name in NAMES if (module := _load(name))}


def joined(table, entries):
    """A table of the project with the entries that the files have in theirs of the same name. An entry that is there already stays as it is."""
    for name, module in FILES.items():
        own = getattr(module, table, {})
        for key in own.keys() & entries.keys():
            _fault(name, f"{table} has {key!r} already")
        entries = {**own, **entries}
    return entries


def refuse_unknown_data(known):
    """Notes a fault for each task of the files whose data set is not among these."""
    for name, module in FILES.items():
        for task, recipe in module.TASKS.items():
            if recipe.dataset not in known:
                _fault(name, f"TASKS: {task} is of data {recipe.dataset!r}, which DATASETS has not ({', '.join(known)})")


def refuse_faults():
    """Raises ValueError, in one line, if a file cannot be used."""
    if FAULTS:
        raise ValueError(FAULTS[0])

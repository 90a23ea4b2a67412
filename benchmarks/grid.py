"""Runs as values: a Spec is one run, a Grid the runs of one figure. Standard library only, so that `plan` starts at once."""
import hashlib
import json
import operator
import re
import shlex
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product

ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
NEXT = r"\s(?=[^\W\d]\w*=)"  # the space between two options in one text


@dataclass(frozen=True)
class Spec:
    """One run, which becomes one row of `results/SUITE/runs.csv`.

    task, method: names (a method may be a path such as `mine.py:Mine`); sparsity: fraction of prunable weights that are zero,
    in [0, 1), always 0 for `dense`; seed: integer >= 0; epochs: integer >= 1, or None for the recipe's own; precision: name, or
    None for the task's own; options: settings of the method, a mapping or pairs (name, value), kept as sorted pairs of text.

    Raises ValueError (one line) for anything else.
    """

    task: str
    method: str
    sparsity: float
    seed: int
    epochs: int | None = None
    precision: str | None = None
    options: tuple = ()

    def __post_init__(self):
        def put(name, value):
            object.__setattr__(self, name, value)

        for name in ("task", "method") + (("precision",) if self.precision is not None else ()):
            if not isinstance(getattr(self, name), str) or not getattr(self, name).strip():
                raise ValueError(f"{name} must be a non-empty name, not {getattr(self, name)!r}")
            try:
                getattr(self, name).encode()
            except UnicodeEncodeError:  # a path with characters outside of an ASCII locale, which no table could hold
                raise ValueError(f"{name} {getattr(self, name)!r} is no text here: rename it, or set LC_ALL=C.UTF-8") from None
        sparsity = _sparsity(self.sparsity)
        put("sparsity", 0.0 if self.method == "dense" else sparsity)
        put("seed", _whole("seed", self.seed, 0))
        if self.seed >= 2 ** 64:  # the limit of torch and of the tables
            raise ValueError(f"seed must be less than 2 ** 64, not {self.seed}")
        if self.epochs is not None:
            put("epochs", _whole("epochs", self.epochs, 1))
        put("options", _options(self.options))

    @cached_property
    def key(self):
        """First 12 hex digits of the sha256 of the non-default fields as JSON: a field added later changes no old key."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return _key(chosen)

    @property
    def option_text(self):
        """The options in the form that rows have: "gamma=0.5 width=2.0"."""
        return " ".join(f"{name}={value}" for name, value in self.options)

    def command(self):
        """The shell command that makes this run's row."""
        words = ["python", "-m", "benchmarks", "run", "--task", self.task, "--method", self.method]
        words += ["--sparsity", f"{self.sparsity!r}", "--seed", str(self.seed)]
        words += ["--epochs", str(self.epochs)] if self.epochs is not None else []
        words += ["--precision", self.precision] if self.precision is not None else []
        for name, value in self.options:
            words += ["--set", f"{name}={value}"]
        return shlex.join(words)


@dataclass(frozen=True)
class Grid:
    """All combinations of tasks, methods, sparsities and seeds, with everything else equal. Iterating yields Specs.

    `dense` has no sparsity and gives one Spec per task and seed.
    """

    tasks: tuple
    methods: tuple
    sparsities: tuple
    seeds: tuple
    epochs: int | None = None
    precision: str | None = None
    options: tuple = ()

    def __iter__(self):
        for task, method in product(self.tasks, self.methods):
            for sparsity, seed in product((0.0,) if method == "dense" else self.sparsities, self.seeds):
                yield Spec(task, method, sparsity, seed, self.epochs, self.precision, self.options)


def union(*grids):
    """The Specs of several grids (or lists of Specs), each once, in the order of their first appearance."""
    return list({spec.key: spec for grid in grids for spec in grid}.values())


def names_key(row):
    """Whether the key of a row (dict) belongs to the run that the row describes. Raises ValueError, as Spec does, if it describes no valid run.

    Rows always have the epochs and the precision of training; keys include them only where they differ from the task's own. Whether they did
    cannot be told from a row (its task need not be known here), so every combination counts.
    """
    options = [pair.split("=", 1) for pair in re.split(NEXT, row["options"]) if pair]
    spec = Spec(row["task"], row["method"], float(row["sparsity"]), int(row["seed"]), int(row["epochs"]), row["precision"] or None, options)
    chosen = {name: getattr(spec, name) for name in ("task", "method", "sparsity", "seed", *["options"] * bool(options))}
    epochs, precision = {"epochs": spec.epochs}, {"precision": spec.precision}
    return any(_key(chosen | own) == row["key"] for own in ({}, epochs, precision, epochs | precision))


def _key(chosen):
    return hashlib.sha256(ENCODER.encode(chosen).encode()).hexdigest()[:12]


def _sparsity(value):
    try:
        number = float(value) if not isinstance(value, (bool, str)) else float("nan")
    except (TypeError, ValueError):
        number = float("nan")
    if not 0 <= number < 1:
        raise ValueError(f"sparsity must be a number in [0, 1), not {value!r}")
    return number + 0.0  # -0.0 would hash differently


def _whole(name, value, least):
    try:
        number = operator.index(value) if not isinstance(value, bool) else least - 1
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
    return number


def _options(options):
    try:
        pairs = sorted((name, str(value)) for name, value in (options.items() if hasattr(options, "items") else options))
        names = [name for name, _ in pairs]
        good = all(name and not re.search(r"[\s=]", name) for name in names) and len(set(names)) == len(names)
        for _, value in pairs:  # rows hold all of them in one text, in UTF-8
            good = good and not re.search(NEXT, value) and value.encode() is not None
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"options must be pairs (name, value) with names of one word, all different, and no ' name=' in a value, not {options!r}")
    return tuple(pairs)

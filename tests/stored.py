"""The run that the tests of storing and of the commands make, and how they look at what is stored."""
import csv
import json
from pathlib import Path

import benchmarks
from benchmarks.grid import Spec

ROOT = Path(benchmarks.__file__).resolve().parents[1]
CLOCK = {"seconds", "step_ms", "peak_memory_mb", "finished_at", "code_version"}  # a commit while the tests run changes the last
SPEC = Spec("digits", "st3", 0.9, 0, epochs=2)
WORDS = ["run", "--task", "digits", "--method", "st3", "--sparsity", "0.9", "--epochs", "2"]


def record(store, spec=SPEC):
    return json.loads((store.runs / f"{spec.key}.json").read_text())


def timeless(row):
    return {name: value for name, value in row.items() if name not in CLOCK}


def table(store, name, suite="digits"):
    with open(store.folder / suite / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))

"""What the measurements share: timing calls in turns, and the tables in `results/performance/`, where a new measurement replaces the rows with the
same values in the identity columns and keeps the others."""
import csv
import random
import sys

import numpy as np
from tqdm import tqdm

from benchmarks.files import StoreError, locked
from benchmarks.records import write_table
from benchmarks.results import Store


def in_turns(calls, rounds):
    """{name: [the call's result in each round]} for calls {name: function}, made in turns in an order shuffled for every round, because the speed of
    a machine drifts by more than the differences to be measured. An additional first round warms up."""
    found, order, shuffle = {name: [] for name in calls}, list(calls), random.Random(0).shuffle
    with tqdm(total=(1 + rounds) * len(order), unit="turn", mininterval=1, leave=False, disable=not sys.stderr.isatty()) as bar:
        for _ in range(1 + rounds):
            shuffle(order)
            for name in order:
                found[name].append(calls[name]())
                bar.update()
    return {name: each[1:] for name, each in found.items()}


def quartiles(ratios, digits=4):
    """The columns ratio_low, ratio and ratio_high of the rounds' ratios."""
    return dict(zip(("ratio_low", "ratio", "ratio_high"), np.percentile(ratios, (25, 50, 75)).round(digits).tolist()))


def table_path(results, name, columns):
    """The path of RESULTS/performance/NAME. Raises StoreError, before anything is measured, if nothing could be stored there."""
    path = Store(results).folder / "performance" / name
    stored(path, columns)
    return path


def stored(path, columns):
    """The rows of the CSV file at `path`, [] if there is no file. Raises StoreError for a file with other columns."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != columns:
            raise StoreError(f"{path} has other columns than this version writes; move it away")
        return list(reader)


def store(lines, path, columns, identity):
    """Puts the lines into the CSV file at `path`, in place of those with the same values in the columns `identity`, by which the file is sorted."""
    def same(line):
        return tuple("" if line[name] is None else str(line[name]) for name in identity)

    fresh = {same(line) for line in lines}
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock")):  # keeps what another measurement stores meanwhile
        kept = [line for line in stored(path, columns) if same(line) not in fresh]
        write_table(path, columns, sorted(kept + lines, key=lambda line: list(map(_ordered, same(line)))))


def _ordered(text):
    """A sort key: numbers by value, before words."""
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text

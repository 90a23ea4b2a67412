"""The tables of `results/performance/`: a new measurement replaces the rows of the same identity and leaves the others."""
import csv

from benchmarks.files import StoreError, locked
from benchmarks.results import Store, write_table


def table(results, name, columns):
    """The path of RESULTS/performance/NAME. Raises StoreError before anything is measured that could not be stored there."""
    path = Store(results).folder / "performance" / name
    stored(path, columns)
    return path


def stored(path, columns):
    """The rows of the CSV file at `path`, none if there is no file. Raises StoreError for a file with other columns."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != columns:
            raise StoreError(f"{path} has other columns than this version writes; move it away")
        return list(reader)


def store(lines, path, columns, identity):
    """Put the lines into the CSV file at `path`, in place of those with the same values in the columns `identity`, sorted by these."""
    def same(line):
        return tuple("" if line[name] is None else str(line[name]) for name in identity)

    fresh = {same(line) for line in lines}
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f".{path.name}.lock")):  # what another measurement stores meanwhile stays
        kept = [line for line in stored(path, columns) if same(line) not in fresh]
        write_table(path, columns, sorted(kept + lines, key=lambda line: list(map(_ordered, same(line)))))


def _ordered(text):
    """Numbers by their value, before words."""
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text

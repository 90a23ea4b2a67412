"""The results store: one file a run as it ends (`results/runs/KEY.json`), collected into `results/SUITE/*.csv`.

A row is written whole or not at all (files.py); a checksum tells what became of it later.
Standard library only.
"""
import contextlib
import csv
import hashlib
import io
import json
import os
import sys
import time
from collections import Counter

from benchmarks.files import StoreError, folder as named, locked, write_whole, writer
from benchmarks.grid import names_key

RUN_COLUMNS = ("key suite task dataset model method options sparsity seed epochs cycles precision status error top1 top1_best_val val_top1 "
               "loss nnz prunable achieved_sparsity macs dense_macs train_flops_fraction seconds step_ms peak_memory_mb device "
               "torch_version code_version finished_at").split()
TABLES = {
    "runs": RUN_COLUMNS,
    "curves": "key epoch train_loss train_top1 val_top1 test_top1 sparsity lr".split(),
    "layers": "key layer shape nnz macs".split(),
    "switches": "key schedule group final_state switches weights".split(),
}
STATUSES = ("ok", "diverged", "failed")
TEXTS = set("key suite task dataset model method options precision status error device torch_version code_version finished_at "
            "layer shape schedule final_state".split())
NUMBERS = {table: [name for name in columns if name not in TEXTS] for table, columns in TABLES.items()}
KINDS = {name: (str, type(None)) if name in TEXTS else (int, float, type(None)) for columns in TABLES.values() for name in columns}
NEEDED = ("sparsity", "seed", "epochs")  # numbers that every row of runs.csv has
WHOLE = ("seed", "epochs")
KINDS |= dict.fromkeys(WHOLE, (int,)) | dict.fromkeys("key suite task method options status finished_at".split(), (str,))
LIMITS = {"sparsity": 1, "achieved_sparsity": 1 + 1e-9, **dict.fromkeys(("top1", "top1_best_val", "val_top1"), 100.001),
          "seed": 2**64, "epochs": 10**9,  # what torch and pandas can take
          **dict.fromkeys("cycles nnz prunable macs dense_macs train_flops_fraction seconds".split(), 1e300)}  # at least 0, and less
CHECKSUM = ', "checksum": "'
OTHER = "another version of the suite wrote it (it {} {}): use that version here, or name another folder with --results"
ASTRAY = ("the key {} is not that of its task, method, options, sparsity, seed, epochs and precision; undo what changed one of them (a column sorted "
          "alone? a spreadsheet, to which some keys are numbers?), or remove it")


def moment():
    """The time as rows have it: UTC, to the second, so that their texts are ordered as they are."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


class Store:
    """The rows under one results folder (default `results`). Raises StoreError if it is to be written and cannot be.

    keep_models: what trains for it keeps the trained network of each run, too (kept.py).
    """

    def __init__(self, folder="results", write=True, keep_models=False):
        self.folder = named(folder, "--results")
        self.runs = self.folder / "runs"
        self.keep_models = keep_models
        self.seen = {}  # {key: stamp} of the rows in `runs/` when they were read
        if not write:
            if self.folder.exists() and not self.folder.is_dir():
                raise StoreError(f"{self.folder} is no folder; name another with --results")
            return
        try:
            for folder in (self.runs, *[self.folder / "models"] * keep_models):
                folder.mkdir(parents=True, exist_ok=True)
            probe = self.runs / f".probe-{writer()}"
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"the results folder {self.folder} cannot be written ({error.strerror}); name another with --results") from None

    def checkpoint(self, key):
        return self.runs / f"{key}.pt"

    def model(self, key):
        return self.folder / "models" / f"{key}.pt"

    def log(self, key):
        return self.runs / f"{key}.log"

    def again(self, key):
        """The note that a run is made again, which stays until its row is written (`again.renew`)."""
        return self.runs / f"{key}.again"

    def write(self, row, curves=(), layers=(), switches=(), keep=False):
        """Store one finished run: `row` has all of RUN_COLUMNS. Its checkpoint goes, unless it is to be kept."""
        key = row["key"]
        _read(self.runs / f"{key}.json", key)  # which may be of another version
        with contextlib.suppress(OSError, ValueError):  # a row that is made again is the later one, though a clock may have been wrong
            row = {**row, "finished_at": max(row["finished_at"], json.loads(self.again(key).read_text())["finished_at"])}
        record = {"runs": [{name: row[name] for name in RUN_COLUMNS}], "curves": [{"key": key, **line} for line in curves],
                  "layers": [{"key": key, **line} for line in layers], "switches": [{"key": key, **line} for line in switches]}
        write_whole(self.runs / f"{key}.json", sealed(record))
        parts = *self.runs.glob(f".{key}.pt.*.part"), *self.folder.glob(f"models/.{key}.pt.*.part")  # of whoever died while writing them
        for path in (self.again(key), *(() if keep else (self.checkpoint(key), *parts))):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def stamp(self, key):
        """What changes whenever the row of a run is written, though a clock may be wrong; None while there is none."""
        try:
            stat = os.stat(f"{self.runs}/{key}.json")
            return [stat.st_ino, stat.st_mtime_ns, stat.st_size]
        except OSError:
            return None

    def since(self, key, stamp):
        """The row in `runs/` of one run if it was written since it had this `stamp`, else None."""
        return self.row(key) if self.stamp(key) != stamp else None

    def row(self, key):
        """The row in `runs/` of one run, or None."""
        record = self._record(key, only_row=True)
        return record and record["runs"][0]

    def _records(self, only_row=False):
        """The whole records of `runs/`; a damaged one is named on stderr and left out, so that its run is made again."""
        names = os.listdir(self.runs) if self.runs.is_dir() else ()
        for key in sorted(name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != "."):
            self.seen[key] = self.stamp(key)
            record = self._record(key, only_row)
            if record:
                yield record
            elif (path := self.runs / f"{key}.json").exists():
                print(f"{path} is damaged and left out; its run will be made again, unless its row was collected before", file=sys.stderr)

    def _record(self, key, only_row):
        """The record of a run (`only_row`: of it the row, where a checksum vouches for the rest); None if it is damaged."""
        return _read(f"{self.runs}/{key}.json", key, only_row)

    def read(self, suite, table="runs"):
        """The collected rows of a suite's table as dicts of text; none if there is no file yet.

        Raises StoreError, with the line, for what an edit by hand left unreadable: nothing is then overwritten.
        """
        path = self.folder / suite / f"{table}.csv"
        if not path.exists():
            return []
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:  # a mark at its beginning is a spreadsheet's
                reader = csv.DictReader(file)
                rows, columns = list(reader), reader.fieldnames or ()
        except (OSError, ValueError, csv.Error) as error:
            raise StoreError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
        more, lacking = Counter(columns) - Counter(TABLES[table]), set(TABLES[table]) - set(columns)
        if more or lacking:  # the former would be gone when the table is written anew
            words = OTHER.format("lacks the columns" if lacking else "has more columns:", ", ".join(sorted(lacking or more)))
            raise StoreError(f"{path}: {words}; keep columns of your own in another file")
        seen = {}
        for place, row in enumerate(rows, 2):
            problem = _problem(row, table)
            if table == "runs" and not problem and seen.setdefault(row["key"], place) != place:
                problem = f"the key {row['key']} is in row {seen[row['key']]} too; remove one"
            if problem:
                raise StoreError(f"{path}, row {place}: {problem}")
        return rows

    def rows(self, suite):
        """{key: row} of every finished run of a suite, collected or not. Of two of a key the one that ended later counts."""
        rows = {row["key"]: row for row in self.read(suite)}
        return rows | {record["runs"][0]["key"]: record["runs"][0] for record in self._newer(suite, rows, only_row=True)}

    def _newer(self, suite, rows, only_row=False):
        """The records of a suite in `runs/` but those older than the collected `rows`, {key: row}, which were made elsewhere since, say.
        No clock makes one older than one that failed."""
        for record in self._records(only_row):
            row, = record["runs"]
            other = rows.get(row["key"], row)
            mended = row["status"] != "failed" and other["status"] == "failed"
            if row["suite"] == suite and (mended or str(row["finished_at"]) >= str(other["finished_at"])):
                yield record

    def collect(self, suite):
        """Join what is in `runs/` into the suite's CSV files, one row a key; returns the number of rows of `runs.csv`."""
        if not self.folder.exists():  # nothing is made for a mistyped name
            return 0
        with locked(self.runs / ".collect.lock"):  # another one, which has not seen the last row, would take it out again
            return self._collect(suite)

    def _collect(self, suite):
        records = list(self._newer(suite, {row["key"]: row for row in self.read(suite)}))
        fresh = {record["runs"][0]["key"] for record in records}
        folder = self.folder / suite
        total = 0
        for table, columns in TABLES.items():
            rows = [row for row in self.read(suite, table) if row["key"] not in fresh]
            rows += [row for record in records for row in record[table]]
            if table == "runs":
                rows.sort(key=lambda r: (r["task"], r["method"], r["options"], float(r["sparsity"]), int(r["epochs"]), int(r["seed"]), r["key"]))
                order = {row["key"]: place for place, row in enumerate(rows)}
                total = len(rows)
            else:
                rows.sort(key=lambda r: order.get(r["key"], len(order)))
            path = folder / f"{table}.csv"
            if rows or path.exists():  # what is in it may be of a run that has no such lines any more
                write_table(path, columns, rows)
        return total


def write_table(path, columns, rows):
    """Write rows (dicts) as a CSV file, whole or not at all; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path.parent} cannot be made ({error.strerror})") from None
    text = io.StringIO()
    cells = ([None if row[name] != row[name] else row[name] for name in columns] for row in rows)  # NaN, too, is an empty cell
    csv.writer(text, lineterminator="\n").writerows([columns, *cells])
    write_whole(path, text.getvalue().encode("utf-8", "backslashreplace"))


def unreadable(row):
    """What is wrong with a row (dict) that would be refused when it is read, in words; empty if nothing is."""
    return _problem({name: "" if value is None or value != value else str(value) for name, value in row.items()})


def sealed(record):
    """A record as JSON with its checksum."""
    text = json.dumps(record)[:-1]
    return f'{text}{CHECKSUM}{_checksum(text)}"}}'


def _checksum(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path, key, only_row=False):
    """`Store._record`. Raises StoreError for what nothing may be written over: a whole record that is another version's, or another run's."""
    try:
        if not os.path.isfile(path):  # a pipe has no end
            return None
        with open(path, "rb") as file:
            text = file.read().decode()
        body, found, checksum = text.rpartition(CHECKSUM)
        if found and checksum != _checksum(body) + '"}':
            return None
        if found and only_row:
            tables, record = ("runs",), {"runs": [json.JSONDecoder().raw_decode(text, text.index("{", 1))[0]]}
        else:
            tables, record = TABLES, {table: [] for table in TABLES if found or table == "switches"} | json.loads(text)  # counted on request only
        more, lacking = _completed(record, tables)
        row, = record["runs"]
        if not more and any(_damaged(line, key, table) for table in tables for line in record[table]):
            return None
        problem = OTHER.format("has more columns:", ", ".join(sorted(more))) if more else "" if names_key(row) else ASTRAY.format(key)
        if not found and (lacking or problem):
            return None
    except PermissionError as error:  # another user's, perhaps: it is as good as before
        raise StoreError(f"{path} cannot be read ({error.strerror})") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if problem:
        raise StoreError(f"{path}: {problem}")
    return record


def _completed(record, tables):
    """(tables and columns of a record that this version does not know, columns that it lacks: these are None now)."""
    more, lacking = set(record) - {*TABLES, "checksum"}, set()
    for table in tables:
        columns = dict.fromkeys(TABLES[table])
        for line in record[table]:
            if line.keys() != columns.keys():
                more, lacking = more | line.keys() - columns.keys(), lacking | columns.keys() - line.keys()
                line.update(columns | line)
    return more, lacking


def _damaged(line, key, table):
    """Whether a line of a record is what no run writes."""
    if line["key"] != key or any(type(value) not in KINDS[name] and value != "" for name, value in line.items()):
        return True
    return table == "runs" and (line["status"] not in STATUSES or any(
        line[name] not in (None, "") and line[name] == line[name] and not 0 <= line[name] < limit for name, limit in LIMITS.items()))


def _problem(row, table="runs"):
    """What is wrong with a row of a table, in words; empty if nothing is."""
    if None in row or None in row.values():
        return "it has more or fewer cells than columns"
    runs = table == "runs"
    if runs and (not row["key"].strip() or row["status"] not in STATUSES):
        return f"its key is {row['key']!r} and its status {row['status']!r}; status is one of {' '.join(STATUSES)}"
    for name in NUMBERS[table]:
        text = row[name]
        if text or runs and name in NEEDED:
            whole = name in WHOLE
            try:
                number = (int if whole else float)(text)
            except ValueError:
                return f"{name} is {text!r}, not a {'whole ' * whole}number"
            if runs and name in LIMITS and not 0 <= number < LIMITS[name]:
                return f"{name} is {text}, which it cannot be"
    try:
        return ASTRAY.format(row["key"]) if runs and not names_key(row) else ""
    except ValueError as error:
        return str(error)

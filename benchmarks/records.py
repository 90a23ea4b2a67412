"""The format of rows: tables, columns and the values allowed in them, both in CSV files and in the record of one run (JSON with a checksum).

Standard library only.
"""
import csv
import hashlib
import io
import json
import os
import stat
import time

from benchmarks.files import StoreError, write_whole
from benchmarks.grid import names_key

RUN_COLUMNS = ("key suite task dataset model method options sparsity seed epochs cycles precision status error top1 top1_best_val val_top1 "
               "loss nnz prunable achieved_sparsity macs dense_macs train_flops_fraction seconds step_ms peak_memory_mb device "
               "torch_version code_version finished_at zeros parameters").split()
TABLES = {
    "runs": RUN_COLUMNS,
    "curves": "key epoch train_loss train_top1 val_top1 test_top1 sparsity lr".split(),
    "layers": "key layer shape nnz macs".split(),
    "switches": "key schedule group final_state switches weights".split(),
    "logged": "key epoch name value".split(),
}
NAMED_BY = {"runs": 1, "curves": 2, "layers": 2, "switches": 5, "logged": 3}  # first columns, in which no two lines of a table are alike
ADDED = {"zeros", "parameters"}  # columns of TABLES that files of earlier versions lack; read as empty
STATUSES = ("ok", "diverged", "failed")
TEXTS = set("key suite task dataset model method options precision status error device torch_version code_version finished_at "
            "layer shape schedule final_state name".split())
NUMBERS = {table: [name for name in columns if name not in TEXTS] for table, columns in TABLES.items()}
KINDS = {name: (str, type(None)) if name in TEXTS else (int, float, type(None)) for columns in TABLES.values() for name in columns}
NEEDED = ("sparsity", "seed", "epochs")  # numbers that every row of runs.csv has
WHOLE = ("seed", "epochs")
KINDS |= dict.fromkeys(WHOLE, (int,)) | dict.fromkeys("key suite task method options status finished_at".split(), (str,))
LIMITS = {"sparsity": 1, "achieved_sparsity": 1 + 1e-9, **dict.fromkeys(("top1", "top1_best_val", "val_top1"), 100.001),
          "seed": 2**64, "epochs": 10**9,  # what torch and pandas can take
          **dict.fromkeys("cycles nnz prunable zeros parameters macs dense_macs train_flops_fraction seconds".split(), 1e300)}  # 0 <= value < limit
CHECKSUM = ', "checksum": "'
OTHER = "another version of the suite wrote it (it {} {}): use that version here, or name another folder with --results"
ASTRAY = ("the key {} is not that of its task, method, options, sparsity, seed, epochs and precision; undo what changed one of them (a column sorted "
          "alone? a spreadsheet, to which some keys are numbers?), or remove it")


def moment():
    """The current time in the form that rows have: UTC, to the second, so that sorting as text sorts by time."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())


def write_table(path, columns, rows):
    """Write rows (dicts) as a CSV file, whole or not at all; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path.parent} cannot be made ({error.strerror})") from None
    text = io.StringIO()
    cells = ([None if row[name] != row[name] else row[name] for name in columns] for row in rows)  # NaN becomes an empty cell, too
    csv.writer(text, lineterminator="\n").writerows([columns, *cells])
    write_whole(path, text.getvalue().encode("utf-8", "backslashreplace"))


def typed(line):
    """A line of a table (dict of text) with the types that it has in a record."""
    def number(text):
        try:
            return int(text)
        except ValueError:
            return float(text) if text else None
    return {name: text if name in TEXTS else number(text) for name, text in line.items()}


def unreadable(row):
    """Why reading would refuse this row (dict) once it is written, in words; "" if it would not."""
    return problem_of({name: "" if value is None or value != value else str(value) for name, value in row.items()})


def sealed(record):
    """A record as JSON with its checksum."""
    text = json.dumps(record)[:-1]
    return f'{text}{CHECKSUM}{_checksum(text)}"}}'


def _checksum(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_record(path, key, only_row=False):
    """The record of a run (`only_row`: only its row is parsed, if a checksum vouches for the rest); None if it is damaged.

    Raises StoreError for a record that must not be overwritten: an undamaged one of another version or another run, or one that cannot be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # reading a pipe would never end
            return None
        with open(path, "rb") as file:
            text = file.read().decode()
        body, found, checksum = text.rpartition(CHECKSUM)
        if found and checksum != _checksum(body) + '"}':
            return None
        if found and only_row:
            tables, record = ("runs",), {"runs": [json.JSONDecoder().raw_decode(text, text.index("{", 1))[0]]}
        else:
            tables, record = TABLES, {table: [] for table in TABLES if found or table in ("switches", "logged")} | json.loads(text)  # of few runs
        more, lacking = _completed(record, tables)
        row, = record["runs"]
        if not more and any(_damaged(line, key, table) for table in tables for line in record[table]):
            return None
        problem = OTHER.format("has more columns:", ", ".join(sorted(more))) if more else "" if names_key(row) else ASTRAY.format(key)
        if not found and (lacking or problem):
            return None
    except FileNotFoundError:
        return None
    except OSError as error:  # perhaps it is another user's, or a file server does not answer: it may be undamaged
        stays = "; if it stays so, move it away, and its run is made again" * (not isinstance(error, PermissionError))
        raise StoreError(f"{path} cannot be read ({error.strerror}){stays}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if problem:
        raise StoreError(f"{path}: {problem}")
    return record


def _completed(record, tables):
    """Fills the columns that a record lacks with None. Returns (its tables and columns that this version does not know, the columns it lacked)."""
    more, lacking = set(record) - {*TABLES, "checksum"}, set()
    for table in tables:
        columns = dict.fromkeys(TABLES[table])
        for line in record[table]:
            if line.keys() != columns.keys():
                more, lacking = more | line.keys() - columns.keys(), lacking | columns.keys() - line.keys()
                line.update(columns | line)
    return more, lacking


def _damaged(line, key, table):
    """Whether a line of a record is one that no run can have written."""
    if line["key"] != key or any(type(value) not in KINDS[name] and value != "" for name, value in line.items()):
        return True
    return table == "runs" and (line["status"] not in STATUSES or any(
        line[name] not in (None, "") and line[name] == line[name] and not 0 <= line[name] < limit for name, limit in LIMITS.items()))


def problem_of(row, table="runs"):
    """What is wrong with a row of a table, in words; "" if nothing is."""
    if None in row or None in row.values():
        if str(row["key"])[:7] in ("<<<<<<<", "=======", ">>>>>>>"):
            return "git has left the marks of a merge: take one side (git checkout --theirs results), then `python -m benchmarks collect SUITE`"
        return "it has more or fewer cells than columns; take the line out, and `collect` writes it anew if its run is still in runs/"
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

"""The results store: one file per run, written when it ends (`results/runs/KEY.json`); `collect` joins them into `results/SUITE/*.csv`.

A row is written whole or not at all (files.py); a checksum detects later damage (records.py).
Standard library only.
"""
import contextlib
import csv
import json
import os
import sys
from collections import Counter

from benchmarks.files import StoreError, folder as named, locked, write_whole, writer
from benchmarks.records import ADDED, NAMED_BY, OTHER, RUN_COLUMNS, TABLES, problem_of, read_record, sealed, typed, write_table


def refuse_unwritable(folder, name, advice):
    """Makes a folder where there is none. Raises StoreError, which calls it `name`, if no file can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{writer()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{name} cannot be written ({error.strerror}); {advice}") from None


class Store:
    """The rows under one results folder (default `results`). Raises StoreError if `write` is set and the folder cannot be written.

    keep_models: the trained network of each run is kept, too (kept.py).
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
        refuse_unwritable(self.runs, f"the results folder {self.folder}", "name another with --results")
        if keep_models:
            models = self.folder / "models"
            refuse_unwritable(models, models, "--keep-models stores the trained networks there")

    def checkpoint(self, key):
        return self.runs / f"{key}.pt"

    def model(self, key):
        return self.folder / "models" / f"{key}.pt"

    def log(self, key):
        return self.runs / f"{key}.log"

    def log_note(self, key):
        """" (log: PATH)", or "" where there is none: of a row collected from another machine, or of a `run` outside any launch."""
        return f" (log: {self.log(key)})" if self.log(key).exists() else ""

    def again(self, key):
        """The path of the note that a run is being made again, which stays until its new row is written (`again.renew`)."""
        return self.runs / f"{key}.again"

    def write(self, row, curves=(), layers=(), switches=(), keep=False):
        """Store one finished run: `row` has all of RUN_COLUMNS, a line of `curves` perhaps {name: number} as `logged`. Deletes its checkpoint, unless
        `keep` is set."""
        key = row["key"]
        read_record(self.runs / f"{key}.json", key)  # raises StoreError if another version wrote it
        with contextlib.suppress(OSError, ValueError):  # a row made again counts as the later one, even if a clock was wrong
            noted = json.loads(self.again(key).read_text())
            row = {**row, "finished_at": max(row["finished_at"], noted["finished_at"], noted.get("asked", ""))}
        record = {"runs": [{name: row[name] for name in RUN_COLUMNS}], "curves": [{"key": key, **line} for line in curves],
                  "layers": [{"key": key, **line} for line in layers], "switches": [{"key": key, **line} for line in switches]}
        record["logged"] = [{"key": key, "epoch": line["epoch"], "name": name, "value": value}
                            for line in record["curves"] for name, value in line.pop("logged", {}).items()]
        write_whole(self.runs / f"{key}.json", sealed(record))
        parts = *self.runs.glob(f".{key}.pt.*.part"), *self.folder.glob(f"models/.{key}.pt.*.part")  # left by processes that died while writing
        gone = [self.again(key)]
        if not (self.keep_models and row["status"] == "ok"):  # a stored network belongs to an earlier row
            gone.append(self.model(key))
        if not keep:
            gone += [self.checkpoint(key), *parts]
        for path in gone:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def stamp(self, key):
        """A value that changes whenever the row of a run is written, even if a clock is wrong; None while there is no row."""
        try:
            stat = os.stat(f"{self.runs}/{key}.json")
            return [stat.st_ino, stat.st_mtime_ns, stat.st_size]
        except OSError:
            return None

    def since(self, key, stamp):
        """The row of one run in `runs/` if it has been written since its stamp was `stamp`, else None."""
        return self.row(key) if self.stamp(key) != stamp else None

    def row(self, key):
        """The row in `runs/` of one run, or None."""
        record = self._record(key, only_row=True)
        return record and record["runs"][0]

    def _records(self, only_row=False, note=True):
        """The whole records of `runs/`; a damaged one is named on stderr and left out, so that its run is made again."""
        names = os.listdir(self.runs) if self.runs.is_dir() else ()
        for key in sorted(name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != "."):
            if note:
                self.seen[key] = self.stamp(key)
            record = self._record(key, only_row)
            if record:
                yield record
            elif (path := self.runs / f"{key}.json").exists():
                print(f"{path} is damaged and left out; its run will be made again, unless its row was collected before", file=sys.stderr)

    def _record(self, key, only_row):
        """The record of a run (`only_row`: only its row is parsed, if a checksum vouches for the rest); None if it is damaged."""
        return read_record(f"{self.runs}/{key}.json", key, only_row)

    def read(self, suite, table="runs"):
        """The collected rows of a suite's table as dicts of text; empty if there is no file yet.

        Raises StoreError, which names the row, if an edit by hand has made the file unreadable: nothing is then overwritten.
        """
        path = self.folder / suite / f"{table}.csv"
        if not path.exists():
            return []
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:  # utf-8-sig: a spreadsheet may have written a byte-order mark
                reader = csv.DictReader(file)
                rows, columns = list(reader), reader.fieldnames or ()
        except (OSError, ValueError, csv.Error) as error:
            raise StoreError(f"{path} cannot be read ({' '.join(str(error).split())})") from None
        if not columns:
            raise StoreError(f"{path} is empty; restore it, or remove it: `collect` writes it anew from the runs that are still in {self.runs}")
        more, lacking = Counter(columns) - Counter(TABLES[table]), set(TABLES[table]) - set(columns) - ADDED
        if more or lacking:  # additional columns would be lost when the table is rewritten
            words = OTHER.format("lacks the columns" if lacking else "has more columns:", ", ".join(sorted(lacking or more)))
            raise StoreError(f"{path}: {words}; keep columns of your own in another file")
        rows, seen = [dict.fromkeys(ADDED & set(TABLES[table]), "") | row for row in rows], {}
        names = TABLES[table][:NAMED_BY[table]]
        for place, row in enumerate(rows, 2):
            problem = problem_of(row, table)
            if not problem and seen.setdefault(name := tuple(row[column] for column in names), place) != place:
                problem = f"the {', '.join(map(' '.join, zip(names, name)))} is in row {seen[name]} too; remove one"
            if problem:
                raise StoreError(f"{path}, row {place}: {problem}")
        return rows

    def rows(self, suite, note=True):
        """{key: row} of every finished run of a suite, collected or not. If a key has two rows, the one that ended later counts.

        note: remember which rows were there (`seen`), as where a command decides what is missing; later it would take others' new rows for old.
        """
        rows = {row["key"]: row for row in self.read(suite)}
        return rows | {record["runs"][0]["key"]: record["runs"][0] for record in self._newer(suite, rows, True, note)}

    def _newer(self, suite, rows, only_row=False, note=True):
        """The records of a suite in `runs/`, except those older than the collected row of the same key in `rows`, {key: row} (made elsewhere since,
        for example). A record that did not fail always counts as newer than a failed row, whatever the clocks say."""
        for record in self._records(only_row, note):
            row, = record["runs"]
            other = rows.get(row["key"], row)
            mended = row["status"] != "failed" and other["status"] == "failed"
            if row["suite"] == suite and (mended or str(row["finished_at"]) >= str(other["finished_at"])):
                yield record

    def collect(self, suite):
        """Joins the records in `runs/` into the suite's CSV files, one row per key; returns the number of rows of `runs.csv`."""
        if not self.folder.exists():  # creates no folder for a mistyped name
            return 0
        with locked(self.runs / ".collect.lock"):  # a concurrent one that has not seen the last row would drop it again
            return self._collect(suite)

    def take(self, suite, other):
        """Adds the rows of a suite that another Store has, collected or not, if this one lacks them or has only failed ones; returns (the number
        of rows added, the number of other rows that the other Store has)."""
        own, found = self.rows(suite), other._whole(suite)
        new = {key: record for key, record in found.items()
               if key not in own or own[key]["status"] == "failed" and record["runs"][0]["status"] != "failed"}
        for key, record in new.items():
            if self.stamp(key) == self.seen.get(key):  # otherwise the run has ended here meanwhile
                write_whole(self.runs / f"{key}.json", sealed(record))
        self.collect(suite)
        return len(new), len(found) - len(new)

    def remove(self, suite, keys):
        """Moves the rows of these keys and all that belongs to them to the folder `removed`, from where `take` brings them back; returns that folder.

        A row that has been written since this Store read it stays.
        """
        kept = self.folder / "removed"
        refuse_unwritable(kept / "runs", kept, "rows that are removed are kept there")
        aside = Store(kept, write=False)
        with locked(self.runs / ".collect.lock"):
            whole = self._whole(suite)
            for key in keys:
                write_whole(aside.runs / f"{key}.json", sealed(whole[key]))
            for table, columns in TABLES.items():  # runs.csv first: lines of a run without a row count nowhere
                if (path := self.folder / suite / f"{table}.csv").exists():
                    try:
                        write_table(path, columns, [line for line in self.read(suite, table) if line["key"] not in keys])
                    except StoreError:
                        if table == "runs":  # nothing is removed yet
                            raise
                        raise StoreError(f"{path} cannot be written: the rows are removed, and their lines are left there, where they count nowhere; "
                                         f"`collect {suite} --from {aside.folder}` brings all back") from None
            for key in keys:
                self.again(key).unlink(missing_ok=True)
                if self.stamp(key) == self.seen.get(key):
                    (self.runs / f"{key}.json").unlink(missing_ok=True)
                    for kind in (Store.log, Store.checkpoint, Store.model):
                        if kind(self, key).exists():
                            kind(aside, key).parent.mkdir(exist_ok=True)
                            os.replace(kind(self, key), kind(aside, key))
        return aside.folder

    def _whole(self, suite):
        """{key: record} of every finished run of a suite, collected or not."""
        tables = {table: self.read(suite, table) for table in TABLES}
        records = {row["key"]: {table: [] for table in TABLES} for row in tables["runs"]}
        for table, lines in tables.items():
            for line in lines:
                if line["key"] in records:
                    records[line["key"]][table].append(typed(line))
        newer = self._newer(suite, {row["key"]: row for row in tables["runs"]})
        return records | {record["runs"][0]["key"]: record for record in newer}

    def _collect(self, suite):
        for part in (self.folder / suite).glob(".*.csv.*.part"):  # left by a process that died while collecting
            with contextlib.suppress(OSError):
                part.unlink()
        records = {record["runs"][0]["key"]: record for record in self._newer(suite, {row["key"]: row for row in self.read(suite)})}

        def lines(table):
            stay = [row for row in self.read(suite, table) if row["key"] not in records]
            return stay + [row for record in records.values() for row in record[table]]

        runs = sorted(lines("runs"), key=lambda r: (
            r["task"], r["method"], r["options"], float(r["sparsity"]), int(r["epochs"]), int(r["seed"]), r["key"]))
        order = {row["key"]: place for place, row in enumerate(runs)}
        for table in reversed(TABLES):  # runs.csv last: a run that is in it already has its lines in the other tables
            rows = runs if table == "runs" else sorted(lines(table), key=lambda r: order.get(r["key"], len(order)))
            path = self.folder / suite / f"{table}.csv"
            if rows or path.exists():  # also if empty: an old file may have lines of a run that has none any more
                write_table(path, TABLES[table], rows)
        return len(runs)

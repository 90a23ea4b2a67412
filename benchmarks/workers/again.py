"""Runs that have a row and are made again (`--again`, `--outdated`): notes of those still to be made, so that an interrupted command can go on."""
import functools
import json
import sys

from benchmarks.files import write_whole
from benchmarks.method_files import digest
from benchmarks.progress import several
from benchmarks.records import moment


def left(specs, store, suite):
    """Of Specs to be made again, those that an interrupted command with the same code has left to do (`renew`); all if there was no such command.
    Left are those with a note, and, as it may have been interrupted while it wrote these, those without whose row is older than the command."""
    asked = _asked(specs, store)
    if not asked:
        return specs
    rows, since = store.rows(suite), min(asked.values())
    todo = [spec for spec in specs if spec.key in asked or spec.key not in rows or rows[spec.key]["finished_at"] < since]
    if len(todo) < len(specs):
        print(f"--again goes on where it was interrupted: {len(specs) - len(todo)} of {len(specs)} runs have been made again", file=sys.stderr)
    return todo


def tell_left(specs, store):
    """Says how many of the Specs a command with `--again` or `--outdated` has noted but not made again so far."""
    noted = sum(store.again(spec.key).exists() for spec in specs)
    if noted:
        print(f"{several(noted, 'run')} of --again or --outdated still {'has its' if noted == 1 else 'have their'} earlier rows; where that was "
              "interrupted, the same command goes on with it", file=sys.stderr)


def tell_unkept(done, store, how="--again"):
    """Where networks are kept: says of how many of the rows `done` none was, and what makes these runs again."""
    without = sum(row["status"] == "ok" and not store.model(row["key"]).exists() for row in done) if store.keep_models else 0
    if without:
        print(f"of {several(without, 'run')} that {'is' if without == 1 else 'are'} done no network was kept; {how} makes "
              f"{'it' if without == 1 else 'them'} again", file=sys.stderr)


def renew(specs, store, suite, by="--again"):
    """Writes a note for each Spec that it is being made again, by which option and since when; the note stays until its row is written. Removes the
    checkpoints, except those of Specs that were noted before with the same code."""
    rows = store.rows(suite, note=False) if specs else {}
    asked = min(_asked(specs, store, by).values(), default=moment())
    for spec in specs:
        version, noted = _version(spec), _noted(spec, store)
        if noted.get("version") != version:
            store.checkpoint(spec.key).unlink(missing_ok=True)
        if (noted.get("version"), noted.get("by")) != (version, by):
            note = {"version": version, "by": by, "asked": asked, "finished_at": rows.get(spec.key, {}).get("finished_at", "")}
            write_whole(store.again(spec.key), json.dumps(note))


def _asked(specs, store, by="--again"):
    """{key: when the command began} of the Specs that have a note of this code and option."""
    notes = ((spec, _noted(spec, store)) for spec in specs)
    return {spec.key: note["asked"] for spec, note in notes if (note.get("version"), note.get("by")) == (_version(spec), by)}


def _noted(spec, store):
    """The note that a run is being made again; {} if there is none."""
    try:
        return json.loads(store.again(spec.key).read_text())
    except (OSError, ValueError):
        return {}


def _version(spec):
    """The version of the code that makes a run: it changes with the code and with the method's own file."""
    return f"{_code()} {digest(spec.method)}"


@functools.cache
def _code():
    from benchmarks.machine import code_digest
    return code_digest()

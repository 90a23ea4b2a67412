"""Runs that have a row and are made again (`--again`): notes of what is left of them, so that an interrupted command goes on."""
import functools
import json
import sys

from benchmarks.files import write_whole
from benchmarks.method_files import digest
from benchmarks.progress import several


def left(specs, store):
    """Of Specs to be made again, those that an interrupted command has left of them (`renew`); all where there was none with this code."""
    noted = [spec for spec in specs if _note(spec, store).get("version") == _version(spec)]
    if 0 < len(noted) < len(specs):
        print(f"--again goes on where it was interrupted: {len(specs) - len(noted)} of {len(specs)} runs have been made again", file=sys.stderr)
    return noted or specs


def tell_left(specs, store):
    """Says how many of the Specs a command with `--again` has left as they were, so far."""
    noted = sum(store.again(spec.key).exists() for spec in specs)
    if noted:
        print(f"{several(noted, 'run')} of --again still {'has its' if noted == 1 else 'have their'} earlier rows; where it was interrupted, the same "
              "command goes on with it", file=sys.stderr)


def renew(specs, store, suite):
    """Notes of Specs that they are made again, until their rows are written, and removes their checkpoints: not of those noted before."""
    rows = store.rows(suite) if specs else {}
    for spec in specs:
        if _note(spec, store).get("version") != _version(spec):
            store.checkpoint(spec.key).unlink(missing_ok=True)
            note = {"version": _version(spec), "finished_at": rows.get(spec.key, {}).get("finished_at", "")}
            write_whole(store.again(spec.key), json.dumps(note))


def _note(spec, store):
    try:
        return json.loads(store.again(spec.key).read_text())
    except (OSError, ValueError):
        return {}


def _version(spec):
    """What tells the code that makes a run from that after a change."""
    return f"{_code()} {digest(spec.method)}"


@functools.cache
def _code():
    from benchmarks.machine import code_digest
    return code_digest()

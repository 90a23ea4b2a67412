"""Runs that have a row and are made again (`--again`): notes of what is left of them, so that an interrupted command goes on."""
import functools
import json
import sys

from benchmarks.files import write_whole
from benchmarks.method_files import digest
from benchmarks.progress import several


def left(specs, store):
    """Of Specs to be made again, those that an interrupted command has left of them (`renew`); all where there was none with this code."""
    noted = [spec for spec in specs if _noted(spec, store) == (_version(spec), "--again")]
    if 0 < len(noted) < len(specs):
        print(f"--again goes on where it was interrupted: {len(specs) - len(noted)} of {len(specs)} runs have been made again", file=sys.stderr)
    return noted or specs


def tell_left(specs, store):
    """Says how many of the Specs a command with `--again` or `--outdated` has left as they were, so far."""
    noted = sum(store.again(spec.key).exists() for spec in specs)
    if noted:
        print(f"{several(noted, 'run')} of --again or --outdated still {'has its' if noted == 1 else 'have their'} earlier rows; where that was "
              "interrupted, the same command goes on with it", file=sys.stderr)


def renew(specs, store, suite, by="--again"):
    """Notes of Specs that they are made again, until their rows are written, and by which option; removes their checkpoints, but not of those noted
    before."""
    rows = store.rows(suite) if specs else {}
    for spec in specs:
        version, noted = _version(spec), _noted(spec, store)
        if noted[0] != version:
            store.checkpoint(spec.key).unlink(missing_ok=True)
        if noted != (version, by):
            note = {"version": version, "by": by, "finished_at": rows.get(spec.key, {}).get("finished_at", "")}
            write_whole(store.again(spec.key), json.dumps(note))


def _noted(spec, store):
    """(the code that was to make it, the option) of a note, None for each where there is none."""
    try:
        note = json.loads(store.again(spec.key).read_text())
        return note["version"], note["by"]
    except (OSError, ValueError, KeyError):
        return None, None


def _version(spec):
    """What tells the code that makes a run from that after a change."""
    return f"{_code()} {digest(spec.method)}"


@functools.cache
def _code():
    from benchmarks.machine import code_digest
    return code_digest()

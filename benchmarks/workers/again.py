"""Runs that have a row and are made again (`--again`, `--outdated`): notes of those still to be made, so that an interrupted command can go on."""
import functools
import json
import sys

from benchmarks.files import write_whole
from benchmarks.method_files import digest
from benchmarks.progress import several


def left(specs, store):
    """Of Specs to be made again, those that an interrupted command with the same code has left to do (`renew`); all if there was no such command."""
    noted = [spec for spec in specs if _noted(spec, store) == (_version(spec), "--again")]
    if 0 < len(noted) < len(specs):
        print(f"--again goes on where it was interrupted: {len(specs) - len(noted)} of {len(specs)} runs have been made again", file=sys.stderr)
    return noted or specs


def tell_left(specs, store):
    """Says how many of the Specs a command with `--again` or `--outdated` has noted but not made again so far."""
    noted = sum(store.again(spec.key).exists() for spec in specs)
    if noted:
        print(f"{several(noted, 'run')} of --again or --outdated still {'has its' if noted == 1 else 'have their'} earlier rows; where that was "
              "interrupted, the same command goes on with it", file=sys.stderr)


def renew(specs, store, suite, by="--again"):
    """Writes a note for each Spec that it is being made again, and by which option; the note stays until its row is written. Removes the
    checkpoints, except those of Specs that were noted before with the same code."""
    rows = store.rows(suite) if specs else {}
    for spec in specs:
        version, noted = _version(spec), _noted(spec, store)
        if noted[0] != version:
            store.checkpoint(spec.key).unlink(missing_ok=True)
        if noted != (version, by):
            note = {"version": version, "by": by, "finished_at": rows.get(spec.key, {}).get("finished_at", "")}
            write_whole(store.again(spec.key), json.dumps(note))


def _noted(spec, store):
    """(version of the code that was to make the run, option) from its note; (None, None) if there is none."""
    try:
        note = json.loads(store.again(spec.key).read_text())
        return note["version"], note["by"]
    except (OSError, ValueError, KeyError):
        return None, None


def _version(spec):
    """The version of the code that makes a run: it changes with the code and with the method's own file."""
    return f"{_code()} {digest(spec.method)}"


@functools.cache
def _code():
    from benchmarks.machine import code_digest
    return code_digest()

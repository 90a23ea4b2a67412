"""What the commands share: their parser, the options that many take, and how they end. Needs the standard library alone."""
import argparse
import errno
import functools
import os
import re
import shlex
import signal
import sys
from pathlib import Path

from benchmarks.files import folder
from benchmarks.own_suites import refuse_faults
from benchmarks.recipes import PRECISIONS

ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # signals that end a command like Ctrl-C
CAME = []  # those that have come: a bare `except:`, in what was just being imported, may have caught their KeyboardInterrupt
MOST_SEEDS = 10_000
UNITS = ("GB", "MINUTES", "SECONDS")  # that a metavar may name
# errors of a disk or a file server, not of the code: another OSError keeps its traceback
FAILING = {getattr(errno, name, -1) for name in "EIO ESTALE ENOSPC EDQUOT EROFS ENODEV ENOTCONN EREMOTEIO ETIMEDOUT EACCES EPERM".split()}
OPTIONS = {
    "results": dict(default="results", metavar="DIR", help="folder of the rows (default: %(default)s)"),
    "data": dict(metavar="DIR", help="folder of the data sets (default: $DATA_DIR, else data)"),
    "sparsities": dict(type=float, nargs="+", action="extend", metavar="S", help="only these"),
    "sparsity": dict(dest="sparsities", type=float, nargs="+", action="extend", help=argparse.SUPPRESS),
    "epochs": dict(type=int, help="instead of the profile's"),
    "precision": dict(choices=PRECISIONS, help="of all runs, instead of the task's own"),
    "device": dict(help="cpu, cuda, cuda:1 (default: cuda where there is one)"),
    "keep-models": dict(action="store_true", help="keep each run's trained network, as models/KEY.pt in the results (benchmarks/kept.py)"),
    "set": dict(action="append", default=[], metavar="NAME=VALUE", help="an option of the method or of the task; can be given again"),
}

USUAL = {"results": OPTIONS["results"]["default"], "profile": "paper"}


class Usage(ValueError):
    """Arguments that cannot be used, in one line."""


class Parser(argparse.ArgumentParser):
    """Raises Usage where argparse would print its usage and exit. Options cannot be abbreviated, because run_all.sh reads them, too."""

    def __init__(self, *args, **options):
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def error(self, message):
        if found := re.match(r"argument (\S+): invalid (.*): '([^']*,[^']*)'", message):
            option, kind, value = found.groups()
            if kind == "float value" and re.fullmatch(r"\d+,\d+", value):
                message += f" (with a point: {value.replace(',', '.')})"
            elif any(action.nargs for action in self._actions if option in action.option_strings):
                message += " (several are separated by spaces)"
        elif re.match(r"unrecognized arguments:(.* )? \w+=", message):
            message += "; each name=value needs a --set of its own"
        for kind, words in (("int", "a whole number"), ("float", "a number")):
            message = message.replace(f"invalid {kind} value:", f"{words}, not")
        units = {name: action.metavar for action in self._actions for name in action.option_strings if action.metavar in UNITS}
        if unit := units.get(message.removeprefix("argument ").partition(":")[0]):  # sbatch's own options take others, too
            message = message.replace("number, not", f"number of {unit}, not")
        taken = {name: words for action in self._actions for name in (action.option_strings or [action.metavar or action.dest])
                 if (words := self._taken(action))}
        if (head := "the following arguments are required: ") in message:
            message = head + ", ".join(name + f" ({taken.get(name)})" * (name in taken) for name in message[len(head):].split(", "))
        elif (found := re.match(r"argument (\S+): expected ", message)) and found[1] in taken:
            message += f" ({taken[found[1]]})"
        raise Usage(f"{message} (see `python -m benchmarks {self.prog.split()[-1]} --help`)" if " " in self.prog else
                    message + " (--help lists them)" * message.startswith("unrecognized"))

    @staticmethod
    def _taken(action):
        """What an argument takes, in the words of --help; "" if --help does not show it."""
        words = ", ".join(map(str, action.choices)) if action.choices else action.help or ""
        return "" if words == argparse.SUPPRESS else words.replace("(default: %(default)s)", "").strip()

    def common(self, *names):
        """Adds the OPTIONS of these names."""
        for name in names:
            self.add_argument(f"--{name}", **OPTIONS[name])
        return self


class Once(argparse.Action):
    """An option of one value, which argparse would silently take from its last occurrence."""

    def __call__(self, parser, namespace, value, option=None):
        if getattr(namespace, self.dest) is not None:
            parser.error(f"argument {option}: given twice, and names one ({getattr(namespace, self.dest)}, {value}); "
                         "`launch --methods` makes the runs of several")
        setattr(namespace, self.dest, value)


def with_options(**options):
    """The text " --results DIR --seeds 3 …" with which another command gets these options; without those that are None, empty or the usual ones."""
    found = []
    for name, value in options.items():
        if value in (None, []) or str(value) == USUAL.get(name):
            continue
        values = [seeds_text(value)] if isinstance(value, range) else value if isinstance(value, list) else [value]
        found += [word for each in values for word in ("--set", each)] if name == "set" else [f"--{name}", *values]
    return "".join(f" {shlex.quote(str(word))}" for word in found)


def data_folder(args):
    """The folder of the data sets as a Path: the one the user named, which must exist, or data."""
    named, option = (os.environ.get("DATA_DIR") or None, "DATA_DIR") if args.data is None else (args.data, "--data")
    if named is None:
        return Path("data")
    path = folder(named, option)
    if not path.is_dir():
        fault = "is no folder" if path.exists() else "does not exist"
        raise Usage(f"the data folder {path} {fault}: name an existing one with --data DIR or DATA_DIR")
    return path


def seeds(text):
    """The range of seeds that `--seeds` names: "3" is 0 to 2, "5-9" is 5 to 9."""
    first, dash, last = text.partition("-")
    try:
        low, high = (int(first), int(last) + 1) if dash else (0, int(first))
    except ValueError:
        low = high = 0
    if not 0 < high - low <= MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"a number of seeds, 1 to {MOST_SEEDS}, or the first and the last, such as 5-9 or 42-42, not {text!r}")
    return range(low, high)


def seeds_text(found):
    """The text that `seeds` reads as this range."""
    return f"{found.start}-{found[-1]}" if found.start else str(len(found))


def chosen_options(args):
    """The options given with `--set`, as pairs (name, value) of text."""
    pairs = [tuple(text.split("=", 1)) for text in args.set]
    for pair in pairs:
        beside = " without spaces beside =" * (pair != tuple(map(str.strip, pair)))
        if len(pair) != 2 or not pair[0] or beside:
            raise Usage(f"--set takes NAME=VALUE{beside}, not {'='.join(pair)!r}")
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise Usage(f"--set {name} is given twice; each value is a command of its own")
    return pairs


def at_least_one(args, *names, least=1):
    """Raises Usage if one of these arguments (or an element of several) is given and less than `least`."""
    for name in names:
        given = getattr(args, name)
        value = min(given) if isinstance(given, (list, tuple)) else given
        if value is not None and value < least:
            raise Usage(f"--{name.replace('_', '-')} must be at least {least}, not {value}")


def command(main):
    """Makes `main(…)` a command that returns an exit status: what `main` returns, or 0. A ValueError (what `main` refuses), a missing library and a
    file or folder that cannot be read or written become one line on stderr and status 2; Ctrl-C is status 130; an output that nobody reads any
    more is 1."""
    @functools.wraps(main)
    def ended(*words, **options):
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # the stream is closed (>&-), but child processes print to it, too
                while (place := os.open(os.devnull, os.O_RDWR)) < 3:  # fills the closed ones of the descriptors 0, 1 and 2
                    os.set_inheritable(place, True)
                os.set_inheritable(place, True)
                setattr(sys, name, open(place, "w"))
        if hasattr(sys.stdout, "reconfigure"):  # progress appears in a log at once, in any encoding
            sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
        try:
            refuse_faults()
            status = main(*words, **options) or 0
            sys.stdout.flush()
            return status
        except BrokenPipeError:  # the reader, such as `head`, has ended; nothing may be written at exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except ValueError as error:  # Usage, StoreError, DataError and every refusal of nonsense
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except ModuleNotFoundError as error:
            print(f"error: {error} in {sys.executable}: `bash run_all.sh setup` makes .venv with all that is needed, and "
                  "`.venv/bin/python -m benchmarks …` uses it", file=sys.stderr)
            return 2
        except OSError as error:
            if error.errno not in FAILING:
                raise
            print(f"error: {error.filename or 'a file'} cannot be used ({error.strerror})", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130
    return ended

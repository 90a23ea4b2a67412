"""`python -m benchmarks remove SUITE`: takes rows out of a results folder, from where `collect --from` brings them back. Standard library only."""
import re

from benchmarks.command import chosen_options, seeds, with_options
from benchmarks.grid import NEXT
from benchmarks.progress import plain, several


def add_arguments(sub):
    """The command's own options, besides SUITE and --results."""
    sub.add_argument("--keys", nargs="+", action="extend", metavar="KEY", help="the rows with these keys")
    sub.add_argument("--methods", nargs="+", action="extend", metavar="M", help="the rows of these, by the names that runs.csv has")
    sub.add_argument("--tasks", nargs="+", action="extend", metavar="T", help="only these")
    sub.common("set", "sparsities", "sparsity")
    sub.add_argument("--seeds", type=seeds, metavar="K|A-B", help="only these, such as 3 (0 to 2) or 5-9")
    sub.add_argument("--epochs", type=int, help="only rows of this length")
    sub.add_argument("--precision", help="only rows of this precision")
    sub.add_argument("--failed", action="store_true", help="only runs that failed")
    sub.add_argument("--yes", action="store_true", help="remove them; without it they are only listed")


def show(args, store):
    """Lists the rows that are asked for and, with --yes, removes them. Raises ValueError if there are none, or if a key has no row."""
    if not (args.keys or args.methods or args.failed):
        raise ValueError("name the rows with --keys, --methods or --failed")
    options = chosen_options(args)
    rows = store.rows(args.suite)
    if unknown := [key for key in args.keys or () if key not in rows]:
        raise ValueError(f"{args.suite} has no row with the key {unknown[0]}")
    found = [row for row in rows.values() if asked_for(row, args, options)]
    if not found:
        raise ValueError(f"{args.suite} has no such rows")
    for row in found:
        accuracy = row["status"] if row["status"] != "ok" else f"{float(row['top1']):.2f} %"
        name = " ".join(filter(None, (row["task"], row["method"], row["options"])))
        print(plain(f"{row['key']}  {name}, sparsity {float(row['sparsity']):g}, seed {row['seed']}, {several(int(row['epochs']), 'epoch')}, "
                    f"{row['precision']}: {accuracy}"))
    if not args.yes:
        print(f"{several(len(found), 'row')} would be removed; --yes removes {'it' if len(found) == 1 else 'them'}")
        return
    aside = store.remove(args.suite, [row["key"] for row in found])
    print(f"{several(len(found), 'row')} removed; `python -m benchmarks collect {args.suite}{with_options(results=args.results)} --from {aside}` "
          f"brings {'it' if len(found) == 1 else 'them'} back")


def asked_for(row, args, options):
    """Whether the arguments select this row; `options`: pairs of text that it must have, and may have more."""
    have = dict(pair.split("=", 1) for pair in re.split(NEXT, row["options"]) if pair)
    return ((not args.keys or row["key"] in args.keys) and (not args.methods or row["method"] in args.methods)
            and (not args.tasks or row["task"] in args.tasks) and (not args.sparsities or float(row["sparsity"]) in args.sparsities)
            and (args.seeds is None or int(row["seed"]) in args.seeds) and args.epochs in (None, int(row["epochs"]))
            and args.precision in (None, row["precision"]) and (not args.failed or row["status"] == "failed")
            and all(name in have and same(have[name], value) for name, value in options))


def same(one, other):
    """Whether two texts are equal, or stand for one number, as 0.5 and .50 do."""
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False

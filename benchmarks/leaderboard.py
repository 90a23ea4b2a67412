"""`python -m benchmarks leaderboard SUITE [--method mine.py:Mine]`: runs what is missing of a method, then compares all of them.

Imports pandas, scipy and torch only when it is run: the command line's help must answer at once.
"""
import argparse
import sys

from benchmarks.again import left, renew
from benchmarks.command import at_least_one, chosen_options
from benchmarks.grid import Grid, Spec, union
from benchmarks.own_methods import rehearse, tell_older
from benchmarks.progress import counted, name_bad
from benchmarks.suites import PROFILES, suite_grid


def add_arguments(sub):
    """The command's own options, besides SUITE, --profile, --results and --data."""
    sub.add_argument("--method", metavar="FILE.py:CLASS", help="run what is missing of this method first (a name works too)")
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of that method; can be given again")
    sub.add_argument("--again", action="store_true", help="make that method's runs again, as after a change of its file")
    sub.add_argument("--against", nargs="+", action="extend", metavar="M",
                     help="compare with these methods only, chosen before their results are seen")
    sub.add_argument("--one-cycle", action="store_true", help="only methods that train once, without LRR and the like")
    sub.add_argument("--tasks", nargs="+", action="extend", metavar="T", help="only these, and that method's runs on them")
    sub.add_argument("--sparsities", type=float, nargs="+", action="extend", metavar="S", help="only these")
    sub.add_argument("--sparsity", dest="sparsities", type=float, nargs="+", action="extend", help=argparse.SUPPRESS)
    sub.add_argument("--sort", default="accuracy", choices=("accuracy", "cost"))
    sub.add_argument("--format", default="text", choices=("text", "markdown", "latex", "csv", "html"))
    sub.add_argument("--seeds", type=int, metavar="K", help="number of seeds of that method, from 0")
    sub.add_argument("--epochs", type=int, help="instead of the profile's")
    sub.common("precision")
    sub.add_argument("--jobs", type=int, help="runs at a time (default: 8 on each GPU, without one as many as there are cores and GB of memory)")


def run(args, store, folder):
    """The command; returns its exit status. What is no table goes to stderr, so that a table can be sent to a file.

    Raises ValueError in one line for a method with mistakes, options that cannot be used, and where there is nothing to compare.
    """
    from benchmarks import tables
    from benchmarks.chosen import tasks_of
    base = suite_grid(args.suite, args.profile, ())  # refuses an unknown suite
    sparsities = [Spec(base.tasks[0], "any", sparsity, 0).sparsity for sparsity in args.sparsities or base.sparsities]  # refuses 98
    at_least_one(args, "jobs", "seeds", "epochs")
    tasks_of(args, base)  # refuses one of another suite
    if not args.method and (args.set or args.again or args.seeds):
        raise ValueError("--set, --again and --seeds belong to --method")
    failed, variant, against, same = 0, None, names(args, base), asked(args)
    specs = cells(args) if args.method else ()
    if against:
        refuse_absent(set(against) - {spec.method for spec in specs}, sparsities, args, store)
    if specs:
        failed = fill(specs, args, store, folder)
        variant = specs[0].method, specs[0].option_text
    rows = counting(args, store, args.profile, variant)
    unlike = len(store.rows(args.suite)) * rows.empty
    if against:
        rows = rows[rows.method.isin([*against, "dense", *(variant or ())[:1]])]
    if args.one_cycle and len(rows):
        rows = rows[rows.cycles.astype(float) == 1]
    if len(rows):
        tell_older(rows[rows.sparsity.isin(sparsities) & ~rows.method.isin((variant or ())[:1])].to_dict("records"))
    try:
        table = tables.board(rows, sparsities, args.sort)
    except ValueError as error:
        make = f"; make them with: bash run_all.sh {args.suite}{same}" if rows.empty or not (rows.status == "ok").any() else ""
        if unlike:
            make += f" (the {unlike} rows that are stored are of other epochs, another precision or options of their own)"
        raise ValueError(f"{error}{make}") from None
    if args.format == "html":
        from benchmarks.page import page
        print(page(table, args.suite, args.profile))
    else:
        print(tables.FORMATS[args.format](table))
    if not args.sparsities:
        tell_others(rows, sparsities)
    if variant:
        tell_variants(*variant, store.rows(args.suite).values())
    if not args.epochs:
        tell_fuller(args, store)
    return 1 if failed else 0


def tell_others(rows, sparsities):
    """Says which other sparsities have rows, but for the levels that runs of several cycles pass."""
    others = sorted({*rows.sparsity[(rows.cycles.astype(float) == 1) & (rows.sparsity > 0) & ~rows.sparsity.isin(sparsities)]})
    if others:
        print(f"rows at {', '.join(f'{s:g}' for s in others)} are not shown: --sparsities", file=sys.stderr)


def tell_variants(method, options, rows):
    """Says which other options of a method of the suite have rows (dicts), which the table does not show."""
    others = sorted({row["options"] or "its defaults" for row in rows if row["method"] == method and row["options"] != options} - {"its defaults"})
    if others and ":" not in method:
        print(f"{method} has rows with other options, too, which are not shown ({'; '.join(others[:5])}{'; …' * (len(others) > 5)}): of several, the "
              "best is good by chance, too", file=sys.stderr)


def tell_fuller(args, store):
    """Says where another profile has many more rows to compare with."""
    counts = {profile: len(counting(args, store, profile)) for profile in PROFILES}
    fullest = max(counts, key=counts.get)
    if counts[fullest] > 2 * counts[args.profile]:
        print(f"profile {args.profile} has {counts[args.profile]} rows, {fullest} {counts[fullest]}: --profile {fullest} compares those",
              file=sys.stderr)


def counting(args, store, profile, variant=None):
    """The stored rows that a profile compares, as a DataFrame."""
    import pandas as pd

    from benchmarks import tables
    rows = pd.DataFrame(store.rows(args.suite).values())
    rows = rows if rows.empty else tables.select(rows, args.suite, profile, args.epochs, variant, args.precision)
    return rows[rows.task.isin(args.tasks)] if args.tasks and len(rows) else rows


def refuse_absent(against, sparsities, args, store):
    """Raises ValueError where a method to compare with has no rows at these sparsities, before anything is run: who has them, or makes them."""
    def absent(profile):
        rows = counting(args, store, profile)
        if len(rows):
            rows = rows[rows.sparsity.isin(sparsities) | (rows.method == "dense")]
        return sorted(against - set(rows.method if len(rows) else ()))
    if missing := absent(args.profile):
        other = next((f" of profile {args.profile}; compare those of --profile {profile}, or" for profile in PROFILES if not absent(profile)), ";")
        at = f" at sparsity {', '.join(f'{s:g}' for s in sparsities)}" * bool(args.sparsities)
        raise ValueError(f"there are no rows of {' '.join(missing)}{at}{other} make them with: python -m benchmarks launch {args.suite}{asked(args)} "
                         f"--methods {' '.join(missing)}")


def asked(args):
    """What makes a launch fill the rows that the leaderboard looks for."""
    words = [("profile", args.profile, "paper"), ("epochs", args.epochs, None), ("precision", args.precision, None),
             ("results", args.results, "results"), ("tasks", " ".join(args.tasks or ()), ""),
             ("sparsities", " ".join(f"{s:g}" for s in args.sparsities or ()), ""), ("seeds", args.seeds, None)]
    return "".join(f" --{name} {value}" for name, value, default in words if value != default)


def names(args, base):
    """The names, as rows have them, of the methods to compare with. Raises ValueError for an unknown one."""
    from benchmarks.tasks import canonical
    return [canonical(Spec(base.tasks[0], name, base.sparsities[0], 0)).method for name in args.against or ()]


def cells(args):
    """The Specs of the method on the suite, without the tasks that it skips, which are named."""
    from benchmarks.method_files import ask
    from benchmarks.tasks import canonical, get_task
    from benchmarks.chosen import tasks_of
    from methods import get
    name = args.method
    method = get(name)
    pairs = chosen_options(args)
    for option, _ in pairs:
        if option not in method.options():
            from methods.options import nearest
            if option in get_task(suite_grid(args.suite, args.profile, ()).tasks[0]).settings():
                raise ValueError(f"{option} is a setting of the task, and the same for all that are compared; options of {name} alone are taken "
                                 "here; `launch` takes both, and reproduce/compare.py draws what it makes")
            raise ValueError(nearest(option, method.options(), f"option of {name}"))
    base, tasks = suite_grid(args.suite, args.profile, [name]), []
    for task in tasks_of(args, base):
        reason = ask(name, method.skip, task)
        if reason:
            print(f"{name} skips {task}: {reason}", file=sys.stderr)
        else:
            tasks.append(task)
    seeds = range(args.seeds) if args.seeds else base.seeds
    return union(canonical(spec) for spec in Grid(tuple(tasks), (name,), tuple(args.sparsities or base.sparsities), tuple(seeds),
                                                  args.epochs or base.epochs, args.precision, pairs))


def fill(specs, args, store, folder):
    """Makes the rows that are missing, after a few steps of each of their cells. Returns the number of failed runs."""
    from benchmarks.chosen import missing
    todo, done = missing(specs, store, args.suite, retry_failed=True)
    if args.again:
        todo, done = left(specs, store), []
    print(f"{args.method}: {counted(done)}, {len(todo)} to do", file=sys.stderr)
    tell_older(done)
    bad = []
    if todo:
        from benchmarks.launch import launch, refuse_unsuited
        refuse_unsuited(todo)
        rehearse(todo, folder)
        renew(todo if args.again else (), store, args.suite)  # a method with a mistake has cost nothing
        bad = launch(todo, store, folder, args.jobs, report=lambda line: print(line, file=sys.stderr))
        store.collect(args.suite)
    return name_bad(bad, store)

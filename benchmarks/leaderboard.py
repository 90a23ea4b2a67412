"""`python -m benchmarks leaderboard SUITE [--method mine.py:Mine]`: makes the missing runs of a method, then compares all methods.

Imports pandas, scipy and torch only when it is run: the command line's help must answer at once.
"""
import shlex
import sys

from benchmarks.chosen import missing, tasks_of
from benchmarks.command import Once, at_least_one, chosen_options, seeds, with_options
from benchmarks.comparison.variant import Variant, named
from benchmarks.grid import Grid, Spec, union
from benchmarks.method_files import ask, path_of
from benchmarks.progress import counted, name_bad
from benchmarks.slurm import jobs
from benchmarks.suites import PROFILES, suite_grid
from benchmarks.tasks import canonical, get_task
from benchmarks.trial.own_methods import rehearse, tell_older
from benchmarks.workers.again import left, renew, tell_unkept


def add_arguments(sub):
    """The command's own options, besides SUITE, --profile, --results and --data."""
    sub.add_argument("--method", action=Once, metavar="FILE.py:CLASS", help="run what is missing of this method first (a name works too)")
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of that method; can be given again")
    sub.add_argument("--again", action="store_true", help="make that method's runs again, as after a change of its file")
    sub.add_argument("--against", nargs="+", action="extend", metavar="M",
                     help='compare with these alone, chosen before their results are seen: methods, or variants as "rigl drop_fraction=0.1"')
    sub.add_argument("--reference", metavar="M", help="a method or variant of the table: differences are to it, instead of to the best")
    sub.add_argument("--one-cycle", action="store_true", help="only methods that train once, without LRR and the like")
    sub.add_argument("--tasks", nargs="+", action="extend", metavar="T", help="only these, and that method's runs on them")
    sub.common("sparsities", "sparsity")
    sub.add_argument("--sort", default="accuracy", choices=("accuracy", "cost"))
    sub.add_argument("--format", default="text", choices=("text", "markdown", "latex", "csv", "html"))
    sub.add_argument("--seeds", type=seeds, metavar="K|A-B", help="number of seeds of that method, from 0, or the first and the last")
    sub.common("epochs", "precision", "keep-models")
    sub.add_argument("--jobs", type=int, help="runs at a time (default: 8 on each GPU, without one as many as there are cores and free GB of memory)")


def run(args, store, folder):
    """The command; returns its exit status. All but the table goes to stderr, so that the table can be sent to a file.

    Raises ValueError in one line for a method with mistakes, for options that cannot be used, and if there is nothing to compare.
    """
    from benchmarks.comparison import tables
    base = suite_grid(args.suite, args.profile, ())  # raises ValueError for an unknown suite
    sparsities = [Spec(base.tasks[0], "any", sparsity, 0).sparsity for sparsity in args.sparsities or base.sparsities]  # raises ValueError for 98
    at_least_one(args, "jobs", "epochs")
    first, *_ = tasks_of(args, base)  # raises ValueError for a task of another suite
    if not args.method and (args.set or args.again or args.seeds or args.keep_models):
        raise ValueError("--set, --again, --seeds and --keep-models belong to --method")
    failed = 0
    against = [Variant.read(text, first) for text in args.against or ()]
    reference = Variant.read(args.reference, first) if args.reference is not None else None
    specs = cells(args, against) if args.method else ()
    variant = Variant(specs[0].method, tuple(chosen_options(args))) if specs else None
    own = variant.names(args.suite) if variant else set()
    refuse_absent([one for one in against if one.names(args.suite) != own], sparsities, args, store)
    if reference and reference.names(args.suite) != own:
        refuse_reference(reference, compared(args, store, variant, against), sparsities, args, store)
    if specs:
        failed = fill(specs, args, store, folder)
    rows = compared(args, store, variant, against)
    unlike = len(store.rows(args.suite)) * rows.empty
    rows = once(rows) if args.one_cycle else rows
    if len(rows):
        told = {spec.key for spec in specs}  # of these `fill` has
        tell_older(rows[rows.sparsity.isin(sparsities) & ~rows.key.isin(told)].to_dict("records"))
    labels = {name[0]: label for name, label in zip(named(rows), rows.get("label", ())) if reference and name in reference.names(args.suite)}
    try:
        table = tables.board(rows, sparsities, args.sort, labels or None)
    except ValueError as error:
        make = f"; make them with: bash run_all.sh {args.suite}{asked(args)}" if rows.empty or not (rows.status == "ok").any() else ""
        if unlike:
            make += f" (the {unlike} rows that are stored are of other epochs, another precision or options of their own)"
        raise ValueError(f"{error}{make}") from None
    if reference:
        tell_unranked(reference, table)
    if args.format == "html":
        from benchmarks.comparison.page import page
        print(page(table, args.suite, args.profile))
    else:
        print(tables.FORMATS[args.format](table))
    if not args.sparsities:
        tell_others(rows, sparsities)
    chosen = {variant.method} if variant else set()
    tell_variants(chosen | {one.method for one in against if one.options}, rows[rows.sparsity.isin(sparsities)], store.rows(args.suite).values())
    if not args.epochs:
        tell_fuller(args, store)
    return 1 if failed else 0


def tell_others(rows, sparsities):
    """Says which other sparsities have rows, except for those that only runs of several cycles pass."""
    others = sorted({*rows.sparsity[(rows.cycles == 1) & (rows.sparsity > 0) & ~rows.sparsity.isin(sparsities)]})
    if others:
        print(f"rows at {', '.join(f'{s:g}' for s in others)} are not shown: --sparsities", file=sys.stderr)


def tell_variants(chosen, rows, stored):
    """For the methods `chosen`, and for methods from files in the rows that are shown: says which other options have stored rows (dicts), or, for
    methods from files, that several options are shown. A suite's method with its defaults does not count, because nobody chose these here."""
    for method in sorted(chosen | {name for name in rows.method if ":" in name}):
        shown, own = set(rows.options[rows.method == method]), ":" in method
        there = {row["options"] for row in stored if (path_of(row["method"]) if own and ":" in row["method"] else row["method"]) == method}
        others = sorted(options or "its defaults" for options in there - shown if options or own)
        if others:
            print(f"{method} has rows with other options, too, which are not shown ({'; '.join(others[:5])}{'; …' * (len(others) > 5)}): of several, "
                  "the best is good by chance, too", file=sys.stderr)
        elif own and len(shown) > 1:
            print(f"{method} is shown with {len(shown)} choices of its options: of several, the best is good by chance, too", file=sys.stderr)


def tell_unranked(reference, table):
    """Says at which tasks and sparsities the reference has no rank. Raises ValueError if it has none anywhere."""
    if "reference" not in table or not table.reference.any():
        raise ValueError(f"--reference {reference} is not ranked: it ends at another sparsity than was asked for, or no seed of it finished")
    for _, line in table[table.reference == ""].drop_duplicates(["task", "sparsity"]).iterrows():
        print(f"{reference} is not ranked on {line.task} at sparsity {line.sparsity:g}: nothing is compared with it there", file=sys.stderr)


def tell_fuller(args, store):
    """Says so if another profile has more than twice as many rows to compare."""
    counts = {profile: len(counting(args, store, profile)) for profile in PROFILES}
    fullest = max(counts, key=counts.get)
    if counts[fullest] > 2 * counts[args.profile]:
        print(f"profile {args.profile} has {counts[args.profile]} rows, {fullest} {counts[fullest]}: --profile {fullest} compares those",
              file=sys.stderr)


def compared(args, store, variant, against):
    """The stored rows that the table compares: with `against` exactly these, `variant` and dense; without it all methods and `variant`. If
    options are set for a method from a file, its other variants are left out."""
    variants = [*against, *[variant] * bool(variant)]
    if against:
        return counting(args, store, args.profile, variants, lambda method: method == "dense")
    alone = variant.method if variant and args.set and ":" in variant.method else None
    return counting(args, store, args.profile, variants, lambda method: method != alone)


def counting(args, store, profile, variants=(), others=lambda method: True):
    """The stored rows that a profile compares, as a DataFrame: those that `tables.select` takes by itself, and those of these Variants."""
    import pandas as pd

    from benchmarks.comparison import tables
    rows = pd.DataFrame(store.rows(args.suite).values())
    names = {name for variant in variants for name in variant.names(args.suite)}
    rows = rows if rows.empty else tables.select(rows, args.suite, profile, args.epochs, names, args.precision, others)
    return rows[rows.task.isin(args.tasks)] if args.tasks and len(rows) else rows


def once(rows):
    """The rows of runs with one training cycle."""
    return rows[rows.cycles == 1] if len(rows) else rows


def at(rows, sparsities):
    """(task, method, options) of the rows at these sparsities, and of dense."""
    return {*named(rows[rows.sparsity.isin(sparsities) | (rows.method == "dense")])} if len(rows) else set()


def refuse_absent(wanted, sparsities, args, store):
    """Raises ValueError, before anything is run, if a Variant to compare with has no rows at these sparsities; it says which profile has them, or how
    to make them."""
    def absent(profile):
        there = at(counting(args, store, profile, wanted), sparsities)
        return sorted({one for one in wanted if not one.names(args.suite) & there}, key=str)
    if lacking := absent(args.profile):
        other = next((f" of profile {args.profile}; compare those of --profile {profile}, or" for profile in PROFILES if not absent(profile)), ";")
        given = f" at sparsity {', '.join(f'{s:g}' for s in sparsities)}" * bool(args.sparsities)
        plain = [one.method for one in lacking if not one.options]
        each = [dict(methods=plain)] if plain else []  # methods without options fit into one launch
        each += [dict(methods=[one.method], set=["=".join(pair) for pair in one.options]) for one in lacking if one.options]
        launches = [f"python -m benchmarks launch {args.suite}{asked(args)}{with_options(**named)}" for named in each]
        raise ValueError(f"there are no rows of {shlex.join(map(str, lacking))}{given}{other} make them with: {' && '.join(launches)}")


def refuse_reference(reference, rows, sparsities, args, store):
    """Raises ValueError, before anything is run, if the Variant `reference` cannot be the reference among these rows."""
    if reference.method == "dense":
        raise ValueError("--reference dense: it has another sparsity, so that nothing is tested against it; name a method")
    if not reference.names(args.suite) & at(once(rows) if args.one_cycle else rows, sparsities):
        refuse_absent([reference], sparsities, args, store)
        left_out = "--one-cycle leaves it out" if reference.names(args.suite) & at(rows, sparsities) else "name it in --against, too"
        raise ValueError(f"--reference {reference} is not among what is compared: {left_out}")


def asked(args):
    """The options with which `launch` makes the rows that this leaderboard compares."""
    return with_options(**{name: getattr(args, name) for name in ("profile", "epochs", "precision", "results", "tasks", "sparsities", "seeds")})


def cells(args, against=()):
    """The Specs of the method on the suite, without the tasks that it skips (which are named). A setting of the task is accepted as an option only if
    all that the method is compared `against` (Variants) set it, too."""
    from methods import get
    name = args.method
    method = get(name)
    pairs = chosen_options(args)
    for option, _ in pairs:
        if option not in method.options():
            from methods.options import nearest
            if option in get_task(suite_grid(args.suite, args.profile, ()).tasks[0]).settings():
                if against and option not in ("epochs", "precision") and all(option in dict(one.options) for one in against if one.method != "dense"):
                    continue
                raise ValueError(f"{option} is a setting of the task, and the same for all that are compared, unless each entry of --against "
                                 f'names it, too ("rigl {option}=VALUE"); `launch` takes both, and reproduce/compare.py draws what it makes')
            raise ValueError(nearest(option, method.options(), f"option of {name}"))
    base, tasks = suite_grid(args.suite, args.profile, [name]), []
    for task in tasks_of(args, base):
        reason = ask(name, method.skip, task)
        if reason:
            print(f"{name} skips {task}: {reason}", file=sys.stderr)
        else:
            tasks.append(task)
    return union(canonical(spec) for spec in Grid(tuple(tasks), (name,), tuple(args.sparsities or base.sparsities), tuple(args.seeds or base.seeds),
                                                  args.epochs or base.epochs, args.precision, pairs))


def fill(specs, args, store, folder):
    """Makes the missing rows, after a trial of a few steps for each of their cells. Returns the number of failed runs."""
    todo, done = missing(specs, store, args.suite, retry_failed=True)
    if args.again:
        todo, done = left(specs, store, args.suite), []
    print(f"{args.method}: {counted(done)}, {len(todo)} to do", file=sys.stderr)
    tell_older(done)
    tell_unkept(done, store)
    bad = []
    if todo:
        from benchmarks.launch import launch, load_data, refuse_unsuited
        from benchmarks.workers.worker import preload
        refuse_unsuited(todo)
        preload()
        rehearse(todo, load_data(todo, folder))
        jobs.tell_queued(todo, store, args.suite)
        renew(todo if args.again else (), store, args.suite)  # only now: a mistake found by the trial leaves the old rows as they are
        bad = launch(todo, store, folder, args.jobs, report=lambda line: print(line, file=sys.stderr))
        store.collect(args.suite)
    return name_bad(bad, store)

"""Which runs the arguments of a command select, and which of them have no row yet. Torch is imported only where it is needed."""
import sys

from benchmarks import suites
from benchmarks.command import chosen_options
from benchmarks.grid import Grid, Spec, union
from benchmarks.method_files import ask
from benchmarks.tasks import TASKS, canonical, get_task, suite_of
from benchmarks.trial.own_methods import outdated


def chosen(args):
    """The Specs that the arguments of `plan`, `launch` and `status` select, without those that their method skips."""
    from methods import get
    options = chosen_options(args)
    # not with --set: a figure's runs have options of their own
    specs = [] if options else suites.trained(suites.grid(args.suite, args.profile), args.profile, args.precision, args.epochs)
    if options or any(x is not None for x in (args.tasks, args.methods, args.sparsities, args.seeds, args.epochs)):
        epochs = args.epochs if args.epochs is None else Spec("-", "-", 0.0, 0, args.epochs).epochs
        base = suites.suite_grid(args.suite, args.profile, args.methods or suites.usual(args.suite))
        tasks = tasks_of(args, base)
        for task in tasks:
            suites.refuse_unknown(options, task, base.methods)
        seeds = args.seeds or base.seeds
        asked = Grid(tasks, base.methods, tuple(args.sparsities or base.sparsities), tuple(seeds), epochs or base.epochs,
                     args.precision, options)
        asked = [canonical(spec) for spec in asked]
        names = {spec.method for spec in asked}
        specs = [s for s in specs if s.seed in seeds and (not args.methods or s.method in names) and (not args.tasks or s.task in tasks)
                 and (not args.sparsities or s.method == "dense" or s.sparsity in args.sparsities)]
        specs = union(asked, (canonical(spec) for spec in specs))
    reasons = {(method, task): ask(method, get(method).skip, task) for method, task in dict.fromkeys((spec.method, spec.task) for spec in specs)}
    for (method, task), reason in reasons.items() if args.methods else ():
        if reason:
            print(f"{method} skips {task}: {reason}", file=sys.stderr)
    return [spec for spec in specs if not reasons[spec.method, spec.task]]


def tasks_of(args, base):
    """The tasks that --tasks names, or those of the suite's Grid. Raises ValueError for a task of another suite."""
    for task in args.tasks or ():
        get_task(task)
        if suite_of(task) != args.suite:
            own = [name for name in TASKS if suite_of(name) == args.suite]
            raise ValueError(f"{task} is no task of suite {args.suite}; its tasks: {', '.join(own)}")
    return tuple(dict.fromkeys(args.tasks or base.tasks))


def missing(specs, store, suite, retry_failed=False):
    """Returns (the Specs without a row, the rows of the others). A failed row does not count as a row if its method's own file has changed since,
    which may have fixed it; with retry_failed, no failed row counts."""
    rows = store.rows(suite)
    have = {key: row for key, row in rows.items() if not (row["status"] == "failed" and (retry_failed or outdated(row)))}
    return [spec for spec in specs if spec.key not in have], [have[spec.key] for spec in specs if spec.key in have]

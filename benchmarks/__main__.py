"""The commands: `python -m benchmarks run|options|plan|launch|status|cancel|collect|remove|variants|leaderboard`. Torch is imported only where needed."""
import argparse
import gc
import os
import signal
import sys
from contextlib import suppress
from functools import partial

from benchmarks import leaderboard, one_run, options, remove, suites
from benchmarks.chosen import chosen, missing
from benchmarks.command import CAME, ENDINGS, Parser, at_least_one, command, data_folder, seeds, with_options
from benchmarks.comparison import variants
from benchmarks.levels import uncovered
from benchmarks.progress import counted, name_bad, several, spoken
from benchmarks.results import Store
from benchmarks.slurm import cluster, jobs
from benchmarks.status import show
from benchmarks.trial.own_methods import outdated, own, rehearse, tell_older
from benchmarks.workers import places
from benchmarks.workers.again import left, renew, tell_left, tell_unkept


def parser():
    top = Parser(prog="benchmarks", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, call, summary, suite=True, profile=True):
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.set_defaults(call=call)
        if suite:
            sub.add_argument("suite", metavar="SUITE", help=" ".join(suites.SUITES))
        if suite and profile:
            sub.add_argument("--profile", default="paper", choices=suites.PROFILES,
                             help="paper: the papers' networks and lengths (default); quick: smaller and shorter")
        return sub.common("results", "data")

    run = add("run", one_run.make, "one run, stored as one row", suite=False).common("device", "set", "keep-models")
    run.add_argument("--task", required=True, help="such as digits; `options` lists all")
    run.add_argument("--method", required=True, help="a name, or file.py:Class")
    run.add_argument("--sparsity", type=float, help="share of zeros, in [0, 1); dense needs none")
    run.add_argument("--seed", type=int, default=0, help="of all that is random (default: 0)")
    run.add_argument("--epochs", type=int, help="of a cycle, instead of the task's")
    run.add_argument("--precision", help="bf16, tf32 or fp32, instead of the task's")
    run.add_argument("--out", dest="results", metavar="DIR", default=argparse.SUPPRESS, help="same as --results")
    options.add_arguments(add("options", options.show, "all methods and tasks; of one, what --set can change: the values, the default first, and "
                              "what they mean", suite=False))
    for name, call, summary in (("plan", command_plan, "what is missing and what it will cost, measured here; runs nothing"),
                                ("launch", command_launch, "run what is missing"),
                                ("status", command_status, "done, running, queued, failed and why, lost")):
        sub = add(name, call, summary).common("set", "precision")
        sub.add_argument("--methods", nargs="+", action="extend", metavar="M", help="names, or file.py:Class (default: the suite's)")
        sub.add_argument("--tasks", nargs="+", action="extend", metavar="T", help="instead of the suite's usual one")
        sub.add_argument("--sparsities", nargs="+", action="extend", type=float, metavar="S", help="shares of zeros, in [0, 1)")
        sub.common("sparsity")
        sub.add_argument("--seeds", type=seeds, metavar="K|A-B", help="number of seeds, from 0, or the first and the last, such as 5-9 "
                         "(of a figure's variants: those of the figure's own seeds that are among them)")
        sub.common("epochs")
        if name == "status":
            sub.add_argument("--commands", action="store_true", help="only print, of each of these runs, the command that makes it and its key")
            continue
        sub.add_argument("--jobs", type=int, help="runs at a time (default: 8 on each GPU, without one as many as there are cores and free GB of "
                         "memory, in a task of SLURM's --cpus-per-task)")
        sub.add_argument("--launcher", default="local", choices=("local", "slurm"),
                         help="local: this machine (default); slurm: job arrays" + " (the estimate stays one of this machine)" * (name == "plan"))
        sub.add_argument("--retry-failed", action="store_true", help="make failed runs again")
        if name == "launch":
            sub.add_argument("--again", action="store_true", help="make the runs of --methods again, as after a change of a method")
            sub.add_argument("--outdated", action="store_true", help="make runs again whose rows are of another content of the method's own file")
            cluster.add_arguments(sub.common("keep-models"))
    cancel = add("cancel", command_cancel, "take all of a suite that is queued with SLURM out of its queue", profile=False)
    cancel.add_argument("--running", action="store_true", help="end what runs, too")
    collect = add("collect", command_collect, "rows to CSV")
    collect.add_argument("--from", dest="others", nargs="+", action="extend", default=[], metavar="DIR",
                         help="add the rows of other results folders of runs that have none here, or only failed")
    remove.add_arguments(add("remove", command_remove, "take rows out of the results", profile=False))
    variants.add_arguments(add("variants", command_variants, "the options of a method by their validation accuracy"))
    leaderboard.add_arguments(add("leaderboard", command_leaderboard, "what is missing of a method is run, then all are compared"))
    return top


def command_plan(args):
    store, todo, done, _ = prepare(args)
    print(f"{args.suite}, profile {args.profile}: {counted(done)}, {len(todo)} missing")
    if todo:
        from benchmarks.checkpoint import share_done
        from benchmarks.launch import load_data, refuse_unsuited, tell_slow
        from benchmarks.plan import estimate
        refuse_unsuited(todo)
        folder = load_data(todo, data_folder(args))
        tell_slow(todo, print)
        devices = places.gpus()
        workers = places.spread(todo, devices, args.jobs)
        others = places.crowded(len(workers))  # asked before the plan's own timing adds to the load
        begun = {spec.key: share_done(store.checkpoint(spec.key), spec) for spec in todo}
        seconds = estimate(todo, folder, workers[0][1], begun=begun)
        on = f"{several(len(devices), 'GPU')}, {workers[0][1]} runs at a time on each" if workers[0][0] else several(len(workers), "process")
        print(f"about {spoken(seconds / len(workers))} on this machine with {on} ({spoken(seconds)} of all runs together)"
              + f"; {others}" * bool(others))
    return 0


def prepare(args):
    """Returns (the Store, the Specs to run, the rows of those that are done, those of the Specs to run that are made again)."""
    at_least_one(args, "jobs")
    specs = chosen(args)
    store = Store(args.results, args.command != "plan", getattr(args, "keep_models", False))
    todo, done = missing(specs, store, args.suite, args.retry_failed)
    if getattr(args, "again", False):
        todo = left(specs, store, args.suite)
        return store, todo, [], todo
    older = {row["key"] for row in done if getattr(args, "outdated", False) and outdated(row)}
    done = [row for row in done if row["key"] not in older]
    tell_older(done)
    tell_left(specs, store)
    again = [spec for spec in specs if spec.key in older]
    return store, todo + again, done, again


def command_launch(args):
    if args.launcher != "slurm":
        cluster.refuse(args)
    for option in ("again", "outdated"):
        if getattr(args, option) and not args.methods:
            raise ValueError(f"--{option} needs --methods: it makes runs of these again")
    store, todo, done, again = prepare(args)
    tell_unkept(done, store, "--again with --methods")
    folder = data_folder(args)
    if todo:
        from benchmarks.launch import load_data, refuse_unsuited
        from benchmarks.workers.worker import preload
        refuse_unsuited(todo, here=args.launcher != "slurm")
        if args.launcher != "slurm":
            preload()
        rehearse(own(todo), load_data(todo, folder))
    by = "--again" if args.again else "--outdated"
    if args.launcher == "slurm":
        print(f"{args.suite}, profile {args.profile}: {counted(done)}, {len(todo)} to do")
        return cluster.submit(args, store, todo, folder, again, by) or tell_failed(done, store)
    renew(again, store, args.suite, by)
    return launch_missing(args, store, todo, done)


def launch_missing(args, store, todo, done):
    """Runs the Specs `todo`, collects the rows, and reports which of the runs failed, these or those of the rows `done`. Returns the exit status."""
    folder, runs = data_folder(args), len(uncovered(todo))
    print(f"{args.suite}, profile {args.profile}: {counted(done)}, {len(todo)} to do"
          + f", as {runs} runs: some pass the sparsities of others" * (runs < len(todo)))
    bad = []
    if todo:
        from benchmarks.launch import launch, load_data
        jobs.tell_queued(todo, store, args.suite)
        bad = launch(todo, store, load_data(todo, folder), args.jobs)
    print(f"{several(store.collect(args.suite), 'row')} in {store.folder / args.suite / 'runs.csv'}")
    return tell_failed(done, store, bad)


def tell_failed(done, store, bad=()):
    """Reports on stderr the failed rows among `done`, and the rows `bad`. Returns the exit status."""
    noted = sum(store.again(row["key"]).exists() for row in bad)  # whose earlier rows stay
    failed = name_bad([*bad, *(row for row in done if row["status"] == "failed")], store)
    if failed:
        by = "`launch` with --retry-failed" if failed > noted else "the same command"
        print(f"{several(failed, 'run')} failed; {by} makes {'it' if failed == 1 else 'them'} again", file=sys.stderr)
    return 1 if failed else 0


def command_status(args):
    from concurrent.futures import ProcessPoolExecutor
    if args.commands:
        print("\n".join(f"{spec.command()}{with_options(results=args.results, data=args.data)}  # {spec.key}" for spec in chosen(args)))
        return 0
    store = existing(args)
    with ProcessPoolExecutor(1) as aside:  # reads the rows while this process imports the methods and torch
        reading = aside.submit(store.rows, args.suite)
        specs, rows = chosen(args), reading.result()
    tell_older([rows[spec.key] for spec in specs if spec.key in rows])
    tell_left(specs, store)
    print(f"{args.suite}, profile {args.profile}: ", end="")
    return show(store, args.suite, specs, rows)


def command_cancel(args):
    suites.suite_grid(args.suite, suites.PROFILES[0], ())
    return cluster.cancel(args, existing(args))


def command_collect(args):
    suites.suite_grid(args.suite, args.profile, ())
    others = [Store(folder, write=False) for folder in args.others]
    for other in others:
        if not other.folder.exists():
            raise ValueError(f"there is no results folder {other.folder}")
        if (other.folder / "runs.csv").exists():
            raise ValueError(f"{other.folder} is a suite's folder; the results folder is {other.folder.parent}")
    store = Store(args.results) if others else existing(args, write=True)
    for other in others:
        taken, left_there = store.take(args.suite, other)
        print(f"{several(taken, 'row')} taken from {other.folder}" + f", {left_there} left there: they are here, too" * (left_there > 0))
    total = store.collect(args.suite)
    print(f"{several(total, 'row')} in {store.folder / args.suite / 'runs.csv'}" if total else
          f"there are no rows of {args.suite} yet; `bash run_all.sh {args.suite}{with_options(results=args.results)}` makes them")
    return tell_failed(store.rows(args.suite).values(), store) if total else 0


def command_remove(args):
    suites.suite_grid(args.suite, suites.PROFILES[0], ())
    return remove.show(args, existing(args, write=args.yes))


def existing(args, write=False):
    """The Store of a command that does not create one. Raises ValueError if a folder named with --results does not exist."""
    store = Store(args.results, write=False)
    if not store.folder.exists() and args.results != "results":
        raise ValueError(f"there is no results folder {args.results}; `launch` and `run` make one")
    return Store(args.results) if write and store.folder.exists() else store


def command_variants(args):
    return variants.show(args, existing(args))


def command_leaderboard(args):
    # comparing stored rows needs no data
    return leaderboard.run(args, Store(args.results, bool(args.method), args.keep_models), data_folder(args) if args.method else None)


@command
def main(words=None):
    args = parser().parse_args(words)
    try:
        return args.call(args)
    except (KeyboardInterrupt, Exception) as error:
        if not CAME and not isinstance(error, KeyboardInterrupt):  # a library that a signal has left half loaded fails in many ways
            raise
        goes_on = "; the same command goes on where this one ended" * (args.command in ("run", "launch", "leaderboard"))
        with suppress(OSError):  # stderr may be a pipe to `tee`, which the same Ctrl-C has ended
            print(f"stopped{goes_on}", file=sys.stderr)
        return 130


def interrupt(number, _):
    """Treats SIGTERM and SIGHUP as Ctrl-C, but only the first: `timeout` signals both this process and run_all.sh, which then signals it again."""
    CAME.append(number)
    for ending in ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt


def insist(*_):
    """Ctrl-C is KeyboardInterrupt twice, which a method's hook may catch (`except:` in a loop); the third ends the process."""
    CAME.append(signal.SIGINT)
    if CAME.count(signal.SIGINT) == 2:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    raise KeyboardInterrupt


if __name__ == "__main__":
    gc.set_threshold(100_000)  # what is imported and read creates many objects, but no garbage
    for number in ENDINGS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, interrupt)
            os.register_at_fork(after_in_child=partial(signal.signal, number, signal.SIG_DFL))  # what a method's hook forks
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, insist)
    status = main()
    gc.freeze()  # no garbage collection at exit either
    sys.exit(status)

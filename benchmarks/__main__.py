"""The commands: `python -m benchmarks run|options|plan|launch|status|cancel|collect|leaderboard`. Torch is imported only where needed."""
import argparse
import gc
import signal
import sys
import threading
from contextlib import closing, contextmanager

from benchmarks import cluster, leaderboard, options, suites
from benchmarks.again import left, renew
from benchmarks.chosen import chosen, missing
from benchmarks.command import Parser, at_least_one, chosen_options, command, data_folder
from benchmarks.grid import Spec
from benchmarks.own_methods import own, rehearse, tell_older
from benchmarks.progress import counted, name_bad, plain, several, spoken
from benchmarks.results import Store

ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def parser():
    top = Parser(prog="benchmarks", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, summary, suite=True):
        sub = commands.add_parser(name, help=summary, description=summary)
        if suite:
            sub.add_argument("suite", metavar="SUITE", help=" ".join(suites.SUITES))
            sub.add_argument("--profile", default="paper", choices=suites.PROFILES)
        return sub.common("results", "data")

    run = add("run", "one run, stored as one row", suite=False).common("device", "set", "keep-models")
    run.add_argument("--task", required=True)
    run.add_argument("--method", required=True, help="a name, or file.py:Class")
    run.add_argument("--sparsity", type=float, help="share of zeros, in [0, 1); dense needs none")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--epochs", type=int)
    run.add_argument("--precision")
    run.add_argument("--out", dest="results", metavar="DIR", default=argparse.SUPPRESS, help="same as --results")
    options.add_arguments(add("options", "all methods and tasks; of one, what --set can change: the values, the default first, and what they mean",
                              suite=False))
    for name, summary in (("plan", "what is missing and what it will cost, measured here; runs nothing"), ("launch", "run what is missing"),
                          ("status", "done, running, queued, failed and why, lost")):
        sub = add(name, summary).common("set", "precision")
        sub.add_argument("--methods", nargs="+", action="extend", metavar="M")
        sub.add_argument("--tasks", nargs="+", action="extend", metavar="T", help="instead of the suite's usual one")
        sub.add_argument("--sparsities", nargs="+", action="extend", type=float, metavar="S")
        sub.add_argument("--sparsity", dest="sparsities", nargs="+", action="extend", type=float, help=argparse.SUPPRESS)
        sub.add_argument("--seeds", type=int, metavar="K", help="number of seeds, from 0")
        sub.add_argument("--epochs", type=int, help="instead of the profile's")
        if name == "status":
            continue
        sub.add_argument("--jobs", type=int, help="runs at a time (default: 8 on each GPU, without one as many as there are cores and GB of "
                         "memory, in a task of SLURM's --cpus-per-task)")
        sub.add_argument("--launcher", default="local", choices=("local", "slurm"))
        sub.add_argument("--retry-failed", action="store_true", help="make failed runs again")
        if name == "launch":
            sub.add_argument("--again", action="store_true", help="make the runs of --methods again, as after a change of a method's file")
            cluster.add_arguments(sub.common("keep-models"))
    add("cancel", "take what is queued with SLURM out of its queue").add_argument("--running", action="store_true", help="end what runs, too")
    add("collect", "rows to CSV")
    leaderboard.add_arguments(add("leaderboard", "what is missing of a method is run, then all are compared"))
    return top


def command_run(args):
    spec = Spec(args.task, args.method, args.sparsity or 0.0, args.seed, args.epochs, args.precision, chosen_options(args))
    from benchmarks.launch import refuse_unsuited, tell_slow
    from benchmarks.machine import usable_device
    from benchmarks.tasks import canonical, suite_of
    spec = canonical(spec)
    usable_device(args.device)
    if args.sparsity is None and spec.method != "dense":
        raise ValueError("--sparsity is needed: the share of zeros, in [0, 1)")
    store, folder = Store(args.results, keep_models=args.keep_models), data_folder(args)
    row = store.rows(suite_of(spec.task)).get(spec.key)
    if row and row["status"] != "failed":
        print(f"{spec.key} is done already: {summary(row)}")
        tell_older([row])
        if args.keep_models and not store.model(spec.key).exists():
            print("its network was not kept; `launch` with --methods, --again and --keep-models makes such runs again")
    else:
        refuse_unsuited([spec], args.device)
        rehearse(own([spec]), load_data([spec], folder), args.device)
        tell_slow([spec], print, args.device)
        row = run_one(spec, store, folder, args.device)
        print(f"{spec.key} {summary(row)}")
    return 0 if row["status"] == "ok" else 1


def run_one(spec, store, folder, device):
    from benchmarks.checkpoint import Stopped
    from benchmarks.run_claims import Claim, Taken
    from benchmarks.progress import Bar
    from benchmarks.run import run
    asked = []
    try:
        with Claim(store, spec.key) as claim, closing(Bar({spec: 1}, print)) as progress, noted(asked):
            if row := store.since(spec.key, store.seen.get(spec.key)):  # another process has made it
                return row

            def tick(share):
                claim.note(share)
                progress.tick(spec, share)
            return run(spec, store, folder, device, tick, lambda: claim.check() or bool(asked), claim.begun)
    except Taken as other:
        raise ValueError(f"{spec.key} is being made by {other}") from None
    except Stopped:
        raise KeyboardInterrupt from None


@contextmanager
def noted(asked):
    """The first Ctrl-C, or what else ends a launch, becomes an entry of `asked`, so that a run can write a checkpoint; the next one is
    what it was."""
    before = {}

    def note(number, _):
        asked.append(number)
        bring_back()

    def bring_back():
        for number, handler in before.items():
            signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():  # elsewhere signals cannot be caught
        for number in (signal.SIGINT, *ENDINGS):
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, note)
    try:
        yield
    finally:
        bring_back()


def summary(row):
    if row["status"] != "ok":
        return plain(f"{row['status']}: {row['error']}")

    def number(name, form):
        return "?" if row[name] in ("", None) else format(float(row[name]), form)  # another version's row may lack it
    return (f"{number('top1', '.2f')} % in the last epoch, at sparsity {number('achieved_sparsity', '.4f')} ({row['nnz']} of "
            f"{row['prunable']} weights), {number('train_flops_fraction', '.3f')} of dense training FLOPs, {number('seconds', '.0f')} s")


def command_plan(args):
    _, todo, done = prepare(args)
    print(f"{args.suite}, profile {args.profile}: {counted(done)}, {len(todo)} missing")
    if todo:
        from benchmarks.plan import estimate
        from benchmarks import places
        from benchmarks.launch import refuse_unsuited, tell_slow
        refuse_unsuited(todo)
        folder = load_data(todo, data_folder(args))
        tell_slow(todo, print)
        devices = places.gpus()
        workers = places.spread(todo, devices, args.jobs)
        seconds = estimate(todo, folder, workers[0][1], report=print)
        on = f"{several(len(devices), 'GPU')}, {workers[0][1]} runs at a time on each" if workers[0][0] else several(len(workers), "process")
        print(f"about {spoken(seconds / len(workers))} on this machine with {on} ({spoken(seconds)} of all runs together)")
    return 0


def prepare(args):
    at_least_one(args, "jobs")
    specs = chosen(args)
    store = Store(args.results, args.command != "plan", getattr(args, "keep_models", False))
    todo, done = missing(specs, store, args.suite, args.retry_failed)
    if getattr(args, "again", False):
        return store, left(specs, store), []
    tell_older(done)
    return store, todo, done


def command_launch(args):
    if args.launcher != "slurm":
        cluster.refuse(args)
    if args.again and not args.methods:
        raise ValueError("--again needs --methods: it makes all their runs again")
    store, todo, done = prepare(args)
    without = sum(not store.model(row["key"]).exists() for row in done) if args.keep_models else 0
    if without:
        print(f"of {without} runs that are done no network was kept; --again with --methods makes them again")
    if todo:
        from benchmarks.launch import refuse_unsuited
        refuse_unsuited(todo, here=args.launcher != "slurm")
    if own(todo):
        rehearse(own(todo), load_data(todo, data_folder(args)))
    renew(todo if args.again else (), store, args.suite)
    if args.launcher == "slurm":
        print(f"{args.suite}, profile {args.profile}: {counted(done)}, {len(todo)} to do")
        return cluster.submit(args, store, todo, load_data(todo, data_folder(args))) or tell_failed(done, store)
    return launch_missing(args, store, todo, done)


def load_data(specs, folder):
    """Missing data, and networks that cannot be made for them, end here, not in every run. Returns the folder."""
    from benchmarks import data
    from benchmarks.run import macs_of
    from benchmarks.tasks import settle
    for task in {settle(spec)[0] for spec in specs}:
        macs_of(task, data.load_for(task, folder))
    return folder


def launch_missing(args, store, todo, done):
    """Makes the Specs `todo`, collects, and names what failed in them or in the rows `done`. Returns the exit status."""
    folder = data_folder(args)
    from benchmarks.levels import uncovered
    runs = len(uncovered(todo))
    print(f"{args.suite}, profile {args.profile}: {counted(done)}, {len(todo)} to do"
          + f", as {runs} runs: some pass the sparsities of others" * (runs < len(todo)))
    bad = []
    if todo:
        from benchmarks.launch import launch
        bad = launch(todo, store, load_data(todo, folder), args.jobs)
    print(f"{store.collect(args.suite)} rows in {store.folder / args.suite / 'runs.csv'}")
    return tell_failed(done, store, bad)


def tell_failed(done, store, bad=()):
    """Names what failed of the rows `done`, and those of `bad`. Returns the exit status."""
    failed = name_bad([*bad, *(row for row in done if row["status"] == "failed")], store)
    if failed:
        print(f"{several(failed, 'run')} failed; `--retry-failed` makes {'it' if failed == 1 else 'them'} again", file=sys.stderr)
    return 1 if failed else 0


def command_status(args):
    from concurrent.futures import ProcessPoolExecutor

    from benchmarks.status import show
    store = existing(args)
    with ProcessPoolExecutor(1) as aside:  # while the methods and torch are imported here
        reading = aside.submit(store.rows, args.suite)
        specs, rows = chosen(args), reading.result()
    tell_older([rows[spec.key] for spec in specs if spec.key in rows])
    print(f"{args.suite}, profile {args.profile}: ", end="")
    show(store, args.suite, specs, rows)
    return 0


def command_cancel(args):
    suites.suite_grid(args.suite, args.profile, ())
    return cluster.cancel(args, existing(args))


def command_collect(args):
    suites.suite_grid(args.suite, args.profile, ())
    store = existing(args, write=True)
    total = store.collect(args.suite)
    where = f" --results {args.results}" * (args.results != "results")
    print(f"{total} rows in {store.folder / args.suite / 'runs.csv'}" if total else
          f"there are no rows of {args.suite} yet; `bash run_all.sh {args.suite}{where}` makes them")
    return 0


def existing(args, write=False):
    """The Store of a command that makes none. Raises ValueError where a folder that was named is not there."""
    store = Store(args.results, write=False)
    if not store.folder.exists() and args.results != "results":
        raise ValueError(f"there is no results folder {args.results}; `launch` and `run` make one")
    return Store(args.results) if write and store.folder.exists() else store


def command_options(args):
    return options.show(args)


def command_leaderboard(args):
    # stored rows need no data
    return leaderboard.run(args, Store(args.results, write=bool(args.method)), data_folder(args) if args.method else None)


@command
def main(words=None):
    args = parser().parse_args(words)
    try:
        return globals()["command_" + args.command](args)
    except KeyboardInterrupt:
        print("stopped; the same command goes on where this one ended", file=sys.stderr)
        return 130


def interrupt(*_):
    """What ends a launch in the background is its Ctrl-C, and once: `timeout` sends it one, and so does run_all.sh, which it ends, too."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    gc.set_threshold(100_000)  # what is imported and read is no garbage
    for number in ENDINGS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, interrupt)
    status = main()
    gc.freeze()  # nor at the end
    sys.exit(status)

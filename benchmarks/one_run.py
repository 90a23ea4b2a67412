"""`python -m benchmarks run`: one run, stored as one row."""
import signal
import threading
from contextlib import closing, contextmanager

from benchmarks.command import CAME, ENDINGS, chosen_options, data_folder
from benchmarks.grid import Spec
from benchmarks.progress import Bar, plain
from benchmarks.results import Store
from benchmarks.tasks import canonical, suite_of
from benchmarks.trial.own_methods import own, rehearse, tell_older
from benchmarks.workers.run_claims import Claim, Taken


def make(args):
    """The command; returns its exit status. Raises ValueError in one line if the run cannot be made."""
    spec = Spec(args.task, args.method, args.sparsity or 0.0, args.seed, args.epochs, args.precision, chosen_options(args))
    from benchmarks.launch import load_data, refuse_unsuited, tell_slow
    from benchmarks.machine import usable_device
    spec = canonical(spec)
    usable_device(args.device)
    if args.sparsity is None and spec.method != "dense":
        raise ValueError("--sparsity is needed: the share of zeros, in [0, 1)")
    store, folder = Store(args.results, keep_models=args.keep_models), data_folder(args)
    row = store.rows(suite_of(spec.task)).get(spec.key)
    if row and row["status"] != "failed":
        print(f"{spec.key} is done already: {summary(row)}")
        tell_older([row])
        if args.keep_models and row["status"] == "ok" and not store.model(spec.key).exists():
            print("its network was not kept; `launch` with --methods, --again and --keep-models makes such runs again")
    else:
        refuse_unsuited([spec], args.device)
        rehearse(own([spec]), load_data([spec], folder), args.device)
        tell_slow([spec], print, args.device)
        row = made(spec, store, folder, args.device)
        print(f"{spec.key} {summary(row)}")
    return 0 if row["status"] == "ok" else 1


def made(spec, store, folder, device):
    """The row of the run, which is made here, or which another process has made meanwhile. Raises ValueError while another process makes it."""
    from benchmarks.checkpoint import Stopped
    from benchmarks.run import run
    asked = [*CAME]
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
    """A context in which the first Ctrl-C, or other signal that ends a launch, only adds an entry to `asked`, so that the run can write a checkpoint;
    the next one acts as usual."""
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
    """A row in a line of text: accuracy, sparsity, costs; or how it failed."""
    if row["status"] != "ok":
        return plain(f"{row['status']}: {row['error']}")

    def number(name, form):
        return "?" if row[name] in ("", None) else format(float(row[name]), form)  # another version's row may lack it
    return (f"{number('top1', '.2f')} % of the test images in the last epoch, at sparsity {number('achieved_sparsity', '.4f')} ({row['nnz']} of "
            f"{row['prunable']} weights), {number('train_flops_fraction', '.3f')} of dense training FLOPs, {number('seconds', '.0f')} s")

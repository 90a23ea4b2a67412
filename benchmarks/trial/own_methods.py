"""What a command checks before it runs methods from users' own files: mistakes, and rows made before a file was changed."""
import contextlib
import difflib
import sys
from collections import Counter

from benchmarks.levels import levels_of
from benchmarks.method_files import file_of, mark
from benchmarks.tasks import mark_of_suite, settle, suite_of

NEAR = 0.75  # difflib's ratio from which on one name counts as the other one mistyped


def rehearse(specs, folder, device=None):
    """Makes a dry run of each kind of run among the Specs (equal but for seed and length) on a device (`machine.usable_device`).
    Raises ValueError with the first mistake of each method, a line each; says what no checkpoint holds, and what may go wrong later. On a CPU it
    leaves out ImageNet's networks, of which a few steps take too long."""
    from benchmarks.machine import default_device
    from benchmarks.trial.dry_run import dry_run
    for method in dict.fromkeys(spec.method for spec in specs):
        for name, hook in mistyped(method):
            print(f"{method}: nothing calls {name} but the method itself; the hook is {hook}", file=sys.stderr)
    cells = {(spec.task, spec.method, spec.options, spec.sparsity): spec for spec in specs}
    unheld, missed, tried, mistakes = {}, {}, set(), {}
    for spec in cells.values():
        levels_of(spec)
        if spec.method in mistakes or settle(spec)[0].on_all_gpus and (device or default_device()) == "cpu":
            continue
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for the command's own output
                names, misses = dry_run(spec, folder, device, often=(spec.task, spec.method) not in tried)
        except ValueError as error:
            mistakes[spec.method] = str(error)
            continue
        tried.add((spec.task, spec.method))  # other options and sparsities have the same code
        unheld.setdefault(spec.method, set()).update(names)
        missed[spec.method] = missed.get(spec.method) or misses  # once, not for each sparsity
    for said in filter(None, missed.values()):
        print(said, file=sys.stderr)
    for method, names in unheld.items():
        if names:
            print(f"{method}: its steps change {', '.join(f'self.{name}' for name in sorted(names))}, which no checkpoint holds; what a later step "
                  "needs must be a buffer, or a run that was stopped goes on differently", file=sys.stderr)
    *others, last = mistakes.values() or [None]
    for text in others:
        print(f"error: {text}", file=sys.stderr)
    if last:
        raise ValueError(last)


def mistyped(method):
    """[(function in a method's own file, hook with nearly the same name, for which it may be mistyped)]."""
    from methods import get

    def functions(classes):
        return [name for base in classes for name, own in vars(base).items() if callable(own) and not name.startswith("_")]
    order = get(method).__mro__
    suites = [base for base in order if base.__module__.startswith("methods.")]
    names = [name for name in functions(order[:order.index(suites[0])]) if not hasattr(suites[0], name)]
    return [(name, near[0]) for name in names if (near := difflib.get_close_matches(name, functions(suites), 1, NEAR))]


def own(specs):
    """Those of the Specs whose method is from a user's file."""
    return [spec for spec in specs if ":" in spec.method]


def outdated(row):
    """Whether a row (dict) was made with another content of its method's or its suite's own file; False if the file is not here, because then it is
    unknown."""
    return any(now not in str(row["code_version"]) for now in _marks(row["method"], row["task"]).values())


def _marks(method, task):
    """{file of the method or of the task's suite: its mark now, "" if it is not here}."""
    return {file_of(method): mark(method), f"benchmarks/own_suites/{suite_of(task)}.py": mark_of_suite(task)}


def tell_older(rows):
    """Says how many rows (dicts) were made with another content of their method's or suite's own file; nothing about files that are not here."""
    marks = {pair: _marks(*pair) for pair in {(row["method"], row["task"]) for row in rows}}
    older = Counter(file for row in rows for file, now in marks[row["method"], row["task"]].items() if now not in str(row["code_version"]))
    for file, other in sorted(older.items()):
        print(f"rows made with another content of {file}: {other}; `launch` with --outdated and what names these runs (--methods, --set, …) "
              "makes them again", file=sys.stderr)

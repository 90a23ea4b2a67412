"""What a command looks at before it runs methods of somebody's own files: mistakes, and rows of a file as it was before."""
import contextlib
import os
import sys

from benchmarks.results import moment
from benchmarks.tasks import file_of, levels_of, settle


def rehearse(specs, folder):
    """A dry run of each of the Specs that differs from the others in more than its seed and length. Raises ValueError with the first
    mistake; says what no checkpoint holds. On a CPU it leaves out ImageNet's networks, a few steps of which take too long."""
    from benchmarks.dry_run import dry_run
    from benchmarks.machine import default_device
    cells = {(spec.task, spec.method, spec.options, spec.sparsity): spec for spec in specs}
    unheld = {}
    for spec in cells.values():
        levels_of(spec)
        if settle(spec)[0].on_all_gpus and default_device() == "cpu":
            continue
        with contextlib.redirect_stdout(sys.stderr):  # what a method prints is no table
            unheld.setdefault(spec.method, set()).update(dry_run(spec, folder))
    for method, names in unheld.items():
        if names:
            print(f"{method}: its steps set {', '.join(f'self.{name}' for name in sorted(names))}, which no checkpoint holds; what a later step "
                  "needs must be a buffer, or a run that was stopped goes on differently", file=sys.stderr)


def own(specs):
    """Those of the Specs whose method is somebody's own file."""
    return [spec for spec in specs if ":" in spec.method]


def tell_older(rows):
    """Says which rows (dicts) are from before their method's own file was last changed."""
    for file in sorted({file_of(row["method"]) for row in rows} - {""}):
        try:
            changed = moment(os.path.getmtime(file))
        except OSError:  # the rows are of another folder
            continue
        older = sum(file_of(row["method"]) == file and row["finished_at"] < changed for row in rows)
        if older:
            print(f"{older} of them are from before {file} was last changed; `launch` or `leaderboard` with --again makes them again", file=sys.stderr)

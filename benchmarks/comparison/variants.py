"""`python -m benchmarks variants SUITE METHOD`: the validation accuracy of a method's options, by which to choose them.

The test accuracy, which the leaderboard and the figures show, is for the chosen ones only. Imports pandas only when it is run.
"""
import shlex

from benchmarks.accuracy import trained_by
from benchmarks.chosen import tasks_of
from benchmarks.grid import Spec
from benchmarks.leaderboard import asked
from benchmarks.progress import several
from benchmarks.suites import suite_grid
from benchmarks.tasks import DATASETS, TASKS, canonical
from benchmarks.trial.own_methods import tell_older


def add_arguments(sub):
    """The command's own options, besides SUITE, --profile and --results."""
    sub.add_argument("method", metavar="METHOD", help="a name, or file.py:Class")
    sub.add_argument("--tasks", nargs="+", action="extend", metavar="T", help="only these")
    sub.common("sparsities", "sparsity", "epochs", "precision")
    sub.set_defaults(seeds=None)  # `leaderboard.asked` expects it


def show(args, store):
    """Prints a table of the variants at each task and sparsity, the best first. Raises ValueError if there are no such runs."""
    import pandas as pd

    from benchmarks.comparison.tables import of_profile, renamed
    from benchmarks.stats import content
    base = suite_grid(args.suite, args.profile, ())
    first, *_ = tasks_of(args, base)  # raises ValueError for a task of another suite
    name = canonical(Spec(first, args.method, base.sparsities[0], 0)).method
    rows, stored = pd.DataFrame(store.rows(args.suite).values()), 0
    if len(rows):
        numbers = ["sparsity", "seed", "epochs", "val_top1"]
        rows[numbers] = rows[numbers].apply(pd.to_numeric)
        rows = rows.drop(renamed(rows))
        stored = sum(rows.method == name)
        rows = rows[(rows.method == name) & of_profile(rows, args.suite, args.profile, args.epochs, args.precision) & (rows.status != "failed")]
        for column, wanted in (("sparsity", args.sparsities), ("task", args.tasks)):
            rows = rows[rows[column].isin(wanted)] if wanted and len(rows) else rows
    if not len(rows):
        raise ValueError(f"there are no such runs of {name}; make them with: python -m benchmarks launch {args.suite}{asked(args)} "
                         f"--methods {shlex.quote(name)}"
                         + f" (the {several(stored, 'row')} of it are of another length, sparsity, task or precision, or failed)" * (stored > 0))
    validated = rows.task.map({task: about.validation for task, about in TASKS.items()})
    rows = rows[validated | (rows.groupby("task").val_top1.transform("count") > 0)]
    if not len(rows):
        raise ValueError("these tasks hold out no validation images: --set validation=True, or choose on another task")
    tell_older(rows.to_dict("records"))
    chance = rows.dataset.map({dataset: about.chance for dataset, about in DATASETS.items()})
    rows = rows.assign(options=trained_by(rows.options.astype(object).fillna("")).replace("", "(defaults)"),
                       accuracy=rows.val_top1.mask(rows.status == "diverged", chance), content=rows.code_version.map(content))
    rows = rows.drop_duplicates(["task", "sparsity", "options", "seed"])
    for (task, sparsity), cell in rows.groupby(["task", "sparsity"]):
        groups = cell.groupby("options")
        table = groups.accuracy.agg(["mean", "std", "count"]).rename(columns={"count": "seeds"})
        if cell.content.nunique() > 1:  # lines that differ in more than their options
            table["made by"] = groups.content.agg(lambda found: " and ".join(sorted(set(found))))
        print(f"{task}, sparsity {sparsity:g}: accuracy on the validation images (%), mean and standard deviation over seeds")
        table = table.sort_values("mean", ascending=False, kind="stable").rename_axis(None)
        print(table.to_string(float_format="{:.2f}".format, na_rep="") + "\n")
    return 0

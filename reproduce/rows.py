"""Reads the stored rows that the figure scripts draw, and makes missing ones (`--run`). Imports pandas only when rows are read."""
import contextlib
import csv
import importlib
import sys
import warnings
from collections import Counter
from dataclasses import replace
from math import prod
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it works in a bare clone, without installing the project

from benchmarks.accuracy import accuracies  # noqa: E402
from benchmarks.command import with_options  # noqa: E402
from benchmarks.grid import Spec, union  # noqa: E402
from benchmarks.progress import several  # noqa: E402
from benchmarks.results import Store, StoreError  # noqa: E402
from benchmarks.suites import PROFILES, SIZES, SUITES, length, trained, usual_length  # noqa: E402
from benchmarks.tasks import TASKS  # noqa: E402

# pandas 2 warns that empty tables will no longer influence the column types of a concatenation, which does not matter here
warnings.filterwarnings("ignore", "The behavior of DataFrame concatenation", FutureWarning)
SHOWN = {"cifar10": ("cifar10", "cifar100")}  # a figure of suite cifar10 has panels of CIFAR-100, too
POINT = ["task", "method", "options", "sparsity"]


class NoRows(ValueError):
    """The results hold no finished run of a figure; the text is one line that names the command which makes them."""


def read_rows(path):
    """`runs.csv` as a DataFrame, `options` "" for none, with columns `accuracy` (`benchmarks.accuracy`) and `last` (True: it is the last epoch's).

    Raises ValueError (one line) if the file is not such a table.
    """
    try:
        rows = read_table(path)
        rows["last"] = rows.top1_best_val.isna()
        rows["accuracy"] = accuracies(rows)
        rows["epochs"] = rows.epochs.astype(float)
        rows["options"] = rows.options.astype(object).fillna("")  # pandas reads a column of empty cells as numbers
        return rows
    except StoreError:
        raise
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is not a table of runs ({str(error).splitlines()[0]})") from None


def read_table(path):
    """One of a suite's tables, RESULTS/SUITE/TABLE.csv, as a DataFrame. Raises StoreError (one line) if `Store.read` refuses it."""
    import pandas as pd

    Store(path.parent.parent, write=False).read(path.parent.name, path.stem)
    return pd.read_csv(path, dtype={"key": str})


class Trained:
    """A figure's grid whose runs are changed to a precision and a number of epochs (`suites.trained`). Raises ValueError unless `epochs` is None or
    a whole number >= 1."""

    def __init__(self, grid, precision=None, epochs=None):
        self.grid, self.precision, self.epochs = grid, precision, Spec("-", "-", 0.0, 0, epochs).epochs

    def __call__(self, suite, profile):
        return self.of(self.grid(suite, profile), profile)

    def of(self, specs, profile):
        """These Specs, changed to this precision and number of epochs."""
        return trained(specs, profile, self.precision, self.epochs)

    @property
    def other(self):
        """Whether a precision or a number of epochs was given."""
        return bool(self.precision or self.epochs)


def runs_of(grid, suite, results, profile=None, besides=lambda suite, profile: ()):
    """The runs of a figure and their profile: (DataFrame with one line per Spec, accuracy NaN where missing; "paper" or "quick").

    Also included are finished runs that differ from the figure's only in their seed (additional seeds), and those of `besides`: a grid of runs
    that the figure shows if they are stored, but that no plan asks for.
    Without a profile, the one with more finished runs of the figure's own grid is taken ("paper" in a tie), never a mixture. `options` are the Spec's, plus `epochs=N` if
    its length is not the profile's (or that of a `Trained` grid with epochs). Raises NoRows, and ValueError for an unreadable file.
    """
    import pandas as pd

    shown, what = SHOWN.get(suite, (suite,)), [*POINT, "seed"]
    folders = [Path(results) / name for name in shown if (Path(results) / name / "runs.csv").exists()]
    rows = [read_rows(folder / "runs.csv") for folder in folders]
    seeds = {int(seed) for table in rows for seed in table.get("seed", ())}
    rows = [table.drop(columns=what, errors="ignore") for table in rows]
    found, grid = [], grid if isinstance(grid, Trained) else Trained(grid)
    for name in [profile] if profile else PROFILES:
        own = union(*(grid(each, name) for each in shown))
        if own and rows:
            drawn = union(own, *(grid.of(besides(each, name), name) for each in shown))
            more = [replace(spec, seed=seed) for seed in sorted(seeds) for spec in drawn]
            specs = [[spec.key, spec.task, spec.method, words(spec, name, grid.epochs), spec.sparsity, spec.seed] for spec in union(drawn, more)]
            runs = pd.DataFrame(specs, columns=["key", *what]).merge(pd.concat(rows), on="key", how="left")
            runs = runs[runs.accuracy.notna() | runs.key.isin({spec.key for spec in own})].reset_index(drop=True)
            runs.attrs["folders"] = tuple(map(str, folders))  # pandas copies it with each selection
            finished = runs.key[runs.accuracy.notna()]
            found.append((finished.isin({spec.key for spec in own}).sum(), len(finished), runs, name))
    fullest = max(found, key=lambda each: each[:2], default=None)  # in a tie the first
    if fullest and fullest[1]:
        return fullest[2:]
    if profile and not any(list(grid(each, profile)) for each in shown):
        raise NoRows(f"profile {profile} of suite {suite} has no runs of this figure")
    raise none_finished(suite, results, profile, grid.precision, grid.epochs)


def tell_uncollected(results):
    """Says on stderr how many rows in RESULTS/runs, such as those of SLURM jobs, are not in the suites' tables yet. Only the tables are drawn."""
    store = Store(results, write=False)
    keys = sorted(path.stem for path in store.runs.glob("[!.]*.json"))
    with contextlib.suppress(StoreError):  # an unreadable table is reported when it is drawn
        drawn = {row["key"]: row["finished_at"] for suite in SUITES if keys for row in store.read(suite)}
        rows = [row for row in map(store.row, keys) if row and row["suite"] in SUITES and row["finished_at"] > drawn.get(row["key"], "")]
        for suite, count in Counter(row["suite"] for row in rows).items():
            print(f"{several(count, 'run')} of {suite} in {store.runs} not in its tables yet, which are drawn: "
                  f"python -m benchmarks collect {suite}{with_options(results=results)}", file=sys.stderr)


def none_finished(suite, results, profile, precision, epochs):
    """The NoRows of a figure that has no finished runs."""
    options = f" --profile {profile}" * bool(profile) + with_options(precision=precision, epochs=epochs, results=results)
    path = Path(results) / suite / "runs.csv"
    rows = read_rows(path) if path.exists() else None
    if rows is not None:  # those of the length and precision that were looked for are of other methods or sparsities
        profiles = [profile] if profile else PROFILES
        sought = {task: [epochs] if epochs else [usual_length(Spec(task, "any", 0.5, 0), each) for each in profiles]
                  for task in {*rows.task} & {*TASKS}}
        rows = rows.loc[[run.task not in sought or run.epochs not in sought[run.task] or run.precision != (precision or TASKS[run.task].precision)
                         for run in rows.itertuples()]]
    others = "" if rows is None else lengths(rows)
    return NoRows(f"no finished runs of this figure (its methods, sparsities and epochs) in {path}{others}; make them with: "
                  f"bash run_all.sh {suite}{options}")


def lengths(rows):
    """A remark that finished runs with other numbers of epochs or precisions are stored; "" if there are none."""
    found = sorted({(int(run.epochs), run.precision) for run in rows[rows.accuracy.notna()].itertuples()})
    return f" (there are some of {', '.join(f'{epochs} epochs in {precision}' for epochs, precision in found)}: --epochs, --precision)" * bool(found)


def with_sparser(grid, suite, results, profile=None):
    """As `runs_of`, plus what is stored at the paper's sparsities above the profile's highest, of the series that the figure has at the highest."""
    def besides(suite, profile):
        most, paper = SIZES[suite, profile][0][-1], SIZES[suite, PROFILES[0]][0]
        return [replace(spec, sparsity=s) for spec in grid(suite, profile) if spec.sparsity == most for s in paper if s > most]

    runs, profile = runs_of(grid, suite, results, profile, besides)
    planned = {spec.sparsity for each in SHOWN.get(suite, (suite,)) for spec in grid(each, profile)}
    more = [f"{100 * s:g}" for s in sorted({*runs.sparsity} - planned)]
    runs.attrs["out"] = f" Of {', '.join(more)} % only what was run." if more else ""
    return runs, profile


def words(spec, profile, epochs=None):
    """A Spec's options as text: "gamma=0.5 width=2.0", "epochs=640". epochs: the length that is not named; None: the profile's."""
    usual = length(spec) == (epochs or usual_length(spec, profile))
    return spec.option_text if usual else f"{spec.option_text} epochs={length(spec)}".lstrip()


def series_of(rows):
    """The series of each row: its method and options, such as "set allocation=uniform"."""
    return (rows.method + " " + rows.options).str.strip()


def value_of(options, name, default):
    """The numeric value of an option in a text such as "gamma=0.5 width=2.0"."""
    return float(dict(pair.split("=", 1) for pair in options.split()).get(name, default))


def lines_of(runs, table, where=True):
    """The lines of another table (curves, layers, switches) that belong to the finished runs, with the columns POINT and `seed` of these.

    where: of which of the runs. What the lines lack of these is said in the figure's note (`runs.attrs["out"]`). Raises NoRows if there are none.
    """
    import pandas as pd

    paths = [Path(folder) / f"{table}.csv" for folder in runs.attrs["folders"]]
    tables = [table for table in (read_table(path) for path in paths if path.exists()) if len(table)]  # empty tables have no column types
    finished = runs[runs.accuracy.notna() & where]
    done = finished[["key", *POINT, "seed"]]
    lines = done.merge(pd.concat(tables), on="key", suffixes=("", "_then")) if tables else ()
    if not len(lines):
        raise NoRows(f"{' and '.join(map(str, paths))} lack the lines of the finished runs; `python -m benchmarks collect` writes them")
    short = f" {table}.csv lacks {lost} of these runs." if (lost := len(done) - lines.key.nunique()) else ""
    short += " A run that diverged is in the means until it did." * (table == "curves" and bool((finished.status == "diverged").any()))
    runs.attrs["out"] = runs.attrs.get("out", "") + short
    return lines


def repeated(runs):
    """Which runs are the training of an earlier one again, because their method ends where it ends, whatever sparsity is asked for. Diverged runs
    are, only if such runs are that ended: a mask of no sparsity yet, and the accuracy of chance, may be equal by themselves."""
    same = runs.duplicated(["task", "method", "options", "seed", "achieved_sparsity", "accuracy"]) & runs.accuracy.notna()
    return same & (same & (runs.status == "ok")).groupby([runs[name] for name in ("task", "method", "options")]).transform("any")


def layers_of(runs, where=True):
    """The lines of the layers of the finished runs, as `lines_of` gives them, with each layer's number of `weights` and its `index`, from 1 on."""
    lines = lines_of(runs, "layers", where)
    weights = lines["shape"].map(lambda shape: prod(int(size) for size in shape.split("x")))
    return lines.assign(weights=weights, index=lines.groupby("key").cumcount() + 1)


def no_runs(suite, profile):
    """The grid of a figure that needs no runs."""
    return ()


def stored(path, module, text, choose=None):
    """The source of a figure that needs no runs: the table RESULTS/`path` that `python -m module` measures.

    text: function of the table that gives the figure's note. choose: function that selects its rows; default: `of_one_machine`.
    """
    def source(grid, suite, results, profile=None):
        file = Path(results) / path
        table = measurements(file) if file.exists() else ()
        table = (choose or of_one_machine)(table) if len(table) else ()
        if not len(table):
            raise NoRows(f"there is no {file}, or nothing for this figure in it; make it with: python -m {module}{with_options(results=results)}")
        table.attrs["note"] = text(table)
        return table, "paper"

    source.module = module
    source.suite = Path(path).parent.name
    return source


def measured(results, name, columns):
    """RESULTS/performance/NAME.csv as a DataFrame; if there is no file, an empty one with these columns (a text)."""
    import pandas as pd

    path = Path(results) / "performance" / f"{name}.csv"
    return measurements(path) if path.exists() else pd.DataFrame(columns=columns.split())


def measurements(path):
    """A table of measurements, a CSV file, as a DataFrame. Raises ValueError (one line) if it is none or was cut off: pandas would read the cells
    that a line lacks as numbers that were not measured."""
    import pandas as pd

    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = [line for line in csv.reader(file) if line]
    if not lines or any(len(line) != len(lines[0]) for line in lines):
        raise ValueError(f"{path} is no table, or is damaged: a line has more or fewer cells than columns, or it is empty")
    return pd.read_csv(path)


def of_one_machine(table):
    """The rows of a table of measurements that are of the device with most rows (in a tie, the one that measured last): times of different machines
    cannot be compared."""
    if "measured_at" not in table:
        return table
    machines = table.groupby("device").measured_at.agg(["size", "max"]).sort_values(["size", "max"])
    return table[table.device == machines.index[-1]].copy()


def summary(runs):
    """Mean and standard deviation (n - 1) of the accuracy over seeds, in percent, and the number of seeds, for every point that has a run."""
    points = runs.groupby(POINT, sort=False)
    table = points.accuracy.agg(mean="mean", std="std", seeds="count").round(4)
    table = table.assign(seeds=table.seeds.astype("Int64"), epochs=points.epochs.min().astype("Int64"), source="measured")
    return table[table.seeds > 0].reset_index()


def make(grid, suite, args, source):
    """`--run`: makes the runs of a `Trained` grid that have no row (or measures the figure's table). Needs torch. Raises ValueError in one line."""
    if hasattr(source, "module"):
        status = importlib.import_module(source.module).main(["--results", args.results])
    else:
        from benchmarks import __main__ as commands
        from benchmarks.chosen import missing
        from benchmarks.launch import refuse_unsuited
        from benchmarks.tasks import as_stored
        status = 0
        for each in SHOWN.get(suite, (suite,)):
            profile = args.profile or PROFILES[0]
            options = ["--profile", profile, "--results", args.results] + ["--data", args.data] * bool(args.data)
            launch = commands.parser().parse_args(["launch", each, *options])
            store = commands.Store(args.results)
            todo, done = missing(union(grid.of([as_stored(spec) for spec in grid.grid(each, profile)], profile)), store, each)
            refuse_unsuited(todo)
            status = max(status, commands.launch_missing(launch, store, todo, done)) if todo else status
    if status > 1:
        raise SystemExit(status)

"""The suites: which runs `run_all.sh SUITE` needs. A suite is the union of the grids of the figures and of the leaderboard."""
import importlib
from dataclasses import replace
from pathlib import Path

from benchmarks.grid import Grid, union
from benchmarks.tasks import DATASETS, TASKS, as_stored, suite_of

SUITES = ("digits", "cifar10", "cifar100", "imagenet")
PROFILES = ("paper", "quick")
SEEDS = (0, 1, 2)
OFF_TARGET = 0.015  # of the density asked for; rounding in each of its few layers moves digits' network by up to 1.3 %
SUITE_TASKS = {  # by suite, or by suite and profile
    "digits": "digits", "cifar10": "cifar10-resnet20", "cifar100": "cifar100-wrn34x2", "imagenet": "imagenet-resnet50",
    ("cifar10", "quick"): "cifar10-resnet20w8"}

# (suite, profile): sparsities, epochs (None: the recipe's own)
SIZES = {
    ("digits", "paper"): ((0.9, 0.95, 0.98), None),
    ("digits", "quick"): ((0.9, 0.95, 0.98), 10),
    ("cifar10", "paper"): ((0.8, 0.9, 0.95, 0.98, 0.99), None),
    ("cifar10", "quick"): ((0.9, 0.95, 0.98), 6),
    ("cifar100", "paper"): ((0.8, 0.9, 0.95, 0.98, 0.99), None),
    ("cifar100", "quick"): ((0.9, 0.95, 0.98), 8),
    ("imagenet", "paper"): ((0.8, 0.9, 0.95, 0.965, 0.98, 0.99), None),
    ("imagenet", "quick"): ((0.9, 0.95, 0.98), 5),
}


def suite_grid(suite, profile, methods):
    """The Grid of these methods on the suite's default task, at the sparsities, seeds and epochs of suite and profile.

    Raises ValueError for an unknown suite or profile, and for a suite whose entries do not fit together.
    """
    if suite not in SUITES:
        raise ValueError(f"unknown suite {suite!r}; suites: {' '.join(SUITES)}")
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}; profiles: {' '.join(PROFILES)}")
    task = SUITE_TASKS.get((suite, profile), SUITE_TASKS.get(suite))
    lacking = [name for name in PROFILES if (suite, name) not in SIZES]
    if lacking:
        raise ValueError(f"suite {suite} needs sizes of profile {' and '.join(lacking)} in SIZES")
    if task not in TASKS or suite_of(task) != suite:  # rows are stored by the names of their tasks
        raise ValueError(f"suite {suite} needs in SUITE_TASKS a task of its own, named {suite} or {suite}-…, not {task}")
    sparsities, epochs = SIZES[suite, profile]
    return Grid((task,), tuple(methods), sparsities, SEEDS, None if epochs == TASKS[task].epochs else epochs)


def trained(specs, profile, precision=None, epochs=None):
    """The Specs as runs in this precision and for so many epochs; None: each task's own, and the profile's.

    With `epochs`, those of a length of their own, such as figure 3's of four times the epochs, are left out.
    """
    if epochs:
        specs = [replace(spec, epochs=None if epochs == TASKS[spec.task].epochs else epochs) for spec in specs
                 if length(spec) in (usual_length(spec, profile), epochs)]
    if precision:
        specs = [replace(spec, precision=None if precision == TASKS[spec.task].precision else precision) for spec in specs]
    return specs


def length(spec):
    """Epochs of a Spec's run, of one cycle."""
    return spec.epochs or TASKS[spec.task].epochs


def usual_length(spec, profile):
    """The same, as its profile has them."""
    return SIZES[suite_of(spec.task), profile][1] or TASKS[spec.task].epochs


def unusual(rows):
    """["In fp32."] where these rows (DataFrame with `task`, `precision`) are not in their tasks' own precision."""
    found = rows[["task", "precision"]].dropna().drop_duplicates()
    other = {row.precision for row in found.itertuples() if row.precision != TASKS[row.task].precision}
    return [f"In {', '.join(sorted(other))}."] * bool(other)


def accuracies(rows):
    """What counts of the rows (DataFrame with the columns of runs.csv), in percent; NaN: no result.

    The test accuracy at the best validation epoch where there was validation, else that of the last epoch. A diverged run counts with
    chance: a network of NaNs gives every image the same class, and a mean without it would reward a method for the seeds that it
    loses. A failed run (a program error) has no result.
    """
    accuracy = rows.top1_best_val.fillna(rows.top1).astype(float)
    chance = rows.dataset.map({name: dataset.chance for name, dataset in DATASETS.items()})
    return accuracy.mask(rows.status == "diverged", chance).mask(rows.status == "failed")


def off_target(achieved, asked):
    """Whether runs end at another sparsity (`achieved`, a Series) than was asked for."""
    return (achieved.astype(float) - asked).abs() > OFF_TARGET * (1 - asked)


def scripts():
    """The figure scripts of `reproduce/`, as {"figure1": module, ...}. Loading them imports no drawing library."""
    folder = Path(__file__).resolve().parent.parent / "reproduce"
    patterns = "*figure*.py", "*table*.py", "beyond.py", "length.py", "normalisation.py", "packs.py", "speed.py"
    names = sorted(path.stem for pattern in patterns for path in folder.glob(pattern))
    return {name: _script(name) for name in names}


def _script(name):
    try:
        return importlib.import_module(f"reproduce.{name}")
    except ModuleNotFoundError:  # which the commands explain
        raise
    except Exception as error:
        raise ValueError(f"reproduce/{name}.py cannot be loaded: {type(error).__name__}: {error}") from None


def usual(suite):
    """The methods that a suite runs by itself: all, a new one by being there; on ImageNet ST-3's alone."""
    if suite == "imagenet":
        # as the paper has it, where all others' points are literature: who wants to pay for a run of another names it
        return ("dense", "st3", "st3_sigma")
    from methods import available
    return available()


def refuse_unknown(options, task, methods):
    """Raises ValueError for an option, of pairs (name, value), that is neither the task's nor that of all these methods; it names who has it."""
    from benchmarks.tasks import get_task
    from methods import get
    from methods.options import nearest
    settings, own = get_task(task).settings(), {method: get(method).options() for method in methods}
    for name, _ in options:
        having, lacking = ([method for method in methods if (name in own[method]) is has] for has in (True, False))
        if name in settings or not lacking:
            continue
        if not having:
            names = {*settings, *(known for options in own.values() for known in options)}
            raise ValueError(nearest(name, names, "option") + f" (`python -m benchmarks options` lists those of a method, or of {task})")
        others = f" and {len(lacking) - 2} others" * (len(lacking) > 2)
        raise ValueError(f"no option {name} in {', '.join(lacking[:2])}{others}; methods that have it: --methods {' '.join(having)}")


def grid(suite, profile="paper"):
    """Every run of a suite as a list of Specs, each once: those of its methods first, then what the figures need besides."""
    figures = scripts()
    if suite == "imagenet":
        del figures["beyond"]  # it shows what has rows there
    return union(suite_grid(suite, profile, usual(suite)), *(_runs(name, script, suite, profile) for name, script in figures.items()))


def _runs(name, script, suite, profile):
    """The Specs of a figure's grid, which are written as rows have them."""
    try:
        return [as_stored(spec) for spec in script.grid(suite, profile)]
    except ValueError as error:
        raise ValueError(f"reproduce/{name}.py: {error}") from None
    except Exception as error:
        raise ValueError(f"reproduce/{name}.py: grid({suite!r}, {profile!r}) fails ({type(error).__name__}: {error})") from error

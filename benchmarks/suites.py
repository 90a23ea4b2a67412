"""The suites: which runs `run_all.sh SUITE` needs. A suite is the union of the grids of the figures and of the leaderboard."""
import importlib
from dataclasses import replace
from pathlib import Path

from benchmarks import own_suites
from benchmarks.grid import Grid, union
from benchmarks.tasks import TASKS, as_stored, get_task, suite_of

SUITES = ("digits", "cifar10", "cifar100", "imagenet", *own_suites.FILES)
PROFILES = ("paper", "quick")
SEEDS = (0, 1, 2)
SUITE_TASKS = {  # {suite or (suite, profile): its default task}
    "digits": "digits", "cifar10": "cifar10-resnet20", "cifar100": "cifar100-wrn34x2", "imagenet": "imagenet-resnet50",
    ("cifar10", "quick"): "cifar10-resnet20w8", **{suite: next(iter(module.TASKS)) for suite, module in own_suites.FILES.items()}}

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
    **{(suite, profile): size for suite, module in own_suites.FILES.items() for profile, size in module.SIZES.items()},
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
    if task not in TASKS or suite_of(task) != suite:  # the name of a task decides in which suite its rows are stored
        raise ValueError(f"suite {suite} needs in SUITE_TASKS a task of its own, named {suite} or {suite}-…, not {task}")
    sparsities, epochs = SIZES[suite, profile]
    return Grid((task,), tuple(methods), sparsities, SEEDS, None if epochs == TASKS[task].epochs else epochs)


def trained(specs, profile, precision=None, epochs=None):
    """The Specs changed to this precision and this number of epochs; None keeps each Spec's own.

    With `epochs`, Specs whose length differs on purpose, such as figure 3's with four times the epochs, are left out.
    """
    if epochs:
        specs = [replace(spec, epochs=None if epochs == TASKS[spec.task].epochs else epochs) for spec in specs
                 if length(spec) in (usual_length(spec, profile), epochs)]
    if precision:
        specs = [replace(spec, precision=None if precision == TASKS[spec.task].precision else precision) for spec in specs]
    return specs


def length(spec):
    """The number of epochs of one cycle of a Spec's run."""
    return spec.epochs or TASKS[spec.task].epochs


def usual_length(spec, profile):
    """The number of epochs that a Spec's task has in this profile."""
    return SIZES[suite_of(spec.task), profile][1] or TASKS[spec.task].epochs


def scripts():
    """The figure scripts of `reproduce/`, as {"figure1": module, ...}. Loading them imports no drawing library."""
    folder = Path(__file__).resolve().parent.parent / "reproduce"
    patterns = "*figure*.py", "*table*.py", "beyond.py", "length.py", "normalisation.py", "packs.py", "speed.py"
    names = sorted(path.stem for pattern in patterns for path in folder.glob(pattern))
    return {name: _script(name) for name in names}


def _script(name):
    try:
        with importlib.import_module("reproduce").first():
            return importlib.import_module(f"reproduce.{name}")
    except ModuleNotFoundError:  # a library is missing, which the commands explain
        raise
    except (Exception, SystemExit) as error:  # one that draws at once, without being started, ends the program
        raise ValueError(f"reproduce/{name}.py cannot be loaded: {type(error).__name__}: {error}") from None


def usual(suite):
    """The methods that a suite runs by default: all that exist, new ones included; on ImageNet only ST-3's."""
    if suite == "imagenet":
        # as in the paper, where the other methods' points are from the literature; runs of others are expensive and must be asked for
        return ("dense", "st3", "st3_sigma")
    from methods import available
    return available()


def refuse_unknown(options, task, methods):
    """Raises ValueError if one of the options, pairs (name, value), is neither the task's nor one that all these methods have; it says which
    methods have it."""
    from methods import get
    from methods.options import nearest
    settings, own = get_task(task).settings(), {method: get(method).options() for method in methods}
    for name, _ in options:
        having = [method for method in methods if name in own[method]]
        lacking = [method for method in methods if name not in own[method]]
        if name in settings or not lacking:
            continue
        if not having:
            names = {*settings, *(known for options in own.values() for known in options)}
            raise ValueError(nearest(name, names, "option") + f" (`python -m benchmarks options` lists those of a method, or of {task})")
        others = f" and {len(lacking) - 2} others" * (len(lacking) > 2)
        raise ValueError(f"no option {name} in {', '.join(lacking[:2])}{others}; methods that have it: --methods {' '.join(having)}")


def grid(suite, profile="paper"):
    """Every run of a suite as a list of Specs, each once: those of its methods first, then what else the figures need."""
    figures = scripts()
    if suite == "imagenet":
        del figures["beyond"]  # there it draws whatever has rows, and asks for no runs
    return union(suite_grid(suite, profile, usual(suite)), *(_runs(name, script, suite, profile) for name, script in figures.items()))


def _runs(name, script, suite, profile):
    """The Specs of a figure's grid, checked to be written as their rows are (`as_stored`). Raises ValueError, which names the figure."""
    try:
        return [as_stored(spec) for spec in script.grid(suite, profile)]
    except ValueError as error:
        raise ValueError(f"reproduce/{name}.py: {error}") from None
    except (Exception, SystemExit) as error:
        raise ValueError(f"reproduce/{name}.py: grid({suite!r}, {profile!r}) fails ({type(error).__name__}: {error})") from error

"""The data sets and the tasks, and what a Spec stands for. Imports no torch, so that commands answer at once."""
from dataclasses import fields, replace
from functools import cache, partial

from benchmarks.method_files import digest, path_of
from benchmarks.own_suites import joined, refuse_unknown_data
from benchmarks.recipes import DIGITS, GSE, IMAGENET, PRECISIONS, Dataset, Task

ST3_NORMALISATION = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # of CIFAR-10, used for CIFAR-100 too
DATASETS = joined("DATASETS", {
    "digits": Dataset("digits", 10, 300, 300),
    "cifar10": Dataset("CIFAR-10", 10, 10_000, 5_000, {"st3": ST3_NORMALISATION, "gse": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))}),
    "cifar100": Dataset("CIFAR-100", 100, 10_000, 5_000, {"st3": ST3_NORMALISATION, "gse": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))}),
    "imagenet": Dataset("ImageNet", 1000, 50_000),  # the rest: imagenet.py
})

TASKS = joined("TASKS", {
    "digits": Task("digits", "resnet8_digits", **DIGITS),
    "digits-mlp": Task("digits", "mlp_digits", **DIGITS),
    "cifar10-resnet20": Task("cifar10", "resnet20"),
    # 8, 16 and 32 channels, so that methods can be compared on CPUs; not in the paper. interval: 1000 steps would be half of profile quick
    "cifar10-resnet20w8": Task("cifar10", "resnet20", width=0.5, defaults=dict(interval=100)),
    "cifar10-vgg11": Task("cifar10", "vgg11"),
    "cifar100-wrn34x2": Task("cifar100", "wrn34x2"),
    "imagenet-resnet50": Task("imagenet", "resnet50", **IMAGENET),
    "imagenet-mobilenetv1": Task("imagenet", "mobilenetv1", **IMAGENET),
    **{f"{data}-{short}": Task(data, model, lr=0.01 if short in ("vit", "mlp") else 0.1, **GSE)
       for data in ("cifar10", "cifar100")
       for short, model in (("resnet56", "resnet56"), ("vgg16", "vgg16_small"), ("vit", "vit_tiny"), ("mlp", "mlp"))},
})
refuse_unknown_data(DATASETS)
REDUCED = {"digits": "Miniature on digits, not the paper's task.", "cifar10-resnet20w8": "ResNet-20 of width 8, half ST-3's."}


def suite_of(task):
    """The suite that a task belongs to."""
    return task.partition("-")[0]


def mark_of_suite(task):
    """The file's name and the start of its hash, as `code_version` in a row has them, of a task from a suite's own file; "" for others, and if there
    is no such task."""
    source = TASKS[task].source if task in TASKS else ""
    return source and f"{suite_of(task)}.py {source[:10]}"


def get_task(name):
    """The Task of this name. Raises ValueError in one line with the nearest names."""
    if name not in TASKS:
        from methods.options import nearest  # which needs torch
        if tasks := [task for task in TASKS if suite_of(task) == name]:
            raise ValueError(f"{name} is a suite; its tasks: {', '.join(tasks)}")
        raise ValueError(nearest(name, TASKS, "task") + " (`python -m benchmarks options` lists all)")
    return TASKS[name]


def settle(spec):
    """(Task, options of the method) that a Spec stands for: the recipe, its values for the method, then the Spec's own options.

    An option is the method's if it has one of that name, else the task's. The method's `retained` values for this kind of data replace
    the recipe's; with recipe=original, its `original` ones do. Raises ValueError in one line, also if it has no `original` ones.
    """
    task, options = once(_settle, spec.method)(spec.task, spec.method, spec.epochs, spec.precision, spec.options)
    return task, dict(options)


def once(function, method):
    """The cached function, because thousands of Specs differ in sparsity and seed only; of a method's own file, while its content is the same."""
    return partial(function, content=digest(method))


@cache
def _settle(named, method, epochs, precision, chosen, content):
    from methods import get
    from methods.options import nearest
    cls = get(method)
    task, known = get_task(named), cls.options()
    # with the suite's recipe, the method's `retained` values apply on top; with recipe=original, the suite sets none of its options
    suite = dict(chosen).get("recipe") != "original"
    settings = task.settings()
    if shared := next((name for name in known if name in settings and not of_the_suite(cls, name)), None):
        raise ValueError(f"{method} has an option {shared}, and so has {named}, which alone has its effect: give the method's another name")
    defaults = {name: value for name, value in task.defaults.items() if name not in known or of_the_suite(cls, name)}
    retained = cls.retained.get(kind(task), {})
    if suite and not of_the_suite(cls, "retained") and (told := ", ".join(name for name in retained if name not in known)):
        raise ValueError(f"{method}: retained changes the recipe ({told}), which its rows would not say: run it with --set, and keep options of the "
                         "method alone there")
    own = {**defaults, **retained} if suite else original(cls, method, task)
    task = replace(task, **{name: value for name, value in own.items() if name not in known and hasattr(task, name)})
    options = {name: value for name, value in own.items() if name in known}
    changes = {"epochs": epochs or task.epochs, "precision": precision or task.precision}
    for name, text in chosen:
        if {"epochs": epochs, "precision": precision}.get(name) not in (None, text):
            raise ValueError(f"{name} is given twice: {changes[name]} and {text}")
        if name in known:
            options[name] = known[name].parse(text)
        elif name in settings:
            changes[name] = settings[name].parse(text)
        else:
            raise ValueError(nearest(name, [*known, *settings], f"option of {method} and {named}")
                             + f" (`python -m benchmarks options` lists those of {method}, or of {named})")
    if changes["precision"] not in PRECISIONS:
        raise ValueError(f"precision takes {' or '.join(PRECISIONS)}, not {changes['precision']!r}")
    settled = replace(task, **changes)
    if settled.schedule == "cosine" and settled.warmup:
        raise ValueError(f"warmup={settled.warmup} has no effect: schedule=cosine warms up in its own way")
    if settled.nesterov and not settled.momentum:
        raise ValueError("nesterov=True is a form of momentum, and momentum is 0")
    if "bn_momentum" in dict(chosen) and "bn_momentum" not in settings_of_the_network(settled):
        raise ValueError(f"bn_momentum={settled.bn_momentum} has no effect: {settled.model} has no batch normalisation")
    if settled.count_switches and settled.storage != "masked":
        raise ValueError("count_switches counts those of all weights: it needs storage=masked")
    if (task.augmentation == "imagenet") != (settled.augmentation == "imagenet"):
        raise ValueError(f"augmentation={settled.augmentation} has no effect: {named} has images of another kind, with an augmentation of their own")
    return settled, options


def settings_of_the_network(task):
    """The names of the settings that a task's network takes."""
    from benchmarks import models
    return models.options_of(task.model, task.width, bn_momentum=task.bn_momentum)


def of_the_suite(cls, option):
    """Whether a method gets an option (or another attribute) from a class of this project. A user's own option of the same name is a different one,
    with a default of its own."""
    return next(base for base in cls.__mro__ if option in vars(base)).__module__.startswith("methods.")


def original(cls, method, task):
    """The recipe of a method's own paper for the task's kind of data: {field of Task or option of the method: value}.

    The recipe of the network on this data set ("imagenet-mobilenetv1") comes first, then that of the data set, then that of its kind.
    Raises ValueError if its paper has none, or none that a Task can express.
    """
    offered = cls.original
    for data in (f"{task.dataset}-{task.model}", task.dataset, kind(task)):
        if data in offered:
            return {"drop_last": False} | offered[data] if kind(task) == "cifar" else offered[data]  # of these programs GSE's alone drops it
    raise ValueError(f"{method} has no recipe=original for {kind(task)}" + (f"; it has one for {' and '.join(offered)}" if offered else ""))


def kind(task):
    """A task's kind of data, which names the methods' own recipes: "cifar" for CIFAR-10 and CIFAR-100."""
    return "cifar" if task.dataset in ("cifar10", "cifar100") else task.dataset


def canonical(spec):
    """The Spec with an alias replaced by the method's name and whatever equals the recipe left out: one run has one key."""
    changes = once(_canonical, spec.method)(spec.task, spec.method, spec.epochs, spec.precision, spec.options)
    if ":" in spec.method:
        changes = {**changes, "method": path_of(spec.method)}  # which depends on the working folder
    return replace(spec, **changes) if any(getattr(spec, name) != value for name, value in changes.items()) else spec


def as_stored(spec):
    """Returns a Spec of a figure if it is written as its row is (`canonical`). Raises ValueError in one line if not: the finished run would not be
    found and be made again."""
    if (same := canonical(spec)) == spec:
        return spec
    given, kept = ({"method": s.method, "epochs": s.epochs, "precision": s.precision, **dict(s.options)} for s in (spec, same))
    for name, value in given.items():
        if str(value) != str(kept.get(name)):
            how = f"stored as {name}={kept[name]}: write that" if kept.get(name) else "the default: leave it out"
            raise ValueError(f"{name}={value} is {how}")
    raise ValueError(f"{spec.option_text}: epochs and precision are fields of a Grid, no options")


@cache
def _canonical(task, method, epochs, precision, chosen, content):
    """The fields that `canonical` sets."""
    from methods import get
    cls = get(method)
    known, recipe = cls.options(), tuple(pair for pair in chosen if pair[0] == "recipe")
    own, plain = once(_settle, method)(task, method, None, None, recipe)
    task, options = once(_settle, method)(task, method, epochs, precision, chosen)
    default = {**{f.name: getattr(own, f.name) for f in fields(Task)}, **{name: o.default for name, o in known.items()},
               **cls.preset(options), **plain, "recipe": Task.recipe}
    settled = {**{f.name: getattr(task, f.name) for f in fields(Task)}, **options}
    changed = (name for name, _ in chosen if settled[name] != default[name] and name not in ("epochs", "precision"))  # which are fields of a Spec
    return dict(method=method if ":" in method else cls.name,
                epochs=None if task.epochs == own.epochs else task.epochs,
                precision=None if task.precision == own.precision else task.precision,
                options=tuple((name, str(settled[name])) for name in changed))

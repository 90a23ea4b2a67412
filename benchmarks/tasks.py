"""Data sets, and tasks: a data set, a model and the recipe that trains it. Imports no torch, so that commands answer at once."""
import math
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache

from benchmarks.method_files import path_of


@dataclass(frozen=True)
class Dataset:
    """What is known about a data set without reading its files (`data.load` reads them)."""

    title: str              # its name in papers
    classes: int
    test_images: int
    held_out: int = 0       # training images held out for validation, the last ones in file order
    # {normalisation of `data.load`: (mean, std) per channel in [0, 1] units}; without an entry: computed from the training images
    normalisation: dict = field(default_factory=dict)

    @property
    def chance(self):
        """Accuracy of a constant answer, in percent."""
        return 100 / self.classes

    @property
    def collapsed(self):
        """Accuracy in percent up to which a network has learned next to nothing: twice chance, below ten classes a ninth of the way from
        it to 100."""
        return min(2 * self.chance, self.chance + (100 - self.chance) / 9)


ST3_NORMALISATION = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))  # of CIFAR-10, used for CIFAR-100 too
DATASETS = {
    "digits": Dataset("digits", 10, 300, 300),
    "cifar10": Dataset("CIFAR-10", 10, 10_000, 5_000, {"st3": ST3_NORMALISATION, "gse": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))}),
    "cifar100": Dataset("CIFAR-100", 100, 10_000, 5_000, {"st3": ST3_NORMALISATION, "gse": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))}),
    "imagenet": Dataset("ImageNet", 1000, 50_000),  # the rest: imagenet.py
}

WARM_SHARE = 0.05  # share of the epochs in which the schedule "cosine" warms up (ST-3: 5 of 100)
PRECISIONS = ("bf16", "tf32", "fp32")


def setting(default, help, *choices, least=0, most=math.inf):
    """A field that `--set` can change: to one of `choices`, to numbers from `least` to `most`, to true or false."""
    return field(default=default, metadata=dict(help=help, choices=choices, least=least, most=most))


@dataclass(frozen=True)
class Task:
    """Everything that decides a run besides method, sparsity and seed. Each `setting` is an option of `run --set name=value`.

    The defaults are ST-3's recipe (§4 and its code). The paper trains in fp32; bf16 autocast (fp32 weights and sums) is 1.5 times as fast, and
    each row names its precision.
    """

    dataset: str
    model: str = setting(MISSING, "network, by its name in benchmarks/models")
    width: float = setting(1.0, "multiple of the model's own width (GSE, figure 3), 1 where it has none", least=1e-3)
    epochs: int = setting(160, "of one training cycle", least=1)
    batch_size: int = setting(128, "images of a step", least=1)
    lr: float = setting(0.1, "learning rate at its highest", least=1e-12)
    momentum: float = setting(0.9, "of SGD")
    nesterov: bool = setting(False, "Nesterov's momentum")
    weight_decay: float = setting(1e-4, "of all weights, not of biases and normalisation")
    decay_all: bool = setting(False, "weight decay on normalisation and biases too (GSE)")
    recipe: str = setting("suite", "suite: the same for all methods; original: with what the method's own paper changes of it",
                          "suite", "original")
    schedule: str = setting("steps", "steps: falls at milestones; cosine: ImageNet's, warm-up and once an epoch; cosine_step: at every step; "
                            "cosine_epoch: once an epoch", "steps", "cosine", "cosine_step", "cosine_epoch")
    milestones: tuple = (0.5, 0.75)  # where the learning rate falls to a tenth, as shares of training
    warmup: float = setting(0.0, "linear warm-up from 1e-4 of the learning rate, in epochs; at most a tenth of training")
    label_smoothing: float = setting(0.0, "share of the label that goes to all classes", most=1)
    clip: float = setting(3.0, "largest norm of all gradients together, 0 for none")
    validation: bool = setting(True, "hold out validation images; without, the test accuracy of the last epoch alone counts")
    augmentation: str = setting("st3", "st3 (edge padding), zero, gse (zero, its constants), granet (reflect), digits (1 pixel, no flip), none; "
                                "imagenet's is its own",
                                "st3", "zero", "gse", "granet", "digits", "none")
    drop_last: bool = setting(False, "leave out an epoch's last batch where it is smaller")
    first_dense: bool = setting(False, "the first prunable layer stays dense and is not counted in the sparsity")
    last_dense: bool = setting(False, "the last prunable layer, the classifier, stays dense and is not counted in the sparsity")
    bn_momentum: float = setting(0.01, "in PyTorch's meaning; ST-3's code has 0.99, evidently another library's convention", most=1)
    precision: str = setting("bf16", "bf16 (autocast), tf32 (CUDA) or fp32", *PRECISIONS)
    storage: str = setting("masked", "sparse: weights of active connections alone (static, set, rigl, srigl, mest, mest_s, gse_*, snip, "
                           "grasp, synflow; fp32 products); auto: layer by layer, what is faster", "masked", "sparse", "auto")
    count_switches: bool = setting(False, "count how often each weight switches between active and zero (ST-3, figure 6)")
    defaults: dict = field(default_factory=dict, compare=False)  # the recipe's values for the methods' options

    @cache
    def settings(self):
        """{name: methods.options.Option} of what `--set` can change, with the task's own value as the default."""
        from methods.options import Option  # which needs torch
        found = {}
        for f in fields(self):
            if f.metadata:
                own, choices = getattr(self, f.name), f.metadata["choices"]
                limits = {name: f.metadata[name] for name in ("help", "least", "most")}
                found[f.name] = Option(own, *(c for c in choices if c != own), **limits)
                found[f.name].name = f.name
        return found

    @property
    def normalisation(self):
        """Whose normalisation of the images this is, as `data.load` names it."""
        return "gse" if self.augmentation == "gse" else "st3"

    @property
    def on_all_gpus(self):
        """Whether one run takes all GPUs of its job (team.py)."""
        return self.dataset == "imagenet"

    def learning_rate(self, step, epochs, steps_per_epoch):
        """Learning rate at optimiser step `step`, counted from 0, in a training of `epochs` epochs, by `schedule` and after a linear warm-up if
        there is one."""
        if self.schedule == "cosine":
            epoch, warm = step // steps_per_epoch, round(WARM_SHARE * epochs)
            falling = (epoch - warm) / (epochs - warm)
            return self.lr * ((epoch + 1) / warm if epoch < warm else (1 + math.cos(math.pi * falling)) / 2)
        done = (step // steps_per_epoch / epochs) if self.schedule == "cosine_epoch" else step / (epochs * steps_per_epoch)
        cosine = self.schedule.startswith("cosine_")
        rate = self.lr * ((1 + math.cos(math.pi * done)) / 2 if cosine else 0.1 ** sum(done >= m for m in self.milestones))
        warm = min(self.warmup, epochs / 10) * steps_per_epoch  # so that a short run reaches the full rate
        return rate * (1e-4 + (1 - 1e-4) * step / warm) if step < warm else rate


# GSE, §4, its supplement and its code
GSE = dict(epochs=200, decay_all=True, milestones=(0.4, 0.6), clip=0.0, validation=False, augmentation="gse", drop_last=True,
           bn_momentum=0.1, defaults=dict(interval=1000, update_end=0.6, drop_fraction=0.2, allocation="er_gse", init="sparse",
                                          regrow="no", noise=0.0, skip_step=False, scope="global", score_batches="ceil10", final_snap=False,
                                          level_list="0,0.5,0.75,0.9,0.95,0.98", start_weights="pytorch"))
# Ours: short runs, so that a whole grid takes minutes. interval: GSE, Gradual and GraNet update the mask as often as in 160 epochs of CIFAR-10.
# mask_lr: with its paper's rate (0.006), ProbMask's probabilities would not become a mask in so few steps. a0, decay and sparsity_penalty decide
# the sparsity of str_original and dst_mask.
DIGITS = dict(epochs=30, batch_size=64, bn_momentum=0.1, augmentation="digits", precision="fp32",
              defaults=dict(interval=10, level_list="0,0.5,0.8,0.9,0.95,0.98", mask_lr=0.2, a0=-3.0, decay=0.005,
                            sparsity_penalty=0.007, repeats=3))
# ST-3, §4.3. The paper's AMP is fp16; bf16 needs no scaling of the loss. The official validation set is the one reported, so that
# nothing is held out and nothing is selected.
IMAGENET = dict(epochs=100, batch_size=512, lr=0.2, momentum=0.875, weight_decay=5e-5, schedule="cosine", label_smoothing=0.1,
                validation=False, augmentation="imagenet")

TASKS = {
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
}
REDUCED = {"digits": "Miniature on digits, not the paper's task.", "cifar10-resnet20w8": "ResNet-20 of width 8, half ST-3's."}


def suite_of(task):
    """The suite that a task belongs to."""
    return task.partition("-")[0]


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
    """The cached function, because thousands of Specs differ in sparsity and seed only; uncached for a method's own file, which may change."""
    return function.__wrapped__ if ":" in method else function


@cache
def _settle(named, method, epochs, precision, chosen):
    from methods import get
    from methods.options import nearest
    task, known = get_task(named), get(method).options()
    # with the suite's recipe, the method's `retained` values apply on top; with recipe=original, the suite sets none of its options
    suite = dict(chosen).get("recipe") != "original"
    defaults = {name: value for name, value in task.defaults.items() if name not in known or of_the_suite(get(method), name)}
    retained = get(method).retained.get(kind(task), {})
    if suite and not of_the_suite(get(method), "retained") and (told := ", ".join(name for name in retained if name not in known)):
        raise ValueError(f"{method}: retained changes the recipe ({told}), which its rows would not say: run it with --set, and keep options of the "
                         "method alone there")
    own = {**defaults, **retained} if suite else original(method, task)
    task = replace(task, **{name: value for name, value in own.items() if name not in known and hasattr(task, name)})
    options, settings = {name: value for name, value in own.items() if name in known}, task.settings()
    changes = {"epochs": epochs or task.epochs, "precision": precision or task.precision}
    for name, text in chosen:
        if {"epochs": epochs, "precision": precision}.get(name) not in (None, text):
            raise ValueError(f"{name} is given twice: {changes[name]} and {text}")
        if name in known:
            if name in settings and not of_the_suite(get(method), name):
                raise ValueError(f"{method} has an option {name}, and so has {named}, which alone has its effect: give the method's another name")
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
    if settled.count_switches and settled.storage != "masked":
        raise ValueError("count_switches counts those of all weights: it needs storage=masked")
    if (task.augmentation == "imagenet") != (settled.augmentation == "imagenet"):
        raise ValueError(f"augmentation={settled.augmentation} has no effect: {named} has images of another kind, with an augmentation of their own")
    return settled, options


def of_the_suite(cls, option):
    """Whether a method gets an option (or another attribute) from a class of this project. A user's own option of the same name is a different one,
    with a default of its own."""
    return next(base for base in cls.__mro__ if option in vars(base)).__module__.startswith("methods.")


def original(method, task):
    """The recipe of a method's own paper for the task's kind of data: {field of Task or option of the method: value}.

    The recipe of the network on this data set ("imagenet-mobilenetv1") comes first, then that of the data set, then that of its kind.
    Raises ValueError if its paper has none, or none that a Task can express.
    """
    from methods import get
    offered = get(method).original
    for data in (f"{task.dataset}-{task.model}", task.dataset, kind(task)):
        if data in offered:
            return offered[data]
    raise ValueError(f"{method} has no recipe=original for {kind(task)}" + (f"; it has one for {' and '.join(offered)}" if offered else ""))


def kind(task):
    """A task's kind of data, which names the methods' own recipes: "cifar" for CIFAR-10 and CIFAR-100."""
    return task.dataset.rstrip("0123456789")


def canonical(spec):
    """The Spec with an alias replaced by the method's name and whatever equals the recipe left out: one run has one key."""
    changes = once(_canonical, spec.method)(spec.task, spec.method, spec.epochs, spec.precision, spec.options)
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
def _canonical(task, method, epochs, precision, chosen):
    """The fields that `canonical` sets."""
    from methods import get
    known, recipe = get(method).options(), tuple(pair for pair in chosen if pair[0] == "recipe")
    own, plain = once(_settle, method)(task, method, None, None, recipe)
    task, options = once(_settle, method)(task, method, epochs, precision, chosen)
    default = {**{f.name: getattr(own, f.name) for f in fields(Task)}, **{name: o.default for name, o in known.items()},
               **get(method).preset(options), **plain, "recipe": Task.recipe}
    settled = {**{f.name: getattr(task, f.name) for f in fields(Task)}, **options}
    changed = (name for name, _ in chosen if settled[name] != default[name] and name not in ("epochs", "precision"))  # which are fields of a Spec
    return dict(method=path_of(method) if ":" in method else get(method).name,
                epochs=None if task.epochs == own.epochs else task.epochs,
                precision=None if task.precision == own.precision else task.precision,
                options=tuple((name, str(settled[name])) for name in changed))

"""What data sets and tasks consist of: a task is a data set, a network and the recipe that trains it. Their tables are in tasks.py.

Imports no torch, so that commands answer at once.
"""
import math
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache

NORMALISATIONS = ("st3", "gse")  # whose: those of their released code


@dataclass(frozen=True)
class Dataset:
    """What is known about a data set without reading its files (`data.load` reads them)."""

    title: str              # its name in papers
    classes: int
    test_images: int
    held_out: int = 0       # training images held out for validation, the last ones in file order
    # {normalisation of `data.load`: (mean, std) per channel in [0, 1] units}; without an entry: computed from the training images
    normalisation: dict = field(default_factory=dict)

    def __post_init__(self):
        for name, least in (("classes", 1), ("test_images", 1), ("held_out", 0)):
            if type(value := getattr(self, name)) is not int or value < least:
                raise ValueError(f"{name} of a Dataset is a whole number of at least {least}, not {value!r}")
        if not isinstance(self.normalisation, dict) or not self.normalisation.keys() <= {*NORMALISATIONS}:
            raise ValueError(f"normalisation of a Dataset is a dictionary with {' or '.join(NORMALISATIONS)}, not {self.normalisation!r}")

    @property
    def chance(self):
        """Accuracy of a constant answer, in percent."""
        return 100 / self.classes

    @property
    def collapsed(self):
        """Accuracy in percent up to which a network has learned next to nothing: twice chance, below ten classes a ninth of the way from
        it to 100."""
        return min(2 * self.chance, self.chance + (100 - self.chance) / 9)


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
    momentum: float = setting(0.9, "of SGD", most=0.9999)
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
    bn_momentum: float = setting(0.01, "of batch normalisation, in PyTorch's meaning; ST-3's code has 0.99", most=1)
    precision: str = setting("bf16", "bf16 (autocast), tf32 (CUDA) or fp32", *PRECISIONS)
    storage: str = setting("masked", "sparse: weights of active connections alone (static, set, rigl, srigl, mest, mest_s, gse_*, snip, "
                           "grasp, synflow; fp32 products); auto: layer by layer, what is faster", "masked", "sparse", "auto")
    count_switches: bool = setting(False, "count how often each weight switches between active and zero (ST-3, figure 6)")
    skip: tuple = ()  # names of weights or modules that stay dense and are not counted in the sparsity
    include: tuple = ()  # names of weights that are pruned, too: nn.MultiheadAttention's `in_proj_weight`, or a module with such
    defaults: dict = field(default_factory=dict, compare=False)  # the recipe's values for the methods' options
    source: str = ""  # SHA-256 of the file in own_suites/ that the task is of

    def checked(self):
        """This Task, with fractions where its values are whole numbers and fractions are meant, and tuples for lists of names. Raises ValueError, in
        one line, for a value that its setting cannot have."""
        if not isinstance(self.dataset, str):
            raise ValueError(f"dataset of a Task is the name of one, not {self.dataset!r}")
        meant = {}
        for f in (f for f in fields(self) if f.metadata):
            value = getattr(self, f.name)
            if f.type is float and type(value) is int:
                value = meant[f.name] = float(value)
            if not self._fits(f, value):
                least, most, choices = (f.metadata[name] for name in ("least", "most", "choices"))
                number = f"of at least {least:g}" + f" and at most {most:g}" * (most < math.inf)
                allowed = {bool: "True or False", int: f"a whole number {number}", float: f"a number {number}", str: " or ".join(choices) or "a text"}
                raise ValueError(f"{f.name} of a Task is {allowed[f.type]}, not {value!r}")
        if not isinstance(self.milestones, tuple) or not all(isinstance(share, float) and 0 < share < 1 for share in self.milestones):
            raise ValueError(f"milestones of a Task are shares of training between 0 and 1, such as (0.5, 0.75), not {self.milestones!r}")
        for choice in ("skip", "include"):
            names = getattr(self, choice)
            if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{choice} of a Task are names of weights or modules, such as ('fc',), not {names!r}")
            meant[choice] = tuple(names)
        return replace(self, **meant)

    def _fits(self, f, value):
        if type(value) is not f.type:
            return False
        if f.type in (int, float):
            return math.isfinite(value) and f.metadata["least"] <= value <= f.metadata["most"]
        return not f.metadata["choices"] or value in f.metadata["choices"] or (f.name == "augmentation" and value == self.dataset == "imagenet")

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

    def named(self, net):
        """(skip, include) of the task's network, as SparseModel and Layout take them: the task's own, and its dense ends."""
        from methods.layout import Layout  # which needs torch
        names = [entry.name for entry in Layout(net, self.skip, self.include).entries]
        return (*self.skip, *names[:1] * self.first_dense, *names[-1:] * self.last_dense), self.include

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

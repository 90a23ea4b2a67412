"""The claims of the two papers (ST-3: A1 to A13, GSE: B1 to B7) and how the stored rows decide each of them."""
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from claimed_costs import flops, overhead, slopes, trained_flops
from evidence import Difference, Evidence, Part
from published import published
from rows import read_table, value_of

from benchmarks.tasks import TASKS, suite_of

RESNET20, WIDTH8, VGG11, WRN = "cifar10-resnet20", "cifar10-resnet20w8", "cifar10-vgg11", "cifar100-wrn34x2"
RESNET50, MOBILENET = "imagenet-resnet50", "imagenet-mobilenetv1"
GSE = tuple(f"{data}-{model}" for data in ("cifar10", "cifar100") for model in ("resnet56", "vgg16", "vit"))
# RigL and SET with the settings of GSE's code, so that only the growth differs from GSE
AS_GSE = ("set drop_fraction=0.2 regrow=no scope=global update_end=0.6",
          "rigl drop_fraction=0.2 regrow=no scope=global skip_step=False update_end=0.6")
ST3 = (RESNET20, VGG11, WRN)
GSE100 = tuple(task for task in GSE if task.startswith("cifar100"))
SINGLE = ("gmp", "str", "probmask", "granet", "dnw", "rigl")  # the other methods with one cycle in ST-3's paper
OTHERS = ("rigl", "topkast", "set", "static", "snip", "grasp", "synflow")  # the other methods in GSE's paper
NO_STE = " straight_through=False"
PUBLISHED = "published numbers, no run of ours"
FIFTH = round(1 - 0.8**5, 6)  # the sparsity of LRR's fifth pruning


class Claim(NamedTuple):
    """A claim and what decides it."""

    id: str
    text: str
    source: str
    figure: str  # the figure that draws it, or ""
    tasks: tuple  # tasks whose accuracies decide; None: none do; PUBLISHED: published numbers are shown, our own runs decide
    judge: Callable  # function of an Evidence of one task (without tasks: of the results folder) that returns Parts


def each(compare, one, others):
    return [part for other in others for part in compare(one, other)]


def dense_accuracy(e):
    """The Parts of claim A1, from an Evidence; likewise the functions below."""
    if e.task != RESNET20 or not e.full:  # the paper's number says nothing about shorter trainings
        return []
    accuracies = e.seeds("dense", 0.0)
    return e.part("`dense` - the paper's 91.2 (claimed: above -0.5)", e.between(accuracies, dict.fromkeys(accuracies, 91.2)), low=-0.5)


def hard_fails(e):
    sparsities, parts = e.sparsities("ste_soft", "ste_hard")[-1:], []
    for sparsity in sparsities:
        parts += e.part(f"`ste_hard` - `dense` at {100 * sparsity:g} % (failing: below -10)",
                        e.between(e.seeds("ste_hard", sparsity), e.seeds("dense", 0.0)), low=-math.inf, high=-10.0)
        # in short runs any method may be below; a real failure is below a random mask that never changes, too
        if (e.epochs, "static", sparsity) in e.points:
            parts += e.above("static", "ste_hard", [sparsity])
    return parts + e.above("ste_soft", "ste_hard", sparsities)


def distances(e):
    """ST-3's distance to LRR on CIFAR-100 minus that on CIFAR-10, at the sparsities that both have."""
    if not e.task.startswith("cifar10-"):
        return []
    other, parts = Evidence(e.runs, WRN, e.epochs, e.results), []
    for sparsity in sorted(set(e.sparsities("lrr", "st3")) & set(other.sparsities("lrr", "st3"))):
        here, there = (one.apart("lrr", "st3", sparsity) for one in (e, other))
        more = here and there and Difference(there.mean - here.mean, math.hypot(here.half, there.half),
                                            min(here.seeds, there.seeds), min(here.df, there.df))
        parts += e.part(f"`lrr` - `st3` at {100 * sparsity:g} %, on CIFAR-100 - on CIFAR-10", more)
    return parts


def many_cycles(e, parts):
    """Comparisons of several cycles with one: with short cycles these only compare lengths of training, and are not judged."""
    text = " (many short cycles against one: not judged)"
    return parts if e.full else [replace(part, holds=None, p=1.0, claimed_p=1.0, text=part.text + text) for part in parts]


def longer_beats_lrr(e):
    """ST-3 with four times the epochs against LRR after its fifth pruning (67.23 %, six trainings)."""
    found = e.unpaired(e.seeds("st3", FIFTH, epochs=4 * e.epochs), e.seeds("lrr", FIFTH))
    mixed = e.machines(("st3", FIFTH, 4 * e.epochs), ("lrr", FIFTH))
    return e.part(f"`st3`, {4 * e.epochs} epochs, - `lrr` at 67.23 % (paper: +0.16){mixed}", found)


def sigma_at_equal_macs(e):
    """ST-3σ against ST-3 at equal sparsity, and at equal MACs: ST-3's accuracy is then interpolated between its sparsities for each seed (over log
    MACs)."""
    import numpy as np

    parts, sparsities = e.not_below("st3_sigma", "st3"), e.sparsities("st3_sigma", "st3")
    curves = {}  # {seed: [(log MACs, accuracy) of ST-3]}
    for sparsity in sparsities:
        macs, accuracy, status = (e.seeds("st3", sparsity, column) for column in ("macs", "accuracy", "status"))
        for seed in macs:
            if status[seed] == "ok":  # else these would be the MACs of the middle of a training, and chance would be interpolated
                curves.setdefault(seed, []).append((np.log(macs[seed]), accuracy[seed]))
    for curve in curves.values():
        curve.sort()
    for sparsity in sparsities:
        macs, accuracy = e.seeds("st3_sigma", sparsity, "macs"), e.seeds("st3_sigma", sparsity)
        inside = [seed for seed in macs if seed in curves and curves[seed][0][0] <= np.log(macs[seed]) <= curves[seed][-1][0]]
        found = e.between({seed: accuracy[seed] for seed in inside},
                          {seed: np.interp(np.log(macs[seed]), *zip(*curves[seed])) for seed in inside})
        if found or not macs:  # not if its MACs are outside the range of ST-3's
            parts += e.part(f"`st3_sigma` of {100 * sparsity:g} % above `st3` at equal MACs", found)
    return parts


def arms(e):
    """Compares figure 5's variants at each sparsity; which component gives most is judged by the mean over all sparsities."""
    names = ("st3", "st3" + NO_STE, "ste_soft", "ste_hard", "ste_hard_rescale")
    whole = e.sparsities(*names)

    def gain(one, other):
        pairs = [(e.seeds(one, s), e.seeds(other, s)) for s in whole]
        seeds = set.intersection(*(a.keys() & b.keys() for a, b in pairs)) if pairs else ()
        return {seed: sum(a[seed] - b[seed] for a, b in pairs) / len(pairs) for seed in seeds}

    ste, soft, rescaling = (gain(*pair) for pair in (names[:2], names[2:4], (names[0], names[2])))
    parts = e.above("st3", "st3" + NO_STE) + e.above("ste_soft", "ste_hard") + e.above("ste_hard", "ste_hard_rescale")
    mixed = e.machines(*((name, s) for name in names[:4] for s in whole)) if whole else ""
    for what, one, other in (("what straight-through gradients give - what rescaling gives", ste, rescaling),
                             ("what soft thresholding gives - what rescaling gives", soft, rescaling),
                             ("`st3` above `ste_soft`", rescaling, dict.fromkeys(rescaling, 0.0))):
        parts += e.part(f"mean of {len(whole)} sparsities, {what}{mixed}", e.between(one, other)) if whole else []
    return parts


def switched(e):
    """How often weights switched with each schedule, in columns `cubic` and `fixed`, by seed and quarter; None if one has no runs. As in figure 6,
    weights that switch less than twice are left out; so are diverged runs, which were counted only until then."""
    path = Path(e.results) / suite_of(e.task) / "switches.csv"
    if not path.exists():
        return None
    drawn = [f"st3 count_switches=True{schedule}" for schedule in ("", " ramp_power=0.0")]
    runs = e.runs.query("task == @e.task and epochs == @e.epochs and series in @drawn and sparsity == 0.9 and status == 'ok'")
    lines = read_table(path).merge(runs[["key", "seed"]], on="key").query("switches >= 2")
    total = lines.assign(total=lines.switches * lines.weights).pivot_table("total", ["seed", "group"], "schedule", "sum")
    return total.dropna() if {"cubic", "fixed"} <= set(total.columns) else None


def switches(e):
    """The share of switches that the cubic schedule saves against the fixed one, in all and in each quarter, by seed."""
    def share_saved(total):
        return 100 * (1 - total.cubic / total.fixed)

    total, by_quarter, all_saved, in_second, second = switched(e), "", None, None, {}
    saved = share_saved(total).unstack().sort_index(axis=1) if total is not None else ()
    if 1 in saved:  # short runs have no second quarter
        all_saved = e.between(share_saved(total.groupby("seed").sum()).to_dict(), dict.fromkeys(saved.index, 0.0))
        in_second = e.between(saved[1].to_dict(), dict.fromkeys(saved.index, 0.0))
        second = {group: e.between(saved[1].to_dict(), saved[group].to_dict()) for group in saved if group != 1}
        by_quarter = f" ({', '.join(f'quarter {group + 1}: {mean:.0f} %' for group, mean in saved.mean().items())})"
    parts = e.part(f"switches of weights with two and more that the cubic schedule saves{by_quarter}", all_saved, unit="%")
    for group in (0, 2, 3):  # one by one: the largest of several would be biased by chance
        parts += e.part(f"saved in quarter 2 - in quarter {group + 1}", second.get(group), unit="%")
    if in_second and in_second.mean - in_second.half <= 0:  # if nothing is saved in quarter 2, losing least there is not the claim
        parts[1:] = [replace(part, holds=None, p=1.0, claimed_p=1.0, text=part.text + " (nothing is saved in quarter 2)") for part in parts[1:]]
    return parts


def alone(series, option):
    """Whether it is GSE with this option and no other, such as another storage."""
    return series.startswith(f"gse_uniform {option}=") and series.count(" ") == 1


def gamma(e):
    """Compares at figure 2's 98 % only (other figures of the paper have runs at 99 %, too). Runs with larger γ can contradict that γ = 1 suffices."""
    parts = []
    for sparsity in (s for s in e.sparsities("gse_uniform", "set", "rigl") if abs(s - 0.98) < 1e-6):
        for other in ("set", "rigl", *(series for series in AS_GSE if (e.epochs, series, sparsity) in e.points)):
            parts += e.above("gse_uniform", other, [sparsity])
        others = sorted({series for _, series, _ in e.points if alone(series, "gamma") and value_of(series.partition(" ")[2], "gamma", 1) > 1})
        parts += each(lambda a, b: e.not_below(a, b, [sparsity]), "gse_uniform", others)
    return parts


def wider(e):
    """Accuracy at the largest width minus that at the task's own, at each sparsity where both have the same number of active connections."""
    wide = [(value_of(series.partition(" ")[2], "width", 1), series, s) for epochs, series, s in e.points
            if alone(series, "width") and epochs == e.epochs]

    def as_many(series, sparsity, own):
        counts = [[*e.seeds(*point, "nnz").values()] for point in ((series, sparsity), ("gse_uniform", own))]
        if not all(counts):  # without runs: the figure's sparsity is compared
            return abs(own - 0.98) < 1e-6
        return abs(mean(counts[0]) / mean(counts[1]) - 1) < 0.01

    limits = dict(low=-math.inf, high=0.0) if e.task.endswith("vit") else {}
    words, parts = "loses" if limits else "gains", []
    for own in sorted(s for epochs, series, s in e.points if (epochs, series) == (e.epochs, "gse_uniform")):
        if same := [point for point in wide if as_many(*point[1:], own)]:
            width, series, sparsity = max(same)
            what = f"{width / TASKS[e.task].width:g} × the width - 1 ×, with the connections of {100 * own:g} % there (claimed: it {words})"
            parts += e.part(what, e.between(e.seeds(series, sparsity), e.seeds("gse_uniform", own)), **limits)
    return parts


def longer(e):
    """Compares each length of training with the next longer one, in a list that begins at this Evidence's length. Only the recipe's own length and
    the shortest one begin a list."""
    lengths = sorted({int(epochs) for epochs, series, s in e.points if series == "gse_uniform" and abs(s - 0.98) < 1e-6})
    if e.epochs not in (TASKS[e.task].epochs, *lengths[:1]):
        return []
    parts = []
    for short, long in pairwise(epochs for epochs in lengths if epochs >= e.epochs):
        mixed = e.machines(("gse_uniform", 0.98, short), ("gse_uniform", 0.98, long))
        found = e.between(e.seeds("gse_uniform", 0.98, epochs=long), e.seeds("gse_uniform", 0.98, epochs=short))
        parts += e.part(f"at 98 %, {long} - {short} epochs{mixed}", found)
    return parts


def own_imagenet(runs, results):
    """(scale, parts) of our own runs of ResNet-50: ST-3 against the other methods with one cycle, at all of ST-3's sparsities. No parts unless one of
    the others has runs."""
    e = Evidence(runs, RESNET50, TASKS[RESNET50].epochs, results)
    have = set() if runs is None else set(runs.series[(runs.task == e.task) & (runs.epochs == e.epochs)])
    return e.scale, each(lambda a, b: e.above(a, b, e.sparsities(a)), "st3", SINGLE) if have & {*SINGLE} else []


def imagenet(results):
    """Published numbers on ResNet-50: ST-3 against the other methods with one cycle, first those of figure 4, then those beyond the two papers.
    A number decides nothing if the length of its training is not stated."""
    import beyond
    import figure4
    import pandas as pd

    if published().empty:
        return []
    rows, later = figure4.literature(RESNET50), beyond.literature()
    later = later[(later.task == RESNET50) & later.method.isin(beyond.METHODS)]
    parts, own = [], rows[rows.method == "st3"]

    def compare(sparsity, accuracy, others, which):
        """Adds the Part against the best of the others at this sparsity; returns (its row, names of these others), or None if there are none."""
        others = others[~others.method.isin(["st3", "st3_sigma"]) & ((others.sparsity - sparsity).abs() < 0.006)]
        if len(others):
            best = others.loc[others["mean"].idxmax()]
            stated = pd.notna(best.epochs)
            parts.append(Part(f"published, {100 * sparsity:g} %: ST-3 {accuracy:.2f}, best {which} {best.method} {best['mean']:.2f}"
                              + " (length not stated)" * (not stated), bool(accuracy > best["mean"]) if stated else None))
            return best, set(others.method)

    for sparsity, accuracy in zip(own.sparsity, own["mean"]):
        if found := compare(sparsity, accuracy, rows, "other of figure 4"):
            best, named = found
            if sparsity == 0.95:
                without = [method for method in ("granet", "probmask") if method not in named]
                lead = accuracy - best["mean"]
                parts.append(Part(f"published, 95 %: ST-3 leads by {lead:.1f} points (paper: up to 5 to GraNet and ProbMask, here to whole points"
                                  + f"; no number for {' and '.join(without)}" * bool(without) + ")", None if without else bool(lead >= 4.5)))
        compare(sparsity, accuracy, later, "beyond the two papers")
    return parts


# {id: function of (all runs, results folder) that returns [(scale, Parts)] of runs that are shown, but do not decide the claim}
BESIDES = {"B6": trained_flops}
CLAIMS = (
    Claim("A1", "The dense ResNet-20 reaches 91.2 % on CIFAR-10", "ST-3, figure 1", "figure1", (RESNET20,), dense_accuracy),
    Claim("A2", "Hard-threshold STE fails at 99 %; soft thresholding alleviates it", "ST-3, figure 1", "figure1", (RESNET20,), hard_fails),
    Claim("A3", "With one training cycle ST-3 is above GMP, STR, ProbMask, GraNet, DNW and RigL at every sparsity", "ST-3, figure 3, §4.2", "figure3",
     ST3, lambda e: each(e.above, "st3", SINGLE)),
    Claim("A4", "STR is clearly above GMP, and below ST-3", "ST-3, §4.2", "figure3", ST3, lambda e: e.above("str", "gmp") + e.above("st3", "str")),
    Claim("A5", "LRR is above ST-3, LRR+ST-3 above LRR", "ST-3, figure 3", "figure3", ST3,
     lambda e: many_cycles(e, e.above("lrr", "st3")) + e.above("lrr_st3", "lrr")),
    Claim("A6", "With the augmentation seed reset each cycle, LRR falls to about ST-3", "ST-3, figure 3", "figure3", (RESNET20,),
     lambda e: e.above("lrr", "lrr_aug_reset") + many_cycles(e, e.near("lrr_aug_reset", "st3"))),
    Claim("A7", "At 67.23 %, ST-3 with 4 × the epochs (92.38 %) is above LRR with 6 × (92.22 %)", "ST-3, §4.2", "figure3",
     (RESNET20,), longer_beats_lrr),
    Claim("A8", "ST-3's distance to LRR is smaller on CIFAR-10 than on CIFAR-100", "ST-3, §4.2", "figure3", (RESNET20, VGG11), distances),
    Claim("A9", "ST-3σ loses little accuracy at equal sparsity and wins at equal MACs", "ST-3, figure 4", "figure4",
     (RESNET50, MOBILENET), sigma_at_equal_macs),
    Claim("A10", "STE and soft thresholding contribute most; rescaling helps only with soft thresholding and is a severe penalty with hard",
     "ST-3, figure 5", "figure5", (RESNET20,), arms),
    Claim("A11", "The cubic schedule reduces switches against a fixed ratio, most in the second quarter of training", "ST-3, figure 6", "figure6",
     (RESNET20,), switches),
    Claim("A12", "Very little overhead over dense training (here: at most 5 %)", "ST-3, §3", "", None,
     lambda results: overhead(results, ST3)),
    Claim("A13", "ImageNet: ST-3 is the best single-cycle method in accuracy at equal sparsity, by up to 5 points at 95 %", "ST-3, figure 4",
     "figure4", PUBLISHED, imagenet),
    Claim("B1", "GSE matches or exceeds RigL, Top-KAST, SET, static and prune-at-init", "GSE, table 1", "gse_table1", GSE,
     lambda e: each(lambda a, b: e.not_below(a, b, [s for s in e.sparsities(a, b) if s < 0.985]), "gse_uniform", (*OTHERS, *AS_GSE))),
    Claim("B2", "A subset of the size of the active set (γ = 1) suffices, and the mixture beats random (SET) and greedy (RigL) growth",
     "GSE, figure 2", "gse_figure2", GSE, gamma),
    Claim("B3", "Uniform sampling is as good as GraBo and GraEst", "GSE, figure 2", "gse_figure2", GSE,
     lambda e: each(e.not_below, "gse_uniform", ("gse_grabo", "gse_graest"))),
    Claim("B4", "At a constant number of active connections wider CNNs gain (6.5 % on average), wider ViTs lose", "GSE, figure 3",
     "gse_figure3", GSE100, wider),
    Claim("B5", "Longer training keeps helping at 98 % on CIFAR-100", "GSE, supplement, table 3", "gse_table3", GSE100, longer),
    Claim("B6", "Training FLOPs below RigL's, computed for ResNet-50: 11.8 % less at 99 % sparsity, more than a hundred times at extreme sparsity",
     "GSE, figure 4", "gse_figure4", None, flops),
    Claim("B7", "Time and memory linear in width + non-zeros, where RigL is quadratic", "GSE, §3", "sparse_figure2", None, slopes),
)

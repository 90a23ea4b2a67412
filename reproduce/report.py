"""`python reproduce/report.py`: results/REPORT.md, the papers' claims judged by the stored rows, each at every scale that has rows.

A claim is reproduced only by runs as the paper made them (task and epochs); shorter or smaller ones are shown for what they are.
"""
import math
from pathlib import Path

from drawing import TASKS, Parser
from evidence import NEAR, Difference, Evidence, Part, corrected, positive, runs_of, verdict
from published import published
from rows import NoRows, value_of

RESNET20, WIDTH8, VGG11, WRN = "cifar10-resnet20", "cifar10-resnet20w8", "cifar10-vgg11", "cifar100-wrn34x2"
GSE = tuple(f"{data}-{model}" for data in ("cifar10", "cifar100") for model in ("resnet56", "vgg16", "vit"))
GSE100 = tuple(task for task in GSE if task.startswith("cifar100"))
NO_STE = " straight_through=False"
PUBLISHED = "published numbers, no run of ours"


def each(compare, one, others):
    return [part for other in others for part in compare(one, other)]


def highest(e, *series):
    return e.sparsities(*series)[-1:]


def dense_accuracy(e):
    accuracies = list(e.seeds("dense", 0.0).values())
    mean = sum(accuracies) / max(len(accuracies), 1)
    reached = mean >= 91.2 - 0.5 if e.full else None
    return [Part(f"`dense`: {mean:.2f} %, {len(accuracies)} seeds (paper: 91.2 %)", reached)] if accuracies else []


def hard_fails(e):
    """Failing: the interval of the distance to dense lies more than 10 points below it."""
    sparsities, parts = highest(e, "ste_soft", "ste_hard"), []
    for sparsity in sparsities:
        found = e.difference("ste_hard", "dense", sparsity, 0.0)
        if found:
            parts.append(found.part(f"`ste_hard` - `dense` at {100 * sparsity:g} %",
                                    lambda mean, half: True if mean + half < -10 else False if mean - half > -10 else None))
    return parts + e.above("ste_soft", "ste_hard", sparsities)


def distances(e):
    """ST-3's distance to LRR on CIFAR-10 and on CIFAR-100, at the sparsities that both have."""
    other, parts = Evidence(e.runs, WRN, e.epochs), []
    for sparsity in sorted(set(e.sparsities("lrr", "st3")) & set(other.sparsities("lrr", "st3"))):
        here, there = (one.difference("lrr", "st3", sparsity) for one in (e, other))
        if here and there:
            more = Difference(there.mean - here.mean, math.hypot(here.half, there.half), min(here.seeds, there.seeds), math.nan)
            parts.append(more.part(f"`lrr` - `st3` at {100 * sparsity:g} %, on CIFAR-100 ({there.mean:+.2f}) - on CIFAR-10 ({here.mean:+.2f})", positive))
    return parts


def longer_beats_lrr(e):
    """Against LRR's fifth pruning, six trainings, at 67.23 %: st3 with four times the epochs."""
    found = e.between(e.seeds("st3", 0.6723, epochs=4 * e.epochs), e.seeds("lrr", 0.6723))
    return [found.part(f"`st3`, {4 * e.epochs} epochs, - `lrr` at 67.23 % (paper: +0.16)", positive)] if found else []


def sigma_at_equal_macs(e):
    """At equal MACs: against ST-3's accuracy at those MACs, interpolated between its sparsities for each seed (log axis)."""
    import numpy as np

    parts, sparsities = e.near("st3_sigma", "st3"), e.sparsities("st3_sigma", "st3")
    curves = {}  # of ST-3 by seed: its MACs and accuracies
    for sparsity in sparsities[::-1]:
        macs, accuracy = e.seeds("st3", sparsity, "macs"), e.seeds("st3", sparsity)
        for seed in macs:
            curves.setdefault(seed, []).append((np.log(macs[seed]), accuracy[seed]))
    for sparsity in sparsities:
        macs, accuracy = e.seeds("st3_sigma", sparsity, "macs"), e.seeds("st3_sigma", sparsity)
        inside = [seed for seed in macs if seed in curves and curves[seed][0][0] <= np.log(macs[seed]) <= curves[seed][-1][0]]
        found = e.between({seed: accuracy[seed] for seed in inside},
                          {seed: np.interp(np.log(macs[seed]), *zip(*curves[seed])) for seed in inside})
        if found:
            parts.append(found.part(f"`st3_sigma` of {100 * sparsity:g} % above `st3` at equal MACs", positive))
    return parts


def arms(e):
    return (e.above("st3", "st3" + NO_STE) + e.above("ste_soft", "ste_hard") + e.not_below("st3", "ste_soft")
            + e.above("ste_hard", "ste_hard_rescale"))


def switches(e, results):
    """Switches of all weights in each quarter, cubic against fixed schedule."""
    import pandas as pd

    path = Path(results) / e.task.partition("-")[0] / "switches.csv"
    if not path.exists():
        return []
    runs = e.runs[(e.runs.task == e.task) & (e.runs.epochs == e.epochs)]
    lines = pd.read_csv(path, dtype={"key": str}).merge(runs[["key", "seed"]], on="key")
    total = lines.assign(total=lines.switches * lines.weights).groupby(["schedule", "group"]).total.sum().unstack(0)
    if not {"cubic", "fixed"} <= set(total.columns):
        return []
    ratio, seeds = total.cubic / total.fixed, lines.seed.nunique()
    text = ", ".join(f"quarter {group + 1}: {value:.2f}" for group, value in ratio.items())
    holds = [bool(total.cubic.sum() < total.fixed.sum()), bool(ratio.idxmin() == 1)] if seeds > 1 else [None, None]
    return [Part(f"switches with the cubic schedule / fixed ratio, {text}, {seeds} seed{'s' * (seeds > 1)}", holds[0]),
            Part(f"the largest reduction is in quarter {ratio.idxmin() + 1} (claimed: 2)", holds[1])]


def gamma(e):
    parts = []
    for sparsity in highest(e, "gse_uniform", "set", "rigl"):
        parts += e.above("gse_uniform", "set", [sparsity]) + e.above("gse_uniform", "rigl", [sparsity])
        others = sorted(series for series in e.runs.series[e.runs.task == e.task].unique() if series.startswith("gse_uniform gamma="))
        parts += each(lambda a, b: e.not_below(a, b, [sparsity]), "gse_uniform", others)
    return parts


def wider(e):
    """Accuracy at the largest width minus that at width 1, with the same number of active connections."""
    r = e.runs[(e.runs.task == e.task) & (e.runs.epochs == e.epochs) & (e.runs.method == "gse_uniform")]
    wide = {value_of(series.partition(" ")[2], "width", 1): (series, s) for series, s in zip(r.series, r.sparsity)
            if series.startswith("gse_uniform width=")}
    if not wide:
        return []
    width, (series, sparsity) = max(wide.items())
    found = e.difference(series, "gse_uniform", sparsity, 0.98)
    if not found:
        return []
    loses = e.task.endswith("vit")
    return [found.part(f"width {width:g} - width 1", lambda mean, half: positive(-mean if loses else mean, half))]


def longer(e):
    r = e.runs[(e.runs.task == e.task) & (e.runs.series == "gse_uniform") & ((e.runs.sparsity - 0.98).abs() < 1e-6)]
    lengths = sorted(r.epochs[r.epochs >= e.epochs].unique())
    found = [(a, b, e.between(*(e.seeds("gse_uniform", 0.98, epochs=n) for n in (b, a)))) for a, b in zip(lengths, lengths[1:])]
    return [difference.part(f"at 98 %, {b:g} - {a:g} epochs", positive) for a, b, difference in found if difference]


def overhead(results):
    import pandas as pd

    path = Path(results) / "performance" / "overhead.csv"
    rows = pd.read_csv(path).query("method == 'st3'") if path.exists() else ()
    return [Part(f"step of `st3` / dense: {row.ratio:.3f} (quartiles {row.ratio_low:.2f} to {row.ratio_high:.2f}), {row.task}, {row.precision}, "
                 f"{row.device}", row.ratio <= 1.05) for row in (rows.itertuples() if len(rows) else ())]


def imagenet(results):
    """Published numbers only: ST-3 against the best of the methods with one cycle that its paper compares, ResNet-50."""
    rows = published().query("task == 'imagenet-resnet50'")
    rows = rows[~rows.method.isin(["dense", "lrr", "imp", "st3_sigma"]) & (rows.options == "")]
    parts = []
    for sparsity in (0.8, 0.9, 0.95, 0.98):
        at = rows[(rows.sparsity - sparsity).abs() < 0.006]
        own, others = at[at.method == "st3"]["mean"].max(), at[at.method != "st3"]
        if own == own and len(others):
            best = others.loc[others["mean"].idxmax()]
            parts.append(Part(f"published, {100 * sparsity:g} %: ST-3 {own:.2f}, best other {best.method} {best['mean']:.2f}", bool(own > best["mean"])))
    return parts


def flops(results):
    import pandas as pd

    path = Path(results) / "performance" / "training_flops.csv"
    if not path.exists():
        return []
    rows = pd.read_csv(path)
    rows["saved"] = 1 - rows.gse_flops / rows.rigl_flops
    at = rows.loc[(rows.sparsity - 0.99).abs().idxmin()]
    most = (rows.rigl_flops / rows.gse_flops).max()
    assumed = f"RigL's dense gradient once in {rows.interval.iloc[0]} steps"
    return [Part(f"computed, ResNet-50 at {100 * at.sparsity:g} %: {100 * at.saved:.1f} % fewer training FLOPs than RigL (paper: 11.8 %), "
                 f"assuming {assumed}",
                 bool(abs(at.saved - 0.118) < 0.01)),
            Part(f"computed, at {100 * rows.sparsity.max():g} %: RigL needs {most:.0f} times as many (paper: more than 100)", bool(most > 100))]


def slopes(results):
    """Of the time and memory of an update of the connections against the width, at a constant number of weights."""
    import pandas as pd

    from sparse_figure2 import NAMES, slope

    path = Path(results) / "performance" / "sparse_growth.csv"
    if not path.exists():
        return []
    table, parts = pd.read_csv(path), []
    for method, name in NAMES.items():
        quadratic, points = method == "rigl", table[table.method == method]
        for measure, what in (("update_ms", "time"), ("peak_mb", "memory")) if len(points) > 1 else ():
            fitted = slope(points, measure)
            parts.append(Part(f"{name}: {what} of an update ∝ width^{fitted:.2f} (claimed: {'quadratic' if quadratic else 'at most linear'})",
                              bool(fitted >= 1.85 if quadratic else fitted <= 1.15)))
    return parts


# id, claim, source, figure, tasks (None: no accuracy decides, PUBLISHED: only others' numbers do), function of an Evidence or of the folder
ST3 = (RESNET20, VGG11, WRN)
SINGLE = ("gmp", "str", "probmask", "granet", "dnw", "rigl")
OTHERS = ("rigl", "topkast", "set", "static", "snip", "grasp", "synflow")
CLAIMS = (
    ("A1", "The dense ResNet-20 reaches 91.2 % on CIFAR-10", "ST-3, figure 1", "figure1", (RESNET20,), dense_accuracy),
    ("A2", "Hard-threshold STE fails at the highest sparsity; soft thresholding alleviates it", "ST-3, figure 1", "figure1", (RESNET20,), hard_fails),
    ("A3", "With one training cycle ST-3 is above GMP, STR, ProbMask, GraNet, DNW and RigL at every sparsity", "ST-3, figure 3, §4.2", "figure3", ST3,
     lambda e: each(e.above, "st3", SINGLE)),
    ("A4", "STR is clearly above GMP, and below ST-3", "ST-3, §4.2", "figure3", ST3, lambda e: e.above("str", "gmp") + e.above("st3", "str")),
    ("A5", "LRR is above ST-3, LRR+ST-3 above LRR", "ST-3, figure 3", "figure3", ST3, lambda e: e.above("lrr", "st3") + e.above("lrr_st3", "lrr")),
    ("A6", "With the augmentation seed reset each cycle, LRR falls to about ST-3", "ST-3, figure 3", "figure3", (RESNET20,),
     lambda e: e.above("lrr", "lrr_aug_reset") + e.near("lrr_aug_reset", "st3")),
    ("A7", "At 67.23 %, ST-3 with 4 × the epochs (92.38 %) is above LRR with 6 × (92.22 %)", "ST-3, §4.2", "figure3", (RESNET20,), longer_beats_lrr),
    ("A8", "ST-3's distance to LRR is smaller on CIFAR-10 than on CIFAR-100", "ST-3, §4.2", "figure3", (RESNET20,), distances),
    ("A9", "ST-3σ loses little accuracy at equal sparsity and wins at equal MACs", "ST-3, figure 4", "figure4", ST3, sigma_at_equal_macs),
    ("A10", "STE and soft thresholding contribute most; rescaling helps only with soft thresholding and is a severe penalty with hard",
     "ST-3, figure 5", "figure5", (RESNET20,), arms),
    ("A11", "The cubic schedule reduces switches against a fixed ratio, most in the second quarter of training", "ST-3, figure 6", "figure6",
     (RESNET20,), None),
    ("A12", "Very little overhead over dense training (here: at most 5 %)", "ST-3, §3", "", None, overhead),
    ("A13", "ImageNet: ST-3 is the best single-cycle method in accuracy at equal sparsity", "ST-3, figure 4", "figure4", PUBLISHED, imagenet),
    ("B1", "GSE matches or exceeds RigL, Top-KAST, SET, static and prune-at-init", "GSE, table 1", "gse_table1", GSE,
     lambda e: each(e.not_below, "gse_uniform", OTHERS)),
    ("B2", "A subset of the size of the active set (γ = 1) suffices, and the mixture beats random (SET) and greedy (RigL) growth", "GSE, figure 2",
     "gse_figure2", GSE, gamma),
    ("B3", "Uniform sampling is as good as GraBo and GraEst", "GSE, figure 2", "gse_figure2", GSE,
     lambda e: each(e.not_below, "gse_uniform", ("gse_grabo", "gse_graest"))),
    ("B4", "At a constant number of active connections wider CNNs gain, wider ViTs lose", "GSE, figure 3", "gse_figure3", GSE100, wider),
    ("B5", "Longer training keeps helping at 98 % on CIFAR-100", "GSE, supplement, table 3", "gse_table3", GSE100, longer),
    ("B6", "Training FLOPs below RigL's: 11.8 % less at 99 % sparsity, more than a hundred times at extreme sparsity", "GSE, figure 4", "gse_figure4",
     None, flops),
    ("B7", "Time and memory linear in width + non-zeros, where RigL is quadratic", "GSE, §3", "sparse_figure2", None, slopes),
)
HEAD = f"""# The papers' claims, judged by the stored rows

Made by `python reproduce/report.py` from the CSV files of this folder; nothing is written by hand. "Above" means that the 95 % interval of
the difference, paired by seed, lies above 0; "at least" that it lies above -{NEAR:g} point, "near" that it lies within {NEAR:g} point. Only runs of
the papers' own task and length decide a claim; a miniature or shortened one is shown as what it is, and its verdict holds for itself alone.
A difference speaks against a claim where it still does so among all comparisons of the claim (Holm, level 0.05). One seed decides nothing.
"""


def judged(claim, runs, results):
    """[(scale, whether it is the paper's, parts)] of a claim, the paper's own scale first."""
    _, _, _, _, tasks, function = claim
    if tasks in (None, PUBLISHED):
        parts = function(results)
        return [(tasks or "", tasks is None, parts)] if parts else []
    found = []
    if runs is None:
        return found
    for task in (*tasks, *(task for task in (RESNET20, WIDTH8, "digits") if task not in tasks)):
        if task in TASKS:
            for epochs in sorted(runs.epochs[(runs.task == task) & (runs.epochs <= TASKS[task].epochs)].unique(), reverse=True):
                e = Evidence(runs, task, int(epochs))
                parts = function(e) if function else switches(e, results)
                if parts:
                    found.append((e, corrected(parts)))
    return [(e.scale, e.full and e.task in tasks, parts) for e, parts in found]


def report(results):
    """The text of REPORT.md."""
    runs = runs_of(results)
    lines, details = ["| | Claim | Verdict | Tried besides |", "|---|---|---|---|"], []
    for claim in CLAIMS:
        name, text, source, figure, _, _ = claim
        scales = judged(claim, runs, results)
        full = [part for _, own, parts in scales if own for part in parts]
        others = "; ".join(f"{scale}: {verdict(parts)}" for scale, own, parts in scales if not own)
        lines.append(f"| {name} | {text} | **{verdict(full) if full else 'not yet measured'}** | {others} |")
        details.append(f"\n## {name}. {text}\n\n{source}" + (f"; drawn by `reproduce/{figure}.py`" if figure else "") + ".\n")
        for scale, _, parts in scales:
            details += [f"\n{scale}: {verdict(parts)}\n"] * bool(scale)
            details += [f"- {part.text}: {'as claimed' if part.holds else 'not decided' if part.holds is None else 'against the claim'}"
                        for part in parts]
        if not scales:
            details.append("No rows yet.")
    return HEAD + "\n" + "\n".join(lines) + "\n" + "\n".join(details) + "\n"


def main(argv=None):
    """Writes RESULTS/REPORT.md and prints the table; returns 0."""
    parser = Parser(prog="report.py", description="The papers' claims, judged by the stored rows.")
    parser.add_argument("--results", default="results", help="folder of SUITE/runs.csv (default: %(default)s)")
    parser.set_defaults(suite=None)
    args = parser.read(argv)
    try:
        text = report(args.results)
    except (NoRows, ValueError) as error:
        parser.error(str(error))
    path = Path(args.results) / "REPORT.md"
    path.write_text(text, encoding="utf-8")
    print(text.partition("\n## ")[0].partition("| |")[2])
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

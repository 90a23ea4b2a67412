"""`python reproduce/readme.py`: writes the tables of README.md and of the pages that it leads to (`PAGES`) from the stored rows, between
the marks `<!-- NAME -->` and `<!-- /NAME -->`.

Needs pandas and scipy only. `--check` changes nothing and says with exit status 1 that a table does not show what is stored.
"""
import re
from pathlib import Path

from beyond import METHODS
from drawing import BAD_INPUT, Parser
from packs import NETWORKS, on_gpus
from published import PUBLISHED_AS, published, title
from report import score
from rows import POINT, NoRows, of_one_machine

from benchmarks.command import command
from benchmarks.files import write_whole
from benchmarks.suites import SIZES

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "results/FINDINGS.md", "methods/beyond/README.md", "methods/sparse/README.md")
DENSE = "dense"
FASTER = {("cifar10-mlp", 4.0): "MLP of width 4,096", ("cifar10-vit", 1.0): "ViT", ("cifar10-resnet56", 1.0): "ResNet-56",
          ("cifar10-vgg16", 1.0): "VGG-16 (small)"}
CITED = {"st3": "ST-3", "gse": "GSE"}


def accuracy(results, suite, profile, beyond=False, costs=()):
    """Test accuracy (`stats.outcomes`), mean ± standard deviation over seeds, of every method at the paper's sparsities that have rows.

    beyond: the methods beyond the two papers, instead of the papers' own. costs: of last columns, each "step" for `step_times`, or a
    sparsity, at which it has the training FLOPs.
    """
    import pandas as pd

    from benchmarks.stats import outcomes
    from benchmarks.tables import select

    rows = select(pd.read_csv(results / suite / "runs.csv", dtype={"key": str}), suite, profile)
    rows = outcomes(rows)
    rows = rows[rows.accuracy.notna() & ~rows.label.str.contains(":") & (rows.label.isin(METHODS) == beyond)]
    if not len(rows):
        return "No rows yet."
    whole, last = rows[rows.status == "ok"], {}  # a diverged run has its accuracy, but no costs and no sparsity of a whole training
    for cost in costs:
        if cost == "step":
            last["Step time / dense"] = step_times(results)
        else:
            flops = whole[(whole.sparsity == cost) | (whole.label == DENSE)].groupby("label").train_flops_fraction.mean()
            last[f"Training FLOPs / dense, {100 * cost:g} %"] = {label: f"{mean:.2f}" for label, mean in flops.items()}
    sparsities = [sparsity for sparsity in SIZES[suite, "paper"][0] if sparsity in set(rows.sparsity)]
    epochs = rows.epochs.iloc[0]
    seeds = rows.groupby(["label", "sparsity"]).seed.nunique()
    points = rows.groupby(["label", "sparsity"]).accuracy.agg(["mean", "std"])
    shown = [*(0.0,) * (DENSE in set(rows.label)), *sparsities]
    lines = [["Method", *(f"{100 * s:g} %" for s in shown), *last]]
    for label in sorted(rows.label.unique(), key=lambda label: (label != DENSE, label)):
        accuracies = points.loc[label]
        missed = (whole[whole.label == label].achieved_sparsity - whole[whole.label == label].sparsity).abs().max() > 1e-3
        cells = [number(accuracies.loc[s] if s in accuracies.index else None) for s in shown]
        lines.append([f"`{label}`" + (" ¹" if missed else ""), *cells, *(own.get(label, "") for own in last.values())])
    count = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    spread = f"mean ± standard deviation over {count} seeds" if seeds.max() > 1 else "one seed"
    spread += " (one where no deviation is given)" if seeds.min() == 1 < seeds.max() else ""
    text = f"Test accuracy (%) at the best validation epoch, at each sparsity; {spread}, {epochs:g} epochs"
    cycles = rows.groupby("label").cycles.max()
    many = [f"`{label}` {count:g}" for label, count in cycles[cycles > 1].items()]
    text += f" a cycle (cycles up to the highest sparsity: {', '.join(many)})" if many else ""
    return markdown(lines) + f"\n\n{text}." + (" ¹ ends at another sparsity than was asked for." if "¹" in str(lines) else "")


def papers(results):
    """Runs on CIFAR-10 as long as a paper's, accuracy of the last and of the best validation epoch, beside what the paper has published."""
    import pandas as pd

    from benchmarks.stats import outcomes

    rows = pd.read_csv(results / "cifar10" / "runs.csv", dtype={"key": str})
    lengths = {task: epochs for task, (*_, epochs) in PUBLISHED_AS.items()}
    rows = outcomes(rows[rows.epochs == rows.task.map(lengths)])
    rows = rows[rows.accuracy.notna()]
    rows = rows.assign(options=rows.options.fillna(""), sparsity=rows.sparsity.round(4))
    theirs = {tuple(point): f"{mean:.2f} ({CITED.get(source, source)}, {where})"
              for *point, mean, source, where in published()[[*POINT, "mean", "source", "where"]].itertuples(index=False)}
    lines = [["Network", "Method", "Sparsity", "Epochs", "Precision", "Seeds", "Last epoch", "Best validation epoch", "Published"]]
    for (*point, precision), own in rows.groupby([*POINT, "precision"]):
        task, method, options, sparsity = point
        as_published = task, method, " ".join(word for word in options.split() if word != "storage=sparse"), sparsity  # the same, stored otherwise
        lost = own.status == "diverged"  # counts with chance, at whichever epoch the others count
        own = own.assign(**{column: own[column].mask(lost & own[column].notna().any(), own.accuracy) for column in ("top1", "top1_best_val")})
        spread = own[["top1", "top1_best_val"]].agg(["mean", "std"])
        cells = [number(spread[column]) if own[column].notna().all() else "" for column in spread]
        lines.append([title(task), f"`{f'{method} {options}'.strip()}`", f"{100 * sparsity:g} %", f"{lengths[task]}", precision,
                      f"{own.seed.nunique()}", *cells, theirs.get(as_published, "")])
    return markdown(lines)


def step_times(results):
    """{method: step time as a multiple of dense} as `benchmarks.overhead` measured it on ResNet-20, {} where it has not."""
    import pandas as pd

    path = results / "performance" / "overhead.csv"
    if not path.exists():
        return {}
    rows = pd.read_csv(path)
    rows = of_one_machine(rows[(rows.task == "cifar10-resnet20") & (rows.runs == 1)])
    return {row.method: f"{row.ratio:.2f}" for row in rows.itertuples()}


def sparse(results):
    """Sparse storage against masks: step time and memory of the stored measurements at 98 and 99 %, as multiples of the masked run."""
    import pandas as pd

    rows, shown = of_one_machine(pd.read_csv(results / "performance" / "sparse_speed.csv")), (0.98, 0.99)
    rows = rows[rows.sparsity.isin(shown)].set_index(["sparsity", "storage"]).sort_index()
    lines = [["Method", "Network", "Width", "Batch", "Precision", *(f"{100 * s:g} %: {what}" for s in shown for what in ("faster", "auto", "smaller"))]]
    for (method, task, width, batch, precision), own in rows.groupby(["method", "task", "width", "batch_size", "precision"]):
        cells = []
        for sparsity in shown:
            ratio, size = ({name: own[column].dropna().get((sparsity, name)) for name in ("masked", "sparse", "auto")} for column in ("ratio", "state_mb"))
            cells += ["" if ratio[name] is None else f"{ratio[name]:.2f} ×" for name in ("sparse", "auto")]
            cells += ["" if None in (size["masked"], size["sparse"]) else f"{size['masked'] / size['sparse']:.0f} ×"]
        if any(cells):
            lines.append([f"`{method}`", task, f"{width:g} ×", f"{batch}", precision, *cells])
    return markdown(lines)


def faster(results):
    """The same in short: how many times as fast sparse steps of GSE are, of a few networks."""
    import pandas as pd

    rows = of_one_machine(pd.read_csv(results / "performance" / "sparse_speed.csv"))
    rows = rows[(rows.method == "gse_uniform") & (rows.storage == "sparse")]
    ratios = rows.set_index(["task", "width", "precision", "sparsity"]).ratio.to_dict()
    columns = [(precision, sparsity) for precision in ("fp32", "bf16") for sparsity in (0.98, 0.99)]
    lines = [["Steps, masked / sparse", *(f"{precision}: {100 * sparsity:g} %" for precision, sparsity in columns)]]
    for (task, width), name in FASTER.items():
        found = [ratios.get((task, width, *column)) for column in columns]
        lines.append([name, *("" if ratio is None else f"{ratio:.{int(ratio < 10)}f}" for ratio in found)])
    return markdown(lines)


def training(results):
    """Whole trainings with sparse and with masked storage: accuracy of the last epoch over seeds, time and memory of the process."""
    import pandas as pd

    rows = of_one_machine(pd.read_csv(results / "performance" / "sparse_training.csv"))
    cells = rows.groupby(["task", "width", "sparsity", "precision", "storage"])
    points = cells.agg(mean=("top1", "mean"), std=("top1", "std"), seconds=("seconds", "mean"), memory=("peak_memory_mb", "first"),
                       seeds=("seed", "nunique"), prunable=("prunable", "first"), epochs=("epochs", "first"))
    lines = [["Network", "Weights, active", "Precision", "Epochs", "Seeds",
              *(f"{what}: {storage}" for what in ("Accuracy", "Seconds", "Memory, MB") for storage in ("masked", "sparse"))]]
    for (task, width, sparsity, precision), own in points.groupby(["task", "width", "sparsity", "precision"]):
        own = own.droplevel(["task", "width", "sparsity", "precision"])
        if {"masked", "sparse"} <= set(own.index):
            both = [own.loc[storage] for storage in ("masked", "sparse")]
            first = both[0]
            lines.append([title(task) + f", width × {width:g}" * (width != 1), f"{first.prunable:,.0f}, {100 * (1 - sparsity):.2g} %",
                          precision, f"{first.epochs:.0f}", f"{first.seeds:.0f}", *map(number, both),
                          *(f"{one.seconds:.1f}" for one in both), *(f"{one.memory:.0f}" for one in both)])
    return markdown(lines)


def gpu(results):
    """Training on a GPU: images a second of a plain loop, of one run and of a pack, and what a run of the recipe's length takes so."""
    import pandas as pd

    try:
        rows = on_gpus(pd.read_csv(results / "performance" / "throughput.csv"))
    except NoRows:
        return "No rows yet."
    lines = [["Network", "Epochs", "Plain loop, images/s", "One run", "8 runs", "8 runs / plain", "Seconds a run: alone", "of 8", "Memory a run, MB"]]
    plain = rows[rows.loop == "plain"].drop_duplicates("task").set_index("task")
    packs = rows[(rows.loop == "suite") & (rows.precision == "bf16") & rows.runs.isin((1, 8))]
    for (task, method, _), own in sorted(packs.groupby(["task", "method", "sparsity"]), key=lambda group: NETWORKS.index(group[0][0])):
        if task in plain.index and len(own) == 2:
            alone, pack = own.sort_values("runs").itertuples()
            rates = [f"{row.images_per_second:,.0f}" for row in (plain.loc[task], alone, pack)]
            lines.append([f"{title(task)}, `{method}`", f"{alone.epochs}", *rates, f"{pack.ratio:.1f} ×", f"{alone.seconds:.0f}", f"{pack.seconds:.0f}",
                          f"{pack.peak_memory_mb / 8:.0f}"])
    return markdown(lines) + f"\n\nMeasured: {rows.device.iloc[0]}, bf16, batches of 128; seconds of the steps, without evaluations."


def number(point):
    if point is None:
        return ""
    return f"{point['mean']:.2f}" + (f" ± {point['std']:.2f}" if point["std"] == point["std"] else "")


def markdown(lines):
    """A Markdown table; the first line is the head."""
    head, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---" + "|--:" * (len(lines[0]) - 1) + "|", *rest])


TABLES = {"claims": score,
          "digits": lambda results: accuracy(results, "digits", "paper"),
          "beyond": lambda results: accuracy(results, "digits", "paper", beyond=True, costs=["step"]),
          "beyond_cifar10": lambda results: accuracy(results, "cifar10", "quick", beyond=True, costs=[0.95]),
          "papers": papers,
          "sparse": sparse,
          "faster": faster,
          "training": training,
          "gpu": gpu,
          "cifar10": lambda results: accuracy(results, "cifar10", "quick", costs=["step", 0.95])}


def filled(text, results):
    """`text` with every marked table made anew. Raises ValueError for a mark without an end or a name."""
    for name in re.findall(r"<!-- (\w+) -->", text):
        if name not in TABLES or f"<!-- /{name} -->" not in text:
            raise ValueError(f"<!-- {name} --> has no end, or is not one of {', '.join(TABLES)}")
        part = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = part.sub(lambda found, name=name: f"{found[1]}{TABLES[name](results)}\n{found[2]}", text)
    return text


@command
def main(argv=None):
    """Returns 0, or 1 where `--check` finds a difference."""
    parser = Parser(prog="readme.py", description="Writes the tables of README.md and of the pages that it leads to from the stored rows.")
    parser.add_argument("--results", default=ROOT / "results", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a table is not what is stored")
    args, old, new = parser.parse_args(argv), {}, {}
    try:
        for page in PAGES:
            old[page] = (ROOT / page).read_text(encoding="utf-8")
            new[page] = filled(old[page], args.results)
    except BAD_INPUT as error:
        parser.refuse(error, args)
    changed = [page for page in PAGES if new[page] != old[page]]
    if args.check:
        print(f"{', '.join(changed)} differs from the stored rows: python reproduce/readme.py" if changed else "all pages show the stored rows")
        return int(bool(changed))
    for page in changed:
        write_whole(ROOT / page, new[page])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

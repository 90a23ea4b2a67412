"""The pages' tables of what was measured: step times, sparse storage, GPUs (`readme.py` writes them)."""
from packs import NETWORKS, on_gpus
from published import title
from rows import NoRows, measured, measurements, of_one_machine
from sparse_figure1 import of_its_machine

from benchmarks.tasks import TASKS

FASTER = {("cifar10-mlp", 4.0): "MLP of width 4,096", ("cifar10-vit", 1.0): "ViT", ("cifar10-resnet56", 1.0): "ResNet-56",
          ("cifar10-vgg16", 1.0): "VGG-16 (small)"}


def step_times(results):
    """{method: step time as a multiple of dense} as `benchmarks.overhead` measured it on ResNet-20; {} if it has not."""
    rows = measured(results, "overhead", "task method runs")
    one = (rows.task == "cifar10-resnet20") & (rows.runs == 1) & (rows.precision == TASKS["cifar10-resnet20"].precision)
    rows = of_one_machine(rows[one & rows.sparsity.isin((0.0, 0.95))])  # of dense and of all others
    return {row.method: f"{row.ratio:.2f}" for row in rows.itertuples()}


def sparse(results):
    """Sparse storage against masks: step time and memory of the stored measurements at 98 and 99 %, as multiples of the masked run."""
    rows, shown = of_its_machine(measurements(results / "performance" / "sparse_speed.csv")), (0.98, 0.99)
    rows = rows[rows.sparsity.isin(shown)].set_index(["sparsity", "storage"]).sort_index()
    lines = [["Method", "Network", "Width", "Batch", "Precision",
              *(f"{100 * s:g} %: {what}" for s in shown for what in ("faster", "auto", "smaller"))]]
    for (method, task, width, batch, precision), own in rows.groupby(["method", "task", "width", "batch_size", "precision"]):
        cells = []
        for sparsity in shown:
            ratio, size = ({name: own[column].dropna().get((sparsity, name)) for name in ("masked", "sparse", "auto")}
                           for column in ("ratio", "state_mb"))
            cells += ["" if ratio[name] is None else f"{ratio[name]:.2f} ×" for name in ("sparse", "auto")]
            cells += ["" if None in (size["masked"], size["sparse"]) else f"{size['masked'] / size['sparse']:.0f} ×"]
        if any(cells):
            lines.append([f"`{method}`", task, f"{width:g} ×", f"{batch}", precision, *cells])
    return markdown(lines)


def widths(results):
    """GSE's sparse steps and its updates in fp32, as multiples of the masked ones, at every width and sparsity, for each network on the
    machine that measured most of it (of those with as much, the other tables' one), and on others if they have measurements that it lacks."""
    rows = measurements(results / "performance" / "sparse_speed.csv")
    usual = of_its_machine(rows).device.iloc[0]
    rows = rows[(rows.method == "gse_uniform") & (rows.precision == "fp32") & (rows.storage == "sparse") & rows.ratio.notna()]
    sparsities = sorted(rows.sparsity.unique())
    lines = [["Network", "Width", "Batch", "Processor", *(f"{100 * s:g} %" for s in sparsities)]]
    for (task, width, batch), own in rows.groupby(["task", "width", "batch_size"]):
        known = set()
        while len(own):
            counts = own.device.value_counts()
            one = own[own.device == usual] if counts.get(usual) == counts.max() else of_one_machine(own)
            own = own[own.device != one.device.iloc[0]]
            numbers = one.set_index("sparsity")[["ratio", "update_ratio"]]
            if not (new := {*numbers.stack().dropna().index}) <= known:
                cells = {sparsity: " / ".join("–" if times != times else f"{times:.{int(times < 10)}f}" for times in both)
                         for sparsity, *both in numbers.itertuples()}
                lines.append([title(task), f"{width:g} ×", f"{batch}", one.device.iloc[0], *(cells.get(s, "") for s in sparsities)])
            known |= new
    return markdown(lines)


def faster(results):
    """A short form of `widths`: how many times as fast GSE's sparse steps are, for a few networks."""
    rows = of_its_machine(measurements(results / "performance" / "sparse_speed.csv"))
    rows = rows[(rows.method == "gse_uniform") & (rows.storage == "sparse")].sort_values("batch_size", kind="stable")  # the largest counts
    ratios = rows.set_index(["task", "width", "precision", "sparsity"]).ratio.to_dict()
    columns = [(precision, sparsity) for precision in ("fp32", "bf16") for sparsity in (0.98, 0.99)]
    lines = [["Steps, masked / sparse", *(f"{precision}: {100 * sparsity:g} %" for precision, sparsity in columns)]]
    for (task, width), name in FASTER.items():
        found = [ratios.get((task, width, *column)) for column in columns]
        lines.append([name, *("" if ratio is None else f"{ratio:.{int(ratio < 10)}f}" for ratio in found)])
    return markdown(lines)


def training(results):
    """Whole trainings with sparse and with masked storage: accuracy of the last epoch over seeds, time and memory of the process."""
    rows = of_one_machine(measurements(results / "performance" / "sparse_training.csv"))
    network = ["task", "width", "sparsity", "precision", "epochs"]
    cells = rows[rows.method == "gse_uniform"].groupby([*network, "storage"])
    points = cells.agg(mean=("top1", "mean"), std=("top1", "std"), seconds=("seconds", "mean"), memory=("peak_memory_mb", "first"),
                       seeds=("seed", "nunique"), prunable=("prunable", "first"))
    lines = [["Network", "Weights, active", "Precision", "Epochs", "Seeds",
              *(f"{what}: {storage}" for what in ("Accuracy", "Seconds", "Memory, MB") for storage in ("masked", "sparse"))]]
    for (task, width, sparsity, precision, epochs), own in points.groupby(network):
        own = own.droplevel(network)
        if {"masked", "sparse"} <= set(own.index):
            both = [own.loc[storage] for storage in ("masked", "sparse")]
            first = both[0]
            lines.append([title(task) + f", width × {width:g}" * (width != 1), f"{first.prunable:,.0f}, {100 * (1 - sparsity):.2g} %",
                          precision, f"{epochs}", f"{first.seeds:.0f}", *map(number, both),
                          *(f"{one.seconds:.1f}" for one in both), *(f"{one.memory:.0f}" for one in both)])
    return markdown(lines)


def gpu(results):
    """Training on a GPU: images a second of a plain loop, of one run and of a pack, and the time of a run of the recipe's length at that rate."""
    try:
        rows = on_gpus(measurements(results / "performance" / "throughput.csv"))
    except NoRows:
        return "No rows yet."
    lines = [["Network", "Epochs", "Plain loop, images/s", "One run", "8 runs", "8 runs / plain", "Seconds a run: alone", "of 8", "Memory a run, MB"]]
    plain = rows[rows.loop == "plain"].drop_duplicates("task").set_index("task")
    packs = rows[(rows.loop == "suite") & (rows.precision == "bf16") & rows.runs.isin((1, 8))]
    for (task, method, _), own in sorted(packs.groupby(["task", "method", "sparsity"]), key=lambda group: NETWORKS.index(group[0][0])):
        if task in plain.index and len(own) == 2:
            alone, pack = own.sort_values("runs").itertuples()
            rates = [f"{row.images_per_second:,.0f}" for row in (plain.loc[task], alone, pack)]
            lines.append([f"{title(task)}, `{method}`", f"{alone.epochs}", *rates, f"{pack.ratio:.1f} ×", f"{alone.seconds:.0f}",
                          f"{pack.seconds:.0f}", f"{pack.peak_memory_mb / 8:.0f}"])
    return markdown(lines) + f"\n\nMeasured: {rows.device.iloc[0]}, bf16, batches of 128; seconds of the steps, without evaluations."


def number(point):
    if point is None:
        return ""
    return f"{point['mean']:.2f}" + (f" ± {point['std']:.2f}" if point["std"] == point["std"] else "")


def markdown(lines, rule="--:"):
    """A Markdown table of Markdown texts; the first line is the head. rule: of all columns but the first ("--:": aligned right)."""
    head, *rest = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---" + f"|{rule}" * (len(lines[0]) - 1) + "|", *rest])

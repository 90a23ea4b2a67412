"""Published results (`results/published.csv`) with the suite's own names of tasks and methods. Measured results are shown beside them, never mixed
with them."""
import re
import sys
from functools import cache, wraps
from pathlib import Path

from rows import POINT, NoRows, series_of

PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published.csv"
ABSENT = "published results are left out: results/published.csv is only in a checkout of the repository"
PUBLISHED_AS = {  # {task: (data set and model as published, epochs of the paper's recipe)}
    "cifar10-resnet20": ("CIFAR-10", "ResNet-20", 160),
    "imagenet-resnet50": ("ImageNet", "ResNet-50", 100),
    "imagenet-mobilenetv1": ("ImageNet", "MobileNetV1", 100),
    **{f"{data.lower().replace('-', '')}-{short}": (data, model, 200) for data in ("CIFAR-10", "CIFAR-100")
       for short, model in (("resnet56", "ResNet-56"), ("vgg16", "VGG-16"), ("vit", "ViT (GSE CIFAR config)"))},
}
TASK_OF = {(data, model): task for task, (data, model, _) in PUBLISHED_AS.items()}
TITLES = {**{task: f"{model.partition(' (')[0]}, {data}" for task, (data, model, _) in PUBLISHED_AS.items()},
          "cifar10-resnet20w8": "ResNet-20 of width 8, CIFAR-10", "cifar10-mlp": "MLP, CIFAR-10",
          "cifar10-vgg11": "VGG-11, CIFAR-10", "cifar100-wrn34x2": "WRN-34x2, CIFAR-100", "digits": "ResNet-8, digits",
          "digits-mlp": "MLP, digits"}
METHODS = {"Dense": "dense", "ST-3": "st3", "ST-3-sigma": "st3_sigma", "GMP": "gmp", "STR": "str", "ProbMask": "probmask", "DNW": "dnw",
           "LRR": "lrr", "LTH": "imp", "SNIP": "snip", "GraSP": "grasp", "SynFlow": "synflow", "Static": "static", "SET": "set",
           "RigL": "rigl", "GraNet": "granet", "Top-KAST": "topkast", "GSE": "gse_uniform"}
BEYOND = {"Feather": "feather", "AC/DC": "acdc", "SRigL": "srigl", "SNFS": "snfs", "MEST": "mest", "DPF": "dpf",
          "DSR": "dsr"}  # DSR is in no figure of the papers
CYCLES = ("lrr", "imp")  # for these, papers give the epochs of one cycle or of all
PAPERS = {"st3": "Vanderschueren & De Vleeschouwer 2023", "gse": "Heddes et al. 2024", "lrr": "Renda et al. 2020, 182 epochs a cycle",
          "str": "Kusupati et al. 2020", "rigl": "Evci et al. 2020", "gale2019": "Gale et al. 2019", "dnw": "Wortsman et al. 2019",
          "probmask": "Zhou et al. 2021", "granet": "Liu et al. 2021", "zhu_gupta": "Zhu & Gupta 2018",
          "feather": "Glentis Georgoulakis et al. 2023", "acdc": "Peste et al. 2021", "srigl": "Lasby et al. 2024",
          "snfs": "Dettmers & Zettlemoyer 2019", "mest": "Yuan et al. 2021", "dsr": "Mostafa & Wang 2019",
          "topkast": "Jayakumar et al. 2020", "dpf": "DPF by a third party"}


def tell_absent():
    """Says on stderr, after a command has drawn or judged, that published results were left out because their file is missing."""
    if not PUBLISHED.exists():
        print(ABSENT, file=sys.stderr)


def title(task):
    return TITLES.get(task, task)


def network(task):
    """The title of a task's network alone."""
    return title(task).partition(",")[0]


@cache
def published(beyond=False):
    """The published rows that a task and a method of the suite can reproduce, with the columns of `rows.summary`; empty if there is no table.

    Additional columns: `variant`, `macs` (absolute) and `macs_fraction` (of dense), NaN where unknown, `source` (the paper) and `where` (its
    figure or table). `options` are the suite's options for the same run; epochs other than the recipe's become `epochs=N`. With
    `beyond`, the methods beyond the two papers and the rows of `results/published_beyond.csv` are included.
    """
    import pandas as pd

    columns = "task method options sparsity mean std seeds epochs variant macs macs_fraction source where train_flops".split()
    if not PUBLISHED.exists():
        return pd.DataFrame(columns=columns)
    files = [PUBLISHED, *([PUBLISHED.with_name("published_beyond.csv")] if beyond else [])]
    rows, methods = pd.concat([pd.read_csv(file) for file in files if file.exists()]), {**METHODS, **(BEYOND if beyond else {})}
    found = []
    for row in rows[rows.method.isin(methods)].itertuples():
        if task := TASK_OF.get((row.dataset, row.model)):
            *_, epochs = PUBLISHED_AS[task]
            method = "gradual" if row.method == "GMP" and row.paper_id == "gse" else methods[row.method]
            options = []
            if row.paper_id == "gse" and str(row.variant).startswith("uniform sparsity"):
                options.append("allocation=uniform")
            if row.paper_id == "gse" and str(row.variant).startswith("width") and row.variant != "width 1x":
                options.append(f"width={float(row.variant.split()[1][:-1])}")
            if row.epochs > 0 and row.epochs != epochs and method not in CYCLES:
                options.append(f"epochs={row.epochs:.0f}")
            sparsity = row.target_sparsity if pd.isna(row.achieved_sparsity) else row.achieved_sparsity
            place = (re.search(r"(?:Fig|Table) \d+", str(row.source)) or [""])[0]
            where = ", ".join(filter(None, ["quoted elsewhere" * (row.source_kind == "secondary"), place]))
            found.append([task, method, " ".join(options), round(sparsity, 4), row.top1_mean, row.top1_std, row.seeds, row.epochs,
                          row.variant, row.flops_mac, row.flops_fraction, row.paper_id, where,
                          row.train_flops_fraction])
    return pd.DataFrame(found, columns=columns).astype({"seeds": "Int64", "epochs": "Int64"})


def settings(rows, chosen):
    """The published rows selected by chosen, {(paper, method): how the variant's name starts}, in that order; missing names of variants become ""."""
    import pandas as pd

    rows = rows.assign(variant=rows.variant.fillna(""))
    return pd.concat([rows[(rows.source == paper) & (rows.method == method) & rows.variant.str.startswith(start)]
                      for (paper, method), start in chosen.items()])


def beside_published(caveats, *columns, points=published, alone=""):
    """A decorator of a figure's source (as `rows.runs_of`): on ImageNet, the note also says that published points are each in its authors' setting,
    and these caveats, the rest of that sentence and more; if no run of ours is stored, only they are drawn: the runs are then none, with additional
    columns. points: the published points as a DataFrame, without which nothing is changed. alone: what the caveats begin with then."""
    def decorated(source):
        @wraps(source)
        def both(grid, suite, results, profile=None):
            import pandas as pd

            drawn = suite == "imagenet" and len(points())
            try:
                runs, profile = source(grid, suite, results, profile)
                out = f"{runs.attrs.get('out', '')} Published points: each in its authors' setting{caveats}"
                runs.attrs |= {"out": out} if drawn else {}
            except NoRows:
                if not drawn or grid.other:
                    raise
                runs, profile = pd.DataFrame(columns=[*POINT, "seed", "status", "accuracy", "epochs", *columns]), profile or "paper"
                runs.attrs["note"] = f"No run of ours is stored. Test accuracy, each in its authors' setting{alone}{caveats}"
            return runs, profile
        return both
    return decorated


def hollow(runs, methods):
    """The published points for a panel: of the tasks of its runs and of these series (method and options), within its range of sparsities."""
    rows = published()
    done = runs[runs.accuracy.notna()]
    other = set(done.task[~as_long(done)])  # tasks not trained for the papers' number of epochs
    rows = once(rows[~rows.task.isin(other)])
    series = series_of(rows)
    low, high = runs.sparsity[runs.method != "dense"].min(), runs.sparsity.max()
    inside = rows.sparsity.between(low - 1e-3, high + 1e-3) | (rows.method == "dense")
    return rows[rows.task.isin(runs.task) & series.isin(list(methods)) & inside].drop(columns=["variant", "macs", "macs_fraction", "train_flops"])


def once(rows):
    """These published rows without a number that its paper gives a second time; one with a spread stays."""
    point = ["task", "method", "options", "sparsity", "source"]
    return rows.loc[rows.sort_values("std", kind="stable").drop_duplicates(point).index.sort_values()]


def as_long(table):
    """Which of these measured points (`task`, `options`, `epochs`) were trained for as long as their options or else the paper's recipe say."""
    recipe = table.task.map({task: epochs for task, (*_, epochs) in PUBLISHED_AS.items()})
    named = table.options.str.extract(r"\bepochs=(\d+)")[0].astype(float)
    return named.fillna(recipe).isna() | (named.fillna(recipe) == table.epochs.astype(float))


def without_storage(options):
    """These options (text) without that of sparse storage, with which a method trains as with masks."""
    return " ".join(word for word in options.split() if word != "storage=sparse")


def compare(table):
    """Joins each measured point with the published ones of the same model, data, method, options (in any storage), epochs and sparsity; adds the
    difference."""
    keys = ["task", "method", "options", "near"]
    rows = published().rename(columns={"mean": "published"})
    rows = rows.assign(near=rows.sparsity.astype(float))[[*keys, "published", "source", "where"]]
    table = table.assign(near=table.sparsity.astype(float).round(4), own=table.options, options=table.options.map(without_storage))
    table = table.drop(columns="source", errors="ignore").merge(rows, on=keys, how="left")
    table = table.assign(options=table.own).drop(columns=["near", "own"])
    table.loc[~as_long(table), ["published", "source", "where"]] = None
    return table.assign(difference=(table["mean"] - table.published.astype(float)).round(2))


def citation(sources):
    """The sentence under a figure that shows published values."""
    names = [PAPERS.get(source, source) for source in sorted(set(sources))]
    files = "results/published.csv" + ", published_beyond.csv" * bool({"feather", "dpf"} & set(sources))
    return f" Published: {'; '.join(names)} ({files})." if names else ""

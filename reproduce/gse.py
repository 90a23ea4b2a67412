"""What the scripts of GSE's figures and tables share: their grids, their panels and the drawing of a table."""
from dataclasses import replace

from drawing import tasks_of
from marks import remark
from published import title, without_storage
from rows import runs_of, series_of, value_of

from benchmarks.grid import Grid
from benchmarks.suites import SEEDS, suite_grid
from benchmarks.tasks import TASKS, suite_of

SPARSE = ("storage", "sparse")
MODELS = ("resnet56", "vgg16", "vit")
SPARSITIES = (0.9, 0.95, 0.98)
# numbers of prunable weights at 1, 2, 3 and 4 times the task's width (tests/test_gse_figures.py compares them with the models)
WEIGHTS = {"cifar100-resnet56": (854704, 3405152, 7651344, 13593280), "cifar100-vgg16": (1298608, 5091168, 11377680, 20158144),
           "cifar100-vit": (4270080, 16928768, 37976064, 67411968), "digits": (19408, 76704, 171888, 304960),
           "cifar10-resnet20w8": (67992, 270896, 608712, 1081440)}


def gse_grid(suite, profile, methods, sparsities=SPARSITIES, data=("cifar10", "cifar100"), models=MODELS, extra=False, stretch=1,
             options=()):
    """A grid on GSE's tasks in the suites `data`, only in profile paper, because it would take days on CPUs; a `miniature` has the suite's own task.

    extra: the runs are needed by no other figure, so that a miniature has only one seed. stretch: epochs, as a multiple of the recipe's.
    """
    small = miniature(suite, profile)
    if small:
        own = suite_grid(suite, profile, ())
        tasks, epochs = own.tasks, own.epochs
    elif suite in data and profile == "paper":
        tasks, epochs = tuple(f"{suite}-{model}" for model in models), None
    else:
        return ()
    if stretch != 1:
        epochs = round(stretch * (epochs or TASKS[tasks[0]].epochs))
    return Grid(tasks, tuple(methods), tuple(sparsities), SEEDS[:1] if extra and small else SEEDS, epochs, None, options)


def miniature(suite, profile):
    """Whether GSE's figures show the suite's small task: in suite digits, and in profile quick of cifar10."""
    return suite == "digits" or (suite, profile) == ("cifar10", "quick")


def widths(suite, profile):
    """The widths that are compared with the task's own, as multiples of it."""
    return {"digits": (2, 4), "cifar10": (2,)}[suite] if miniature(suite, profile) else (2, 3, 4)


def wider(suite, profile, method, task, width, sparsity):
    """The grid of a method on a network `width` times as wide as the task's."""
    options = {"width": TASKS[task].width * width}
    return gse_grid(suite, profile, (method,), (sparsity,), ("cifar100",), (task.partition("-")[2],), extra=True, options=options)


def width_of(task, options):
    """The width that options (text) give a network, as a multiple of its task's."""
    return value_of(options, "width", TASKS[task].width) / TASKS[task].width


def not_the_papers(runs, paper="ResNet-56, VGG-16, ViT, 200 epochs"):
    """If none of the tasks is GSE's, has the figure's note say what the paper has (digits' note does anyway) and that RigL and SET have their own
    papers' settings, while they have GSE's on GSE's tasks."""
    if any(task.endswith(MODELS) for task in runs.task):
        return
    names = [label for method, label in (("rigl", "RigL"), ("set", "SET")) if method in set(runs.method)]
    words = f" In miniature; the paper: {paper}." * ("digits" not in set(runs.task))
    if names:
        papers = "their own papers" if len(names) > 1 else "its own paper"
        words += (f" {' and '.join(names)} as in {papers} (drop fraction 0.3 until 3/4 of training, layer by layer; GSE: 0.2, 0.6, over all "
                  "layers)" + "; ER is ERK" * bool(runs.options.str.contains("allocation=uniform").any()) + ".")
    runs.attrs["out"] = runs.attrs.get("out", "") + words


def sparse_too(labels):
    """A `source` (as `rows.runs_of`) in which points that have no runs with masks have those with sparse storage, as the figure's note says, and all
    others of such a method and task that are stored so, too: no line joins unlike storages. labels: {method, or method and options: its name in the
    figure}."""
    def source(grid, suite, results, profile=None):
        runs, profile = runs_of(grid, suite, results, profile, lambda *of: [replace(each, options=(*each.options, SPARSE)) for each in grid(*of)])
        options, sparse = runs.options.map(without_storage), runs.options.str.contains("=".join(SPARSE))
        point = [runs.task, runs.method, options, runs.sparsity]
        done = runs.accuracy.notna()
        alone = sparse & ~(done & ~sparse).groupby(point).transform("any")
        instead = sparse & alone.groupby([runs.task, runs.method]).transform("any")
        replaced = done & instead.groupby(point).transform("any") | instead.groupby([*point, runs.seed]).transform("any")
        runs = runs[instead | ~sparse & ~replaced]
        taken = dict.fromkeys(labels.get(f"{method} {text}", f"{labels[method]}{f' ({text})' * bool(text)}")
                              for method, text in zip(runs.method[instead], options[instead]))
        runs.attrs["out"] = f" With sparse storage: {', '.join(taken)}." * bool(taken)
        return runs.reset_index(drop=True), profile
    return source


def series_in_any_storage(table):
    """`rows.series_of`, in which sparse storage is no other series."""
    return series_of(table.assign(options=table.options.map(without_storage)))


def same_active(task, width, sparsity):
    """The sparsity at which a network `width` times as wide has as many active weights as the narrow one at `sparsity`, with as few
    decimals as possible."""
    narrow, wide = WEIGHTS[task][0], WEIGHTS[task][width - 1]
    rounded = (round(1 - (1 - sparsity) * narrow / wide, decimals) for decimals in range(17))
    return next(s for s in rounded if round(wide - wide * s) == round(narrow - narrow * sparsity))


def panels(figure, runs):
    """{task: axes} for the tasks that have runs: a row for each data set and a column for each model; with several columns, at page width."""
    rows = {}
    for task in tasks_of(runs):
        rows.setdefault(suite_of(task), []).append(task)
    columns = max(map(len, rows.values()))
    if columns > 1:
        figure.set_size_inches(7, 1.9 * len(rows) + 0.7)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    found = {task: axes for line, tasks in zip(grid, rows.values()) for axes, task in zip(line, tasks)}
    for task, axes in found.items():
        axes.set_title(title(task))
    return found


def epoch_lines(axes, lines, column, band=True, **style):
    """Draws the mean over seeds of a column of curves.csv by epoch (from 1), with the range over the seeds if `band` is set.

    Returns a table: epoch, column, mean, low and high (over the seeds), seeds.
    """
    epochs = lines.assign(epoch=lines.epoch - lines.groupby("key").epoch.transform("min") + 1).groupby("epoch")[column]
    table = epochs.agg(mean="mean", low="min", high="max", seeds="count").reset_index()
    axes.plot(table.epoch, table["mean"], **{"lw": 0.8, **style})
    if band and table.seeds.max() > 1:
        axes.fill_between(table.epoch, table.low, table.high, color=style["color"], alpha=0.2, lw=0, zorder=style.get("zorder", 1))
    return table.assign(column=column)


def plus_minus(mean, std):
    """"54.3 ± 0.5", or without the deviation where there is none; a small one, which is not 0, with two decimals."""
    return f"{mean:.1f}" + (f" ± {std:.{2 if 0 < std < 0.05 else 1}f}" if std == std else "")


def text_table(figure, table, rows, blocks, head):
    """Draws `table` with `rows` {series: label} and `blocks` of columns, one block below another; returns `table`.

    A column is (label, function of the table that gives a mask of its points). A cell has the measured mean ± s.d. above the published one, which
    is in brackets; a dash if there is neither. The texts are in `table.attrs`, for `drawing.save`.
    """
    def cell(points):
        own, other = points[points.source == "measured"], points[points.source != "measured"]
        text = [plus_minus(p.mean, p.std) for p in own[:1].itertuples()] + [f"[{plus_minus(p.mean, p.std)}]" for p in other[:1].itertuples()]
        return "\n".join(text) or "–"

    series, measured = series_in_any_storage(table), table.source == "measured"
    if (table.seeds[measured] == 1).any():
        remark(figure, "Without ±: one seed." if measured.all() else "Measured without ±: one seed.")
    head += f": {'measured ' if measured.any() else ''}[published]" if not measured.all() else ""
    texts = []
    figure.set_size_inches(max(3.4, 0.9 + 0.68 * max(map(len, blocks))), (0.5 + 0.27 * (len(rows) + 1)) * len(blocks) + 0.4)
    for axes, columns in zip(figure.subplots(len(blocks), 1, squeeze=False)[:, 0], blocks):
        axes.axis("off")
        text = [[cell(table[(series == name) & chosen(table)]) for _, chosen in columns] for name in rows]
        texts.append([["", *(label for label, _ in columns)], *([label, *line] for label, line in zip(rows.values(), text))])
        drawn = axes.table(text, rowLabels=list(rows.values()), colLabels=[label for label, _ in columns], loc="center",
                           cellLoc="center", bbox=(0, 0, 1, 1), edges="horizontal")
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(6)
        for column in range(len(columns)):
            drawn[0, column].set_height(1.6 * drawn[1, column].get_height())
    figure.axes[0].set_title(head)
    table.attrs.update(head=head, blocks=texts)  # only now: pandas copies them with each selection of the table
    return table

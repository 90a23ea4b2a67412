"""GSE, supplement, Figure 9: how strongly each layer is compressed, by method and sparsity (weights per active weight, log axis).

Three networks, averaged over seeds and over CIFAR-10 and CIFAR-100: the sum of a layer's weights divided by that of its active ones. Suite digits,
and cifar10 in profile quick: in miniature.
"""
from drawing import WIDTH, main
from gse import MODELS, SPARSITIES, gse_grid, not_the_papers, series_in_any_storage, sparse_too
from marks import look, remark
from published import network
from rows import layers_of

from benchmarks.grid import union

METHODS = {"static": "Static", "gradual": "Gradual", "imp": "Lottery", "snip": "SNIP", "grasp": "GraSP", "synflow": "SynFlow",
           "set allocation=uniform": "SET, uniform", "set": "SET, ER", "rigl allocation=uniform": "RigL, uniform", "rigl": "RigL, ER",
           "gse_uniform": "GSE uniform"}


def grid(suite, profile):
    """The runs that the figure needs."""
    return union(gse_grid(suite, profile, [name for name in METHODS if " " not in name]),
                 gse_grid(suite, profile, ("set", "rigl"), extra=True, options={"allocation": "uniform"}))


source = sparse_too(METHODS)


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    from matplotlib.ticker import LogLocator

    not_the_papers(runs)
    if runs.dataset.nunique() > 1:
        remark(figure, "Over all data sets.")
    lines = layers_of(runs, runs.status == "ok")
    lines["model"] = lines.task.str.partition("-")[2].replace("", "digits")
    lines["series"] = series_in_any_storage(lines)
    table = lines.groupby(["model", "series", "sparsity", "index"])[["weights", "nnz"]].sum().reset_index()
    table["compression"] = table.weights / table.nnz.where(table.nnz > 0)
    names = {task.partition("-")[2] or task: network(task) for task in lines.task.unique()}
    models = sorted(table.model.unique(), key=lambda model: MODELS.index(model) if model in MODELS else len(MODELS))
    columns = max(2, len(models))  # with one model, two methods side by side
    cells = [(series, model) for series in METHODS for model in models]
    figure.set_size_inches(2.2 * columns + 0.6 if len(models) > 1 else WIDTH, 0.75 * -(-len(cells) // columns) + 1)
    axes = figure.subplots(-(-len(cells) // columns), columns, squeeze=False, sharex="col", sharey=True)
    panels = axes.ravel()
    for panel, (series, model) in zip(panels, cells):
        for index, sparsity in enumerate(SPARSITIES):
            points = table[(table.model == model) & (table.series == series) & (table.sparsity == sparsity)]
            if len(points):
                panel.plot(points["index"], points.compression, ms=1.5, lw=0.6, label=f"{100 * sparsity:g} %", **look(index))
        panel.set(yscale="log")
        panel.text(0.02, 1, METHODS[series], transform=panel.transAxes, va="bottom", fontsize=6)
        panel.yaxis.set_major_locator(LogLocator(numticks=9))
        panel.yaxis.set_minor_formatter("")
    for panel in panels[:len(cells)][-columns:]:  # the lowest panel of each column
        panel.set_xlabel("Layer")
        panel.tick_params(labelbottom=True)
        panel.xaxis.get_major_locator().set_params(integer=True)
    for panel in panels[len(cells):]:
        panel.set_axis_off()
    for column, top in enumerate(axes[0]):
        top.set_title(names[models[column % len(models)]], pad=12)
    figure.supylabel("Weights per active weight", fontsize=7)
    return table


draw.labels = METHODS
draw.lead = "All weights of a layer divided by its active ones, over {seeds}; no point where a layer has none."
draw.diverged = "left out"

if __name__ == "__main__":
    raise SystemExit(main("gse_figure9", grid, draw, source=source))

"""Accuracy against training FLOPs, for `length.py`, and for chosen methods with `compare.py --costs`."""
from drawing import WIDTH, tasks_of
from gse import plus_minus
from marks import DENSE_LINE, looks, mean_line, number_decades, remark
from notes import note
from published import title
from rows import POINT, series_of, summary

FLOPS = "Training FLOPs (epochs of dense training)"


def costed(runs):
    """`rows.summary` with `dense_epochs`: the training FLOPs of a point's runs, in epochs of dense training. A diverged run does not count."""
    flops = runs[runs.status == "ok"].assign(dense_epochs=lambda done: done.train_flops_fraction.astype(float) * done.epochs)
    return summary(runs).merge(flops.groupby(POINT).dense_epochs.mean().round(4).reset_index(), on=POINT, how="left")


def flops_axis(axes, table):
    """Makes x of these axes the training FLOPs of a table of `costed`: logarithmic, with plain numbers."""
    axes.set_xlabel(FLOPS)
    if table.dense_epochs.notna().any():  # if all runs diverged there is no cost to draw, and no logarithm of the axis's limits
        axes.set_xscale("log")
        number_decades(axes.xaxis, 1, 3)


def by_length(runs):
    """The same runs with their length among the options ("epochs=30"), so that each length is a point of its own."""
    return runs.assign(options=(runs.options + " epochs=" + runs.epochs.astype(int).astype(str)).str.strip())


def name_of(table):
    """The series of each line, without the length that `by_length` added."""
    return series_of(table).str.replace(r" epochs=\d+$", "", regex=True)


def as_text(table, labels, text):
    """The texts from which `drawing.save` makes the .md and .tex: for each task its points, the cheapest first, and the note `text`."""
    blocks = []
    for task in table.task.unique():
        points = table[table.task == task].assign(series=name_of).sort_values(["dense_epochs", "epochs"], kind="stable")
        lines = [[labels[p.series], f"{p.epochs}", "–" if p.dense_epochs != p.dense_epochs else f"{p.dense_epochs:.3g}", plus_minus(p.mean, p.std)]
                 for p in points.itertuples()]
        blocks.append([[title(task), "Epochs", FLOPS, "Test accuracy (%)"], *lines])
    return dict(head="Accuracy and training FLOPs", blocks=blocks, note=text)


def drawing(labels, runs, remarks=()):
    """The function that draws these runs (`by_length`), at one sparsity in each task, into an empty figure, each length of training as a point, and
    returns the table of what was drawn. labels: {series without the length: label}. remarks: sentences for the note."""
    labels = {"dense": "Dense", **labels}
    styles = {"dense": DENSE_LINE, **looks([name for name in labels if name != "dense"])}

    def draw(runs, figure):
        table, tasks = costed(runs), tasks_of(runs)
        figure.set_size_inches(WIDTH * min(len(tasks), 2), 2.8)
        for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks):
            there = table[(table.task == task) & table.dense_epochs.notna()]
            for name, style in styles.items():
                points = there[name_of(there) == name].sort_values("epochs")
                if len(points):
                    style = style | dict(marker="o", linestyle="--") if name == "dense" else style
                    mean_line(axes, points.dense_epochs, points, points["std"], label=labels[name], **style)
            flops_axis(axes, there)
            sparsity = table.sparsity[(table.task == task) & (table.method != "dense")].max()
            axes.set(title=f"{title(task)}, {100 * sparsity:g} %", ylabel="Test accuracy (%)")
        for sentence in ("Each point: a length of training.", *remarks):
            remark(figure, sentence)
        table.attrs.update(as_text(table, labels, note(runs, labels=draw.labels)))
        return table

    draw.labels = labels | dict(zip(series_of(runs), name_of(runs).map(labels)))
    return draw

"""ST-3, Figure 4: test accuracy against sparsity (left) and against the multiply-accumulates of inference (right), logarithmic.

Paper: ResNet-50 (top) and MobileNetV1 (bottom) on ImageNet, ST-3 and ST-3σ beside values from the literature. Published points are
hollow; runs of ours are filled, where there are any. Other suites: the suite's own network in miniature.
"""
from dataclasses import replace

from drawing import main, tasks_of
from marks import BARS, DENSE_LINE, PUBLISHED, apart, cut, looks, lowest, mean_line, number_decades, remark, sparsity_axis
from published import beside_published, published, settings, title
from rows import POINT, none_finished, summary, with_sparser

from benchmarks.grid import union
from benchmarks.suites import suite_grid
from benchmarks.tasks import suite_of

METHODS = {"st3": "ST-3", "st3_sigma": "ST-3σ", "gmp": "GMP", "dnw": "DNW", "str": "STR", "rigl": "RigL", "probmask": "ProbMask",
           "granet": "GraNet"}
OWN = ("dense", "st3", "st3_sigma")
# what the paper compares with, each in its authors' setting: {(paper, method): how the name of its variant starts}
LITERATURE = {("st3", "dense"): "", ("str", "dense"): "", ("st3", "st3"): "", ("st3", "st3_sigma"): "", ("gale2019", "gmp"): "standard",
              ("dnw", "dnw"): "all layers sparse", ("str", "str"): "", ("rigl", "rigl"): "ERK", ("probmask", "probmask"): "",
              ("zhu_gupta", "gmp"): ""}
CAVEATS = (" (RigL on MobileNetV1: 5 times the epochs; ProbMask: normalised by test images, an upper bound). No numbers are at hand of ST-3 on "
           "MobileNetV1 and of GraNet at 100 epochs, and on ResNet-50 no MACs of DNW and ProbMask, and of GMP at 80 to 95 % alone. MACs of RigL "
           "and GMP are computed from RigL's authors' fractions of dense.")
IMAGENET = ("imagenet-resnet50", "imagenet-mobilenetv1")
LEAST = {"imagenet-resnet50": 60}  # lower end of the accuracy axis


def grid(suite, profile):
    """The runs of our own that the figure shows: on ImageNet the paper's, else those of all its methods."""
    base = suite_grid(suite, profile, OWN if suite == "imagenet" else ("dense", *METHODS))
    return union(base, replace(base, tasks=("imagenet-mobilenetv1",))) if (suite, profile) == ("imagenet", "paper") else base


@beside_published(CAVEATS, "macs")
def source(grid, suite, results, profile=None):
    """As `with_sparser`, on the suite's own data only; on ImageNet, the published points are drawn even without runs of ours."""
    runs, found = with_sparser(grid, suite, results, profile)
    runs = runs[runs.task.map(suite_of) == suite]
    if not runs.accuracy.notna().any():
        raise none_finished(suite, results, profile, grid.precision, grid.epochs)
    if suite not in ("digits", "imagenet"):  # for digits, the note says so anyway (REDUCED)
        runs.attrs["out"] += " In miniature; the paper: ResNet-50 and MobileNetV1 on ImageNet, 100 epochs."
    return runs, found


def literature(task):
    """Published points of a task; if a paper gives MACs only as a fraction of dense, they are computed. RigL on MobileNetV1 has 5 times the
    epochs. The fractions of GMP's on ResNet-50 are with the same numbers where RigL's authors quote them."""
    rows = published()
    dense = rows[(rows.task == task) & (rows.method == "dense")].macs.max()  # two papers give it, with nearly the same value
    rows = rows[rows.task == task]
    quoted = rows[rows.variant.fillna("").str.startswith("Gale et al. 1x")].set_index("sparsity").macs_fraction
    rows = settings(rows, LITERATURE).query("sparsity >= 0.7 or method == 'dense'")
    rows["macs_fraction"] = rows.macs_fraction.fillna(rows.sparsity.map(quoted).where(rows.source == "gale2019"))
    rows = rows.drop_duplicates(["method", "options", "sparsity", "variant"])
    rows = rows if (rows.method != "dense").any() else rows[:0]
    allowed = ("", "epochs=500") if "mobilenet" in task else ("",)
    rows = rows[rows.options.isin(allowed) & ~rows.variant.str.contains("released|label")]
    return rows.assign(macs=rows.macs.fillna(rows.macs_fraction * dense))


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    import pandas as pd
    from matplotlib.ticker import MaxNLocator

    whole = runs[runs.status == "ok"]  # a diverged run has the MACs of the moment when it diverged
    own = summary(runs).merge(whole.groupby(POINT, sort=False).macs.mean().reset_index(), on=POINT, how="left")
    tasks = list(IMAGENET) if runs.empty else tasks_of(runs, [task for task in runs.task.unique() if len(literature(task))])
    tables, styles = [], looks(METHODS)
    figure.set_size_inches(3.4, 0.8 + 1.9 * len(tasks))
    for task, pair in zip(tasks, figure.subplots(len(tasks), 2, squeeze=False, sharey="row")):
        ours, theirs = own[own.task == task], literature(task)
        tables += [ours, theirs]
        sparse = pd.concat([rows["mean"][rows.method != "dense"].astype(float) for rows in (ours, theirs)])
        for axes, column in zip(pair, ("density", "macs")):
            lines = []
            for rows, measured in ((ours, True), (theirs, False)):
                rows = rows.assign(density=1 - rows.sparsity, macs=rows.macs / 1e6).sort_values("sparsity")
                for mean in rows[rows.method == "dense"]["mean"]:
                    axes.axhline(mean, **DENSE_LINE, label="Dense", zorder=0, lw=1 if measured else 0.6)
                for index, (method, label) in enumerate(METHODS.items()):
                    style = styles[method] | dict(ms=3, lw=0.7, label=label)
                    for _, points in rows[rows.method == method].groupby("options"):
                        x = points[column] * (apart(index, len(METHODS), 1.015) if column == "density" else 1)
                        lines.append((method, style, x, points))
                        if measured:
                            mean_line(axes, x, points, points["std"], **style)
                        else:
                            axes.errorbar(x, points["mean"], points["std"], **style, **PUBLISHED, **BARS)
            axes.set_xscale("log")
            if len(sparse):
                cut(axes, lines, METHODS, LEAST.get(task, lowest(sparse)))
        remark(figure, "Points of one sparsity are drawn side by side.")
        densities = [1 - s for s in pd.concat([ours, theirs]).sparsity if s] or [0.2, 0.01]
        left, right = 1.25 * max(densities), min(densities) / 1.25
        pair[0].set_xlim(left, right)
        sparsity_axis(pair[0], [t for t in (0.3, 0.2, 0.1, 0.05, 0.02, 0.01) if right < t < left])
        pair[0].set(ylabel="Test accuracy (%)", title=title(task))
        low, high = pair[1].get_xlim()
        number_decades(pair[1].xaxis, *((1, 2, 5) if high < 50 * low else (1,)))
        if high < 5 * low:  # fewer than two of these, and a LogLocator would then take too many of its own
            pair[1].xaxis.set_major_locator(MaxNLocator(2))
        pair[1].set(xlabel="Inference MACs (millions)")
    return pd.concat(tables).drop(columns=["variant", "macs_fraction", "train_flops"], errors="ignore")


draw.labels = METHODS

if __name__ == "__main__":
    raise SystemExit(main("figure4", grid, draw, source=source))

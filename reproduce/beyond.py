"""Beyond the two papers: test accuracy of the methods beside and after them, against sparsity and against training FLOPs.

The papers' own methods are grey, except for three, which look as in all figures. Points that keep more than twice the weights asked for (mean of
their runs) are left out; a training that is the same whatever sparsity was asked for is one point. Published points, each in its authors'
setting, are hollow; if no run of ours is stored, they are drawn alone.
"""
from drawing import main, tasks_of
from marks import DENSE_LINE, PUBLISHED, apart, cut, looks, lowest, mean_line, number_decades, sparsity_axis
from published import beside_published, published, settings, title
from rows import POINT, none_finished, repeated, runs_of, summary

from benchmarks.suites import suite_grid

GROUPS = {
    "Pruned while trained": {
        "feather": "Feather", "dpf": "DPF", "acdc": "AC/DC", "powerprop_gmp": "Powerprop + GMP", "spartan": "Spartan",
        "movement": "movement", "dst_mask": "DST, thresholds", "fisher_diag": "OBD, diagonal"},
    "Sparse to sparse": {
        "snfs": "SNFS", "mest": "MEST", "mest_s": "MEST, soft", "srigl": "SRigL", "chts": "CHTs", "cht": "CHT",
        "granet_gse": "GraNet + GSE (ours)"},
    "One shot and cycles": {
        "lamp_oneshot": "LAMP one-shot", "lamp_imp": "LAMP-IMP", "cyclic_static": "cyclic static", "sculpt": "SCULPT",
        "lrr_feather": "LRR + Feather (ours)"},
}
METHODS = {name: label for group in GROUPS.values() for name, label in group.items()}
NAMED = {"st3": "ST-3", "rigl": "RigL", "gse_uniform": "GSE"}
OTHERS = {"gmp": "GMP", "gradual": "gradual", "str": "STR", "probmask": "ProbMask", "dnw": "DNW", "lrr": "LRR", "imp": "IMP", "snip": "SNIP",
          "grasp": "GraSP", "synflow": "SynFlow", "static": "static", "set": "SET", "granet": "GraNet", "topkast": "Top-KAST"}
HOLLOW = PUBLISHED | dict(linestyle="")
# {(paper, method): how the name of the variant that is drawn starts}
LITERATURE = {("feather", "feather"): "", ("acdc", "acdc"): "global", ("srigl", "srigl"): "constant", ("rigl", "snfs"): "ERK",
              ("mest", "mest"): "1x", ("dpf", "dpf"): "", ("st3", "st3"): "", ("rigl", "rigl"): "ERK"}
CAVEATS = (" (SNFS: as RigL's authors ran it; AC/DC also has numbers on MobileNetV1, which are not drawn). No training FLOPs are at hand of ST-3; "
           "those of RigL and SNFS above 90 % are left out, because the paper's table contradicts itself.")


def grid(suite, profile):
    """The runs that the figure needs, all of which the leaderboard needs anyway; on ImageNet, `suites.grid` leaves them out."""
    return suite_grid(suite, profile, ("dense", *METHODS, *NAMED, *OTHERS))


def literature():
    """The published points that are drawn."""
    rows = published(beyond=True)
    rows = settings(rows.assign(train_flops=rows.train_flops.astype(float)), LITERATURE)
    rows = rows[(rows.sparsity >= 0.75) & ~rows.options.str.contains("epochs=[0-9]{4}|epochs=500")]
    return rows.drop_duplicates(["task", "method", "sparsity"]).drop(columns=["macs", "macs_fraction"])


@beside_published(CAVEATS, "achieved_sparsity", "train_flops_fraction", points=literature, alone=", those of one sparsity side by side")
def source(grid, suite, results, profile=None):
    """As `runs_of`; on ImageNet, the published points are drawn even without runs of ours."""
    runs, found = runs_of(grid, suite, results, profile)
    if not runs.accuracy[runs.method.isin(METHODS)].notna().any():
        raise none_finished(suite, results, found, grid.precision, grid.epochs)
    again = repeated(runs)
    density = 1 - runs.achieved_sparsity.where(runs.status == "ok").astype(float)  # a diverged run's mask is of the middle of its training
    missed = density.groupby([runs[name] for name in POINT]).transform("mean") > 2 * (1 - runs.sparsity)
    gone = {*runs.method[missed]} - {*runs.method[~missed & ~again & runs.accuracy.notna()]}  # methods of which no point remains
    kept = runs[~missed & ~again & ~runs.method.isin(gone)]
    left = runs[missed & (~again | runs.method.isin(gone))].groupby("method", sort=False).sparsity.unique()
    if len(left):
        words = [f"{METHODS.get(method, method)} at {', '.join(f'{100 * s:g}' for s in sorted(each))} %" for method, each in left.items()]
        kept.attrs["out"] = f" Left out with more than twice the weights asked for: {'; '.join(words)}."
    once = [METHODS.get(method, method) for method in runs.method[again].unique() if method not in gone]
    if once:
        kept.attrs["out"] = kept.attrs.get("out", "") + f" The same training at every sparsity, one point: {', '.join(once)}."
    return kept, found


def lines(axes, tables, styles, measure, group):
    """Draws accuracy against a measure for each method of styles: own points filled and joined, published ones hollow; points of a group and of NAMED
    at one sparsity lie side by side. Returns what was drawn, for `cut`."""
    drawn, beside = [], [*group, *NAMED]
    for rows, own in zip(tables, (True, False)):
        rows = rows.assign(density=1 - rows.get("achieved_sparsity", rows.sparsity)).sort_values("sparsity")
        for method, style in styles.items():
            points = rows[rows.method == method].dropna(subset=[measure])
            x = points[measure] * (apart(beside.index(method), len(beside)) if method in beside and measure == "density" else 1)
            style = {"ms": 3, "lw": 0.7, **style}
            drawn.append((method, style, x, points))
            if len(points) and own:
                mean_line(axes, x, points, None, **style)
            elif len(points):
                axes.plot(x, points["mean"], **style | HOLLOW)
    return drawn


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    import pandas as pd
    from matplotlib.lines import Line2D

    whole = runs[runs.status == "ok"].astype({"achieved_sparsity": float, "train_flops_fraction": float})  # a diverged run took only a part of them
    means = whole.groupby(POINT, sort=False)[["achieved_sparsity", "train_flops_fraction"]].mean().reset_index()
    own = summary(runs).merge(means, on=POINT, how="left").rename(columns={"train_flops_fraction": "train_flops"})
    own["achieved_sparsity"] = own.achieved_sparsity.fillna(own.sparsity)
    hollow = literature()
    tasks = ["imagenet-resnet50"] if runs.empty else tasks_of(runs, hollow.task)
    tables = []
    background = {method: dict(color="0.85", label="others of the papers", zorder=1) for method in OTHERS}
    background.update({method: look | dict(label=NAMED[method], zorder=2) for method, look in looks(NAMED).items()})
    present = set(own.method) | set(hollow.method[hollow.task.isin(tasks)])
    groups = {name: group for name, group in GROUPS.items() if present & group.keys()}
    figure.set_size_inches(1 + 2 * len(groups), 1.4 + 4.2 * len(tasks))
    panels = figure.subplots(2 * len(tasks), len(groups), squeeze=False, sharex="row", sharey="row")
    for index, task in enumerate(tasks):
        tables += [own[own.task == task], hollow[hollow.task == task]]
        shown = pd.concat(tables[-2:]).query("method != 'dense'").astype({"mean": float, "sparsity": float})
        for column, (name, group) in enumerate(groups.items()):
            own_looks = looks([*NAMED, *group])
            styles = {**background, **{method: own_looks[method] | dict(zorder=3) for method in group}}
            for axes, measure in zip(panels[2 * index:2 * index + 2, column], ("density", "train_flops")):
                there = lines(axes, tables[-2:], styles, measure, group)
                for mean in tables[-2][tables[-2].method == "dense"]["mean"]:
                    axes.axhline(mean, **DENSE_LINE, label="Dense", zorder=0)
                if len(shown):
                    cut(axes, there, draw.labels, lowest(shown["mean"]))
                if not any(len(x) for method, _, x, _ in there if method in group):
                    axes.text(0.5, 0.2, "of these no training FLOPs\nare at hand", transform=axes.transAxes, ha="center", color="0.5")
                axes.set(xscale="log", ylabel="" if column else f"{title(task)}\nTest accuracy (%)")
                axes.minorticks_off()
            above, below = panels[2 * index:2 * index + 2, column]
            ticks = [t for t in (0.2, 0.1, 0.05, 0.02, 0.01) if shown.sparsity.min() - 0.05 <= 1 - t <= shown.sparsity.max() + 0.001]
            sparsity_axis(above, ticks)
            above.xaxis.set_inverted(True)
            below.set_xlabel("Training FLOPs / dense")
            number_decades(below.xaxis, 1, 3)
            if not index:
                handles = [Line2D([], [], **{"ms": 4, "lw": 0.8, **styles[method], **({} if method in set(own.method) else HOLLOW)}, label=label)
                           for method, label in group.items() if method in present]
                above.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), title=name, title_fontsize=7, ncols=2,
                             fontsize=5.5, frameon=False, columnspacing=0.8, handlelength=2.2)
    return pd.concat(tables).drop(columns=["variant"], errors="ignore")


draw.labels = METHODS | NAMED | OTHERS
draw.ends = True
draw.lead = "Mean test accuracy over {seeds} at the {epoch}, at the sparsity where runs end; those of one sparsity side by side."


if __name__ == "__main__":
    raise SystemExit(main("beyond", grid, draw, source=source))

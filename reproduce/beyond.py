"""Beyond the two papers: test accuracy of the methods beside and after them, against sparsity and against training FLOPs.

In grey the papers' own methods. Published points, each in its authors' setting, are hollow; where no run of ours is stored they are
drawn alone.
"""
from drawing import COLOURS, LINES, MARKERS, main, suite_grid
from published import published, title
from rows import POINT, NoRows, runs_of, summary

METHODS = {"feather": "Feather", "dpf": "DPF", "acdc": "AC/DC", "powerprop_gmp": "Powerprop + GMP", "lamp_oneshot": "LAMP one-shot",
           "lamp_imp": "LAMP-IMP", "cyclic_static": "cyclic static", "sculpt": "SCULPT", "snfs": "SNFS", "mest": "MEST", "mest_s": "MEST, soft",
           "srigl": "SRigL", "spartan": "Spartan", "movement": "movement", "dst_mask": "DST, thresholds", "chts": "CHTs", "cht": "CHT",
           "fisher_diag": "OBD, diagonal", "lrr_feather": "LRR + Feather (ours)", "granet_gse": "GraNet + GSE (ours)"}
NAMED = {"st3": "ST-3", "rigl": "RigL", "gse_uniform": "GSE"}
OTHERS = ("gmp", "gradual", "str", "probmask", "dnw", "lrr", "imp", "snip", "grasp", "synflow", "static", "set", "granet", "topkast")
# (paper, method): the start of the variant that is drawn
LITERATURE = {("feather", "feather"): "", ("acdc", "acdc"): "global", ("srigl", "srigl"): "constant", ("rigl", "snfs"): "ERK",
              ("mest", "mest"): "1x", ("dpf", "dpf"): "", ("st3", "st3"): "", ("rigl", "rigl"): "ERK"}


def grid(suite, profile):
    """The runs that the figure needs, all of them the leaderboard's."""
    return suite_grid(suite, profile, ("dense", *METHODS, *NAMED, *OTHERS))


def literature():
    """The published points that are drawn."""
    import pandas as pd

    rows = published(beyond=True)
    rows = rows.assign(variant=rows.variant.fillna(""), train_flops=rows.train_flops.astype(float))
    parts = [rows[(rows.source == paper) & (rows.method == method) & rows.variant.str.startswith(start)]
             for (paper, method), start in LITERATURE.items()]
    rows = pd.concat(parts).query("sparsity >= 0.75 and not options.str.contains('epochs=[0-9]{4}|epochs=500')", engine="python")
    return rows.drop_duplicates(["task", "method", "sparsity"]).drop(columns=["macs", "macs_fraction"])


def source(grid, suite, results, profile=None):
    """As `runs_of`; the published points of ImageNet are drawn without runs of ours too."""
    import pandas as pd

    try:
        return runs_of(grid, suite, results, profile)
    except NoRows:
        if suite != "imagenet" or literature().empty:
            raise
    runs = pd.DataFrame(columns=[*POINT, "seed", "accuracy", "epochs", "achieved_sparsity", "train_flops_fraction"])
    runs.attrs["note"] = "No run of ours is stored. Test accuracy, each in its authors' setting."
    return runs, profile or "paper"


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    import pandas as pd
    import seaborn as sns
    from matplotlib.ticker import LogLocator

    measured = runs.astype({"achieved_sparsity": float, "train_flops_fraction": float}).groupby(POINT, sort=False)
    means = measured[["achieved_sparsity", "train_flops_fraction"]].mean().reset_index()
    own = summary(runs).merge(means, on=POINT).rename(columns={"train_flops_fraction": "train_flops"})
    own["achieved_sparsity"] = own.achieved_sparsity.fillna(own.sparsity)
    hollow = literature()
    tasks = ["imagenet-resnet50"] if runs.empty else list(runs.task.unique())
    palette, tables = sns.color_palette("colorblind"), []
    styles = {method: dict(color=palette[COLOURS[i % len(COLOURS)]], marker=MARKERS[i % len(MARKERS)], label=label, zorder=3)
              for i, (method, label) in enumerate(METHODS.items())}
    styles.update({method: dict(color="0.2", linestyle=line, marker=marker, label=label, zorder=2)
                   for (method, label), line, marker in zip(NAMED.items(), LINES, "ph8")})
    styles.update({method: dict(color="0.8", label="the papers' others", zorder=1) for method in OTHERS})
    figure.set_size_inches(6.8, 0.9 + 2.4 * len(tasks))
    for task, pair in zip(tasks, figure.subplots(len(tasks), 2, squeeze=False, sharey="row")):
        tables += [own[own.task == task], hollow[hollow.task == task]]
        for axes, column in zip(pair, ("density", "train_flops")):
            for rows, fill in ((tables[-2], {}), (tables[-1], dict(mfc="white", mew=0.6, linestyle=""))):
                rows = rows.assign(density=1 - rows.get("achieved_sparsity", rows.sparsity)).sort_values("sparsity")
                for method, style in styles.items():
                    points = rows[rows.method == method].dropna(subset=[column])
                    if len(points):
                        axes.plot(points[column], points["mean"], **{"ms": 3, "lw": 0.7, **style, **fill})
                if not fill:
                    for mean in rows[rows.method == "dense"]["mean"]:
                        axes.axhline(mean, color=palette[1], linestyle=(0, (4, 2)), label="Dense", zorder=0)
            axes.set_xscale("log")
        shown = pd.concat(tables[-2:]).query("method != 'dense'").astype({"mean": float, "sparsity": float})
        if len(shown):  # a few that fail entirely would hide what the others differ by
            low, high = shown["mean"].quantile(0.15), shown["mean"].max()
            pair[0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low) + 0.5)
        ticks = [t for t in (0.2, 0.1, 0.05, 0.02, 0.01) if shown.sparsity.min() - 0.05 <= 1 - t <= shown.sparsity.max() + 0.001]
        pair[0].set_xticks(ticks, [f"{100 - 100 * t:g}" for t in ticks])
        pair[0].invert_xaxis()
        pair[0].minorticks_off()
        pair[0].set(xlabel="Sparsity (%)", ylabel="Test accuracy (%)", title=title(task))
        pair[1].xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        pair[1].xaxis.set_major_formatter("{x:g}")
        pair[1].minorticks_off()
        pair[1].set(xlabel="Training FLOPs / dense")
    return pd.concat(tables).drop(columns=["variant"], errors="ignore")


draw.lead = "Mean test accuracy over seeds; the lowest 15 % of the points lie below."


if __name__ == "__main__":
    raise SystemExit(main("beyond", grid, draw, source=source))

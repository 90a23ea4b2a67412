"""GSE, Figure 2: test accuracy against γ, the candidates drawn as a multiple of the active weights, for the three samplers and RigL.

98 % sparsity (assumed; the paper's text was not available), 3 runs, with the band that 95 % of them lie in. Published, hollow: γ = 1
and RigL, as the supplement's figure 5 has them. Suite digits, and cifar10 in profile quick: the same in miniature.
"""
from drawing import main
from gse import gse_grid, miniature, not_the_papers, panels, sparse_too
from marks import PUBLISHED, looks, mean_line
from published import hollow
from rows import POINT, summary, value_of

from benchmarks.grid import union

METHODS = {"gse_uniform": "Uniform", "gse_grabo": "GraBo", "gse_graest": "GraEst"}
GAMMAS = (0.25, 0.5, 1.5, 2.0)
TICKS = {0.25: "¼", 0.5: "½", 1: "1", 1.5: "1½", 2: "2"}


def grid(suite, profile):
    """The runs that the figure needs; γ = 1 is the default."""
    others = (gse_grid(suite, profile, METHODS, (0.98,), extra=True, options={"gamma": gamma})
              for gamma in GAMMAS if gamma != 1.5 or not miniature(suite, profile))
    return union(gse_grid(suite, profile, ("rigl", *METHODS), (0.98,)), *others)


source = sparse_too({"rigl": "RigL"} | METHODS)


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    import pandas as pd

    not_the_papers(runs)
    band = runs.groupby(POINT, sort=False).accuracy.quantile([0.025, 0.975]).unstack().set_axis(["low", "high"], axis=1)
    own = summary(runs).merge(band.round(4).reset_index(), on=POINT)
    table = pd.concat([own, hollow(runs, ["rigl", *METHODS])], ignore_index=True)
    table["gamma"] = table.options.map(lambda options: value_of(options, "gamma", 1))
    found = panels(figure, runs)
    table = table[table.task.isin(found)]
    ticks = {gamma: tick for gamma, tick in TICKS.items() if gamma in set(runs.options.map(lambda options: value_of(options, "gamma", 1)))}
    for task, axes in found.items():
        own, others = (table[(table.task == task) & chosen] for chosen in (table.source == "measured", table.source != "measured"))
        for index, (method, label) in enumerate(METHODS.items()):
            points, published = (part[part.method == method].sort_values("gamma") for part in (own, others))
            bars, look = [points["mean"] - points.low, points.high - points["mean"]], looks(METHODS)[method]
            mean_line(axes, points.gamma + 0.045 * (index - 1), points, bars, label=label, **look)
            if len(published):
                axes.plot(published.gamma + 0.045 * (index - 1.5), published["mean"], **look | {"linestyle": ""}, **PUBLISHED)
        for mean, low, high in own.loc[own.method == "rigl", ["mean", "low", "high"]].values:
            axes.axhline(mean, color="0.3", linestyle=(0, (4, 2)), label="RigL")
            axes.axhspan(low, high, color="0.3", alpha=0.1, lw=0)
        for mean in others["mean"][others.method == "rigl"]:
            axes.plot([GAMMAS[0]], [mean], color="0.3", marker="o", **PUBLISHED)
        axes.set_xticks([*ticks], [*ticks.values()])
        axes.set(xlabel="γ", ylabel="Test accuracy (%)")
    return table


draw.labels = {"rigl": "RigL"} | METHODS
draw.lead = ("Mean over {seeds}; bars and the grey band: 2.5th to 97.5th percentile of the seeds (of 3 nearly their range). Points of one γ are "
             "drawn side by side.")

if __name__ == "__main__":
    raise SystemExit(main("gse_figure2", grid, draw, source=source))

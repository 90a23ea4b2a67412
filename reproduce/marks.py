"""What the points and lines of the figures look like: colours, means with their bars, accuracy against sparsity."""
from itertools import count

from published import title
from rows import series_of, summary

MARKERS, LINES = "osD^vPX*<>", ("-", "--", ":", "-.")
# seaborn's colour-blind palette, in an order of our own: orange is dense, and what is close to it comes late; its yellow and its pink,
# which vanish in print, are darker
DENSE = "#de8f05"
COLOURS = "#0173b2 #029e73 #cc78bc #56b4e9 #949494 #d55e00 #ca9161 #857f00 #8b1a6b".split()
# a method looks the same in all figures: its place in COLOURS, MARKERS and LINES. Those of one place are in no figure together.
PLACES = (("st3", "synflow"), ("rigl",), ("lrr", "ste_hard", "grasp"), ("gmp", "snip", "ste_soft", "gse_grabo"), ("str", "gradual"),
          ("probmask", "gse_uniform"), ("granet", "set"), ("dnw", "static"), ("lrr_st3", "st3_sigma", "ste_hard_rescale", "imp", "gse_graest"))

BARS = dict(capsize=1.5, capthick=0.8, elinewidth=0.8)
PUBLISHED = dict(mfc="white", mew=0.6)  # thinner than the hollow points of one seed


def remark(figure, text):
    """Has the note of a figure end with this sentence, once."""
    figure.remarks = [*dict.fromkeys([*getattr(figure, "remarks", ()), text])]


def look(place):
    """Colour, marker and line of the series at a place."""
    return dict(color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], linestyle=LINES[place % len(LINES)])


def looks(series):
    """{name: colour, marker and line} of a figure's series: a method has its own; others have what is left, in their order."""
    own = {method: place for place, methods in enumerate(PLACES) for method in methods}
    taken = {}
    for name in series:
        if own.get(name) not in (None, *taken.values()):
            taken[name] = own[name]
    free = (place for place in count() if place not in taken.values())
    return {name: look(taken[name] if name in taken else next(free)) for name in series}


def apart(index, count, step=1.02):
    """The factor along a logarithmic axis that sets the index-th of `count` points beside the others, so that none hides another."""
    return step ** ((count - 1) / 2 - index)


def mean_line(axes, x, points, bars, **style):
    """Draws the means of `points` (`rows.summary`) and their bars, if any. A mean of one seed is hollow, as the figure's note says then."""
    axes.errorbar(x, points["mean"], bars, **BARS | style)
    alone = (points.seeds == 1).to_numpy(bool)
    if alone.any() and style.get("marker"):
        above = dict(linestyle="", mfc="white", label=None, zorder=style.get("zorder", 2) + 0.2)  # its filled point is at + 0.1
        axes.plot(x[alone], points["mean"][alone], **{key: value for key, value in style.items() if key not in BARS} | above)
        remark(axes.figure, "Hollow: one seed.")


def number_decades(axis, *digits):
    """Writes numbers, not powers, on a logarithmic axis: at `digits` times each power of ten."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def accuracy_lines(axes, runs, methods, hollow=None):
    """Draws accuracy against sparsity (log axis of the density, reversed) for {method: label}; returns the table that was drawn.

    A method with options is named by both: "set allocation=uniform". One line with error bars (standard deviation) per method, set
    2 % apart along x, a single point in front of the lines; `dense` is a dashed orange line at its mean.
    hollow: published points (`published.hollow`), drawn without a line.
    """
    import pandas as pd

    table = summary(runs)
    sparse = [method for method in methods if method != "dense"]
    styles = looks(sparse)
    parts = [table] if hollow is None or hollow.empty else [table, hollow]
    shown = pd.concat([part[part.method != "dense"] for part in parts])
    planned, drawn, own = (set(series_of(rows)) for rows in (runs, shown, table))
    present = [method for method in sparse if method in planned & drawn]
    sparsities = sorted(set((shown if len(shown) else runs[runs.method != "dense"]).sparsity))
    left, right = (1 - sparsities[0]) * 1.15, (1 - sparsities[-1]) / 1.15
    axes.set(xscale="log", xlim=(left, right))  # before anything is drawn: points of one sparsity have no limits of their own
    remark(axes.figure, "Points of one sparsity are drawn side by side.")
    for part in parts:
        series = series_of(part)
        for method in sparse:
            points = part[series == method].sort_values("sparsity")
            if len(points) and method in present:
                x = (1 - points.sparsity) * apart(present.index(method), len(present))
                if part is table:
                    mean_line(axes, x, points, points["std"], label=methods[method],
                              zorder=2 if len(points) > 1 else 4, **styles[method])
                else:
                    axes.errorbar(0.97 * x, points["mean"], points["std"], label=None if method in own else methods[method],
                                  zorder=5, **styles[method] | dict(linestyle=""), **PUBLISHED, **BARS)
        for mean in part[series == "dense"]["mean"]:
            if part is table:
                axes.axhline(mean, color=DENSE, linestyle=(0, (4, 2)), label=methods["dense"], zorder=0)
            else:
                axes.plot([left], [mean], color=DENSE, marker="o", clip_on=False, zorder=5, **PUBLISHED)
    ticks = [s for s in sparsities if s == round(s, 3)]
    ticks += [s for s in (0.5, 0.7, 0.8, 0.9) if right < 1 - s < left and s < min(ticks, default=1)]  # where cycles alone have points
    axes.set_xticks([1 - s for s in ticks], [f"{100 * s:g}" for s in ticks])
    axes.minorticks_off()
    axes.set(xlabel="Sparsity (%)", ylabel="Test accuracy (%)", title=", ".join(map(title, runs.task.unique())))
    return pd.concat(parts, ignore_index=True)

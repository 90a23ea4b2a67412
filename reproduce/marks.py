"""What the points and lines of the figures look like: colours, means with their bars, accuracy against sparsity."""
import re
from itertools import count

from published import title
from rows import series_of, summary

MARKERS = "osD^vPX*<>p"  # their number and that of the colours have no common divisor, so that pairs repeat late
# in grey, RigL is as light as GSE and ProbMask, and hard STE as soft STE: their lines differ
LINES = ("-", "--", ":", "-.", "-", (0, (4, 1, 1, 1, 1, 1)), (0, (7, 1.5)), "-.", "--")
# seaborn's colour-blind palette, reordered: orange is for dense, and colours close to it come late; yellow and pink, which vanish in print, are
# replaced by darker ones. The eighth is far from all others but black for protanopes and deuteranopes, too (CIEDE2000: 21 and more)
DENSE = "#de8f05"
DENSE_LINE = dict(color=DENSE, linestyle=(0, (4, 2)))
COLOURS = "#0173b2 #029e73 #cc78bc #56b4e9 #949494 #d55e00 #ca9161 #3d3a00 #8b1a6b #000000".split()
FILLS = ("left", "top", "right", "bottom")  # which half of a variant's marker is filled; hollow markers are for single seeds and published points
# a method looks the same in all figures: its place here is its index in COLOURS, MARKERS and LINES. Methods of one place share no figure.
PLACES = (("st3", "synflow"), ("rigl",), ("lrr", "ste_hard", "grasp"), ("gmp", "snip", "gse_grabo"), ("str", "gradual"),
          ("probmask", "gse_uniform"), ("granet", "set", "ste_soft"), ("dnw", "static"),
          ("lrr_st3", "st3_sigma", "ste_hard_rescale", "imp", "gse_graest"))

BARS = dict(capsize=1.5, capthick=0.8, elinewidth=0.8)
PUBLISHED = dict(mfc="white", mew=0.6)  # thinner than the hollow points of one seed
BELOW = dict(marker=r"$\downarrow$", markersize=6, markeredgewidth=0.3, linestyle="")  # at the lower end of an axis, for a point further down


def remark(figure, text):
    """Adds this sentence to the end of the figure's note, once."""
    figure.remarks = [*dict.fromkeys([*getattr(figure, "remarks", ()), text])]


def look(place, variant=0):
    """Colour, marker and line of the series at a place; its variants (1, 2, ...) have other lines and half-filled markers."""
    style = dict(color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], linestyle=LINES[(place + variant) % len(LINES)])
    return style | (dict(fillstyle=FILLS[(variant - 1) % len(FILLS)], markerfacecoloralt="white") if variant else {})


def looks(series):
    """{name: colour, marker and line} of a figure's series: a method has its own (PLACES), a method with options looks like
    its variant; others take what is left, in their order, beginning with the colours that the figure does not use yet."""
    own = {method: place for place, methods in enumerate(PLACES) for method in methods}
    plain = {name: re.sub(r"( \w+=\S*)+$", "", name) for name in series}
    places, variants, found = {}, {}, {}
    for method in plain.values():
        if own.get(method) not in (None, *places.values()):
            places[method] = own[method]
    taken = {place % len(COLOURS) for place in places.values()}
    free = (place for place in count() if place not in places.values() and (place % len(COLOURS) not in taken or len(taken) == len(COLOURS)))
    for name, method in plain.items():
        if method not in places:
            places[method] = next(free)
        variants[method] = variants.get(method, 0) + (name != method)
        found[name] = look(places[method], variants[method] if name != method else 0)
    return found


def apart(index, count, step=1.02):
    """The factor that shifts the index-th of `count` points along a logarithmic axis, so that points of one sparsity lie side by side."""
    return step ** ((count - 1) / 2 - index)


def mean_line(axes, x, points, bars, **style):
    """Draws the means of `points` (`rows.summary`) and their bars, if any. A mean of one seed is hollow, and the figure's note says so."""
    axes.errorbar(x, points["mean"], bars, **BARS | style)
    alone = (points.seeds == 1).to_numpy(bool)
    if alone.any() and style.get("marker"):
        above = dict(linestyle="", mfc="white", label=None, zorder=style.get("zorder", 2) + 0.2)  # above the filled point, which is at + 0.1
        axes.plot(x[alone], points["mean"][alone], **{key: value for key, value in style.items() if key not in BARS} | above)
        remark(axes.figure, "Hollow: one seed.")


def lowest(means):
    """The lower end of an axis of accuracies at several sparsities: just below the least mean; or, if the lowest 15 % of the means would take up
    more than half of the axis, just above these, because a few failures would hide the differences between the others."""
    least, low, top = means.min(), means.quantile(0.15), means.max()
    low = low if top - low < (top - least) / 2 else least
    bottom, height = low - 0.05 * (top - low), top - low
    while height > 1e-6 and ((means - bottom).abs() < 0.045 * height).any():  # the end of the axis must not cut through a mark
        bottom -= 0.01 * height
    return bottom


def cut(axes, lines, labels, bottom):
    """Begins the accuracy axis at `bottom`, and draws an arrow there for each point below it, in the colour of the point's line.
    lines: [(method, its look, x, points)]. The note names the points (`tell_cut`)."""
    hidden = axes.figure.hidden = getattr(axes.figure, "hidden", {})
    for method, look, x, points in lines:
        below = points["mean"] < bottom
        if below.any():
            axes.set_ylim(bottom=bottom)
            axes.plot(x[below], [bottom] * below.sum(), **BELOW, color=look["color"], clip_on=False, zorder=4)
        for point in points[below].itertuples():
            hidden.setdefault(labels.get(method, method), {})[f"{point.mean:.1f} ({100 * point.sparsity:g} %)"] = None  # once for all panels


def tell_cut(figure):
    """The sentence of a note that names the points below the axes (`cut`)."""
    hidden = [f"{label} {', '.join(points)}" for label, points in getattr(figure, "hidden", {}).items()]
    return f" Below the axes (↓): {'; '.join(hidden)}." if hidden else ""


def sparsity_axis(axes, densities, **text):
    """Labels an x axis of densities by the sparsity, with ticks at these densities alone; `text`: how they are written, such as rotation=60."""
    from matplotlib.ticker import NullLocator

    axes.set_xticks(densities, [f"{100 - 100 * density:.6g}" for density in densities], **text)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Sparsity (%)")


def number_decades(axis, *digits):
    """Labels a logarithmic axis with plain numbers instead of powers, at `digits` times each power of ten."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=digits, numticks=9))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def accuracy_lines(axes, runs, methods, hollow=None, bottom=None):
    """Draws accuracy against sparsity (log axis of the density, reversed) for {method: label}; returns the table that was drawn.

    A method with options has the key "set allocation=uniform". Each method is one line with error bars (standard deviation), 2 % apart along x;
    a method with a single point is drawn in front of the lines; `dense` is a dashed orange line at its mean.
    hollow: published points (`published.hollow`), joined by a thin line. bottom: lower end of the accuracy axis (default: `lowest`).
    Raises ValueError for runs of several tasks, of which a line would join points.
    """
    import pandas as pd

    if runs.task.nunique() > 1:
        raise ValueError(f"runs of {' and '.join(runs.task.unique())} need axes each: runs[runs.task == task], as in gse_figure5.py")
    table = summary(runs)
    sparse = [method for method in methods if method != "dense"]
    styles = looks(sparse)
    parts = [table] if hollow is None or hollow.empty else [table, hollow]
    shown = pd.concat([part[part.method != "dense"] for part in parts])
    planned, drawn, own = (set(series_of(rows)) for rows in (runs, shown, table))
    present = [method for method in sparse if method in planned & drawn]
    sparsities = sorted(set((shown if len(shown) else runs[runs.method != "dense"]).sparsity))
    left, right = (1 - sparsities[0]) * 1.15, (1 - sparsities[-1]) / 1.15
    axes.set(xscale="log", xlim=(left, right))  # before drawing: with a single sparsity matplotlib would find no limits
    remark(axes.figure, "Points of one sparsity are drawn side by side.")
    lines = []
    for part in [table, *(rows for _, rows in hollow.groupby("source", sort=False))] if len(parts) > 1 else parts:
        series = series_of(part)
        for method in sparse:
            points = part[series == method].sort_values("sparsity")
            if len(points) and method in present:
                x = (1 - points.sparsity) * apart(present.index(method), len(present)) * (1 if part is table else 0.97)
                lines.append((method, styles[method], x, points))
                if part is table:
                    small = dict(ms=2.5) if max(len(points), len(present)) > 6 else {}  # the levels of several cycles lie close together
                    mean_line(axes, x, points, points["std"], label=methods[method],
                              zorder=2 if len(points) > 1 else 4, **styles[method] | small)
                else:
                    axes.errorbar(x, points["mean"], points["std"], label=None if method in own else methods[method],
                                  zorder=5, **styles[method] | dict(lw=0.4), **PUBLISHED, **BARS)
        for mean in part[series == "dense"]["mean"]:
            if part is table:
                axes.axhline(mean, **DENSE_LINE, label=methods["dense"], zorder=0)
            else:
                axes.plot([left], [mean], color=DENSE, marker="o", clip_on=False, zorder=5, **PUBLISHED)
    if lines:
        cut(axes, lines, methods, lowest(pd.concat([points["mean"] for *_, points in lines])) if bottom is None else bottom)
    ticks = [s for s in sparsities if s == round(s, 3)]
    ticks += [s for s in (0.5, 0.7, 0.8, 0.9) if right < 1 - s < left and s < min(ticks, default=1)]  # where only levels of cycles have points
    sparsity_axis(axes, [1 - s for s in ticks])
    axes.set(ylabel="Test accuracy (%)", title=", ".join(map(title, runs.task.unique())))
    return pd.concat(parts, ignore_index=True)

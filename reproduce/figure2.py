"""ST-3, Figure 2: hard against soft thresholding, as operators (top) and for one weight at every step of real runs (bottom).

Top: the methods' own forward pass on evenly spaced weights, in units of the threshold, with one step of the stored weight across the threshold,
the same for both. Bottom: the stored and the forward value of a weight in training. The paper has the upper part, as a schematic; `--run` trains
the two runs anew.
"""
from drawing import main
from rows import no_runs as grid, stored

LABELS = {"ste_hard": "hard threshold", "ste_soft": "soft threshold"}
STEP = (0.8, 1.2)  # stored weight before and after the step, in thresholds


def text(table):
    run, most = table.iloc[0], {}
    for method in LABELS:
        late = table[(table.method == method) & (table.panel == "training") & (table.step > table.steps / 2)].sort_values("step")
        most[method] = (late.forward.diff().abs() / late.threshold).max()
    return (f"Top: the same step of the stored weight with both. Bottom: weight {run.weight:.0f} of {run.task}, sparsity {100 * run.sparsity:g} %, "
            f"seed {run.seed:.0f}, one run each; dotted: the threshold. Largest step of the forward value in the second half, in thresholds: hard "
            f"{most['ste_hard']:.2g}, soft {most['ste_soft']:.2g}. Miniature on digits, not the paper's task.")


source = stored("digits/trajectory.csv", "benchmarks.trajectory", text)


def draw(table, figure):
    """Draws the table into the empty figure and returns it."""
    import seaborn as sns

    blue, red = (sns.color_palette("colorblind")[i] for i in (0, 3))
    figure.set_size_inches(3.4, 3.3)
    figure.get_layout_engine().set(hspace=0.08)  # space, so that the upper labels do not look like titles of the lower panels
    axes = figure.subplots(2, 2, sharey="row")
    for (method, label), upper, lower in zip(LABELS.items(), *axes):
        lines = table[table.method == method]
        curve, run = lines[lines.panel == "operator"].sort_values("stored"), lines[lines.panel == "training"].sort_values("step")
        x, y = (curve[column] / curve.threshold for column in ("stored", "forward"))
        for _, piece in y.groupby((y.diff().abs() > 0.5).cumsum()):  # the line is broken where it jumps
            upper.plot(x[piece.index], piece, color=blue)
        before, after = ((x[at], y[at]) for at in ((x - place).abs().idxmin() for place in STEP))
        upper.annotate("", after, before, arrowprops=dict(arrowstyle="->", color=red, lw=0.8, mutation_scale=6, shrinkA=0, shrinkB=0))
        upper.plot(*before, "o", ms=2.5, color=red)
        upper.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xlabel="Stored / threshold", title=label)
        lower.plot(run.step, run.stored, color="0.6", lw=0.7, label="stored")
        lower.plot(run.step, run.forward, color=blue, lw=0.7, label="forward")
        for sign in (-1, 1):
            lower.plot(run.step, sign * run.threshold.clip(lower=0), ":", color="k", lw=0.6)
        lower.set(xlabel="Step")
    axes[0, 0].set(ylabel="Forward / threshold")
    axes[1, 0].set(ylabel="Weight")
    return table


if __name__ == "__main__":
    raise SystemExit(main("figure2", grid, draw, source=source))

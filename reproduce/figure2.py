"""ST-3, Figure 2: hard against soft thresholding, as operators (top) and for one weight at every step of real runs (bottom).

Top: the methods' own forward pass on evenly spaced weights, in units of the threshold, with the largest single step of the weight
below. Bottom: its stored and its forward value. The paper has a schematic here; `--run` trains the two runs anew.
"""
from drawing import main
from rows import no_runs as grid, stored

LABELS = {"ste_hard": "hard threshold", "ste_soft": "soft threshold"}


def text(table):
    run = table.iloc[0]
    return (f"Weight {run.weight:.0f} of {run.task}, sparsity {100 * run.sparsity:g} %, seed {run.seed:.0f}, one run each. Arrow: the "
            "step of the second half that changed its forward value most. Dotted: the threshold. Miniature on digits, not the paper's task.")


source = stored("digits/trajectory.csv", "benchmarks.trajectory", text)


def draw(table, figure):
    """Draws the table into the empty figure and returns it."""
    import seaborn as sns

    blue, red = (sns.color_palette("colorblind")[i] for i in (0, 3))
    figure.set_size_inches(3.4, 3.3)
    figure.get_layout_engine().set(hspace=0.08)  # the upper labels are no titles of the lower panels
    axes = figure.subplots(2, 2, sharey="row")
    for (method, label), upper, lower in zip(LABELS.items(), *axes):
        lines = table[table.method == method]
        curve, run = lines[lines.panel == "operator"], lines[lines.panel == "training"].sort_values("step").reset_index()
        upper.plot(curve.stored / curve.threshold, curve.forward / curve.threshold, ".", ms=1, color=blue)
        late = run[run.step > run.steps / 2]
        at = late.forward.diff().abs().idxmax()
        x, y = (late[column] / late.threshold for column in ("stored", "forward"))
        upper.annotate("", (x[at], y[at]), (x[at - 1], y[at - 1]), arrowprops=dict(arrowstyle="->", color=red, lw=1))
        upper.plot(x[[at - 1, at]], y[[at - 1, at]], "o", ms=2.5, color=red)
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

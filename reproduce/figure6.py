"""ST-3, Figure 6: how often weights switch between active and zero, in four quarters of training, by their final state.

Paper: ResNet-20 on CIFAR-10 at 90 %, ST-3, quarters of 40 epochs; a sparsity that is fixed (left) or rises along the cubic schedule
(right). Counted at every step; weights that switch less than twice in a quarter are left out. The numbers of switches are grouped in
bins of different widths, so the number of weights is divided by the bin's width. The paper does not say whether it counts at every step or once
an epoch; the rows have steps alone. Suite digits: the same in miniature.
"""
from dataclasses import replace

from drawing import main
from marks import number_decades
from rows import lines_of

from benchmarks.grid import union
from benchmarks.suites import suite_grid

STATES = {"active": (0, "-", "active at the end"), "zero": (3, "--", "zero at the end")}


def grid(suite, profile):
    """The runs that the figure needs, one for each schedule; none in a suite that it does not belong to."""
    if suite not in ("cifar10", "digits"):
        return ()
    one = suite_grid(suite, profile, ("st3",))
    one = replace(one, sparsities=(0.9,), seeds=one.seeds if suite == "cifar10" else one.seeds[:1])
    return union(*(replace(one, options={"count_switches": True, **ramp}) for ramp in ({"ramp_power": 0.0}, {})))


def draw(runs, figure):
    """Draws the runs into the empty figure and returns the table of what was drawn."""
    import numpy as np
    import seaborn as sns

    palette, lines = sns.color_palette("colorblind"), lines_of(runs, "switches", runs.status == "ok").query("switches >= 2")
    lines["weights"] = lines.weights / lines.groupby("schedule").seed.transform("nunique")
    bins = np.unique(np.geomspace(2, (lines.switches.max() if len(lines) else 2) + 1, 24).astype(int))
    width = np.diff(bins)[np.digitize(lines.switches, bins) - 1]
    lines["density"] = lines.weights / width
    figure.set_size_inches(3.4, 3.6)
    grid = figure.subplots(4, 2, sharex=True, sharey=True)
    for column, schedule in enumerate(("fixed", "cubic")):
        for group, axes in enumerate(grid[:, column]):
            for state, (colour, line, label) in STATES.items():
                part = lines[(lines.schedule == schedule) & (lines.group == group) & (lines.final_state == state)]
                if len(part):
                    axes.hist(part.switches, bins, weights=part.density, histtype="step", color=palette[colour], linestyle=line, label=label)
            axes.set(xscale="log", yscale="log")
            axes.text(0.97, 0.95, f"quarter {group + 1}", transform=axes.transAxes, ha="right", va="top", fontsize=6)
        grid[0, column].set_title(f"{schedule} sparsity")
        grid[3, column].set_xlabel("Switches in the quarter")
    ticks = [n for n in (2, 5, 10, 20, 50, 200, 1000, 5000) if n < bins[-1]]
    grid[0, 0].set_xticks(ticks, map(str, ticks))
    grid[0, 0].xaxis.set_minor_formatter("")
    # set last, for all panels: just below a single weight of one seed in the widest bin
    grid[0, 0].set_ylim(bottom=0.7 / (np.diff(bins).max() * max(1, lines.seed.nunique())))
    number_decades(grid[0, 0].yaxis, 1)
    figure.supylabel("Weights per number of switches", fontsize=7)
    return lines.drop(columns=["key", "density"])


draw.lead = "Counted at every step of training, mean over {seeds}; weights that switch less than twice in a quarter are left out."
draw.diverged = "left out"

if __name__ == "__main__":
    raise SystemExit(main("figure6", grid, draw))

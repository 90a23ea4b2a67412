"""GSE, Figure 4: FLOPs of a training step of RigL and of GSE for ResNet-50 on ImageNet, at practical and at brain-like sparsities.

Computed from layer costs and Erdos-Renyi-kernel densities, without any run (benchmarks/training_flops.py); `--run` computes it anew.
"""
from drawing import main
from marks import looks, number_decades, sparsity_axis
from rows import no_runs as grid, stored

METHODS = {"rigl": ("RigL", "rigl"), "gse_uniform": ("GSE", "gse")}


def text(table):
    row = table.iloc[0]
    return (f"Computed, no runs: ResNet-50, ImageNet, {row.allocation.upper()} densities, a mask update every {row.interval} steps, "
            f"γ = {row.gamma:g} (assumed). In grey: RigL / GSE.")


source = stored("performance/training_flops.csv", "benchmarks.training_flops", text)


def draw(table, figure):
    """Draws the table into the empty figure and returns it."""
    styles = looks(METHODS)
    table = table.assign(density=(1 - table.sparsity).round(9), ratio=table.rigl_flops / table.gse_flops)  # 1 % is in both panels
    axes = figure.subplots(1, 2)
    for panel, inside in zip(axes, (table.density >= 0.01, table.density <= 0.01)):
        points = table[inside]
        for method, (label, name) in METHODS.items():
            panel.plot(points.density, points[name + "_flops"] / 1e9, label=label, ms=2.5, **styles[method])
        panel.set(xscale="log", yscale="log")
        panel.invert_xaxis()
    axes[0].set(title="practical sparsities", ylabel="GFLOPs per image and step")
    axes[1].set(title="brain-like sparsities")
    for panel, ticks in zip(axes, ((0.5, 0.2, 0.1, 0.05, 0.02, 0.01), (1e-2, 1e-4, 1e-6))):
        sparsity_axis(panel, ticks)
    number_decades(axes[0].yaxis, 1, 2, 5)
    for panel, density in ((axes[0], 1e-2), (axes[1], 1e-2), (axes[1], 1e-4), (axes[1], 1e-5)):
        for point in table[table.density == density].itertuples():
            ends = [point.gse_flops / 1e9, point.rigl_flops / 1e9]
            panel.plot([density] * 2, ends, color="0.6", linewidth=0.6, zorder=0)
            # the label stands along its line; where the methods meet, beside it
            along = dict(y=0.8 * ends[1], rotation=90, ha="right", va="top")
            beside = dict(y=ends[0], ha="right", va="top") if panel is axes[0] else dict(y=ends[1], ha="left", va="bottom")
            panel.text(density, s=f"{point.ratio:.3g}×", color="0.4", fontsize=6, **along if density < 1e-2 else beside)
    return table


if __name__ == "__main__":
    raise SystemExit(main("gse_figure4", grid, draw, source=source))

"""GSE, Figure 4: FLOPs of a training step of RigL and of GSE for ResNet-50 on ImageNet, at practical and at brain-like sparsities.

Computed from layer costs and Erdos-Renyi-kernel densities, without any run (benchmarks/training_flops.py); `--run` computes it anew.
"""
from drawing import looks, main
from rows import no_runs as grid, stored

METHODS = {"rigl": ("RigL", "rigl"), "gse_uniform": ("GSE", "gse")}


def text(table):
    row = table.iloc[0]
    return (f"Computed, no runs: ResNet-50, ImageNet, {row.allocation.upper()} densities, a mask update every {row.interval} steps, "
            f"γ = {row.gamma:g} (assumed). In grey: RigL / GSE.")


source = stored("performance/training_flops.csv", "benchmarks.training_flops", text)


def draw(table, figure):
    """Draws the table into the empty figure and returns it."""
    from matplotlib.ticker import NullLocator

    styles = looks(METHODS)
    table = table.assign(density=1 - table.sparsity, ratio=table.rigl_flops / table.gse_flops)
    axes = figure.subplots(1, 2)
    for panel, inside in zip(axes, (table.density >= 0.01, table.density <= 0.01)):
        points = table[inside]
        for method, (label, name) in METHODS.items():
            panel.plot(points.density, points[name + "_flops"] / 1e9, label=label, ms=2.5, **styles[method])
        panel.set(xscale="log", yscale="log", xlabel="Density")
        panel.invert_xaxis()
    axes[0].set_xticks([0.5, 0.2, 0.1, 0.05, 0.02, 0.01], ["50", "20", "10", "5", "2", "1"])
    axes[0].set(title="practical sparsities", xlabel="Density (%)", ylabel="GFLOPs per image and step")
    axes[0].minorticks_off()
    for point in table[table.density.round(7).isin([1e-4, 1e-5])].itertuples():
        between = (point.gse_flops * point.rigl_flops) ** 0.5 / 1e9
        axes[1].plot([point.density] * 2, [point.gse_flops / 1e9, point.rigl_flops / 1e9], color="0.6", linewidth=0.6, zorder=0)
        axes[1].text(point.density, between, f" {point.ratio:.3g}×", color="0.4", fontsize=6)
    axes[1].set_xticks([1e-2, 1e-4, 1e-6], ["1", "0.01", "0.0001"])
    axes[1].set(title="brain-like sparsities", xlabel="Density (%)")
    axes[1].xaxis.set_minor_locator(NullLocator())
    return table


if __name__ == "__main__":
    raise SystemExit(main("gse_figure4", grid, draw, source=source))

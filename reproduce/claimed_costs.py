"""The papers' claims on costs (A12 of ST-3, B6 and B7 of GSE), judged by what was measured or computed. Each function returns the Parts of a
claim from the tables in `performance/` of a results folder; none if there is no table."""
import math
from itertools import product

from evidence import Evidence, Part, alike
from rows import measured, of_one_machine

from benchmarks.tasks import TASKS


def overhead(results, tasks):
    """On the time of a step of ST-3 on these tasks in their own precision, as a multiple of a dense one; decided if both quartiles of the rounds are
    on one side of 1.05."""
    rows = measured(results, "overhead", "task method precision")
    rows = rows[(rows.method == "st3") & rows.task.isin(tasks)]
    rows = rows[rows.precision == [TASKS[task].precision for task in rows.task]]
    return [Part(f"step of `st3` / dense: {row.ratio:.3f} (quartiles {row.ratio_low:.3f} to {row.ratio_high:.3f}), {row.task}, {row.precision}, "
                 + f"{row.runs} at a time, " * (row.runs > 1) + row.device + wider_steps(results, row.device),
                 True if row.ratio_high <= 1.05 else False if row.ratio_low > 1.05 else None)  # empty cells (NaN) decide nothing
            for row in rows.itertuples()]


def wider_steps(results, device):
    """The same ratio at larger widths of the network, in words; these are not the paper's and decide nothing."""
    rows = measured(results, "scaling", "part device")
    rows = rows[(rows.part == "width") & (rows.device == device)]
    if rows.empty:
        return ""
    times = rows.pivot_table("value", "x", "method")
    ratios = (times.st3 / times.dense)[times.index > 1].dropna()
    widths, ratios = (", ".join(f"{number:{form}}" for number in numbers) for numbers, form in ((ratios.index, "g"), (ratios, ".2f")))
    return f"; measured by themselves, {widths} times as wide: {ratios}"


def flops(results):
    """On the training FLOPs of RigL and GSE, by the papers' formulas."""
    rows = measured(results, "training_flops", "")
    if rows.empty:
        return []
    rows["saved"] = 1 - rows.gse_flops / rows.rigl_flops
    if not len(near := rows[(rows.sparsity - 0.99).abs() < 1e-6]):
        return []
    at = near.iloc[0]
    most = (rows.rigl_flops / rows.gse_flops).max()
    seldom = 1 - (3 * 1000 + 2 + at.gamma) / (3 * 1000 + 2 + at.dense_macs / at.sparse_macs)
    assumed = (f"an update every {rows.interval.iloc[0]} steps, RigL's own; the paper does not state it, and with the 1,000 of GSE's other runs "
               f"it would be {100 * seldom:.1f} %")
    return [Part(f"computed, ResNet-50 at {100 * at.sparsity:g} %: {100 * at.saved:.1f} % fewer training FLOPs than RigL (paper: 11.8 %, here within "
                 f"a point), with {assumed}", decided(at.saved, abs(at.saved - 0.118) < 0.01)),
            Part(f"computed, at {100 * rows.sparsity.max():g} %: RigL needs {most:.0f} times as many (paper: more than 100)",
                 decided(most, most > 100))]


def decided(number, holds):
    """Whether a measured number is as claimed; None if its cell is empty."""
    return bool(holds) if math.isfinite(number) else None


def trained_flops(runs, results):
    """[(scale, Parts)] of the training FLOPs that runs of GSE and of RigL took, counted from their actual masks. Decided if GSE's are below RigL's
    with every seed, or with none. The paper speaks of ResNet-50, which these runs are not."""
    found, own = [], alike(runs).get("")
    own = own if own is None else own[own.status == "ok"]  # a diverged run did not take those of a whole training
    for task, epochs in sorted(set(zip(own.task, own.epochs))) if own is not None else ():
        e, parts = Evidence(own, task, int(epochs), results), []
        for sparsity in e.sparsities("gse_uniform", "rigl"):
            gse, rigl = (e.seeds(method, sparsity, "train_flops_fraction") for method in ("gse_uniform", "rigl"))
            if ratios := [gse[seed] / rigl[seed] for seed in gse.keys() & rigl.keys()]:
                holds = True if max(ratios) < 1 else False if min(ratios) >= 1 else None
                parts.append(Part(f"training FLOPs of `gse_uniform` / `rigl` at {100 * sparsity:g} % (claimed: below 1): "
                                  f"{sum(ratios) / len(ratios):.2f}, {len(ratios)} seed{'s' * (len(ratios) > 1)}", holds))
        found += [(e.scale, parts)] * bool(parts)
    return found


def slopes(results):
    """On the growth of the time and memory of an update of the connections: with the width at a constant number of weights, and with the number of
    weights at a constant width, on the machine that sparse_figure2.py shows."""
    from sparse_figure2 import FAR, NAMES, against, slope

    table, parts = measured(results, "sparse_growth", ""), []
    if table.empty:
        return []
    table = of_one_machine(table)
    sizes = ("width", "width", "widths", "{0.nnz:,} weights"), ("nnz", "weights", "numbers of weights", "width {0.width:,}")
    for (size, called, things, constant), (method, name) in product(sizes, NAMES.items()):
        own = against(table, size)
        quadratic, points = method == "rigl", own[own.method == method]
        for measure, what in (("update_ms", "time"), ("peak_mb", "memory")) if len(points) > 1 else ():
            fitted, far = slope(points, measure, size)
            claimed = "quadratic, here at least 1.85" if quadratic else "at most linear, here at most 1.15"
            power = f"{fitted:.3f}" if math.isfinite(fitted) else "?"
            holds = fitted >= 1.85 if quadratic else fitted <= 1.15
            parts.append(Part(f"{name}: {what} of an update ∝ {called}^{power} (claimed: {claimed}, over the {far} largest of "
                              f"{len(points)} {things} up to {points[size].max():,} that cost {FAR} times the smallest or more, "
                              f"{constant.format(points.iloc[0])})",
                              decided(fitted, holds)))
    return parts

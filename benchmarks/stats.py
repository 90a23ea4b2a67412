"""What stored rows allow to say about methods at one task and sparsity: means, paired differences, ranks, the Pareto front.

Imports no torch. Only the spread over seeds is counted, on the one test set of a task: another test set is not looked at.
"""
import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.suites import accuracies
from benchmarks.tasks import DATASETS

LEVEL = 0.05  # of all tests of one task and sparsity together
TESTED = "difference difference_half p rank_low rank_high".split()  # columns that only ranked methods have
OFF_TARGET = 0.015  # of the density asked for; rounding in each of its few layers moves digits' network by up to 1.3 %


def outcomes(rows):
    """The rows of runs.csv with what counts of each: columns `accuracy` (`suites.accuracies`) and `outcome`.

    outcome: "ok"; "collapsed", an accuracy as good as chance (`Dataset.collapsed`); "diverged", the loss was no longer a number;
    "failed", which is counted and named, not averaged. Raises ValueError for an unknown data set.
    """
    rows = rows.copy()
    unknown = set(rows.dataset) - set(DATASETS)
    if unknown:
        raise ValueError(f"benchmarks/tasks.py lacks {', '.join(sorted(unknown))}")
    rows["accuracy"] = accuracies(rows)
    limits = {name: dataset.collapsed for name, dataset in DATASETS.items()}
    rows["outcome"] = rows.status.mask((rows.status == "ok") & (rows.accuracy <= rows.dataset.map(limits)), "collapsed")
    return rows


def interval(values):
    """Half the width of the 95 % interval of the mean (Student t); NaN for fewer than two values."""
    values = np.asarray(values, float)
    n = len(values)
    return stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan


def holm(p):
    """Holm's (1979) adjusted p-values of one family; NaN is not a test and stays NaN."""
    p = np.asarray(p, float)
    order = np.argsort(p)[:np.isfinite(p).sum()]  # NaN sorts last
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.maximum.accumulate(np.arange(len(order), 0, -1) * p[order]).clip(max=1)
    return adjusted


def paired(accuracy, resolution=0.0):
    """Paired t-tests of all pairs of methods: accuracy (methods, seeds), NaN where there is no result.

    Returns (difference, half its 95 % interval, Holm's p) as (methods, methods) arrays, row minus column, over the seeds that
    both have; interval and p are NaN below two such seeds. The family is all pairs, not only those with the best: which method is
    best was read off the same rows, so k - 1 tests against it find differences between equal methods in more than 5 % of cases.
    resolution: least standard deviation of a difference that is believed; few test images give equal differences by chance.
    """
    apart = accuracy[:, None] - accuracy[None]
    n = np.isfinite(apart).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(apart, -1) / n
        deviation = np.sqrt(np.nansum((apart - mean[..., None]) ** 2, -1) / (n - 1))
        error = np.where(n > 1, np.maximum(deviation, resolution) / np.sqrt(n), np.nan)
        half = stats.t.ppf(0.975, n - 1) * error
        p = 2 * stats.t.sf(np.where(mean == 0, 0, abs(mean) / error), n - 1)
    upper = np.triu_indices(len(accuracy), 1)
    adjusted = np.full(mean.shape, np.nan)
    adjusted[upper] = holm(np.where(n > 1, p, np.nan)[upper])
    adjusted.T[upper] = adjusted[upper]
    return mean, half, adjusted


def resolution(dataset):
    """The standard deviation, in points, of a difference of two accuracies that rounding to whole test images gives by itself."""
    return 100 / DATASETS[dataset].test_images / np.sqrt(6)


def front(accuracy, cost):
    """Which points no other one beats: none as accurate and as cheap, and better in one of the two. NaN is never on it."""
    a, c = np.asarray(accuracy, float), np.asarray(cost, float)
    beaten = ((a[None] >= a[:, None]) & (c[None] <= c[:, None]) & ((a[None] > a[:, None]) | (c[None] < c[:, None]))).any(1)
    return ~beaten & np.isfinite(a) & np.isfinite(c)


def compare(rows):
    """The leaderboard: one line per task, sparsity and method of the rows (runs.csv's columns and `label`, which names a method).

    `mean`, `half` (of the 95 % interval over seeds), `seeds`; `diverged`, `collapsed`, `failed`: those seeds, as text;
    `difference` to the best, `difference_half`, `p` (see `paired`); `rank_low`, `rank_high`: 1 + the methods that are
    significantly better, and the number of methods - those significantly worse; `separable` from the best; costs as multiples of
    dense (means over the seeds that trained to the end), `seconds`; `front`: on the Pareto front of accuracy and training FLOPs.
    Dense, and methods that do not hit the sparsity asked for (`achieved`), are shown but have no rank, no test and no front.
    """
    rows = outcomes(rows)
    lines = [summary(task, sparsity, label, runs)
             for (task, sparsity, label), runs in rows.groupby(["task", "sparsity", "label"], sort=True)]
    table = pd.DataFrame(lines)
    dense = table[table.method == "dense"]
    cells = []
    for (task, _), cell in table[table.method != "dense"].groupby(["task", "sparsity"], sort=True):
        cells.append(rank(cell.reset_index(drop=True), rows))
        reference = dense[dense.task == task].assign(sparsity=cell.sparsity.iloc[0])
        cells.append(reference.assign(front=False, separable=False))
    if not cells:
        return table.iloc[:0]
    table = pd.concat([cell for cell in cells if len(cell)], ignore_index=True)
    return table.reindex(columns=table.columns.union(TESTED, sort=False))  # where nothing is ranked too


def summary(task, sparsity, label, runs):
    done, whole = runs[runs.accuracy.notna()], runs[runs.status == "ok"]
    named = {outcome: " ".join(map(str, sorted(runs.seed[runs.outcome == outcome])))
             for outcome in ("diverged", "collapsed", "failed")}
    achieved = whole.achieved_sparsity.astype(float)
    return dict(task=task, sparsity=sparsity, method=runs.method.iloc[0], label=label, mean=done.accuracy.mean(),
                half=interval(done.accuracy), seeds=len(done), **named, achieved=achieved.mean(),
                on_target=bool((abs(achieved - sparsity) <= OFF_TARGET * (1 - sparsity)).all()),
                train_flops=whole.train_flops_fraction.astype(float).mean(),
                macs=(whole.macs.astype(float) / whole.dense_macs.astype(float)).mean(),
                cycles=whole.cycles.astype(float).max(), seconds=whole.seconds.astype(float).mean())


def rank(cell, rows):
    """`cell` with differences, ranks and front, the best first."""
    ranked = cell[cell.on_target & (cell.method != "dense") & (cell.seeds > 0)]
    ranked = ranked.sort_values("mean", ascending=False, kind="stable")
    rest = cell.drop(ranked.index).assign(front=False, separable=False)
    if len(ranked):
        task, sparsity = cell.task.iloc[0], cell.sparsity.iloc[0]
        runs = rows[(rows.task == task) & (rows.sparsity == sparsity)]
        accuracy = runs.pivot_table(index="label", columns="seed", values="accuracy").reindex(ranked.label).to_numpy()
        mean, half, p = paired(accuracy, resolution(runs.dataset.iloc[0]))
        found = p < LEVEL
        ranked = ranked.assign(
            difference=mean[:, 0], difference_half=half[:, 0], p=p[:, 0], separable=found[:, 0],
            rank_low=1 + (found & (mean < 0)).sum(1), rank_high=len(ranked) - (found & (mean > 0)).sum(1),
            front=front(ranked["mean"], ranked.train_flops))
        ranked.loc[ranked.index[0], ["difference", "difference_half"]] = np.nan  # the best differs from itself by nothing
    return pd.concat([part for part in (ranked, rest) if len(part)], ignore_index=True)

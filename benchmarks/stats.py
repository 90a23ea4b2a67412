"""What stored rows tell about methods at one task and sparsity: means, differences, ranks, the Pareto front.

Imports no torch. Only the spread over seeds counts, on the task's one test set; how results would vary with another test set is not considered.
"""
import re

import numpy as np
import pandas as pd
from scipy import optimize, special, stats

from benchmarks.accuracy import accuracies, off_target
from benchmarks.tasks import DATASETS

LEVEL = 0.05  # family-wise, for all tests at one task and sparsity
TESTED = "difference difference_half p seeds_needed rank_low rank_high".split()  # columns that only ranked methods have
POWER, MOST_SEEDS = 0.8, 999  # power of a planned comparison; number of seeds beyond which nobody goes
LEAST_ERROR = 0.1  # points; instead of an error of 0, which has no logarithm


def outcomes(rows):
    """The rows of runs.csv with two more columns: `accuracy` (`accuracy.accuracies`) and `outcome`.

    outcome: "ok"; "collapsed", an accuracy as good as chance (`Dataset.collapsed`); "diverged", the loss was no longer a number;
    "failed", which is counted and named, but not averaged. Raises ValueError for an unknown data set.
    """
    rows = rows.copy()
    unknown = set(rows.dataset) - set(DATASETS)
    if unknown:
        raise ValueError(f"benchmarks/tasks.py lacks {', '.join(sorted(unknown))}")
    rows["accuracy"] = accuracies(rows)
    limits = {name: dataset.collapsed for name, dataset in DATASETS.items()}
    rows["outcome"] = rows.status.mask((rows.status == "ok") & (rows.accuracy <= rows.dataset.map(limits)), "collapsed")
    return rows


def interval(values, resolution=0.0):
    """Half the width of the 95 % interval of the mean (Student t); NaN for fewer than two values. resolution: lower bound of the standard deviation
    of the values (see `differences`)."""
    values = np.asarray(values, float)
    n = len(values)
    return stats.t.ppf(0.975, n - 1) * max(values.std(ddof=1), resolution) / np.sqrt(n) if n > 1 else np.nan


def holm(p):
    """Holm's (1979) adjusted p-values of one family; NaN is not a test and stays NaN."""
    p = np.asarray(p, float)
    order = np.argsort(p)[:np.isfinite(p).sum()]  # NaN sorts last
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.maximum.accumulate(np.arange(len(order), 0, -1) * p[order]).clip(max=1)
    return adjusted


def typical(mean, variance, df):
    """The prior for a method's variance over seeds, from all methods: (variance as a function of the mean accuracy, its degrees of freedom).
    Accuracies in percent; the arguments (methods,), df > 0.

    The variances are modelled by a scaled inverse chi-squared distribution, fitted by the moments of their logarithms (Smyth, 2004, section 6.2),
    around a line in the logarithm of the error (like limma's trend), because accurate methods vary less. The degrees of freedom are at most those of
    all methods but one, scaled by (methods - 2) / methods because the line takes two parameters: with two methods there is no prior.
    """
    if len(df) < 3:
        return np.zeros_like, 0.0
    most = (df.sum() - df.max()) * (len(df) - 2) / len(df)

    def terms(mean):
        error = np.log(np.maximum(100 - mean, LEAST_ERROR))
        return np.stack([np.ones_like(error), error], -1)

    logs = np.log(variance) - special.digamma(df / 2) + np.log(df / 2)
    line, *_ = np.linalg.lstsq(terms(mean), logs, rcond=None)
    rest = logs - terms(mean) @ line
    beyond = (rest**2).sum() / (len(df) - 2) - special.polygamma(1, df / 2).mean()  # how much the methods' variances differ beyond chance

    def lacking(prior):
        return special.polygamma(1, prior / 2) - beyond

    prior = most if lacking(most) > 0 else optimize.brentq(lacking, 1e-6, most)
    return lambda mean: np.exp(terms(mean) @ line + special.digamma(prior / 2) - np.log(prior / 2)), prior


def differences(accuracy, resolution, among=None):
    """t-tests of all pairs of methods: accuracy (methods, seeds) in percent, NaN where there is no result.

    Returns (difference of the means, half its 95 % interval, p-value, degrees of freedom) as (methods, methods) arrays, row minus column;
    all but the difference are NaN if one of the two has a single seed. Three seeds say little about the spread, so information from all methods
    is used (moderated t, Smyth, 2004): the `typical` variance enters with its degrees of freedom beside a method's own. Two precautions: a
    method whose own spread is larger keeps it, and a pair has the degrees of freedom of one method. Without them, methods with unequal
    spread are told apart too often (tests/test_stats.py). Two methods alone are compared by Welch's test. If one of
    two to four (with two seeds also of more) has four to ten times the spread of the others, equal methods are still told apart in 5 to 7 % of
    tables. The intervals of a method that spreads two to ten times as much as the others contain the truth in 93 to 84 % instead of 95. Seeds are not
    paired, because a seed does not affect two methods alike (correlation 0.0 to 0.2 in CIFAR-10's rows).
    resolution: lower bound of the standard deviation of a difference, because with few test images equal accuracies occur by chance.
    among: (any number of methods, seeds), from which the prior is estimated instead of from `accuracy` itself.
    """
    def spread(values):
        """(mean, variance, degrees of freedom) of each line; NaN if there are too few seeds."""
        values = np.ma.masked_invalid(values)
        n = values.count(1)
        variance = np.maximum(values.var(1, ddof=1).filled(np.nan), resolution**2 / 2)
        return values.mean(1).filled(np.nan), variance, np.where(n > 1, n - 1.0, np.nan)

    mean, own, df = spread(accuracy)
    others = spread(accuracy if among is None else among)
    expected, prior = typical(*(column[np.isfinite(others[2])] for column in others))
    variance = np.maximum(own, (prior * expected(mean) + df * own) / (prior + df)) / (df + 1)
    both = variance[:, None] + variance
    seen = np.minimum(df[:, None], df) if prior else both**2 / ((variance**2 / df)[:, None] + variance**2 / df)  # Welch's
    apart, error, df = mean[:, None] - mean, np.sqrt(both), prior + seen
    return apart, stats.t.ppf(0.975, df) * error, 2 * stats.t.sf(abs(apart) / error, df), df


def told_apart(p):
    """Holm's p of all pairs of methods: p as of `differences`. The family is all pairs, not only those with the best: which method is best
    was read off the same rows, so k - 1 tests against it find differences between equal methods in more than 5 % of cases."""
    upper = np.triu_indices(len(p), 1)
    adjusted = np.full(p.shape, np.nan)
    adjusted[upper] = holm(p[upper])
    adjusted.T[upper] = adjusted[upper]
    return adjusted


def seeds_needed(apart, variance, df, seeds, pairs):
    """The number of seeds that each of two methods needs for a difference as large as theirs to be significant with probability POWER, among so many
    pairs (each tested at LEVEL / pairs: Bonferroni, as in Holm's first test); infinite if more than MOST_SEEDS.

    apart, df: as from `differences`; variance: of the difference of two seeds, one of each method; seeds: the smaller number of seeds of the two.
    """
    counts = np.arange(2, MOST_SEEDS + 1)
    more = df + counts - seeds
    power = stats.nct.sf(stats.t.isf(LEVEL / pairs / 2, more), more, abs(apart) * np.sqrt(counts / variance))
    return counts[(power >= POWER).argmax()] if (power >= POWER).any() else np.inf


def resolution(dataset):
    """The standard deviation, in points, of the difference of two accuracies that comes from rounding to whole test images alone."""
    return 100 / DATASETS[dataset].test_images / np.sqrt(6)


def at_chance(accuracy, dataset):
    """Which methods have the same accuracy with every seed, one no better than chance: (methods,) from accuracy (methods, seeds), NaN where there is no
    result. They have diverged or compute nothing, which says nothing of a spread over seeds."""
    most = np.fmax.reduce(accuracy, axis=1)
    return (most == np.fmin.reduce(accuracy, axis=1)) & (most <= DATASETS[dataset].collapsed)


def front(accuracy, cost):
    """Which points are on the Pareto front: no other point is as accurate and as cheap, and better in one of the two. NaN is never on it. The last bits
    of equal means, which depend on the order of the seeds, do not count."""
    a, c = (np.asarray(values, float).round(9) for values in (accuracy, cost))
    beaten = ((a[None] >= a[:, None]) & (c[None] <= c[:, None]) & ((a[None] > a[:, None]) | (c[None] < c[:, None]))).any(1)
    return ~beaten & np.isfinite(a) & np.isfinite(c)


def compare(rows, reference=None):
    """The leaderboard: one line per task, sparsity and method of the rows (from `tables.select`: runs.csv's columns and `label`, which names
    a method).

    reference: {task: label} of the method with which all others are compared, instead of with the best. A column `reference` then names it; it is
    empty at a task and sparsity where the reference is not ranked, and nothing is compared there.

    Columns: `mean`, `half` (half the 95 % interval over seeds), `seeds` (their number); `diverged`, `collapsed`, `failed`: these seeds, as text;
    `chosen`: all seeds, if they are not the first ones;
    `difference` to the best (or the reference), `difference_half`, `p` (see `differences`, `told_apart`), `seeds_needed` if it is not significant;
    `rank_low`, `rank_high`: 1 + the number of significantly better methods, and the number of methods - that of significantly worse ones;
    `separable` from the best (or the reference); costs as multiples of dense (means over the seeds that trained to the end), `seconds` if all of
    these are of one kind of machine; `front`: on the Pareto front of accuracy and training FLOPs.
    Dense, and methods that miss the sparsity asked for (`achieved`), are shown but have no rank, no test and no front; a method with failed
    seeds is not on the front.
    """
    rows = outcomes(rows)
    lines = [summary(task, sparsity, label, runs)
             for (task, sparsity, label), runs in rows.groupby(["task", "sparsity", "label"], sort=True)]
    table = pd.DataFrame(lines)
    dense = table[table.method == "dense"]
    cells = []
    for (task, _), cell in table[table.method != "dense"].groupby(["task", "sparsity"], sort=True):
        cells.append(rank(cell.reset_index(drop=True), rows, reference.get(task, "") if reference else None))
        cells.append(dense[dense.task == task].assign(sparsity=cell.sparsity.iloc[0], front=False, separable=False))
    if not cells:
        return table.iloc[:0]
    table = pd.concat([cell for cell in cells if len(cell)], ignore_index=True)
    table = table.reindex(columns=table.columns.union(TESTED, sort=False))  # also if nothing is ranked
    if reference:
        named = table.task.map(reference)
        ranked = ((table.label == named) & table.rank_low.notna()).groupby([table.task, table.sparsity]).transform("any")
        table["reference"] = named.where(ranked, "")
    return table


def content(code_version):
    """The parts of a row's `code_version` that identify the contents of its method's and its suite's own files (`method_files.mark`), as text; "" if
    it has neither."""
    return ", ".join(sorted({mark.strip() for mark in re.findall(r"[^,;]*[.]py [0-9a-f]{10}", str(code_version))}))


def summary(task, sparsity, label, runs):
    """{column: value} of one method's line in a leaderboard: mean accuracy in percent and its 95 % interval over the seeds (half its width), the
    seeds that diverged, collapsed or failed, costs as shares of dense ones, and seconds where all ran on one kind of device, each by itself."""
    done, whole = runs[runs.accuracy.notna()], runs[runs.status == "ok"]
    named = {outcome: " ".join(map(str, sorted(runs.seed[runs.outcome == outcome])))
             for outcome in ("diverged", "collapsed", "failed")}
    achieved, seeds = whole.achieved_sparsity, sorted(map(int, runs.seed))
    return dict(task=task, sparsity=sparsity, method=runs.method.iloc[0], label=label, mean=done.accuracy.mean(),
                half=interval(done.accuracy, resolution(runs.dataset.iloc[0]) / 2**0.5), seeds=len(done), **named, achieved=achieved.mean(),
                chosen=" ".join(map(str, seeds)) if seeds != [*range(len(seeds))] else "",
                contents=done.code_version.map(content).nunique(),
                on_target=not off_target(achieved, sparsity).any(),
                train_flops=whole.train_flops_fraction.mean(), macs=(whole.macs / whole.dense_macs).mean(), cycles=whole.cycles.max(),
                # without step_ms a run shared its GPU with others, and of their seconds only the sum is right
                seconds=whole.seconds.mean() if whole.device.nunique() == 1 and whole.step_ms.notna().all() else np.nan)


def rank(cell, rows, reference=None):
    """`cell` with differences (to the best; to the method of the label `reference`, if one is given), ranks and front, the best first."""
    ranked = cell[cell.on_target & (cell.method != "dense") & (cell.seeds > 0)]
    # rounded: the last bits of equal means depend on the libraries' versions
    ranked = ranked.loc[ranked["mean"].round(9).sort_values(ascending=False, kind="stable").index]
    rest = cell.drop(ranked.index).assign(front=False, separable=False)
    if len(ranked):
        task, sparsity = cell.task.iloc[0], cell.sparsity.iloc[0]
        runs = rows[(rows.task == task) & (rows.sparsity == sparsity)]
        accuracy = runs.pivot_table(index="label", columns="seed", values="accuracy").reindex(ranked.label).to_numpy()
        dataset = runs.dataset.iloc[0]
        mean, half, p, df = differences(accuracy, resolution(dataset), accuracy[~at_chance(accuracy, dataset)])
        p = told_apart(p)
        found, seeds = p < LEVEL, np.isfinite(accuracy).sum(1)
        variance = seeds * (np.diag(half) / stats.t.ppf(0.975, np.diag(df)))**2 / 2  # of a seed; a method's difference from itself has two
        pairs, labels = np.isfinite(p).sum() // 2, [*ranked.label]
        to = labels.index(reference) if reference in labels else 0
        needed = [np.nan if found[i, to] or np.isnan(p[i, to]) else
                  seeds_needed(mean[i, to], variance[i] + variance[to], df[i, to], min(seeds[[to, i]]), pairs) for i in range(len(p))]
        ranked = ranked.assign(
            difference=mean[:, to], difference_half=half[:, to], p=p[:, to], seeds_needed=needed, separable=found[:, to],
            rank_low=1 + (found & (mean < 0)).sum(1), rank_high=len(ranked) - (found & (mean > 0)).sum(1),
            front=front(ranked["mean"].where(ranked.failed == ""), ranked.train_flops))
        ranked.loc[ranked.index[to], ["difference", "difference_half"]] = np.nan  # no difference to itself
        if reference not in (None, *labels):
            ranked = ranked.assign(**dict.fromkeys("difference difference_half p seeds_needed".split(), np.nan), separable=False)
    return pd.concat([part for part in (ranked, rest) if len(part)], ignore_index=True)

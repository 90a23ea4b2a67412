"""What stored rows say for or against a claim: differences, each with its 95 % interval (`benchmarks.stats`)."""
import functools
import importlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from published import title
from rows import read_rows, series_of

from benchmarks.accuracy import off_target
from benchmarks.grid import union
from benchmarks.suites import PROFILES, SUITES
from benchmarks.tasks import DATASETS, REDUCED, TASKS

NEAR = 1.0  # points: two methods are equally good if the interval of their difference lies within ± this
PLANS = ("figure1", "figure3", "figure4", "figure5", "figure6", "gse_table1", "gse_figure2", "gse_figure3", "gse_table3",
         "leaderboard")


@dataclass(frozen=True)
class Part:
    """One comparison: what was found, whether it is as claimed (None: the rows do not decide), and two p-values of a true difference at the claim's
    limit: p corrects a verdict against the claim (`corrected`), claimed_p one for it (`among_all`)."""

    text: str
    holds: bool | None
    p: float = math.nan
    missing: bool = False  # there are no runs for it
    claimed_p: float = math.nan


def all_runs(results):
    """All finished and diverged runs of every suite, with `accuracy` (percent) and `series` ("METHOD OPTIONS"); None if there are no tables."""
    import pandas as pd

    paths = sorted(Path(results).glob("*/runs.csv"))
    if not paths:
        return None
    runs = pd.concat([read_rows(path) for path in paths], ignore_index=True)
    runs["series"] = series_of(runs)
    return runs[runs.accuracy.notna() & runs.task.isin(TASKS)]


def alike(runs, *options):
    """{name of a group: its runs}; only runs of one group are compared. "": the tasks' own precision; one of the options: runs in that precision that
    have the option (`sharing`); another precision."""
    if runs is None:
        return {}
    own = runs.precision == runs.task.map(lambda task: TASKS[task].precision)
    groups = {"": runs[own], **{option: sharing(runs[own], option) for option in options}}
    return groups | {precision: others for precision, others in runs[~own].groupby("precision")}


def sharing(runs, option):
    """The runs of `all_runs` that have an option ("bn_momentum=0.99"), with it removed from `series`."""
    own = runs[runs.options.map(lambda options: option in options.split()).astype(bool)].copy()
    own["series"] = [" ".join(word for word in series.split() if word != option) for series in own.series]
    return own


@functools.cache
def plan():
    """{(task, epochs, series, sparsity)} of the runs that the papers' figures need at full length."""
    scripts = [importlib.import_module(f"reproduce.{name}") for name in PLANS]
    specs = union(*(script.grid(suite, PROFILES[0]) for script in scripts for suite in SUITES))
    return {(spec.task, spec.epochs or TASKS[spec.task].epochs, f"{spec.method} {spec.option_text}".strip(), spec.sparsity) for spec in specs}


@dataclass(frozen=True)
class Difference:
    """A mean over seeds, half its 95 % interval (NaN for one seed), the number of seeds, and the degrees of freedom of their spread."""

    mean: float
    half: float
    seeds: int
    df: float

    def p(self, limit):
        """The two-sided p-value of the hypothesis that the true difference is `limit` (Student t); NaN for one seed."""
        from scipy import stats

        t = abs(self.mean - limit) / self.half * stats.t.ppf(0.975, self.df)
        return 2 * float(stats.t.sf(t, self.df)) if self.seeds > 1 else math.nan

    def part(self, what, low=0.0, high=math.inf, unit="points"):
        """The Part for the claim that the difference is between low and high: it holds if the whole interval lies there, and fails if the whole
        interval lies outside."""
        least, most = self.mean - self.half, self.mean + self.half
        if low < least and most < high:
            holds = True
        elif most < low or least > high:
            holds = False
        else:  # also for one seed, whose interval is NaN
            holds = None
        if low < self.mean < high:
            claimed_p = max(self.p(limit) for limit in (low, high) if math.isfinite(limit))
            p = 1.0 if high < math.inf else claimed_p
        else:
            claimed_p, p = 1.0, self.p(low if self.mean <= low else high)
        mean, spread = round(self.mean, 2) + 0.0, f"± {self.half:.2f}" if self.seeds > 1 else "(no interval)"  # + 0.0: no "-0.00"
        return Part(f"{what}: {mean:+.2f} {spread} {unit}, {self.seeds} seed{'s' * (self.seeds > 1)}", holds, p, claimed_p=claimed_p)


@dataclass
class Evidence:
    """The rows of one task with one number of epochs, in a results folder; `scale` describes them. shared: the option or precision that all `runs`
    have and the papers' figures do not plan (`alike`)."""

    runs: object
    task: str
    epochs: int
    results: object
    shared: str = ""

    @property
    def scale(self):
        own = TASKS[self.task].epochs
        length = f", {self.epochs} of {own} epochs" if self.epochs < own else f", {self.epochs} epochs" if self.epochs > own else ""
        return title(self.task) + " (miniature)" * (self.task == "digits") + length + f", {self.shared}" * bool(self.shared)

    @property
    def full(self):
        """Whether these runs are as the papers made them, in task and number of epochs. Then all that the papers ran is expected to be there."""
        return not self.shared and self.task not in REDUCED and self.epochs >= TASKS[self.task].epochs

    @functools.cached_property
    def points(self):
        """{(epochs, series, sparsity)} of the task that have rows, or that the papers ran."""
        own = self.runs[self.runs.task == self.task]
        return {*zip(own.epochs, own.series, own.sparsity), *(point[1:] for point in plan() if self.full and point[0] == self.task)}

    @functools.cached_property
    def own(self):
        """{(epochs, series): its rows of the task}; cached, because it is used thousands of times."""
        found = {}
        for run in self.runs[self.runs.task == self.task].itertuples():
            found.setdefault((run.epochs, run.series), []).append(run)
        return found

    @functools.cached_property
    def tables(self):
        """{sparsity: DataFrame of accuracies, series as rows and seeds as columns} at this number of epochs."""
        own = self.runs[(self.runs.task == self.task) & (self.runs.epochs == self.epochs)]
        return {sparsity: rows.pivot_table(index="series", columns="seed", values="accuracy")
                for sparsity, rows in own.groupby(own.sparsity.round(6))}

    @functools.cached_property
    def not_lending(self):
        """{(series, sparsity)} by whose spread nothing else is judged, like in the leaderboard: those of which a run at this number of epochs ends at
        another sparsity."""
        ended = self.runs[(self.runs.task == self.task) & (self.runs.epochs == self.epochs) & (self.runs.status == "ok")]
        off = ended[off_target(ended.achieved_sparsity.astype(float), ended.sparsity)]
        return {*zip(off.series, off.sparsity.round(6))}

    def seeds(self, series, sparsity, column="accuracy", epochs=None):
        """{seed: value} of a series, such as "st3" or "st3 straight_through=False", at a sparsity (0 for dense)."""
        return {run.seed: getattr(run, column) for run in self.own.get((epochs or self.epochs, series), ()) if abs(run.sparsity - sparsity) < 1e-6}

    def sparsities(self, *series):
        """The sparsities from 0.6 on (only methods with several cycles pass lower ones) at which all these series have rows or should have."""
        there = ({s for epochs, name, s in self.points if (epochs, name) == (self.epochs, one)} for one in series)
        return sorted(s for s in set.intersection(*there) if s >= 0.6)

    def between(self, first, second):
        """The `Difference` of two {seed: value}, paired, over the seeds that both have; None if they share no seed."""
        from benchmarks.stats import interval, resolution

        values = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
        if not values:
            return None
        return Difference(mean(values), interval(values, resolution(TASKS[self.task].dataset)), len(values), len(values) - 1)

    def unpaired(self, first, second):
        """As `between`, of two methods whose runs are of unlike lengths: by Welch's test, because a seed does not affect two methods alike."""
        import numpy as np

        both = sorted(first.keys() & second.keys())
        return self.tested(np.array([[of[seed] for seed in both] for of in (first, second)])) if both else None

    def apart(self, a, b, sparsity):
        """The `Difference` of two series at a sparsity, over the seeds that both have, by the leaderboard's test, to whose estimate of the spread all
        methods with default options that reach this sparsity contribute; None if they share no seed."""
        from benchmarks.stats import at_chance

        table = self.tables.get(round(sparsity, 6))
        if table is None or not {a, b} <= set(table.index) or not len(both := table.loc[[a, b]].dropna(axis=1).columns):
            return None
        without = {series for series, at in self.not_lending if at == round(sparsity, 6)}
        lend = table[~(table.index.str.contains(" ") | table.index.isin(without)) | table.index.isin([a, b])]
        lend = lend[~at_chance(lend.to_numpy(), TASKS[self.task].dataset)]
        # identical rows count once: at sparsity 0, dense and LRR are the same training
        return self.tested(table.loc[[a, b], both].to_numpy(), lend.drop_duplicates().to_numpy())

    def tested(self, accuracy, others=None):
        """The `Difference` of two series with accuracies (2, seeds) by `benchmarks.stats.differences`. others (any number, seeds): series that help to
        estimate the spread; None: the two alone, by Welch's test."""
        from benchmarks.stats import differences, resolution

        apart, half, _, df = (of[0, 1] for of in differences(accuracy, resolution(TASKS[self.task].dataset), others))
        return Difference(float(apart), float(half), accuracy.shape[1], float(df))

    def part(self, what, found, **limits):
        """[`Difference.part`] of `found`; if it is None, a Part marked as missing at the papers' scale, at other scales nothing."""
        return [found.part(what, **limits)] if found else [Part(what, None, missing=True)] * self.full

    def compare(self, a, words, b, sparsities=None, **limits):
        """A Part on a - b for each of these sparsities (default: those of both series). Where both have failed, nothing is as good as the other."""
        parts = []
        for s in self.sparsities(a, b) if sparsities is None else sparsities:
            found = self.part(f"`{a}` {words} `{b}` at {100 * s:g} %{self.machines((a, s), (b, s))}", self.apart(a, b, s), **limits)
            both = limits and self.failed(a, s) and self.failed(b, s)
            parts += [replace(part, holds=None, claimed_p=1.0, text=part.text + " (both have failed)") for part in found] if both else found
        return parts

    def failed(self, series, sparsity):
        """Whether the mean of its seeds is no better than that of a network that has learned next to nothing."""
        found = self.seeds(series, sparsity).values()
        return bool(found) and mean(found) <= DATASETS[TASKS[self.task].dataset].collapsed

    def machines(self, *points):
        """A remark if the runs of a seed at these (series, sparsity[, epochs]) were made on different kinds of machine, which round differently."""
        found = [self.seeds(series, sparsity, "device", *epochs) for series, sparsity, *epochs in points]
        shared = set.intersection(*map(set, found))
        mixed = any(len({str(of[seed]) for of in found}) > 1 for seed in shared)
        return " (of two kinds of machine)" if mixed else ""

    def above(self, a, b, sparsities=None):
        return self.compare(a, "above", b, sparsities)

    def not_below(self, a, b, sparsities=None):
        return self.compare(a, "at least", b, sparsities, low=-NEAR)

    def near(self, a, b):
        return self.compare(a, "near", b, low=-NEAR, high=NEAR)


def corrected(parts):
    """The parts of a claim, in which those against it are kept as such only if they remain so after correction for all comparisons that are tests
    (Holm, level 0.05); the others become undecided."""
    from benchmarks.stats import LEVEL, holm
    ps, tested = holm([part.p for part in parts]), sum(math.isfinite(part.p) for part in parts)
    return [replace(part, holds=None, text=f"{part.text} (not against it among {tested} comparisons: p = {p:.3f})")
            if part.holds is False and p >= LEVEL else part for part, p in zip(parts, ps)]


def verdict(parts, own=True):
    """The verdict on a claim from its parts, in words. own: whether they are of the paper's own scale, at which alone a claim is reproduced."""
    good = "reproduced" if own else "as claimed"
    against = sum(part.holds is False for part in parts)
    found = sum(not part.missing for part in parts)
    decided = sum(part.holds is not None for part in parts)
    if not found:
        return "not yet measured"
    if against:
        return f"not {good} ({against} of {found} comparisons against it)"
    if found < len(parts):
        return f"incomplete ({decided} of {len(parts)} comparisons as claimed, {len(parts) - found} without runs)"
    if decided == len(parts):
        return f"{good} ({len(parts)} of {len(parts)} comparisons)"
    return f"undecided ({decided} of {len(parts)} comparisons as claimed{among_all(parts)}, the others not decided)"


def among_all(parts):
    """In words, how many comparisons remain as claimed after correction for all comparisons (Holm); "" if all do."""
    from benchmarks.stats import LEVEL, holm
    adjusted = [p for part, p in zip(parts, holm([part.claimed_p for part in parts])) if part.holds]
    stay = sum(p < LEVEL for p in adjusted)
    return f", {stay} among all" if stay < len(adjusted) and all(map(math.isfinite, adjusted)) else ""

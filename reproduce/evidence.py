"""What stored rows say for or against a claim: differences paired by seed, each with its 95 % interval (`benchmarks.stats`)."""
import math
from dataclasses import dataclass, replace
from pathlib import Path

from drawing import REDUCED, TASKS
from published import title
from rows import read_rows

NEAR = 1.0  # points: two methods are as good as each other where the interval of their difference lies within this


@dataclass(frozen=True)
class Part:
    """One comparison: what was found, whether it is as claimed (None: the rows do not decide), and the p-value of a difference."""

    text: str
    holds: bool | None
    p: float = math.nan


def runs_of(results):
    """All finished and diverged runs of every suite in their task's own precision, with `accuracy` (percent) and `series`,
    "METHOD OPTIONS"; None without any."""
    import pandas as pd

    from benchmarks.stats import outcomes

    paths = sorted(Path(results).glob("*/runs.csv"))
    if not paths:
        return None
    runs = outcomes(pd.concat([read_rows(path) for path in paths], ignore_index=True))
    runs["series"] = (runs.method + " " + runs.options.astype(object).fillna("").astype(str)).str.strip()
    own = runs.task.map(lambda task: TASKS[task].precision if task in TASKS else None)
    return runs[runs.accuracy.notna() & (runs.precision == own)]


@dataclass(frozen=True)
class Difference:
    """A mean over seeds, half its 95 % interval (NaN for one seed), the number of seeds, and the p-value of no difference."""

    mean: float
    half: float
    seeds: int
    p: float

    def part(self, what, judge):
        """The Part of this comparison. judge: a function of (mean, half), not asked for a single seed."""
        spread = f"± {self.half:.2f}" if self.half == self.half else "(no interval)"
        text = f"{what}: {self.mean:+.2f} {spread} points, {self.seeds} seed{'s' * (self.seeds > 1)}"
        return Part(text, judge(self.mean, self.half) if self.half == self.half else None, self.p)


def positive(mean, half):
    """Whether the interval lies above 0; None where it contains 0."""
    return True if mean > half else False if mean < -half else None


@dataclass
class Evidence:
    """The rows of one task that were trained for as many epochs; `scale` names it."""

    runs: object
    task: str
    epochs: int

    @property
    def scale(self):
        own = TASKS[self.task].epochs
        where = title(self.task)
        if self.task == "digits":
            return f"{where} (miniature)"
        return where + (f", {self.epochs} of {own} epochs" if self.epochs < own else "")

    @property
    def full(self):
        """Whether these are runs as the papers made them: their task, their epochs."""
        return self.task not in REDUCED and self.epochs >= TASKS[self.task].epochs

    def seeds(self, series, sparsity, column="accuracy", epochs=None):
        """{seed: value} of a series, such as "st3" or "st3 straight_through=False", at a sparsity (0 for dense)."""
        r = self.runs
        chosen = (r.task == self.task) & (r.epochs == (epochs or self.epochs)) & (r.series == series) & ((r.sparsity - sparsity).abs() < 1e-6)
        return dict(zip(r.seed[chosen], r.loc[chosen, column].astype(float)))

    def sparsities(self, *series):
        """The sparsities at which all of these have rows, of the ones that some single-cycle method was given."""
        r = self.runs[(self.runs.task == self.task) & (self.runs.epochs == self.epochs)]
        return sorted(s for s in set.intersection(*(set(r.sparsity[r.series == one]) for one in series)) if s >= 0.6)

    def difference(self, a, b, sparsity, other=None):
        """The `Difference` of a - b over the seeds that both have, b at sparsity `other`, if given; None without any."""
        return self.between(self.seeds(a, sparsity), self.seeds(b, sparsity if other is None else other))

    def between(self, first, second):
        """The `Difference` of two {seed: accuracy} over the seeds that both have; None without any."""
        import numpy as np

        from benchmarks.stats import TEST_IMAGES, paired
        common = sorted(first.keys() & second.keys())
        if not common:
            return None
        values = np.array([[one[seed] for seed in common] for one in (first, second)])
        resolution = 100 / TEST_IMAGES[self.task.partition("-")[0]] / np.sqrt(6)
        mean, half, p = paired(values, resolution)
        return Difference(mean[0, 1], half[0, 1], len(common), p[0, 1])

    def _judged(self, a, b, sparsities, words, judge):
        parts = []
        for sparsity in self.sparsities(a, b) if sparsities is None else sparsities:
            found = self.difference(a, b, sparsity)
            if found:
                parts.append(found.part(f"`{a}` {words} `{b}` at {100 * sparsity:g} %", judge))
        return parts

    def above(self, a, b, sparsities=None):
        """Holds where the interval of a - b lies above 0, fails where it lies below 0."""
        return self._judged(a, b, sparsities, "above", positive)

    def not_below(self, a, b, sparsities=None):
        """Holds where the interval lies above -NEAR, fails where it lies below 0."""
        return self._judged(a, b, sparsities, "at least", lambda mean, half: False if mean < -half else True if mean - half > -NEAR else None)

    def near(self, a, b, sparsities=None):
        """Holds where the interval lies within NEAR around 0, fails where it excludes 0."""
        return self._judged(a, b, sparsities, "near", lambda mean, half: True if abs(mean) + half < NEAR else False if abs(mean) > half else None)


def corrected(parts):
    """The parts of a claim; one that speaks against it only does so if it still would among so many comparisons (Holm, level 0.05)."""
    from benchmarks.stats import LEVEL, holm
    ps = holm([part.p for part in parts])
    return [replace(part, holds=None, text=f"{part.text} (not against it among {len(parts)} comparisons: p = {p:.2f})")
            if part.holds is False and p >= LEVEL else part for part, p in zip(parts, ps)]


def verdict(parts):
    """In words: all as claimed, some against, or how many of them the rows decide."""
    if not parts:
        return "no rows"
    against, decided = sum(p.holds is False for p in parts), sum(p.holds is not None for p in parts)
    if against:
        return f"not reproduced ({against} of {len(parts)} comparisons against it)"
    if decided == len(parts):
        return "reproduced"
    return f"undecided ({decided} of {len(parts)} comparisons as claimed, the others not separable)"

"""What stored rows say for or against a claim: differences paired by seed, each with its 95 % interval (`benchmarks.stats`)."""
from dataclasses import dataclass
from pathlib import Path

from drawing import REDUCED, TASKS
from published import title
from rows import read_rows

NEAR = 1.0  # points: two methods are as good as each other where the interval of their difference lies within this


@dataclass(frozen=True)
class Part:
    """One comparison: what was found, and whether it is as claimed (None: the rows do not decide)."""

    text: str
    holds: bool | None


def runs_of(results):
    """All finished and diverged runs of every suite, with `accuracy` (percent) and `series`, "METHOD OPTIONS"; None without any."""
    import pandas as pd

    from benchmarks.stats import outcomes

    paths = sorted(Path(results).glob("*/runs.csv"))
    if not paths:
        return None
    runs = outcomes(pd.concat([read_rows(path) for path in paths], ignore_index=True))
    runs["series"] = (runs.method + " " + runs.options.astype(object).fillna("").astype(str)).str.strip()
    return runs[runs.accuracy.notna()]


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
        """(mean of a - b over the seeds that both have, half its 95 % interval, seeds); b at sparsity `other`, if given."""
        import numpy as np

        from benchmarks.stats import TEST_IMAGES, paired
        first, second = self.seeds(a, sparsity), self.seeds(b, sparsity if other is None else other)
        common = sorted(first.keys() & second.keys())
        if not common:
            return None
        values = np.array([[one[seed] for seed in common] for one in (first, second)])
        resolution = 100 / TEST_IMAGES[self.task.partition("-")[0]] / np.sqrt(6)
        mean, half, _ = paired(values, resolution)
        return mean[0, 1], half[0, 1], len(common)

    def _judged(self, a, b, sparsities, words, judge):
        parts = []
        for sparsity in self.sparsities(a, b) if sparsities is None else sparsities:
            found = self.difference(a, b, sparsity)
            if found:
                mean, half, seeds = found
                spread = f"± {half:.2f}" if half == half else "(no interval)"
                text = f"`{a}` {words} `{b}` at {100 * sparsity:g} %: {mean:+.2f} {spread} points, {seeds} seed{'s' * (seeds > 1)}"
                parts.append(Part(text, judge(mean, half) if half == half else None))
        return parts

    def above(self, a, b, sparsities=None):
        """Holds where the interval of a - b lies above 0, fails where it lies below 0."""
        return self._judged(a, b, sparsities, "above", lambda mean, half: True if mean > half else False if mean < -half else None)

    def not_below(self, a, b, sparsities=None):
        """Holds where the interval lies above -NEAR, fails where it lies below 0."""
        return self._judged(a, b, sparsities, "at least", lambda mean, half: False if mean < -half else True if mean - half > -NEAR else None)

    def near(self, a, b, sparsities=None):
        """Holds where the interval lies within NEAR around 0, fails where it excludes 0."""
        return self._judged(a, b, sparsities, "near", lambda mean, half: True if abs(mean) + half < NEAR else False if abs(mean) > half else None)


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

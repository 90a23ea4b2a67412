"""Which accuracy of a row counts, which rows are of one training, and what has to be said of a row: another sparsity than was asked for, another
precision than its task's.

Functions of DataFrames, which import no pandas themselves.
"""
from benchmarks.tasks import DATASETS, TASKS

COUNTING = "count_switches=True"  # an option that records more about a run without changing it
OFF_TARGET = 0.015  # as a share of the density asked for; rounding in each of its few layers moves the digits network by up to 1.3 %


def accuracies(rows):
    """The accuracy that counts for each row (DataFrame with the columns of runs.csv), in percent; NaN: no result.

    The test accuracy at the best validation epoch if there was validation, else that of the last epoch. A diverged run counts as chance
    accuracy: a network of NaNs gives every image the same class, and leaving the run out of the mean would reward a method for the seeds
    that it loses. A failed run (a program error) has no result.
    """
    accuracy = rows.top1_best_val.fillna(rows.top1).astype(float)
    chance = rows.dataset.map({name: dataset.chance for name, dataset in DATASETS.items()})
    return accuracy.mask(rows.status == "diverged", chance).mask(rows.status == "failed")


def trained_by(options):
    """The options (Series of texts) that the training depends on."""
    return options.str.replace(COUNTING, "").str.split().str.join(" ")


def off_target(achieved, asked):
    """Whether runs end at a sparsity (`achieved`, a Series) that misses the one asked for by more than OFF_TARGET."""
    return (achieved.astype(float) - asked).abs() > OFF_TARGET * (1 - asked)


def unusual(rows):
    """["In fp32."], or the like, if some of these rows (DataFrame with `task`, `precision`) are not in their tasks' own precision; else []."""
    found = rows[["task", "precision"]].dropna().drop_duplicates()
    other = {row.precision for row in found.itertuples() if row.precision != TASKS[row.task].precision}
    return [f"In {', '.join(sorted(other))}."] * bool(other)

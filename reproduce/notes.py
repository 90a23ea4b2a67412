"""The note under a figure, which describes the runs that it shows."""
from published import title, without_storage
from rows import series_of, summary

from benchmarks.accuracy import COUNTING, off_target, unusual
from benchmarks.suites import SEEDS
from benchmarks.tasks import REDUCED, TASKS


def note(runs, lead=None, labels={}, diverged="in the mean"):
    """The text under a figure about its runs: which accuracy and how many seeds (or `lead`, with these in place of {epoch} and {seeds}), what they
    have in common, and what is missing, shortened, or has too few seeds. labels: {method: its name in the figure}. diverged: where runs are that
    diverged.

    Read from `runs.attrs`, if there: `note` replaces the whole text, `out` is appended to it (what was left out), `failed` is the number of failed
    runs that are not in `runs`.
    """
    if "note" in runs.attrs:
        return runs.attrs["note"]
    done = runs[runs.accuracy.notna()]
    last = done["last"][done.status != "diverged"]  # for a diverged run no epoch counts
    epoch = "last epoch" if last.all() else "best validation epoch"
    seeds = summary(runs).seeds
    lead = lead or "Mean ± s.d. over {seeds}; test accuracy at the {epoch}."
    text = lead.format(seeds=number_of(seeds), epoch=epoch).replace(" ± s.d. over one", " over one")
    if last.any() and not last.all() and "{epoch}" in lead:
        text += f" {last.sum()} of {len(done)} runs: last epoch, for want of a validated one."
    text += in_common(runs) + "".join(f" {REDUCED[task]}" for task in done.task.unique() if task in REDUCED)
    begun = runs[runs.task.isin(done.task)]
    if len(done) < len(begun):
        why = [f"{count} {status}" for status, count in begun.status[begun.accuracy.isna()].value_counts().items()]
        why += absent(begun, labels)
        text += f" Missing: {len(begun) - len(done)} of {len(begun)} runs" + (f" ({'; '.join(why)})." if why else ".")
    text += "".join(f" No runs of {title(task)}." for task in runs.task.unique() if task not in set(begun.task))
    text += f" Failed runs, not in the mean: {runs.attrs['failed']}." if runs.attrs.get("failed") else ""
    number = (done.status == "diverged").sum()
    text += f" Diverged runs {diverged}: {number}." if number else ""
    if (seeds < len(SEEDS)).any():
        text += f" Fewer than {len(SEEDS)} seeds: {(seeds < len(SEEDS)).sum()} of {len(seeds)} points."
    whole = done.task.map(lambda task: TASKS[task].epochs)
    reduced = done.epochs[done.epochs < whole]
    if len(reduced):
        most = f" to {reduced.max():g}" if reduced.max() > reduced.min() else ""
        text += f" Reduced runs: {reduced.min():g}{most} of {whole[reduced.idxmin()]} epochs."
    elif (done.epochs > whole).all():
        text += f" {done.epochs.min():g} instead of {whole.iloc[0]} epochs."
    text += "".join(f" {words}" for words in unusual(done))
    kinds = done.device.nunique() if "device" in done else 1
    text += f" Made on {kinds} kinds of machine, which round differently." if kinds > 1 else ""
    several = done[done.cycles > 1]
    if len(several) and (done.cycles == 1).any():
        names = [labels.get(method, method) for method in sorted(several.method.unique())]
        text += f" In up to {several.cycles.max():g} cycles: {'; '.join(names)}."
    return text + runs.attrs.get("out", "")


def absent(runs, labels):
    """What has no finished run: ["all of DNW, STR", "all of STE-hard at 98 %"]; series with the same gaps together, at most six named. Options for
    which the figure has no name are named as they are."""
    plain = runs.assign(options=runs.options.map(without_storage))
    own, options = names(runs, labels), plain.options.mask(series_of(plain).isin(list(labels)), "")
    named = own.where(options == "", own + " (" + options + ")")
    points = runs.accuracy.notna().groupby([named, runs.sparsity], sort=False).any()
    gaps = {}
    for name, there in points.groupby(level=0, sort=False):
        lacking = sorted(there.index[~there].get_level_values("sparsity"))
        if lacking:
            gaps.setdefault(tuple(lacking) if there.any() else (), []).append(quoted(name))
    return [f"all of {', '.join(found[:6])}" + f" and {len(found) - 6} more" * (len(found) > 6)
            + f" at {', '.join(f'{100 * s:g}' for s in lacking)} %" * bool(lacking) for lacking, found in gaps.items()]


def names(runs, labels):
    """The name of each run in the figure (Series): that of its method with its options, if labels has one, else that of its method."""
    series = series_of(runs.assign(options=runs.options.map(without_storage)))
    return runs.method.map(lambda method: labels.get(method, method)).where(~series.isin(list(labels)), series.map(labels))


def quoted(name):
    """A name for a list: in quotes if it has a comma itself."""
    return f'"{name}"' if "," in name else name


def noted(runs, draw):
    """The note of the figure that `draw` draws, without the remarks that drawing adds."""
    labels = getattr(draw, "labels", {})
    text = note(runs, getattr(draw, "lead", None), labels, getattr(draw, "diverged", "in the mean"))
    return text + (missed(runs, labels) if not getattr(draw, "ends", False) else "")


def missed(runs, labels):
    """The sentence that names runs which end at another sparsity than they are drawn at, and the tasks if it is so on some alone; "" if there are
    none."""
    if "achieved_sparsity" not in runs:
        return ""
    ended, words = runs[runs.status == "ok"].astype({"achieved_sparsity": float}), []
    if not off_target(ended.achieved_sparsity, ended.sparsity).any():
        return ""
    for (name, asked), same in ended.groupby([names(ended, labels), "sparsity"], sort=False):
        off = same[off_target(same.achieved_sparsity, same.sparsity)]
        if len(off):
            where = f" on {' and '.join(map(title, off.task.unique()))}" * (off.task.nunique() < same.task.nunique())
            words.append(f"{name}{where} at {100 * asked:g} % (ends at {100 * off.achieved_sparsity.mean():.3g} %)")
    return f" Not at the sparsity asked for: {'; '.join(words)}." * bool(words)


def number_of(seeds):
    """The number of seeds per point, in words."""
    least, most = seeds.min(), seeds.max()
    return "one seed" if most == 1 else f"{most} seeds" if least == most else f"{least} to {most} seeds"


def in_common(runs):
    """The sentences on what all runs share: the sparsity (at width 1, if wider networks have the same number of active weights) and options."""
    words = [set(options.split()) for options in runs.options]
    wider = [any(word.startswith("width=") for word in each) for each in words]
    sparsities = {s for s, wide in zip(runs.sparsity, wider) if s and not wide}
    text = "".join(f" {100 * s:g} % sparsity{' at width 1' * any(wider)}." for s in sparsities if len(sparsities) == 1)
    common = sorted(set.intersection(*words) - {COUNTING})
    return text + f" With {', '.join(common)}." * bool(common)

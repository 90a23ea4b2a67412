"""Chosen methods side by side, including your own: accuracy against sparsity, both over the course of training, and the layers' densities.

`python reproduce/compare.py st3 gmp "gmp ramp_power=0" mine.py:Mine --suite digits --sparsity 0.98` draws them, and dense, from stored rows of
one length. Options may be in any order, and numbers in any form that `--set` takes. In `"gmp ramp_power=0::fixed"`, the text after `::` is the
label in the legend. With --costs it draws accuracy against training FLOPs instead, from rows of all lengths. Not in the papers.
"""
import contextlib
import difflib
import re
from pathlib import Path

import costs
from drawing import WIDTH, Parser, files, refusing, save, tasks_of
from gse import plus_minus
from marks import DENSE_LINE, accuracy_lines, looks, number_decades, remark
from notes import note
from published import title
from rows import POINT, NoRows, layers_of, lengths, lines_of, none_finished, read_rows, repeated, series_of, summary

from benchmarks.accuracy import off_target
from benchmarks.command import command, with_options
from benchmarks.comparison.tables import of_precision, of_profile, renamed
from benchmarks.grid import NEXT
from benchmarks.method_files import file_of, path_of
from benchmarks.progress import several
from benchmarks.stats import content
from benchmarks.suites import PROFILES, SIZES, SUITES
from benchmarks.trial.own_methods import tell_older

NAME = "compare"
ALIASES = {"gse": "gse_uniform", "ste_soft_rescale": "st3"}  # written out, because methods needs torch
MOST = 0.99999  # highest sparsity on the axis
ENDS = "At the sparsity they end at, not the one asked for: {}."


def asked(words):
    """{series, as rows may name it: label} from the arguments "METHOD", "METHOD name=value ..." and "...::label", without dense."""
    found = {}
    for word in words:
        name, _, label = word.partition("::")
        method, *options = map(str.strip, re.split(NEXT, name.strip()))
        name = " ".join([path_of(method) if file_of(method) else ALIASES.get(method, method), *options])
        for option in {"epochs", "precision"}.intersection(option.partition("=")[0] for option in options):
            raise NoRows(f"{option} is the same for all that are compared: --{option}")
        if name == "dense" and label:
            raise NoRows("dense is drawn beside others, by this name: no label")
        if name != "dense":
            found[name] = label.strip() or Path(name).name
    return {name: name if [*found.values(), "Dense"].count(label) > 1 else label for name, label in found.items()}


def meaning(name):
    """A normal form of a series' text: equal for any order of its options and any way of writing their numbers and truth values."""
    def plain(value):
        with contextlib.suppress(ValueError):
            return repr(float(value))
        return value.lower() if value.lower() in ("true", "false") else value
    method, *options = re.split(NEXT, name)
    return method, *sorted(f"{option}={plain(value)}" for option, _, value in (pair.partition("=") for pair in options))


def chosen(labels, args):
    """Returns (the finished runs of these series and of dense, {series as the rows name it: label}). If no profile is given, the one with more runs
    is taken; if some tasks have all series, only these tasks are. With --costs, runs of all lengths at one sparsity.

    Raises NoRows if a series has no finished runs, or nothing is stored.
    """
    folder = Path(args.results) / args.suite
    if not (folder / "runs.csv").exists():
        raise none_finished(args.suite, args.results, args.profile, args.precision, args.epochs)
    rows = read_rows(folder / "runs.csv")
    rows = rows.drop(renamed(rows))
    names, found = series_of(rows).unique(), {}
    written = {meaning(name): name for name in names}
    series = {name if name in names else written.get(meaning(name), name): label for name, label in labels.items()}

    def compared_with(rows, profile):
        return of_precision(rows, args.precision) if args.costs else of_profile(rows, args.suite, profile, args.epochs, args.precision)
    for profile in [args.profile] if args.profile else PROFILES:
        # leaves out the low sparsities that only LRR's first levels have
        compared = (rows.sparsity >= SIZES[args.suite, PROFILES[0]][0][0]) | ((rows.cycles == 1) & (rows.sparsity > 0)) | (rows.method == "dense")
        own = rows[rows.accuracy.notna() & compared]
        own = own[compared_with(own, profile)]
        found[profile] = own, series_of(own).isin([*series, "dense"])
    profile = max(found, key=lambda name: found[name][1].sum())
    own, asked = found[profile]
    failures = rows[(rows.status == "failed") & compared_with(rows, profile)]
    have, bad = set(series_of(own)), series_of(failures)
    for name in series:
        if name not in have:
            raise unfinished(name, args, profile, have, int((bad == name).sum()), lengths(rows[series_of(rows) == name]))
    runs = own[asked]
    sparse = runs[runs.method != "dense"]
    if sparse.empty:
        raise NoRows("dense is drawn beside others; name one")
    whole = series_of(sparse).groupby(sparse.task).agg(set).map(lambda there: there == {*series})
    runs = runs[runs.task.isin(whole.index[whole] if whole.any() else whole.index)].reset_index(drop=True)
    if args.costs:
        runs = at_one_sparsity(runs, args.sparsity)
        failures = failures[failures.sparsity.isin(runs.sparsity)]
    runs.attrs |= {"folders": (str(folder),), "failed": int((bad.isin({*series_of(runs)}) & failures.task.isin(runs.task)).sum())}
    return runs, series


def unfinished(name, args, profile, have, failed, other):
    """The NoRows of a series without finished runs: what is there instead, or the command that makes them. have: the series with runs. failed: how
    many of its own failed. other: a remark about its runs of other lengths, "" if there are none."""
    method, *options = re.split(NEXT, name)
    same = args.suite + with_options(methods=[method], set=options, profile=profile, epochs=args.epochs, precision=args.precision,
                                     results=args.results)
    if failed:
        return NoRows(f"no finished runs of {name!r}: {several(failed, 'run')} of it failed, and why says python -m benchmarks status {same}")
    if file_of(method) and not Path(file_of(method)).is_file():
        return NoRows(f"no finished runs of {name!r}: there is no file {file_of(method)}")
    mistyped = method not in {each.partition(" ")[0] for each in have}
    close = mistyped and difflib.get_close_matches(name, sorted(have), n=3, cutoff=0.4)
    hint = other or (f"; nearest: {', '.join(close)}" if close else f"; make them with: python -m benchmarks launch {same}")
    return NoRows(f"no finished runs of {name!r} in {Path(args.results) / args.suite / 'runs.csv'} (profile {profile}){hint}")


def of_their_curves(runs, sparsity):
    """For the runs at a sparsity, and dense: the means over seeds, at each epoch that is stored (of runs whose cycles are rows of their own, those of
    the last), of the validation accuracy (without validation, the test accuracy) and of the sparsity."""
    lines = lines_of(runs, "curves", (runs.sparsity - sparsity).abs().lt(1e-6) | (runs.method == "dense"))
    lines["epoch"] += 1 - lines.groupby("key").epoch.transform("min")
    lines["accuracy"] = lines.val_top1.fillna(lines.test_top1)
    points = lines.groupby([*POINT, "epoch"], sort=False)
    return points.agg(mean=("accuracy", "mean"), std=("accuracy", "std"), seeds=("seed", "nunique"),
                      sparsity_then=("sparsity_then", "mean")).reset_index()


def of_their_layers(runs, sparsity):
    """The density of each layer, as mean over seeds, in the runs at a sparsity that trained to the end."""
    try:
        lines = layers_of(runs, (runs.sparsity - sparsity).abs().lt(1e-6) & (runs.status == "ok"))
    except NoRows:
        return runs[:0].assign(index=0, layer="", density=0.0)[[*POINT, "index", "layer", "density"]]
    means = lines.assign(density=lines.nnz / lines.weights).groupby([*POINT, "index", "layer"], sort=False)
    return means.agg(density=("density", "mean"), seeds=("seed", "nunique")).reset_index()


def drawn_at(runs, wanted):
    """The sparsity of the curves: the one asked for, else the one that most series have (in a tie the highest). Raises NoRows if none has it."""
    have = runs[runs.method != "dense"].assign(series=series_of(runs)).groupby("sparsity").series.nunique()
    if wanted is None:
        return max(have.index, key=lambda sparsity: (have[sparsity], sparsity))
    if wanted not in have.index:
        raise NoRows(f"no finished runs of these methods at sparsity {wanted:g}; at {', '.join(f'{s:g}' for s in have.index)} there are")
    return wanted


def at_one_sparsity(runs, wanted):
    """The runs at the sparsity of the curves (`drawn_at`) in each task, and dense."""
    at = {task: drawn_at(own, wanted) for task, own in runs.groupby("task")}
    return runs[(runs.sparsity == runs.task.map(at)) | (runs.method == "dense")]


def where_they_end(runs):
    """Returns (the runs, series that miss a sparsity asked for). For these series, the runs' `sparsity` becomes the one where they end (mean over
    seeds; unchanged if all diverged), and a training that is the same whatever sparsity was asked for is kept once."""
    def ends(runs):
        achieved = runs.achieved_sparsity.where(runs.status == "ok").astype(float)
        return achieved.groupby([runs[name] for name in POINT]).transform("mean").round(6)
    off = off_target(ends(runs), runs.sparsity).groupby([runs.task, series_of(runs)]).transform("any")
    there = runs[~(off & repeated(runs))]
    there = there.assign(sparsity=ends(there).clip(upper=MOST).where(off, there.sparsity).fillna(there.sparsity))
    return there, [*dict.fromkeys(series_of(runs[off]))]


def tell_ends(off, labels):
    """The sentence that names these series."""
    return ENDS.format(", ".join(labels[name] for name in off))


def as_text(runs, labels):
    """The texts from which `drawing.save` makes the .md and .tex: for each task, the mean ± s.d. of these series at each sparsity."""
    blocks, (there, off) = [], where_they_end(runs)
    for task in tasks_of(runs):
        points = summary(there[there.task == task])
        texts = {(name, p.sparsity): plus_minus(p.mean, p.std) for name, p in zip(series_of(points), points.itertuples())}
        columns, names = sorted({*points.sparsity}), {name for name, _ in texts}
        lines = [[label, *(texts.get((name, sparsity), "–") for sparsity in columns)] for name, label in labels.items() if name in names]
        blocks.append([[title(task), *(f"{100 * sparsity:g} %" for sparsity in columns)], *lines])
    remarks = [tell_ends(off, labels)] * bool(off) + tell_contents(runs)
    return dict(head="Test accuracy (%)", blocks=blocks, note=" ".join([note(runs, labels=labels), *remarks]))


def tell_contents(runs):
    """A sentence on each method whose runs were made with more than one content of its file, or of the suite's."""
    contents = runs.groupby("method").code_version.agg(lambda codes: codes.map(content).nunique())
    return [f"{Path(method).name} has runs of {number} contents of its file." for method, number in contents.items() if number > 1]


def drawing(series, wanted):
    """The function that draws runs of these {series: label} into an empty figure and returns the table of what was drawn."""
    labels = {"dense": "Dense", **series}

    def draw(runs, figure):
        import pandas as pd

        tables, tasks, styles = [], tasks_of(runs), {"dense": DENSE_LINE, **looks(series)}
        figure.set_size_inches(2 * WIDTH, 0.6 + 3.6 * len(tasks))
        panels = figure.subplots(2 * len(tasks), 2, squeeze=False).reshape(-1, 4)
        for sentence in tell_contents(runs):
            remark(figure, sentence)
        for (accuracy, in_training, sparse, by_layer), task in zip(panels, tasks):
            own = runs[runs.task == task]
            there, off = where_they_end(own)
            tables.append(accuracy_lines(accuracy, there, labels))
            if off:
                remark(figure, tell_ends(off, labels))
            sparsity = drawn_at(own, wanted)
            curves, layers = of_their_curves(own, sparsity), of_their_layers(own, sparsity)
            if own.attrs["out"]:
                remark(figure, own.attrs["out"].strip())
            for name, look in styles.items():
                style = look | dict(marker=None)
                points = curves[series_of(curves) == name].sort_values("epoch")
                in_training.plot(points.epoch, points["mean"], **style)
                in_training.fill_between(points.epoch, points["mean"] - points["std"], points["mean"] + points["std"], color=style["color"],
                                         alpha=0.15, lw=0)
                sparse.plot(points.epoch, 100 * points.sparsity_then, **style)
                its = layers[series_of(layers) == name]
                by_layer.plot(its["index"], 100 * its.density.where(its.density > 0), **look | dict(ms=2))
            number_decades(by_layer.yaxis, 1)
            in_training.set(xlabel="Epoch", ylabel="Accuracy in training (%)", title=f"{title(task)}, {100 * sparsity:g} %")
            sparse.set(xlabel="Epoch", ylabel="Sparsity (%)", ylim=(-4, 104))
            by_layer.set(xlabel="Layer", ylabel="Density (%)", yscale="log")
            for axes in (in_training, sparse, by_layer):
                axes.xaxis.get_major_locator().set_params(integer=True)
            tables += [curves.assign(source="measured"), layers.assign(source="measured")]
        remark(figure, "In training: after each epoch (of LRR and the like, whose cycles end at sparsities of their own, of the last cycle), on "
                       "validation images or, where there are none, the test's; shaded: ± s.d. Density: of each layer at the end, mean over the "
                       "seeds; no point where a layer has no weights left.")
        table = pd.concat(tables, ignore_index=True)
        table.attrs.update(as_text(runs, labels))
        return table

    draw.labels, draw.ends = labels, True
    return draw


@command
def main(argv=None):
    """Returns 0. Bad arguments or nothing to draw: one line on stderr, exit status 2."""
    parser = Parser(prog=f"{NAME}.py", description="Draws chosen methods side by side, from stored rows.")
    parser.add_argument("methods", nargs="+", metavar="METHOD",
                        help='such as rigl, "st3 straight_through=False" or mine.py:Mine; with "METHOD::label" the legend says that')
    parser.add_argument("--suite", choices=SUITES, default="digits", help="default: %(default)s")
    parser.add_argument("--sparsity", type=float, metavar="S", help="of the curves (default: the highest that most have)")
    parser.add_argument("--costs", action="store_true", help="instead: accuracy at that sparsity against training FLOPs, of all stored lengths")
    parser.add_argument("--name", help=f"of the files (default: {NAME}, with --costs {NAME}_costs)")
    args = parser.standard().read(argv)
    args.name = args.name if args.name is not None else f"{NAME}_costs" if args.costs else NAME
    if Path(args.name).name != args.name or args.name in ("", ".."):
        raise ValueError(f"--name {args.name!r} is not the name of a file alone; --out names the folder")
    if args.costs and args.epochs:
        raise ValueError("--costs draws all lengths: no --epochs")
    with refusing(args):
        runs, series = chosen(asked(args.methods), args)
        if args.costs:
            runs = costs.by_length(runs)
        draw = costs.drawing(series, runs, tell_contents(runs)) if args.costs else drawing(series, args.sparsity)
        stem, table = save(args.name, draw, runs, args.suite, args.out)
    points = table if args.costs else table[table.epoch.isna() & table.layer.isna()]
    print(points[[*POINT, "mean", "std", "seeds", *["dense_epochs"] * args.costs]].to_string(index=False, na_rep="-"))
    if off := not args.costs and where_they_end(runs)[1]:
        print(tell_ends(off, series))
    print(f"wrote {files(stem, table)}")
    tell_older(runs.to_dict("records"))


if __name__ == "__main__":
    raise SystemExit(main())

"""`python reproduce/report.py`: results/REPORT.md, the papers' claims judged by the stored rows, each at every scale that has rows.

A claim is reproduced only by runs as the paper made them (task and epochs), and only if all of them are there; other runs are only shown.
"""
from collections import Counter
from pathlib import Path

from claims import BESIDES, CLAIMS, PUBLISHED, ST3, WIDTH8, own_imagenet
from drawing import Parser, refusing
from evidence import NEAR, Evidence, alike, all_runs, corrected, verdict
from measured import markdown
from published import tell_absent

from benchmarks.command import command
from benchmarks.files import write_whole
from benchmarks.tasks import TASKS

SHARED = ("bn_momentum=0.99", "storage=sparse")  # as in ST-3's released code; without dense weights. Such runs are compared only with each other
HEAD = f"""# The papers' claims, judged by the stored rows

Made by `python reproduce/report.py` from the CSV files of this folder; nothing is written by hand. A comparison is a mean difference over
the seeds that both have, with its 95 % interval. Two methods at one sparsity are compared as in the leaderboard (moderated t-tests: the spread
of all methods there supports that of these two; where there are no others, Welch's), two at unlike lengths by Welch's test, and lengths or widths
of one method, a method and the dense network, methods at equal MACs or over several sparsities, and switches by the differences of each seed
(Student t).
Before, all were differences of each seed, as the design of the suite has it; that was changed after the first rows, because three seeds, paired,
decided almost nothing ([`FINDINGS.md`](FINDINGS.md)).
"Above" claims that it is more than 0, "at least" more than -{NEAR:g} point, "near" within {NEAR:g} point; other limits are named. It is as claimed where
the whole interval lies there, and speaks against the claim where all of it lies outside and would still do so among all comparisons of the
claim (Holm, level 0.05). What has to be as claimed in every comparison needs no such correction; of single ones by chance some may be, and
"17 of 27 as claimed, 9 among all" says how many the same correction leaves. One seed decides nothing. Runs of two kinds of machine differ by
rounding besides; where such are compared it is said. A12 is decided where both quartiles of the rounds are on one side of 5 %; of B4 and B5 the sign
of a gain is judged alone; B6 and B7 are taken as they were computed or measured. Of A13 published numbers are shown; runs of ours would decide it.

Runs that share an option which no figure of the papers plans, `bn_momentum=0.99` of ST-3's code or `storage=sparse`, are compared among themselves.
(All others have a `bn_momentum` of 0.01, which ST-3's paper does not state. Where the two disagree, a verdict holds for 0.01 alone.)
Only runs of the papers' own task and length, in the task's own precision, decide a claim, and it is reproduced when all comparisons that the
papers' figures hold are there and as claimed. A miniature or shortened run is shown as what it is; its verdict holds for itself alone (and for
the options that short runs have: ProbMask's on digits is another than its paper's and far better, [`FINDINGS.md`](FINDINGS.md#digits)).
At other scales the words are "as claimed" and "not as claimed", of what was run there: nothing is reproduced by a part of a claim or by shorter runs.
In the table "undecided (2 of 7, 1 among all)" means that 2 of 7 comparisons are as claimed and none is against it; the last column counts verdicts.
"""


def judged(claim, runs, results, made=None):
    """[(scale, whether it is the paper's, parts)] of a claim, the paper's own scale first. made: a cache, {} at first, to be passed for all claims
    on the same rows."""
    tasks, found, made = claim.tasks, [], {} if made is None else made
    if tasks in (None, PUBLISHED):
        if tasks:
            scale, own = own_imagenet(alike(runs).get(""), results)
            found.append((scale, True, corrected(own)))
        found.append((tasks or "", tasks is None, claim.judge(results)))
        if claim.id in BESIDES:
            found += [(scale, False, parts) for scale, parts in BESIDES[claim.id](runs, results)]
        return [(scale, own, parts) for scale, own, parts in found if parts]
    if "groups" not in made:
        made["groups"] = alike(runs, *SHARED)
    groups = made["groups"]
    for task in dict.fromkeys((*tasks, *ST3, WIDTH8, "digits")) if groups else ():
        scales = {(TASKS[task].epochs, "")} if task in tasks else set()
        for shared, own in groups.items():
            scales |= {(n, shared) for n in own.epochs[own.task == task] if shared in SHARED or n <= TASKS[task].epochs}
        for epochs, shared in sorted(scales, key=lambda scale: (-scale[0], scale[1])):
            e = made.setdefault((shared, task, epochs), Evidence(groups[shared], task, int(epochs), results, shared))
            parts = claim.judge(e)  # below, missing parts are dropped for tasks that are not the claim's
            found.append((e.scale, e.full and task in tasks, parts if task in tasks else [part for part in parts if not part.missing]))
    family = corrected([part for _, own, parts in found if own for part in parts])  # corrected together: one claim, however many tasks decide it
    return [(scale, own, [family.pop(0) for _ in parts] if own else corrected(parts)) for scale, own, parts in found if parts]


def lines_of(parts):
    """A line for each comparison; comparisons without runs are only counted."""
    missing = sum(part.missing for part in parts)
    lines = [f"- {part.text}: {'as claimed' if part.holds else 'not decided' if part.holds is None else 'against the claim'}"
             for part in parts if not part.missing]
    return lines + [f"- {missing} more without runs"] * bool(missing)


def score(results):
    """The verdicts in a few sentences: what speaks against a claim, and where runs that share an option are all there is, is said of each."""
    runs, found, made, besides = all_runs(results), {}, {}, []
    for claim in CLAIMS:
        scales = judged(claim, runs, results, made)
        word = verdict(decisive(scales)).partition(" (")[0]
        besides += [f"Against {claim.id}: {part.text.partition(';')[0]}." for part in decisive(scales) if part.holds is False]
        if word == "not yet measured":
            word = "without such a run yet"
            besides += [f"{claim.id} has such runs only with {shared}, {scale.partition(', ' + shared)[0]}: {verdict(parts, False).partition(' (')[0]}."
                        for shared in SHARED for scale, _, parts in scales if scale in full_scales(claim, shared)]
        elif word not in ("reproduced", "not reproduced"):
            word = "undecided or with too few runs"
        found.setdefault(word, []).append(claim.id)
    parts = [f"{len(names)} {word} ({', '.join(names)})" for word, names in sorted(found.items(), key=lambda item: len(item[1]))]
    words = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    return (f"Of the {len(CLAIMS)} [claims](results/REPORT.md) of the two papers, judged by runs of the papers' networks and lengths (in bf16) or, "
            f"for costs, by what was measured or computed: {' '.join([words + '.', *besides])} What follows are shorter runs, unless stated "
            "otherwise.")


def full_scales(claim, shared):
    """The scales of a claim's own tasks at the papers' length, of runs that share an option."""
    tasks = () if claim.tasks in (None, PUBLISHED) else claim.tasks
    return {Evidence(None, task, TASKS[task].epochs, None, shared).scale for task in tasks}


def decisive(scales):
    """The parts that decide a claim, from the result of `judged`."""
    return [part for _, own, parts in scales if own for part in parts]


def brief(parts):
    """`verdict` of another scale in short, for a column of the table."""
    return verdict(parts, own=False).replace(" comparisons as claimed", "").replace(" comparisons", "").replace(", the others not decided", "")


def table(found):
    """The table in Markdown; found: {claim's id: result of `judged`}. The two scales that most claims have besides the papers' own have a column
    each; the verdicts at other scales are counted."""
    scales = Counter(scale for scales in found.values() for scale, own, _ in scales if not own)
    common = [scale for scale, claims in scales.most_common(2) if claims > 1]
    lines = [["", "Claim", "Verdict", *common, "At other scales"]]
    for claim in CLAIMS:
        others = {scale: parts for scale, own, parts in found[claim.id] if not own}
        cells = [brief(others.pop(scale)) if scale in others else "" for scale in common]
        words = Counter(verdict(parts, own=False).partition(" (")[0] for parts in others.values())
        cells += [", ".join(f"{n} {word}" for word, n in words.items())]
        lines.append([claim.id, claim.text, f"**{verdict(decisive(found[claim.id]))}**", *cells])
    return markdown(lines, "---")


def report(results):
    """The text of REPORT.md."""
    runs = all_runs(results)
    made, details = {}, []
    found = {claim.id: judged(claim, runs, results, made) for claim in CLAIMS}
    for claim in CLAIMS:
        drawn = f"; drawn by `reproduce/{claim.figure}.py`" * bool(claim.figure)
        details.append(f"\n## {claim.id}. {claim.text}\n\n{claim.source}{drawn}.\n")
        shown = [(scale, own, parts) for scale, own, parts in found[claim.id] if not all(part.missing for part in parts)]
        for scale, own, parts in shown:
            details += [f"\n{scale}: {verdict(parts, own)}\n"] * bool(scale) + lines_of(parts)
        details += ["No rows yet."] * (not shown)
    return HEAD + "\n" + table(found) + "\n" + "\n".join(details) + "\n"


@command
def main(argv=None):
    """Writes RESULTS/REPORT.md and prints the table; returns 0."""
    parser = Parser(prog="report.py", description="The papers' claims, judged by the stored rows.")
    parser.common("results").set_defaults(suite=None)
    args = parser.read(argv)
    path = Path(args.results) / "REPORT.md"
    with refusing(args):
        text = report(args.results)
        write_whole(path, text)
    print("|" + text.partition("\n## ")[0].partition("\n|")[2])
    print(f"wrote {path}")
    tell_absent()


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m reproduce SUITE`: draws every figure of a suite from stored rows, on all cores."""
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from benchmarks.command import command
from benchmarks.suites import SUITES, scripts
from benchmarks.workers.places import cores
from reproduce import first

with first():
    import leaderboard
    from drawing import Parser, files, save, suites_of
    from published import tell_absent
    from rows import NoRows, Trained, runs_of


@command
def main(argv=None):
    """Draws all figures and prints a line for each, and one line for all that are skipped for the same reason. Returns 0 if every figure was drawn
    or skipped, 1 if one failed (it is named)."""
    parser = Parser(prog="reproduce", description="Draws every figure of a suite from stored rows.")
    parser.add_argument("suite", choices=SUITES)
    args = parser.standard().read(argv)
    jobs = [(name, args) for name in ("leaderboard", *scripts())]  # what takes longest comes first
    failed, absent = False, {}
    from reproduce.__main__ import draw  # under a module name that a spawned process can import

    # a forked process has the libraries loaded already; forking is safe only on Linux
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(cores(), len(jobs)), context) as pool:
        try:
            for name, outcome, why in pool.map(draw, jobs):
                if outcome == "skipped":
                    absent.setdefault(why, []).append(name)
                else:
                    print(f"{name}: {why}", file=sys.stderr if outcome == "failed" else sys.stdout, flush=True)
                failed |= outcome == "failed"
        except BrokenProcessPool:
            parser.exit(1, "a process that drew was killed (no memory?); the same command draws what is missing\n")
    for why, names in absent.items():
        print(f"{', '.join(names)}: skipped, {why}")
    tell_absent()
    return int(failed)


def draw(job):
    """Draws one figure; job: (its name, the arguments). Returns (its name, "drawn", "skipped" or "failed", files or reason)."""
    name, args = job
    try:
        if name == "leaderboard":
            stem, profile, _ = leaderboard.write(args.suite, args.results, args.profile, args.out, args.precision, args.epochs)
            return name, "drawn", f"wrote {stem}.pdf .png .csv .md .tex .html (profile {profile})"
        script = scripts()[name]
        source = getattr(script, "source", runs_of)
        suites = suites_of(script.grid, source)
        if args.suite not in suites and suites != ["performance"]:
            return name, "skipped", f"not of suite {args.suite}"
        suite = args.suite if args.suite in suites else suites[0]
        runs, profile = source(Trained(script.grid, args.precision, args.epochs), suite, args.results, args.profile)
        stem, table = save(name, script.draw, runs, suite, args.out)
        return name, "drawn", f"wrote {files(stem, table)} (profile {profile})"
    except NoRows as nothing:
        return name, "skipped", str(nothing)
    except (Exception, SystemExit) as error:  # one broken figure must not keep the others from being drawn
        return name, "failed", f"failed, {type(error).__name__}: {error}"


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m reproduce SUITE`: draws every figure of a suite from stored rows, on all cores."""
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import leaderboard
from drawing import NoRows, Parser, files, runs_of, save, suites_of

from benchmarks.launch import cores
from benchmarks.suites import SUITES, scripts


def main(argv=None):
    """Draws them all, one line each. Returns 0 if every figure was drawn or had no rows, 1 if one raised (it is named)."""
    parser = Parser(prog="python -m reproduce", description="Draws every figure of a suite from stored rows.")
    parser.add_argument("suite", choices=SUITES)
    args = parser.standard().read(argv)
    jobs = [(name, args) for name in ("leaderboard", *scripts())]  # what takes longest first
    failed = False
    # a fork has the libraries in memory; only Linux has a safe one
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(cores(), len(jobs)), context) as pool:
        try:
            for drawn, line in pool.map(draw, jobs):
                failed |= not drawn
                print(line, file=sys.stdout if drawn else sys.stderr, flush=True)
        except BrokenProcessPool:
            parser.exit(1, "a process that drew was killed (no memory?); the same command draws what is missing\n")
    return int(failed)


def draw(job):
    """Draws one figure of (its name, the arguments); returns (whether nothing went wrong, what to say of it)."""
    name, args = job
    try:
        if name == "leaderboard":
            stem, profile, _ = leaderboard.write(args.suite, args.results, args.profile, args.out)
            return True, f"{name}: wrote {stem}.pdf .png .csv .md .tex .html (profile {profile})"
        script = scripts()[name]
        source = getattr(script, "source", runs_of)
        suites = suites_of(script.grid, source)
        if args.suite not in suites and suites != ["performance"]:
            return True, f"{name}: not a figure of suite {args.suite}"
        suite = args.suite if args.suite in suites else suites[0]
        runs, profile = source(script.grid, suite, args.results, args.profile)
        stem, table = save(name, script.draw, runs, suite, profile, args.out)
        return True, f"{name}: wrote {files(stem, table)} (profile {profile})"
    except NoRows as nothing:
        return True, f"{name}: skipped, {nothing}"
    except Exception as error:  # one broken figure must not keep the others from being drawn
        return False, f"{name}: failed, {type(error).__name__}: {error}"


if __name__ == "__main__":
    raise SystemExit(main())

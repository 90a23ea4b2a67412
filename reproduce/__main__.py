"""`python -m reproduce SUITE`: draws every figure of a suite from stored rows, in one process."""
import sys

import leaderboard
from drawing import NoRows, Parser, runs_of, save, suites_of

from benchmarks.suites import SUITES, scripts


def main(argv=None):
    """Draws them all, one line each. Returns 0 if every figure was drawn or had no rows, 1 if one raised (it is named)."""
    parser = Parser(prog="python -m reproduce", description="Draws every figure of a suite from stored rows.")
    parser.add_argument("suite", choices=SUITES)
    args = parser.standard().read(argv)
    failed = False
    for name, script in {**scripts(), "leaderboard": leaderboard}.items():
        try:
            if script is leaderboard:
                stem, profile, _ = leaderboard.write(args.suite, args.results, args.profile, args.out)
                print(f"{name}: wrote {stem}.pdf .png .csv .md .tex .html (profile {profile})")
                continue
            source = getattr(script, "source", runs_of)
            suites = suites_of(script.grid, source)
            if args.suite not in suites and suites != ["performance"]:
                print(f"{name}: not a figure of suite {args.suite}")
                continue
            suite = args.suite if args.suite in suites else suites[0]
            runs, profile = source(script.grid, suite, args.results, args.profile)
            stem, _ = save(name, script.draw, runs, suite, profile, args.out)
            print(f"{name}: wrote {stem}.pdf .png .csv (profile {profile})")
        except NoRows as nothing:
            print(f"{name}: skipped, {nothing}")
        except Exception as error:  # one broken figure must not keep the others from being drawn
            failed = True
            print(f"{name}: failed, {type(error).__name__}: {error}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())

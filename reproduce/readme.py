"""`python reproduce/readme.py`: writes the tables of README.md and of the pages that it links to (`PAGES`) from the stored rows, between
the marks `<!-- NAME -->` and `<!-- /NAME -->`.

Needs pandas and scipy only. `--check` changes nothing; exit status 1 means that a table does not show what is stored.
"""
import re
from pathlib import Path

from accuracies import accuracy, lengths, papers, variants
from drawing import Parser, find, refusing
from measured import faster, gpu, sparse, training, widths
from report import score

from benchmarks.command import command
from benchmarks.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "results/FINDINGS.md", "methods/beyond/README.md", "methods/sparse/README.md")

TABLES = {"claims": score,
          "digits": lambda results: accuracy(results, "digits", "paper"),
          "beyond": lambda results: accuracy(results, "digits", "paper", beyond=True, costs=["step"]),
          "beyond_cifar10": lambda results: accuracy(results, "cifar10", "quick", beyond=True, costs=[0.95]),
          "variants": variants,
          "lengths": lengths,
          "papers": papers,
          "sparse": sparse,
          "widths": widths,
          "faster": faster,
          "training": training,
          "gpu": gpu,
          "cifar10": lambda results: accuracy(results, "cifar10", "quick", costs=["step", 0.95])}


def filled(text, results):
    """`text` with every marked table replaced by a new one. Raises ValueError for a mark without an end or with an unknown name."""
    for name in re.findall(r"<!-- (\w+) -->", text):
        if name not in TABLES or f"<!-- /{name} -->" not in text:
            raise ValueError(f"<!-- {name} --> has no end, or is not one of {', '.join(TABLES)}")
        part = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = part.sub(lambda found, name=name: f"{found[1]}{TABLES[name](results)}\n{found[2]}", text)
    return text


@command
def main(argv=None):
    """Returns 0, or 1 if `--check` finds a difference."""
    parser = Parser(prog="readme.py", description="Writes the tables of README.md and of the pages that it leads to from the stored rows.")
    parser.add_argument("--results", default=ROOT / "results")
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a table is not what is stored")
    args, old, new = parser.parse_args(argv), {}, {}
    find(args, "results")
    with refusing(args):
        for page in PAGES:
            old[page] = (ROOT / page).read_text(encoding="utf-8")
            new[page] = filled(old[page], Path(args.results))
    changed = [page for page in PAGES if new[page] != old[page]]
    if args.check:
        print(f"{', '.join(changed)} differs from the stored rows: python reproduce/readme.py" if changed else "all pages show the stored rows")
        return int(bool(changed))
    for page in changed:
        write_whole(ROOT / page, new[page])


if __name__ == "__main__":
    raise SystemExit(main())

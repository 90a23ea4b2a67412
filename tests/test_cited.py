"""Numbers that pages name in their sentences are what the stored rows give: `cited.csv` says of each which runs it is of.

One series, a: mean ± standard deviation over its seeds. Two: the size of their difference ± its 95 % interval, by the test of the leaderboard, or,
where they have unlike lengths or options in common ("24/6"), by Welch's. None: what these do not give (paired over lengths or widths, last
epochs, switches, measured once). After rows of more methods intervals move in their last digit, since the spread of all supports each: the page
and the line here are then written anew.
"""
import csv
import functools
import importlib
import re
import statistics
import sys
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.stats import differences, resolution
from benchmarks.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "reproduce"))
evidence, report = map(importlib.import_module, ("evidence", "report"))
PAGES = ("README.md", "results/FINDINGS.md", "methods/beyond/README.md")
NUMBER = re.compile(r"(\d+(?:\.\d+)?) ± (\d+(?:\.\d+)?)")

with open(Path(__file__).with_name("cited.csv"), newline="") as file:
    CITED = list(csv.DictReader(file))


@functools.cache
def words(page):
    """A page's text without its tables, which `readme.py` writes, in one line."""
    return " ".join(re.sub(r"<!-- (\w+) -->.*?<!-- /\1 -->", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL).split())


@functools.cache
def stored(task, epochs, shared):
    return evidence.Evidence(groups()[shared], task, epochs, ROOT / "results", shared)


@functools.cache
def groups():
    return evidence.alike(evidence.all_runs(ROOT / "results"), *report.SHARED)


def value(line):
    """(mean, spread) of a line of cited.csv."""
    sparsity = float(line["sparsity"])
    if "/" in line["epochs"]:
        two = [stored(line["task"], int(epochs), shared).seeds(series, sparsity) for series, epochs, shared in
               zip((line["a"], line["b"]), line["epochs"].split("/"), line["shared"].split("/"), strict=True)]
        difference, half, *_ = differences(pd.DataFrame(two).to_numpy(float), resolution(TASKS[line["task"]].dataset))
        return abs(difference[0, 1]), half[0, 1]
    runs = stored(line["task"], int(line["epochs"]), line["shared"])
    if line["b"]:
        difference = runs.apart(line["a"], line["b"], sparsity)
        return abs(difference.mean), difference.half
    seeds = [*runs.seeds(line["a"], sparsity).values()]
    return statistics.mean(seeds), statistics.stdev(seeds)


@pytest.mark.parametrize("page", PAGES)
def test_every_number_with_a_spread_is_cited_once(page):
    texts, left = [line["text"] for line in CITED if line["page"] == page], words(page)
    for text in texts:
        assert left.count(text) == 1, f"{page} says {text!r} {left.count(text)} times"
    ends = sorted(left.index(text) + len(text) for text in texts)
    assert ends == [found.end() for found in NUMBER.finditer(left)]


def test_the_stored_rows_give_what_pages_say():
    wrong = []
    for line in CITED:
        said = NUMBER.search(line["text"][line["text"].rindex("±") - 8:])
        if line["a"]:
            gives = " ± ".join(f"{number:.{len(text.partition('.')[2])}f}" for number, text in zip(value(line), said.groups()))
            wrong += [f"{line['page']}: {line['text']}, the rows give {gives}"] * (gives != said[0])
    assert not wrong, "\n".join(wrong)

"""Texts from files of the results, which others may have written, on a terminal, in tables and in pictures; and names that lead elsewhere."""
import json
import os
import subprocess
import sys

import pytest
from copies import copy_packages
from made_up import fill, row
from stored import ROOT, SPEC
from test_reproduce import run_here

from benchmarks.__main__ import main
from benchmarks.comparison import markup
from benchmarks.comparison.page import none_published
from benchmarks.grid import Spec
from benchmarks.progress import Bar, name_bad
from benchmarks.results import Store
from benchmarks.slurm import jobs
from benchmarks.workers.run_claims import Claim, held, read, words
from reproduce import published

STATUS = ["status", "digits", "--methods", "st3", "--epochs", "2", "--sparsities", "0.9", "--seeds", "1", "--results", "results"]
WHOLE = dict(precision="fp32", cycles=1, train_flops_fraction=0.5, dense_macs=1e9, achieved_sparsity=0.9, seconds=1,
             finished_at="2026-01-01T00:00:00+00:00")
EVIL = "\x1b[2J\x1b]0;title\x07\r\x9b31m\u202edone"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Store("results")


def clean(text):
    return "done" in text and not any(character in text for character in "\x1b\x07\r\x9b\u202e")


def test_what_an_error_and_a_log_say_reaches_no_terminal_as_it_is(store, capsys):
    bad = row(SPEC, status="failed", error=EVIL, finished_at="2026-01-01T00:00:00+00:00")
    store.write(bad)
    store.log(SPEC.key).write_text(f"log\t{EVIL}\n")
    assert main(STATUS) == 1 and clean(out := capsys.readouterr().out) and "log" in out and out.count("title") == 2
    assert name_bad([bad], store) == 1 and clean(capsys.readouterr().err)
    lines = []
    Bar({SPEC: 1}, lines.append).done(SPEC, bad)
    assert clean(lines[0])


def test_what_a_claim_says_reaches_no_terminal_as_it_is(store, capsys):
    with Claim(store, SPEC.key) as claim:
        for changes in ({"host": EVIL}, {"job": EVIL, "host": EVIL}):
            claim.path.write_text(json.dumps(claim.content | changes))
            assert main(STATUS) == 0 and "1 running" in (out := capsys.readouterr().out) and clean(out)
        assert clean(words(claim.content | {"host": EVIL}))
        claim.path.write_text(json.dumps(claim.content))


@pytest.mark.parametrize("odd", [{"share": "x"}, {"share": float("nan")}, {"left": "x"}, {"left": 1e300}, {"epochs": "x"}, {"epochs": [5]},
                                 {"epochs": 10**400}, {"pid": "../self"}, {"host": None, "pid": None}, {"job": ["9"]}, "deep"])
def test_a_claim_of_odd_values_is_damaged(store, capsys, odd):
    with Claim(store, SPEC.key) as claim:
        sound = claim.content | {"epochs": 2, "share": 0.5, "left": 60}
        claim.path.write_text(json.dumps(sound))
        assert main(STATUS) == 0 and "epoch 2 of 2, 0:01:00 to go" in capsys.readouterr().out
        claim.path.write_text("[" * 200_000 if odd == "deep" else json.dumps(sound | odd))
        assert read(claim.path) == held(store) == {}
        assert main(STATUS) == 0 and "running" not in capsys.readouterr().out.splitlines()[1:]
        claim.path.write_text(json.dumps(claim.content))


@pytest.mark.parametrize("job", ["../../../../tmp/leak", "9_3/..", "", "9_", "9 3", "٣", None, ["9"]])
def test_a_job_is_a_number(store, job):
    (store.runs / "jobs").mkdir()
    (store.runs / "jobs" / "9.json").write_text(json.dumps({"suite": "digits", "runs": {"one": job, "two": "9_12", "three": 9}}))
    assert jobs.sent(store, "digits") == {"two": ["9_12"], "three": ["9"]}


def test_names_with_markup_stay_names():
    assert markup.escaped("a\\|b \n ![x](http://y) `c` $d$", markup.MARKDOWN) == r"a\\\|b ![x]\(http://y) \`c\` \$d\$"
    table = markup.markdown([["Method"], ["one\ntwo\\"]])
    assert table.splitlines()[2:] == [r"| one two\\ |"]
    assert markup.escaped("$\\frac{$\n\nx", markup.LATEX) == r"\$\textbackslash{}frac\{\$ x"
    assert "\\\\\n{}[x] \\\\" in markup.latex([["Method"], ["a"], ["[x]"]], "l", "", "")


@pytest.mark.parametrize("name", [r"mine.py:$\frac{$", "mine.py:A$B$", "mine.py:A\nB|`C`"])
def test_a_method_of_an_odd_name_is_drawn(tmp_path, name, monkeypatch):
    monkeypatch.chdir(ROOT)
    specs = [Spec("digits", method, 0.9, seed) for method in (name, "st3", "dense") for seed in range(2)]
    fill(tmp_path, "digits", specs, **WHOLE)
    done = run_here("leaderboard.py", "--suite", "digits", "--results", tmp_path, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "out" / "digits" / "leaderboard.md").read_text().splitlines()
    assert len({len(line.replace(r"\|", "").split("|")) for line in lines if line.startswith("|")}) == 1


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "a/b", ".", "..", ""])
def test_the_name_of_a_comparison_leads_nowhere_else(tmp_path, name):
    done = run_here("compare.py", "st3", "--suite", "digits", "--out", tmp_path / "out", "--name", name)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and f"--name {name!r} is not the name of a file alone" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def installed(tmp_path):
    """Runs `python -m …` in a folder without a checkout, with the packages as they are installed."""
    copy_packages(tmp_path / "site", "methods", "benchmarks", "reproduce")
    here = tmp_path / "here"
    here.mkdir()

    def run(*words):
        return subprocess.run([sys.executable, "-m", *map(str, words)], cwd=here, capture_output=True, text=True,
                              env=os.environ | {"PYTHONPATH": str(tmp_path / "site")})
    return run


def test_without_a_checkout_it_is_said_what_is_missing(installed, tmp_path):
    fill(tmp_path / "rows", "digits", [Spec("digits", method, 0.9, seed) for method in ("st3", "dense") for seed in range(2)], **WHOLE)
    done = installed("reproduce.leaderboard", "--suite", "digits", "--results", tmp_path / "rows", "--out", tmp_path / "out")
    assert done.returncode == 0 and done.stderr == f"{published.ABSENT}\n"
    page = (tmp_path / "out" / "digits" / "leaderboard.html").read_text()
    assert published.ABSENT[1:] in page and "There are no published results" not in page
    done = installed("benchmarks", "plan", "digits", "--methods", "st3")
    assert done.returncode == 0, done.stderr


def test_in_a_checkout_a_suite_without_published_results_says_so():
    assert none_published("digits") == "There are no published results on the tasks of suite digits."

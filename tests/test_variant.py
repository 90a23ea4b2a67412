"""Variants of methods in the leaderboard: which are compared, with what, and what is said of those that are not."""
import re
from pathlib import Path

import pandas as pd
import pytest
from test_leaderboard import board, in_process, mine  # noqa: F401
from test_tables import stored

from benchmarks.grid import Spec
from benchmarks.records import RUN_COLUMNS
from benchmarks.results import Store


def write(rows):
    """results/digits/runs.csv with these rows, and the keys that the commands look for."""
    keys = [Spec(row.task, row.method, float(row.sparsity), int(row.seed), options=[pair.split("=") for pair in row.options.split()]).key
            for row in rows.itertuples()]
    (folder := Path("results/digits")).mkdir(parents=True, exist_ok=True)
    rows.assign(key=keys).reindex(columns=RUN_COLUMNS).to_csv(folder / "runs.csv", index=False)


@pytest.fixture
def shown(mine, capsys):  # noqa: F811
    """Stored rows of several variants; (the exit status, the labels of the table, stderr) of the command on them."""
    best = {"dense": 99, "gmp": 97, "mine.py:Good": 96, "rigl": 95, "rigl drop_fraction=0.1": 94, "rigl interval=5 lr=0.05": 93,
            "mine.py:Good amount=0.5": 92, "mine.py:Good amount=0.2": 91, "mine.py:Good lr=0.05": 90}
    rows = stored({name: [accuracy, accuracy - 1.0] for name, accuracy in best.items()})
    words = rows.method.str.split(" ", n=1)
    write(rows.assign(method=words.str[0], options=words.str[1].fillna("")))

    def show(*words):
        status = board("--sparsities", "0.9", *words)
        out, err = capsys.readouterr()
        return status, re.findall(r"^(?:\d\S*)? +((?:dense|gmp|rigl|mine)\S*(?: \w+=\S+)*)", out, re.M), err
    return show


def test_exactly_the_variants_that_are_named_are_compared(shown):
    assert shown("--against", "rigl", "gmp")[1] == ["gmp", "rigl", "dense"]
    same = "drop_fraction=0.1", "drop_fraction=.10 ", "skip_step=true drop_fraction=1e-1", "drop_fraction=0.1  skip_step=TRUE"
    for text in (f"rigl {options}" for options in same):
        status, labels, err = shown("--against", text, "gmp")
        assert (status, labels) == (0, ["gmp", "rigl drop_fraction=0.1", "dense"]) and len(err.splitlines()) == 1
    assert shown("--against", "rigl  lr=0.050 interval=5", "rigl interval=10", "mine.py:Good lr=0.05")[1] == [
        "rigl", "rigl interval=5 lr=0.05", "mine.py:Good lr=0.05", "dense"]
    assert shown("--against", "./mine.py:Good amount=.5", "gmp")[1] == ["gmp", "mine.py:Good amount=0.5", "dense"]
    status, labels, err = shown("--against", "rigl interval=3 drop_fraction=0.2", "rigl drop_fraction=0.2 interval=3", "snip", "gse_uniform", "gmp")
    launch = "python -m benchmarks launch digits --sparsities 0.9 --methods"
    assert status == 2 and err == ("error: there are no rows of gse_uniform 'rigl drop_fraction=0.2 interval=3' snip at sparsity 0.9; make them "
                                   f"with: {launch} gse_uniform snip && {launch} rigl --set drop_fraction=0.2 --set interval=3\n")


def test_tuning_runs_of_the_own_method_are_not_compared(shown, in_process):  # noqa: F811
    mine, words = "mine.py:Good", ["--method", "mine.py:Good", "--seeds", "2"]
    assert shown()[1] == shown(*words)[1] == ["gmp", mine, "rigl", f"{mine} amount=0.5", f"{mine} amount=0.2", "dense"]
    status, labels, err = shown(*words, "--set", "amount=0.5")
    assert labels == ["gmp", "rigl", f"{mine} amount=0.5", "dense"]
    said = "mine.py:Good has rows with other options, too, which are not shown ({}): of several, the best is good by chance, too\n"
    assert said.format("amount=0.2; its defaults; lr=0.05") in err
    assert shown(*words, "--against", "gmp")[1] == ["gmp", mine, "dense"]
    assert shown(*words, "--against", "gmp", f"{mine} amount=0.2")[1] == ["gmp", mine, f"{mine} amount=0.2", "dense"]
    words = ["--method", "rigl", "--seeds", "2", "--set", "drop_fraction=0.1"]
    assert shown(*words, "--against", "gmp")[1] == ["gmp", "rigl drop_fraction=0.1", "dense"]
    assert shown(*words)[1][:4] == ["gmp", mine, "rigl", "rigl drop_fraction=0.1"]
    assert in_process == []


def test_a_setting_of_the_task_is_taken_where_all_name_it(shown, in_process):  # noqa: F811
    words = ["--method", "mine.py:Good", "--seeds", "2", "--set", "lr=0.05", "--against", "rigl interval=5 lr=0.05", "dense"]
    assert shown(*words)[:2] == (0, ["rigl interval=5 lr=0.05", "mine.py:Good lr=0.05", "dense"])
    assert shown(*words, "rigl lr=0.1")[1][0] == "rigl"
    status, _, err = shown(*words, "gmp")
    assert status == 2 and 'unless each entry of --against names it, too ("rigl lr=VALUE")' in err and in_process == []
    assert shown("--method", "gmp", "--set", "epochs=3", "--against", "dense")[0] == 2


def test_several_variants_that_are_shown_or_hidden_are_said_to_be(shown):
    said = "rigl has rows with other options, too, which are not shown (interval=5 lr=0.05)"
    assert "rigl has" not in shown()[2] + shown("--against", "rigl")[2]  # its defaults were not chosen
    assert said in shown("--against", "rigl drop_fraction=0.1")[2]
    assert "mine.py:Good has rows with other options, too, which are not shown (lr=0.05): of several" in shown()[2]
    every = ["mine.py:Good", "mine.py:Good amount=0.5", "mine.py:Good amount=0.2", "mine.py:Good lr=0.05"]
    assert "mine.py:Good is shown with 4 choices of its options: of several, the best is good by chance" in shown("--against", *every)[2]
    assert shown("--against", "rigl", "rigl drop_fraction=0.1", "rigl interval=5 lr=0.05")[2] == ""
    rows = pd.DataFrame(Store("results").rows("digits").values())
    rows.loc[rows.options == "amount=0.5", "method"] = f"{Path.cwd()}/mine.py:Good"  # as launched from another folder
    rows.loc[rows.options == "amount=0.2", "sparsity"] = "0.95"
    write(rows)
    assert "mine.py:Good has rows with other options, too, which are not shown (amount=0.2; lr=0.05): of several" in shown()[2]
    assert "which are not shown (amount=0.2; amount=0.5; lr=0.05): of several" in shown("--against", "mine.py:Good")[2]


def test_differences_to_a_reference(shown, capsys, in_process):  # noqa: F811
    assert board("--against", "gmp", "rigl drop_fraction=0.1", "--reference", "rigl drop_fraction=1e-1", "--sparsities", "0.9") == 0
    out = capsys.readouterr().out
    assert "  To rigl drop_fraction=0.1  p" in out and re.search(r"gmp .* \+3.00 ± ", out) and re.search(r"=0.1 .* reference", out)
    said = "error: --reference rigl is not among what is compared: name it in --against, too\n"
    assert shown("--against", "gmp", "--reference", "rigl") == (2, [], said)
    assert shown("--reference", "rigl drop_fraction=0.1")[0] == 2 and shown("--reference", "mine.py:Good amount=0.2")[0] == 0
    assert "make them with: python -m benchmarks launch digits --sparsities 0.9 --methods rigl --set lr=2\n" in shown("--reference", "rigl lr=2")[2]
    assert shown("--method", "snip", "--reference", "st3")[0] == 2 and in_process == []  # refused before anything is run
    assert shown("--epochs", "1", "--method", "set", "--seeds", "1", "--reference", "set")[0] == 0 and len(in_process) == 1  # which it makes
    rows = Store("results").rows("digits").values()
    off = pd.DataFrame([row | {"achieved_sparsity": 0.5 if row["method"] == "gmp" else row["achieved_sparsity"]} for row in rows])
    write(pd.concat([off, off[off.method == "rigl"].assign(method="lrr", cycles=3)]))
    assert "--reference lrr is not among what is compared: --one-cycle leaves it out" in shown("--one-cycle", "--reference", "lrr")[2]
    assert "error: --reference gmp is not ranked: it ends at another sparsity" in shown("--reference", "gmp")[2]
    write(pd.concat([off, off[off.method == "rigl"].assign(sparsity=0.95, achieved_sparsity=0.95)]))
    assert board("--sparsities", "0.9", "0.95", "--reference", "mine.py:Good") == 0
    assert "mine.py:Good is not ranked on digits at sparsity 0.95: nothing is compared with it there\n" in capsys.readouterr().err

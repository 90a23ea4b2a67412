"""The leaderboard's tables and its page: which stored rows are compared, and how each format shows them."""
import csv
import io
import re
import subprocess
import sys

import pandas as pd
import pytest
from made_up import keyed
from stored import ROOT
from test_stats import rows_of

from benchmarks.comparison import markup, tables
from benchmarks.comparison.page import page
from benchmarks.records import RUN_COLUMNS
from benchmarks.stats import compare
from benchmarks.tasks import TASKS


def stored(accuracy, **columns):
    rows = rows_of(accuracy, task="digits", dataset="digits")
    return rows.assign(suite="digits", options="", error="", epochs=TASKS["digits"].epochs, precision="fp32", **columns)


def written(folder, *parts):
    """FOLDER/digits/runs.csv with the rows of all parts."""
    (folder / "digits").mkdir(exist_ok=True)
    rows = pd.concat(parts, ignore_index=True).reindex(columns=RUN_COLUMNS)
    rows = rows.assign(key=[keyed(row)["key"] for row in rows.astype(object).fillna("").to_dict("records")])
    rows.to_csv(folder / "digits" / "runs.csv", index=False)


@pytest.fixture(scope="module")
def table():
    rows = stored({"dense": [99.0, 98, 98.5], "st3": [97.0, 96.5, 97.2], "ste_hard_rescale": [80.0, 9.0, 85],
                   "a|b.py:A_B": [60.0, 62, 61]})
    rows.loc[rows.method == "ste_hard_rescale", "train_flops_fraction"] = 0.4
    return tables.board(tables.select(rows, "digits", "paper"), [0.9])


def test_how_many_cycles_a_method_took_is_said():
    rows = stored({"dense": [99.0], "st3": [97.0], "lrr": [98.0]})
    rows.loc[rows.method == "lrr", "cycles"] = 19
    found = tables.board(tables.select(rows, "digits", "paper"), [0.9])
    assert {line.label: tables.remarks(line) for _, line in found.iterrows()} == {"lrr": "19 cycles", "st3": "", "dense": "reference"}


def test_rows_of_other_recipes_are_left_out():
    rows = pd.concat([stored({"st3": [90.0]}), stored({"quick": [90.0]}).assign(epochs=10),
                      stored({"bf16": [90.0]}).assign(precision="bf16"), stored({"rigl": [90.0]}).assign(options="interval=5"),
                      stored({"rigl": [90.0]}).assign(options="interval=7"),
                      stored({"my.py:A": [90.0]}).assign(options="gamma=2.0"),
                      stored({"my.py:B": [90.0]}).assign(options="lr=0.5"), stored({"cifar": [90.0]}).assign(suite="cifar10")])
    assert set(tables.select(rows, "digits", "paper").label) == {"st3", "my.py:A gamma=2.0"}
    assert set(tables.select(rows, "digits", "quick").label) == {"quick"}
    named = {("digits", "rigl", "interval=5"), ("digits-mlp", "rigl", "interval=7"), ("digits", "my.py:B", "lr=0.5")}
    assert set(tables.select(rows, "digits", "paper", variants=named).label) == {"st3", "my.py:A gamma=2.0", "rigl interval=5", "my.py:B lr=0.5"}
    alone = tables.select(rows, "digits", "paper", variants=named, others=lambda method: method == "st3")
    assert set(alone.label) == {"st3", "rigl interval=5", "my.py:B lr=0.5"}


def test_text(table):
    lines = tables.text(table).splitlines()
    assert lines[0] == "digits, sparsity 0.9" and lines[3].split()[1:4] == ["st3", "96.90", "±"]
    assert "collapsed: seed 1" in next(line for line in lines if "ste_hard_rescale" in line)
    assert "reference" in next(line for line in lines if " dense " in line) and "3 methods are 3 pairs" in lines[-3]


def test_a_small_p_is_shown_as_less_than_a_thousandth_from_there_on_alone(table):
    line = table.iloc[1]
    assert [tables.shown(pd.Series({**line, "p": p}))[5] for p in (0.0009, 0.001, 0.0014, 0.05)] == ["<0.001", "0.001", "0.001", "0.050"]


@pytest.mark.parametrize("sort", ["accuracy", "cost"])
def test_one_method_is_the_best_and_one_of_other_seeds_is_compared_too(sort):
    rows = stored({"st3": [97.0, 97.5], "gmp": [96.0, 96.5], "set": [95.0, 95.5]})
    rows.loc[rows.method == "gmp", "seed"] += 2
    rows["train_flops_fraction"] = rows.method.map({"st3": 0.3, "gmp": 0.1, "set": 0.2})
    table = tables.board(tables.select(rows, "digits", "paper"), [0.9], sort)
    (columns, *lines), text = tables.lines_of(table), page(table, "digits", "paper")
    said = {line[columns.index("Method")]: line[columns.index("To the best")] for line in lines}
    assert said["st3"] == "best" and said["gmp"].startswith("-1.00 ±") and said["set"].startswith("-2.00 ±")
    assert text.count(">best<") == 1


def test_a_reference_takes_the_place_of_the_best_in_every_format():
    rows = pd.concat([stored({"st3": [97.0, 97.1], "gmp": [90.0, 90.1], "set": [96.9, 97.0], "snip": [70.0]}),
                      stored({"st3": [97.0, 97.1]}).assign(sparsity=0.95, achieved_sparsity=0.95)])
    rows = tables.select(rows, "digits", "paper")
    usual, table = (tables.board(rows, [0.9, 0.95], reference=to) for to in (None, {"digits": "gmp"}))
    cell, other = (cell for *_, cell in tables.cells(table))
    columns, *lines = tables.lines_of(cell)
    assert {line[1]: line[4].partition(" ")[0] for line in lines} == {"st3": "+7.00", "set": "+6.90", "gmp": "reference", "snip": "-20.05"}
    assert columns[4] == "To gmp" and "To the best" not in tables.lines_of(other)[0] and "best" not in str(tables.lines_of(other))
    assert [line[0] for line in lines] == [line[0] for line in tables.lines_of(next(cell for *_, cell in tables.cells(usual)))[1:]]
    for text in (tables.text(table), tables.markdown(table), tables.latex(table), page(table, "digits", "paper")):
        assert "To gmp" in text and "from gmp among" in text and "the best" not in text.replace("at the best validation", "").replace("Bold: the best", "")
    assert "$-$20.05" in tables.latex(table)
    assert all(re.findall(r"\\textbf{(.*?) ", tables.latex(each)) == ["97.05", "96.95", "97.05"] for each in (usual, table))
    named = {(line["sparsity"], line["reference"]) for line in csv.DictReader(io.StringIO(tables.csv(table)))}
    assert named == {("0.9", "gmp"), ("0.95", "")} and "reference" not in usual
    assert tables.columns_of(table.assign(reference="")) == tables.COLUMNS


def test_the_page_shows_the_rows_of_every_sparsity_that_it_offers():
    rows = pd.concat([stored({"st3": [97.0]}).assign(sparsity=s) for s in (0.67232, 0.9)])
    text = page(tables.board(tables.select(rows, "digits", "paper"), [0.67232, 0.9]), "digits", "paper")
    offered = re.findall(r'<option value="(0[^"]*)">(\S+) %', text)
    assert offered == [("0.6723", "67.232"), ("0.9", "90")]
    assert "@media print" in text and "@page { size: landscape" in text
    assert {value for value, _ in offered} == set(re.findall(r'<tr [^>]*data-sparsity="([^"]*)"', text))


def test_of_two_rows_of_a_file_the_later_counts_and_those_of_other_lengths_and_precisions_stay():
    kinds = [("2026-02-02", 30, "fp32"), ("2026-01-01", 30, "fp32"), ("2026-01-01", 60, "fp32"), ("2026-01-01", 30, "bf16")]
    rows = pd.concat([stored({"my.py:A": [90.0]}).assign(finished_at=at, epochs=epochs, precision=precision) for at, epochs, precision in kinds],
                     ignore_index=True)
    assert list(tables.renamed(rows)) == [1]


LINE = dict(rank_low=2, rank_high=3, label="a", seeds=3, mean=90.123, half=0.456, difference=-1.5, difference_half=0.25, p=0.2, separable=False,
            seeds_needed=12.0,
            train_flops=0.5, macs=0.1, seconds=12.4, front=True, cycles=1, method="a", on_target=True, achieved=0.8512,
            diverged="", collapsed="", failed="", chosen="", contents=1)
NONE = float("nan")


@pytest.mark.parametrize("changes, expected", [
    ({}, {}), (dict(rank_high=2), {"Rank": "2"}), (dict(seeds_needed=float("inf")), {"Seeds needed": ">999"}),
    (dict(separable=True, p=0.01, seeds_needed=NONE), {"To the best": "-1.50 ± 0.25", "p": "0.010", "Seeds needed": ""}),
    (dict(p=NONE, difference_half=NONE), {"To the best": "-1.50", "p": ""}), (dict(difference=NONE, p=NONE), {"To the best": "best", "p": ""}),
    (dict(difference=-1e-14), {"To the best": "+0.00 ± 0.25 ="}),  # equal means, added in another order
    (dict(rank_low=NONE, difference=NONE, p=NONE, on_target=False),
     {"Rank": "", "To the best": "", "p": "", "Remarks": "sparsity 0.8512, not ranked"}),
    (dict(chosen="1 3 4"), {"Remarks": "of seeds 1 3 4"}), (dict(chosen="2"), {"Remarks": "of seed 2"}),
    (dict(contents=2), {"Remarks": "made with 2 contents of its file"}),
    (dict(front=False, diverged="1", failed="2 3"), {"Front": "", "Remarks": "diverged: seed 1; failed: seeds 2 3"}),
    (dict(seeds=0), {"Accuracy (%)": "", "Seeds": "0"}), (dict(seeds=1, half=NONE), {"Accuracy (%)": "90.12", "Seeds": "1"})])
def test_what_a_line_says(changes, expected):
    usual = dict(zip(tables.COLUMNS, ["2-3", "a", "90.12 ± 0.46", "3", "-1.50 ± 0.25 =", "0.200", "12", "0.500", "0.100", "12", "*", ""]))
    assert dict(zip(tables.COLUMNS, tables.shown(pd.Series(LINE | changes)))) == usual | expected


@pytest.mark.parametrize("ranks, seeds, said", [
    ([1, 1, 3], [3, 3, 5], "3 methods are 3 pairs, of which the seeds (mostly 3) tell 2 apart; "),
    ([1, 2, 1], [3, 3, 1], "2 methods are 1 pair, of which the seeds (mostly 3) tell 1 apart; "), ([1, 1], [1, 1], "One seed allows no test."),
    ([1, None], [1, 1], "One method is ranked: there is none to compare it with."), ([None], [1], "")])
def test_what_the_seeds_of_a_cell_separate(ranks, seeds, said):
    found = tables.power(pd.DataFrame({"rank_low": pd.Series(ranks, dtype=float), "seeds": seeds}))
    assert found == said + "more seeds tell more." * said.endswith("; ")


@pytest.mark.parametrize("epochs, said", [([30, 30], False), ([10, 30], True), ([30, 10], True)])
def test_runs_that_are_shorter_than_the_papers_are_said_to_be(epochs, said):
    text = tables.reduced(stored({"st3": [90.0, 91.0]}).assign(epochs=epochs))
    assert text.startswith("Miniature") and ("Reduced runs: 10 of 30 epochs." in text) == said == ("Reduced" in text)
    assert "fp32" not in text and "bf16" in tables.reduced(stored({"st3": [90.0]}).assign(precision="bf16"))


@pytest.mark.parametrize("epochs, said", [
    ({"digits": 2, "digits-mlp": 2}, "Reduced runs: 2 of 30 epochs."), ({"digits": 2, "digits-mlp": 3}, "Reduced runs: 2 of 30, 3 of 30 epochs."),
    ({"digits": 40, "digits-mlp": 40}, "40 instead of 30 epochs."), ({"digits": 2, "digits-mlp": 40}, "Reduced runs: 2 of 30 epochs. 40 instead of 30 epochs.")])
def test_a_length_that_tasks_share_is_said_once(epochs, said):
    text = tables.reduced(pd.concat([stored({"st3": [90.0]}).assign(task=task, epochs=e) for task, e in epochs.items()]))
    assert text.endswith(" " + said) and text.count("epochs.") == said.count("epochs."), text


def test_each_cell_is_sorted_by_its_own_costs_and_has_no_empty_column():
    rows = pd.concat([stored({"st3": [97.0], "gmp": [98.0]}).assign(sparsity=s, achieved_sparsity=s, train_flops_fraction=cost)
                      for s, cost in ((0.9, [0.3, 0.4]), (0.95, [0.1, 0.2]))])
    table = tables.board(tables.select(rows, "digits", "paper"), [0.9, 0.95], "cost")
    assert list(zip(table.sparsity, table.label)) == [(0.9, "st3"), (0.9, "gmp"), (0.95, "st3"), (0.95, "gmp")]
    assert [tables.lines_of(cell)[0] for *_, cell in tables.cells(table)] == [[
        "Rank", "Method", "Accuracy (%)", "Seeds", "To the best", "Training", "Inference", "Time (s)", "Front"]] * 2
    assert "$-$1.00" in tables.latex(table) and "0.3333333333" in tables.csv(table.assign(mean=1 / 3))


def test_markdown(table):
    lines = [line for line in tables.markdown(table).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4 and {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(tables.COLUMNS) + 1}
    assert r"a\|b.py:A\_B" in lines[4] + lines[3] + lines[2] + lines[5] and "_hard" not in "".join(lines).replace(r"\_", "")


def test_latex(table):
    text = tables.latex(table)
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 1
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 4 and {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(tables.COLUMNS) - 1}
    assert not re.findall(r"(?<!\\)[_%#]", " ".join(rows)) and text.isascii()
    caption, = re.findall(r"\\caption{(.*)}\\label{tab:digits-90}", text)
    note, = re.findall(r"\\parbox{\\linewidth}{\\raggedright\\scriptsize (.*)}", text)
    assert caption == "digits, sparsity 0.9. " + markup.escaped(table.attrs["note"], markup.LATEX)  # the columns' words would fill half a page there
    assert markup.escaped(tables.LEGEND, markup.LATEX) in note and text.index("parbox") > text.index(r"\end{tabular}}")
    assert sorted(re.findall(r"\\textbf{(\d+)", text)) == [str(int(mean)) for mean in sorted(table["mean"][table.rank_low == 1])]


def test_latex_says_once_what_the_columns_are_and_always_that_runs_are_reduced():
    rows = pd.concat([stored({"st3": [97.0, 97.1], "gmp": [60.0, 60.2]}).assign(sparsity=s, achieved_sparsity=s, epochs=3) for s in (0.9, 0.95)])
    table = tables.board(tables.select(rows, "digits", "paper", epochs=3), [0.9, 0.95])
    text = tables.latex(table)
    first, second = re.findall(r"\\parbox{.*", text)
    assert "Student" in first and "Student" not in second and second.endswith(r"Columns as in Table~\ref{tab:digits-90}.}")
    captions = re.findall(r"\\caption{.*", text)
    assert [caption.partition(".}")[2] for caption in captions] == [r"\label{tab:digits-90}", r"\label{tab:digits-95}"]
    assert all("Reduced runs: 3 of 30 epochs." in caption for caption in captions)
    assert re.findall(r"\\textbf{(.*?)\.", tables.latex(table)) == ["97", "97"]
    one = stored({"st3": [97.0, 97.1, 97.2], "gmp": [10.0], "set": [97.3, 97.4, 96.9]})  # no test of one seed: nothing says that it is as good
    assert re.findall(r"\\textbf{(.*?) ", tables.latex(tables.board(tables.select(one, "digits", "paper"), [0.9]))) == ["97.20", "97.10"]
    alone = stored({"st3": [99.0], "gmp": [10.0, 10.1]})
    assert re.findall(r"\\textbf{(.*?)}", tables.latex(tables.board(tables.select(alone, "digits", "paper"), [0.9]))) == ["99.00"]
    failed = stored({"st3": [97.0], "gmp": [10.0]}).assign(status="failed", top1=float("nan"), top1_best_val=float("nan"))
    assert "textbf" not in tables.latex(tables.board(tables.select(failed, "digits", "paper"), [0.9]))
    with pytest.raises(ValueError, match="sparsity 0.5$"):  # nor is any finished elsewhere
        tables.board(tables.select(failed, "digits", "paper"), [0.5])
    assert markup.escaped("<1 > 2|", markup.LATEX) == "$<$1 $>$ 2$|$"
    assert markup.escaped("γ λ ∝ Σ ± ↓ –", markup.LATEX) == r"$\gamma$ $\lambda$ $\propto$ $\Sigma$ $\pm$ $\downarrow$ --"


def test_csv(table):
    lines = list(csv.DictReader(io.StringIO(tables.csv(table))))
    assert [line["label"] for line in lines][:1] == ["st3"] and float(lines[0]["mean"]) == pytest.approx(96.9)
    assert len(lines) == len(table)


def test_sorted_by_cost_and_one_sparsity(table):
    rows = tables.select(stored({"st3": [97.0], "gmp": [98.0]}).assign(train_flops_fraction=[0.1, 0.2]), "digits", "paper")
    assert list(tables.board(rows, [0.9]).label) == ["gmp", "st3"]
    assert "nan" not in tables.text(tables.board(rows, [0.9]))  # of one seed there is no interval
    assert list(tables.board(rows, [0.9], "cost").label) == ["st3", "gmp"]
    with pytest.raises(ValueError, match="sparsity 0.5, 0.6, but at 0.9$"):
        tables.board(rows, [0.5, 0.6])
    levels = rows.assign(method="lrr", cycles=3, sparsity=0.488)  # which nobody asks for
    with pytest.raises(ValueError, match="sparsity 0.5, but at 0.9$"):
        tables.board(pd.concat([rows, levels]), [0.5])
    with pytest.raises(ValueError, match="sparsity 0.5, but"):
        tables.board(rows, [0.5])
    with pytest.raises(ValueError, match="sparsity 0.9"):  # dense alone is nothing to compare
        tables.board(tables.select(stored({"dense": [97.0]}), "digits", "paper"), [0.9])


def test_page_is_self_contained_and_keeps_published_apart(table):
    text = page(table.assign(label=table.label.replace("st3", "<st3>")), "digits", "paper", b"png")
    assert "&lt;st3&gt;" in text and "<st3>" not in text
    assert "There are no published results" in text
    text = page(table, "cifar10", "paper")
    assert not re.search(r"(src|href)=\"?(?!data:)", text) and "@import" not in text
    measured, published = text.split(">Published</h2>")
    assert len(re.findall("<tr class", measured)) == len(table) and len(re.findall("<tr class", published)) > 200


def test_the_script_needs_no_torch(tmp_path):
    rows = stored({"dense": [99.0, 98, 98.5], "st3": [97.0, 96.5, 97.2], "my.py:A_B": [60.0, 62, 61]})
    written(tmp_path, rows)
    code = ("import runpy, sys\n"
            "class Block:\n"
            "    def find_spec(self, name, *rest):\n"
            "        if name in ('torch', 'statsmodels', 'jinja2', 'tabulate'):\n"
            "            raise ModuleNotFoundError(name)\n"
            "sys.meta_path.insert(0, Block()), sys.path.insert(0, 'reproduce')\n"
            f"sys.argv = ['leaderboard.py', '--suite', 'digits', '--results', {str(tmp_path)!r}, '--out', sys.argv[1]]\n"
            "runpy.run_path('reproduce/leaderboard.py', run_name='__main__')")
    for out in ("one", "two"):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / out], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "my.py:A_B" in done.stdout
    for kind in ("pdf", "png", "csv", "md", "tex", "html"):
        one, two = ((tmp_path / out / "digits" / f"leaderboard.{kind}").read_bytes() for out in ("one", "two"))
        assert one == two and one


def test_methods_of_two_files_with_one_name_stay_apart():
    rows = stored({"v1/mine.py:Mine": [90.0, 91.0], "v2/mine.py:Mine": [50.0, 51.0], "other/a.py:A": [70.0]})
    assert set(tables.select(rows, "digits", "paper").label) == {"v1/mine.py:Mine", "v2/mine.py:Mine", "a.py:A"}


def test_seconds_of_two_kinds_of_machine_are_not_one_time():
    rows = rows_of({"a": [90.0, 91], "b": [93.0, 94]}, device={("a", 1): "another"}, seconds={("a", 1): 9000.0, ("b", 1): 20.0})
    seconds = compare(rows).set_index("label").seconds
    assert pd.isna(seconds["a"]) and seconds["b"] == 15
    shared = compare(rows_of({"a": [90.0, 91], "b": [93.0, 94]}, step_ms={("a", 1): float("nan")})).set_index("label").seconds
    assert pd.isna(shared["a"]) and shared["b"] == 10  # of runs that share a GPU only the sum of their seconds is right

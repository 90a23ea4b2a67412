"""The leaderboard's picture: which rows it has, where their points are, and what its note says. Rows are made up, in tmp_path only."""
import os

import pandas as pd
import pytest
from made_up import contents, full
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from test_tables import stored, written

from benchmarks.comparison import tables
from reproduce import leaderboard


@pytest.fixture
def table():
    """Four ranked methods of which two are on the front, one of another sparsity than asked for, and dense."""
    rows = stored({"dense": [98.0, 99], "st3": [96.0, 97], "gmp": [97.0, 98], "rigl": [94.0, 95], "my.py:A": [95.0, 96], "dnw": [97.0, 99]})
    for method, cost in {"st3": 0.3, "gmp": 0.6, "rigl": 0.4, "my.py:A": 0.35}.items():
        rows.loc[rows.method == method, "train_flops_fraction"] = cost
    rows.loc[rows.method == "dnw", "achieved_sparsity"] = 0.8
    return tables.board(tables.select(rows, "digits", "paper"), [0.9])


def drawn(table):
    """The first panel and its list of names."""
    figure = Figure()
    leaderboard.draw(table, figure)
    return figure.axes[:2]


def points(axes):
    """{(cost, accuracy): colour} of what is drawn as a point."""
    return {(line.get_xdata()[0], line.get_ydata()[0]): line.get_color() for line in axes.lines
            if line.get_linestyle() == "None" and len(line.get_xdata())}


def test_the_profile_with_more_rows_is_shown(tmp_path):
    from rows import NoRows

    full, short, other = stored({"st3": [90.0]}), stored({"st3": [80.0]}).assign(epochs=10), stored({"st3": [70.0]}).assign(sparsity=0.5)
    written(tmp_path, full, short)
    found = [leaderboard.board_of("digits", tmp_path, profile) for profile in (None, "paper", "quick")]
    assert [(profile, list(table["mean"])) for table, profile in found] == [("paper", [90]), ("paper", [90]), ("quick", [80])]
    written(tmp_path, full, short, short.assign(key="another", seed=1))
    assert leaderboard.board_of("digits", tmp_path)[1] == "quick"
    written(tmp_path, short, other)  # another sparsity than the suite's is none of its rows
    assert leaderboard.board_of("digits", tmp_path)[1] == "quick"
    with pytest.raises(NoRows, match=rf"bash run_all.sh digits --profile paper --results {tmp_path}$"):
        leaderboard.board_of("digits", tmp_path, "paper")
    with pytest.raises(NoRows, match=rf"bash run_all.sh cifar10 --results {tmp_path}$"):
        leaderboard.board_of("cifar10", tmp_path)
    (tmp_path / "digits" / "runs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="it lacks the columns"):
        leaderboard.board_of("digits", tmp_path)


def test_rows_that_are_there_twice_are_not_drawn(tmp_path):
    """Their seeds would count twice. The commands refuse them, too."""
    written(tmp_path, stored({"st3": [90.0, 91]}))
    path = tmp_path / "digits" / "runs.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")
    with pytest.raises(ValueError, match=r"row 4: the key \w+ is in row 3 too"):
        leaderboard.board_of("digits", tmp_path)


def test_the_picture_has_the_suites_own_task_alone(table):
    other = table.assign(task="digits-mlp")
    both = pd.concat([table, other], ignore_index=True)
    shown = leaderboard.pictured(both, "digits", "paper")
    assert set(shown.task) == {"digits"} and len(shown) == len(table)
    assert len(leaderboard.pictured(other, "digits", "paper")) == len(other)  # it has nothing else


def test_points_are_cost_and_accuracy_and_the_front_is_joined_by_cost(table):
    axes, names = drawn(table)
    lines = [(list(line.get_xdata()), list(line.get_ydata()), line.get_linestyle()) for line in axes.lines]
    assert set(points(axes)) == {(0.3, 96.5), (0.6, 97.5), (0.4, 94.5), (0.35, 95.5)}  # neither dense nor what missed its sparsity
    assert ([0.3, 0.6], [96.5, 97.5], "-") in lines and sum(style == "-" and len(x) > 0 for x, _, style in lines) == 1
    assert [list(y) for x, y, _ in lines if list(x) == [0, 1]] == [[98.5, 98.5]]  # dense, across the panel
    assert names.texts[0].get_text() == "Pareto front\n1 st3\n2 gmp" and axes.get_title(loc="left") == "ResNet-8, digits, 90 %"
    assert [(text.get_text(), text.xy) for text in axes.texts if text.get_text() in "12"] == [("1", (0.3, 96.5)), ("2", (0.6, 97.5))]


def test_the_papers_methods_and_ones_own_have_colours_of_their_own(table):
    figure = Figure()
    leaderboard.draw(table, figure)
    st3, gmp, rigl, mine = (points(figure.axes[0])[point] for point in ((0.3, 96.5), (0.6, 97.5), (0.4, 94.5), (0.35, 95.5)))
    assert len({st3, rigl, mine, gmp}) == 4 and gmp == "0.3"  # on the front, yet one of the others
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["st3", "rigl", "my.py:A", "other methods", "Pareto front", "dense"]
    without = Figure()
    leaderboard.draw(table[table.method != "dense"], without)
    assert [text.get_text() for text in without.legends[0].get_texts()] == labels[:-1]


def test_a_method_far_below_the_others_does_not_hide_them():
    """The axis ends 4 times the distance of best and median below the best, at least 2 points; less 5 % of that."""
    assert leaderboard.bottom(pd.Series([97.0, 96, 95])) == pytest.approx(95 - 0.05 * 2)
    assert leaderboard.bottom(pd.Series([97.0, 96, 50])) == pytest.approx(97 - 4 - 0.05 * 4)
    assert leaderboard.bottom(pd.Series([97.0, 96.9, 50])) == pytest.approx(97 - 2 - 0.05 * 2)
    assert leaderboard.bottom(pd.Series([97.0])) == pytest.approx(97 - 0.05)
    rows = stored({"st3": [97.0], "gmp": [96.0], "rigl": [95.8], "set": [12.0], "dnw": [40.0]})
    rows["train_flops_fraction"] = [0.1, 0.2, 0.3, 0.4, 0.5]
    axes, names = drawn(tables.board(tables.select(rows, "digits", "paper"), [0.9]))
    floor = 97 - 4 * 1.2 - 0.05 * 4.8
    assert sorted(height for _, height in points(axes)) == pytest.approx([floor, floor, 95.8, 96, 97])
    assert axes.get_ylim()[0] < floor - 0.1  # where those that lie below are whole, too
    assert sorted(line.get_marker() for line in axes.lines if list(line.get_ydata()) == [pytest.approx(floor)]) == [r"$\downarrow$"] * 2
    assert "↓ 2 below" in [text.get_text() for text in names.texts]


def test_intervals_of_the_front_and_of_the_named_are_drawn():
    """From the axis's end on; not of others, nor of what lies below, nor of one seed."""
    rows = stored({"st3": [90.0, 91, 92], "set": [80.0, 81, 82], "rigl": [60.0, 80, 100], "gmp": [95.0, 96, 97], "gse_uniform": [85.0], "dnw": [5.0, 6, 7]})
    rows["train_flops_fraction"] = rows.method.map({"st3": 0.4, "set": 0.6, "rigl": 0.5, "gmp": 0.3, "gse_uniform": 0.7, "dnw": 0.1})
    board = tables.board(tables.select(rows, "digits", "paper"), [0.9])
    axes, _ = drawn(board)
    halves, floor = board.set_index("label").half, leaderboard.bottom(board["mean"])
    bars = {round(path.vertices[0, 0], 6): tuple(path.vertices[:, 1]) for bars in axes.collections for path in bars.get_paths()}
    assert bars == {0.3: pytest.approx((96 - halves.gmp, 96 + halves.gmp)), 0.4: pytest.approx((91 - halves.st3, 91 + halves.st3)),
                    0.5: pytest.approx((max(80 - halves.rigl, floor), 80 + halves.rigl))} and 80 - halves.rigl < floor
    rows = stored({"st3": [90.0, 95, 100], "rigl": [94.9, 95, 95.1]}).assign(train_flops_fraction=[0.1] * 3 + [0.2] * 3)
    axes, _ = drawn(tables.board(tables.select(rows, "digits", "paper"), [0.9]))
    assert 100 < axes.get_ylim()[1] < 101  # an interval is not cut below 100 %
    assert "Bars: 95 % intervals" in leaderboard.note(board, "paper") and "Bars" not in leaderboard.note(board.assign(half=float("nan")), "paper")


def test_the_front_is_in_front_and_one_seed_is_hollow():
    rows = stored({"rigl": [95.0, 96], "set": [95.2, 96.2], "gmp": [94.0], "st3": [93.0]})
    rows["train_flops_fraction"] = rows.method.map({"rigl": 0.3, "set": 0.3, "gmp": 0.6, "st3": 0.7})
    board = tables.board(tables.select(rows, "digits", "paper"), [0.9])
    axes, _ = drawn(board)
    looks = {line.get_ydata()[0]: line for line in axes.lines if line.get_linestyle() == "None" and len(line.get_xdata())}
    assert [looks[height].get_zorder() for height in (94, 93, 95.5, 95.7)] == [2, 3, 3, 4]  # another, the papers' two, the front
    hollow = {height for height, line in looks.items() if line.get_markerfacecolor() == "white"}
    assert hollow == {94, 93} and {looks[height].get_markeredgecolor() for height in hollow} == {"0.72", leaderboard.looks(["st3"])["st3"]["color"]}
    assert "Mean over 1 to 2 seeds." in leaderboard.note(board, "paper") and "Hollow: one seed." in leaderboard.note(board, "paper")


def test_files_that_cannot_be_written_leave_the_old_ones_whole(tmp_path, monkeypatch, capsys):
    def write(accuracy):
        written(tmp_path, stored({"dense": [98.0, 99], "st3": [accuracy, 97]}))
        return leaderboard.main(["--suite", "digits", "--results", str(tmp_path), "--out", str(tmp_path / "figures")])
    write(96.0)
    before = contents(tmp_path / "figures")
    monkeypatch.setattr(os, "fsync", full)
    assert write(60.0) == 2 and capsys.readouterr().err.count("\n") == 1 and contents(tmp_path / "figures") == before
    monkeypatch.undo()
    write(60.0)
    after = contents(tmp_path / "figures")
    assert len(after) == 6 and after.keys() == before.keys() and all(text != before[path] for path, text in after.items())


def test_the_note_names_seeds_profile_and_what_is_left_out(table):
    assert leaderboard.note(table, "paper") == (
        "Profile paper. Mean over 2 seeds. Test accuracy at the best validation epoch, where there is validation. Miniature on "
        "digits, not the paper's task. Numbers: the Pareto front of the means, by training cost. Bars: 95 % intervals of its methods and of the named ones; what they tell apart is in the table. Left out, as other sparsities than asked for: dnw.")
    rows = stored({"dense": [98.0], "st3": [96.0, 97, 98], "gmp": [97.0]})
    text = leaderboard.note(tables.board(tables.select(rows, "digits", "paper"), [0.9]), "quick")
    assert text.startswith("Profile quick. Mean over 1 to 3 seeds. ") and "Methods with runs" not in text
    more = pd.concat([rows, rows.query("method == 'st3'").assign(sparsity=0.95, achieved_sparsity=0.95)])
    text = leaderboard.note(tables.board(tables.select(more, "digits", "paper"), [0.9, 0.95]), "paper")
    assert " Methods with runs: 2 at 90 %, 1 at 95 %." in text
    rows = stored({"dense": [98.0, 99], "st3": [96.0]})
    text = leaderboard.note(tables.board(tables.select(rows, "digits", "paper"), [0.9]), "paper")
    assert "One seed." in text and "Left out" not in text


@pytest.mark.parametrize("ranked", [True, False])
def test_where_nothing_can_be_ranked_the_rest_is_drawn_and_named(tmp_path, ranked, monkeypatch, capsys):
    """Every run failed, or missed the sparsity asked for; of another sparsity there is a method, and nowhere a dense one."""
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **kwargs: None)
    lost = [stored({"st3": [1.0]}).assign(status="failed"), stored({"dnw": [90.0, 91]}).assign(achieved_sparsity=0.5)]
    written(tmp_path, *lost, *[stored({"gmp": [90.0]}).assign(sparsity=0.95, achieved_sparsity=0.95)] * ranked)
    assert leaderboard.main(["--suite", "digits", "--results", str(tmp_path), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "failed: seed 0" in text and "sparsity 0.5, not ranked" in text
    note = leaderboard.note(leaderboard.board_of("digits", tmp_path)[0], "paper")
    assert ("One seed." if ranked else "No method is ranked.") in note and note.endswith("asked for: dnw.")


@pytest.mark.parametrize("names", [["mine.py:Mine"], ["examples/my_method.py:MyMethod leak=0.5 ramp_end=0.7", "mine.py:Mine"],
                                   [f"{'a_long_name_' * 6}.py:{'Class' * 8} leak=0.5"]])
def test_the_legend_fits_on_the_page(table, names):
    """However long the names of one's own methods are."""
    figure = Figure()
    for label in names:
        mine = table[table.label == "my.py:A"].assign(label=label)
        table = pd.concat([table, mine], ignore_index=True)
    leaderboard.draw(table, figure)
    FigureCanvasAgg(figure).draw()
    box, page = figure.legends[0].get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1 and box.y1 <= page.y1, (box, page)

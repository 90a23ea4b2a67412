"""`reproduce/rows.py`: which rows count as a training of their own, whose lines are taken, what `--run` ends with. Rows are made up, in tmp_path only."""
import pandas as pd
import pytest
from made_up import fill, row
from test_reproduce import figure

from benchmarks import __main__ as commands
from benchmarks.grid import Spec
from benchmarks.results import Store

figure("figure1")  # whose folder is on the path then


def runs_of(*lines):
    return pd.DataFrame([dict(task="digits", method=method, options="", seed=0, achieved_sparsity=0.0, accuracy=accuracy, status=status)
                         for method, accuracy, status in lines])


def test_diverged_runs_are_repetitions_only_where_runs_that_ended_are():
    """Two may be equal by themselves: no mask yet, and chance."""
    from rows import repeated

    alone = [("st3", 10.0, "diverged"), ("st3", 10.0, "diverged"), ("st3", 90.0, "ok")]
    beside = [("lrr", 90.0, "ok"), ("lrr", 90.0, "ok"), ("lrr", 10.0, "diverged"), ("lrr", 10.0, "diverged")]
    assert repeated(runs_of(*alone, *beside)).tolist() == 3 * [False] + [False, True, False, True]


@pytest.mark.parametrize("where, seeds, said", [("all", {0, 1, 2}, True), ("ok", {0, 2}, False)])
def test_lines_are_those_of_the_runs_that_are_asked_for(where, seeds, said, tmp_path):
    from rows import lines_of
    from rows import runs_of as stored

    specs = [Spec("digits", "st3", 0.9, seed, 30) for seed in range(3)]
    fill(tmp_path, "digits", specs)
    table = pd.read_csv(tmp_path / "digits" / "runs.csv", dtype=str, keep_default_na=False)
    table.loc[table.seed == "1", "status"] = "diverged"
    table.to_csv(tmp_path / "digits" / "runs.csv", index=False)
    runs, _ = stored(lambda suite, profile: specs if profile == "paper" else (), "digits", tmp_path)
    lines = lines_of(runs, "curves", True if where == "all" else runs.status == "ok")
    assert set(lines.seed) == seeds and ("until it did" in runs.attrs["out"]) is said


def test_rows_that_are_collected_already_are_not_told_of(tmp_path, capsys):
    from rows import tell_uncollected

    store = Store(tmp_path)
    store.write(row(Spec("digits", "st3", 0.9, 0, 30), finished_at="2026-01-01T00:00:00+00:00", nnz=1))
    tell_uncollected(tmp_path)
    assert "1 run of digits" in capsys.readouterr().err
    kept = {path: path.read_bytes() for path in store.runs.glob("*.json")}
    store.collect("digits")
    for path, text in kept.items():
        path.write_bytes(text)
    tell_uncollected(tmp_path)
    assert kept and capsys.readouterr().err == ""
    spec = Spec("taken_out", "st3", 0.9, 0, 30)  # of a suite whose file is not here any more: no command would collect it
    store.write(row(spec, finished_at="2026-01-01T00:00:00+00:00", nnz=1))
    tell_uncollected(tmp_path)
    assert store.row(spec.key)["suite"] == "taken_out" and capsys.readouterr().err == ""


@pytest.mark.parametrize("ends, status", [((0, 0), 0), ((1, 0), 0), ((2, 0), 2), ((0, 130), 130)])
def test_run_goes_on_after_failed_runs_and_ends_where_a_launch_was_refused(ends, status, tmp_path, monkeypatch):
    """A figure of cifar10 has panels of CIFAR-100, for which there is another launch."""
    from drawing import Parser
    from rows import Trained, make

    left = list(ends)
    monkeypatch.setattr(commands, "launch_missing", lambda *_: left.pop(0))
    grid = Trained(lambda suite, profile: [Spec(f"{suite}-vgg16", "st3", 0.9, 0)] if suite in ("cifar10", "cifar100") else [], None, None)
    args = Parser(prog="p").standard().running().read(["--run", "--results", str(tmp_path)])
    if status:
        with pytest.raises(SystemExit) as end:
            make(grid, "cifar10", args, None)
        assert end.value.code == status
    else:
        make(grid, "cifar10", args, None)
    assert not left


@pytest.mark.parametrize("epochs, said", [(None, False), (7, True)])
def test_of_runs_that_a_figure_lacks_only_those_of_other_lengths_are_told_of(epochs, said, tmp_path):
    from rows import NoRows
    from rows import runs_of as stored

    fill(tmp_path, "digits", [Spec("digits", "gmp", 0.9, 0, epochs)], precision="fp32")
    with pytest.raises(NoRows) as refused:
        stored(lambda suite, profile: [Spec("digits", "st3", 0.9, 0)], "digits", tmp_path)
    assert ("there are some of 7 epochs in fp32: --epochs" in str(refused.value)) is said and "some of 30" not in str(refused.value)

"""Runs that have a row and are made again (`--again`): interrupted, failing, by wrong clocks."""
import pytest
from stored import table

from benchmarks import launch as launcher
from benchmarks import run as runner
from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.records import RUN_COLUMNS, write_table
from benchmarks.results import Store
from benchmarks.workers import again


def test_a_row_that_is_made_again_is_the_later_one_whatever_the_clock_says(tmp_path):
    spec = Spec("digits", "static", 0.9, 0, epochs=1, options={"allocation": "uniform"})
    row = runner.run(spec, Store(tmp_path / "results"))
    write_table(tmp_path / "results" / "digits" / "runs.csv", RUN_COLUMNS, [row | {"top1": 1.0, "finished_at": "2099-01-01T00:00:00+00:00"}])
    assert launched(tmp_path / "results") == 0 and table(Store(tmp_path / "results"), "runs")[0]["top1"] == "1.0"
    assert launched(tmp_path / "results", "--again") == 0
    assert table(Store(tmp_path / "results"), "runs")[0]["top1"] == str(row["top1"])


WHICH = "digits --methods static --set allocation=uniform --sparsities 0.9 --epochs 1".split()


def launched(results, *words, seeds=1):
    return main(["launch", *WHICH, "--seeds", str(seeds), "--jobs", "1", "--results", str(results), *words])


@pytest.mark.parametrize("error, kept", [(OSError("the disk is away"), True), (KeyError("a mistake of its own"), False)])
def test_a_run_whose_machine_fails_while_it_is_made_again_keeps_its_row(tmp_path, monkeypatch, capsys, error, kept):
    spec, store = Spec("digits", "static", 0.9, 0, epochs=1, options={"allocation": "uniform"}), Store(tmp_path)
    before = runner.run(spec, store)
    again.renew([spec], store, "digits")

    def fails(*_):
        raise error
    monkeypatch.setattr(runner.Trainer, "step", fails)
    row = runner.run(spec, store)
    assert row["status"] == "failed" and ("; the row of before stays, and the same command tries again" in row["error"]) is kept
    assert store.row(spec.key) == (before if kept else row) and store.again(spec.key).exists() is kept
    if kept:  # what had failed before has nothing to keep
        store.write(before | {"status": "failed", "error": "x"})
        again.renew([spec], store, "digits")
        assert runner.run(spec, store)["error"] == store.row(spec.key)["error"] == "OSError: the disk is away"
        store.write(before)
        again.renew([spec], store, "digits")
    capsys.readouterr()
    assert main(["status", *WHICH, "--seeds", "1", "--results", str(tmp_path)]) == (0 if kept else 1)
    said = "1 run of --again or --outdated still has its earlier rows; where that was interrupted, the same command goes on with it\n"
    assert capsys.readouterr().err == said * kept
    if kept:
        assert main(["plan", *WHICH, "--seeds", "1", "--results", str(tmp_path)]) == 0 and capsys.readouterr().err == said


def test_what_was_begun_by_outdated_is_not_taken_for_agains(tmp_path, capsys):
    store, specs = Store(tmp_path), [Spec("digits", "static", 0.9, seed, epochs=1) for seed in range(2)]
    again.renew(specs[:1], store, "digits", "--outdated")
    assert again.left(specs, store, "digits") == specs and capsys.readouterr().err == ""
    store.checkpoint(specs[0].key).touch()
    again.renew(specs, store, "digits")
    assert store.checkpoint(specs[0].key).exists()  # of this code
    runner.run(specs[1], store)
    assert again.left(specs, store, "digits") == specs[:1] and "1 of 2 runs have been made again" in capsys.readouterr().err


@pytest.mark.parametrize("noted", range(5))
def test_a_command_killed_while_it_notes_what_it_makes_again_leaves_out_nothing(tmp_path, monkeypatch, capsys, noted):
    """Of four runs the last has no row; after some of the notes, and one run made again in the second command, the third one makes the others."""
    store, specs = Store(tmp_path), [Spec("digits", "static", 0.9, seed, epochs=1) for seed in range(4)]
    clock = [f"2026-01-01T00:00:0{second}+00:00" for second in range(5)]
    first = runner.run(specs[0], store)
    for spec in specs[:3]:
        store.write(first | {"key": spec.key, "seed": spec.seed, "finished_at": clock[0]})
    write, written = again.write_whole, []

    def killed(path, text):
        if len(written) == noted:
            raise SystemExit
        written.append(path)
        write(path, text)
    with monkeypatch.context() as patch:
        patch.setattr(again, "write_whole", killed)
        patch.setattr(again, "moment", lambda: clock[1])
        if noted < 4:
            with pytest.raises(SystemExit):
                again.renew(specs, store, "digits")
        else:
            again.renew(specs, store, "digits")
    assert len(written) == noted and again.left(specs, store, "digits") == specs and capsys.readouterr().err == ""
    monkeypatch.setattr(again, "moment", lambda: clock[3])
    again.renew(specs, store, "digits")
    store.write(first | {"finished_at": clock[2 if noted else 3]})
    assert again.left(specs, store, "digits") == specs[1:] and "1 of 4 runs have been made again" in capsys.readouterr().err
    again.renew(specs[1:], store, "digits")
    for spec in specs[1:]:
        store.write(first | {"key": spec.key, "seed": spec.seed, "finished_at": clock[4]})
    assert again.left(specs, store, "digits") == specs and not list(store.runs.glob("*.again"))


def test_making_runs_again_goes_on_where_it_was_interrupted(tmp_path, monkeypatch, capsys):
    launched(tmp_path, seeds=3)
    store, launch = Store(tmp_path), launcher.launch
    first = {row["seed"]: store.stamp(key) for key, row in store.rows("digits").items()}

    def interrupted(specs, *rest):
        launch(specs[:1], *rest)
        store.checkpoint(specs[1].key).write_text("what it has done")
        raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "launch", interrupted)
        assert launched(tmp_path, "--again", seeds=3) == 130
    second = {row["seed"]: store.stamp(key) for key, row in store.rows("digits").items()}
    assert [second[seed] == first[seed] for seed in range(3)] == [False, True, True] and len(list(store.runs.glob("*.pt"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "launch", lambda specs, *rest: [] if store.checkpoint(specs[0].key).exists() else pytest.fail("it is gone"))
        launched(tmp_path, "--again", seeds=3)
    capsys.readouterr()
    assert launched(tmp_path, "--again", seeds=3) == 0 and "1 of 3 runs have been made again" in capsys.readouterr().err
    third = {row["seed"]: store.stamp(key) for key, row in store.rows("digits").items()}
    assert [third[seed] == second[seed] for seed in range(3)] == [True, False, False] and not list(store.runs.glob("*.again"))
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "launch", interrupted)
        launched(tmp_path, "--again", seeds=3)
    monkeypatch.setattr(again, "_code", lambda: "changed since")
    with monkeypatch.context() as patch:
        patch.setattr(launcher, "launch", lambda specs, *rest: [] if len(specs) == 3 else pytest.fail("some are of the code before"))
        launched(tmp_path, "--again", seeds=3)
    assert not list(store.runs.glob("*.pt"))


def test_a_run_of_a_machine_whose_clock_is_behind_is_not_made_twice(tmp_path, monkeypatch):
    """It counts as made since the command began."""
    specs = [Spec("digits", "static", 0.9, seed, epochs=1, options={"allocation": "uniform"}) for seed in (0, 1)]
    store = Store(tmp_path)
    for spec in specs:
        runner.run(spec, store)
    again.renew(specs, store, "digits")
    monkeypatch.setattr("benchmarks.describe.moment", lambda: "2020-01-01T00:00:00+00:00")
    runner.run(specs[0], store)
    assert again.left(specs, store, "digits") == specs[1:]

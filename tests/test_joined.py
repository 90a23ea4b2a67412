"""Results of two folders become one: `collect --from`."""
import shutil
from dataclasses import replace

import pytest
from stored import SPEC, table

from benchmarks import results
from benchmarks.__main__ import main
from benchmarks.results import Store
from benchmarks.run import run

RUNS = [replace(SPEC, method="gmp", epochs=1, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    stores = Store(tmp_path_factory.mktemp("mine")), Store(tmp_path_factory.mktemp("hers"))
    for store, specs in zip(stores, (RUNS[:2], RUNS[1:])):
        for spec in specs:
            run(spec, store)
    return stores


@pytest.fixture
def two(made, tmp_path):
    return [Store(shutil.copytree(store.folder, tmp_path / name)) for name, store in zip(("mine", "hers"), made)]


def change(store, spec, **columns):
    """Another row of a run that a Store has."""
    store.write({**store.row(spec.key), **columns})


def join(mine, *others):
    """What the command says, and {seed: (status, top1)} of the rows and {seed: lines of curves} afterwards."""
    status = main(["collect", "digits", "--results", str(mine.folder), "--from", *(str(other.folder) for other in others)])
    assert status == any(row["status"] == "failed" for row in table(mine, "runs"))
    seeds = {row["key"]: int(row["seed"]) for row in table(mine, "runs")}
    curves = [seeds[line["key"]] for line in table(mine, "curves")]
    return {seeds[row["key"]]: (row["status"], row["top1"]) for row in table(mine, "runs")}, {seed: curves.count(seed) for seed in seeds.values()}


@pytest.mark.parametrize("collected", [True, False])
def test_what_another_folder_has_more_is_taken(two, collected, capsys):
    mine, hers = two
    if collected:  # all there is of a clone
        assert hers.collect("digits") == 2
        shutil.rmtree(hers.runs)
    rows, curves = join(mine, hers)
    assert set(rows) == {0, 1, 2} and curves == {0: 1, 1: 1, 2: 1}
    assert capsys.readouterr().out.startswith(f"1 row taken from {hers.folder}, 1 left there: they are here, too\n3 rows in ")
    assert join(mine, hers, mine) == (rows, curves) and capsys.readouterr().out.count("0 rows taken from ") == 2


@pytest.mark.parametrize("own, other, stays", [
    (dict(top1=1.0, finished_at="2031"), dict(top1=2.0, finished_at="2030"), True),
    (dict(top1=1.0, finished_at="2030"), dict(top1=2.0, finished_at="2031"), True),
    (dict(top1=1.0, status="diverged", finished_at="2030"), dict(top1=2.0, finished_at="2031"), True),
    (dict(top1=1.0, status="failed", finished_at="2031"), dict(top1=2.0, status="diverged", finished_at="2030"), False),
    (dict(top1=1.0, finished_at="2030"), dict(top1=2.0, status="failed", finished_at="2031"), True),
    (dict(top1=1.0, status="failed", finished_at="2031"), dict(top1=2.0, finished_at="2030"), False),
    (dict(top1=1.0, status="failed", finished_at="2030"), dict(top1=2.0, status="failed", finished_at="2031"), True)])
@pytest.mark.parametrize("collected", [True, False])
def test_a_row_of_ones_own_stays_unless_it_failed(two, own, other, stays, collected):
    mine, hers = two
    change(mine, RUNS[1], **own)
    change(hers, RUNS[1], **other)
    for store in two * collected:
        store.collect("digits")
    kept = own if stays else other
    expected = kept.get("status", "ok"), str(kept["top1"])
    assert join(mine, hers)[0][1] == expected
    assert mine.collect("digits") == 3 and join(mine, mine)[0][1] == expected  # nor is it collected away
    assert Store(mine.folder, write=False).rows("digits")[RUNS[1].key]["top1"] in (kept["top1"], str(kept["top1"]))


@pytest.mark.parametrize("last", ["layers", "curves", "runs"])
def test_whoever_is_killed_while_joining_has_lost_nothing(two, monkeypatch, last):
    """What was taken is a row of this folder by then."""
    mine, hers = two
    change(mine, RUNS[1], top1=1.0, status="failed", finished_at="2031")
    write = results.write_table

    def killed(path, *rest):
        if path.stem == last:
            raise KeyboardInterrupt
        write(path, *rest)
    with monkeypatch.context() as patch:
        patch.setattr(results, "write_table", killed)
        with pytest.raises(KeyboardInterrupt):
            mine.take("digits", hers)
    shutil.rmtree(hers.folder)
    rows, curves = join(mine, mine)
    assert set(rows) == {0, 1, 2} and rows[1][0] == "ok" and curves == {0: 1, 1: 1, 2: 1}


def test_what_was_taken_outlives_the_tables(two):
    mine, hers = two
    hers.collect("digits")
    rows = join(mine, hers)
    shutil.rmtree(mine.folder / "digits")  # as `git checkout` brings back older ones
    assert join(mine, mine) == rows


def test_a_run_that_ends_while_folders_are_joined_keeps_its_row(two, monkeypatch):
    mine, hers = two
    change(mine, RUNS[1], status="failed")
    whole = Store._whole

    def meanwhile(store, suite):
        if store is hers:
            change(mine, RUNS[1], status="ok", top1=99.0)
        return whole(store, suite)
    monkeypatch.setattr(Store, "_whole", meanwhile)
    assert mine.take("digits", hers) and mine.row(RUNS[1].key)["top1"] == 99.0


def test_a_folder_that_is_not_there_is_refused(two, capsys, tmp_path):
    assert main(["collect", "digits", "--results", str(tmp_path / "new"), "--from", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == f"error: there is no results folder {tmp_path / 'none'}\n" and not (tmp_path / "new").exists()
    assert join(Store(tmp_path / "new"), *two)[0].keys() == {0, 1, 2}


def test_a_suites_folder_is_no_results_folder(two, capsys):
    mine, hers = two
    hers.collect("digits")
    assert main(["collect", "digits", "--results", str(mine.folder), "--from", str(hers.folder / "digits")]) == 2
    assert capsys.readouterr().err == f"error: {hers.folder / 'digits'} is a suite's folder; the results folder is {hers.folder}\n"

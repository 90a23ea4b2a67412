"""Results of two people become one, in both ways that results/README.md names."""
import shutil
from dataclasses import replace

import pytest
from stored import SPEC, table

from benchmarks.results import TABLES, Store, StoreError
from benchmarks.run import run

RUNS = [replace(SPEC, method="gmp", epochs=1, seed=seed) for seed in range(3)]


@pytest.fixture
def two(tmp_path):
    stores = Store(tmp_path / "mine"), Store(tmp_path / "hers")
    for store, specs in zip(stores, (RUNS[:2], RUNS[1:])):
        for spec in specs:
            run(spec, store)
        assert store.collect("digits") == 2
    return stores


def keys(store, name):
    return [row["key"] for row in table(store, name)]


def test_runs_that_are_copied_are_collected(two):
    mine, hers = two
    for path in hers.runs.glob("*.json"):
        shutil.copy(path, mine.runs)
    assert mine.collect("digits") == 3 and keys(mine, "runs") == keys(mine, "curves") == [spec.key for spec in RUNS]


def test_lines_of_tables_that_are_put_one_below_the_other_are_read(two):
    mine, hers = two
    shutil.rmtree(mine.runs)
    for name in TABLES:
        path = mine.folder / "digits" / f"{name}.csv"
        if path.exists():
            lines = [line for line in (hers.folder / "digits" / path.name).read_text().splitlines(True)[1:] if RUNS[1].key not in line]
            path.write_text(path.read_text() + "".join(lines))
    assert set(Store(mine.folder).rows("digits")) == {spec.key for spec in RUNS}
    assert Store(mine.folder).collect("digits") == 3 and keys(mine, "runs") == keys(mine, "curves") == [spec.key for spec in RUNS]
    again = mine.folder / "digits" / "runs.csv"
    again.write_text(again.read_text() + again.read_text().splitlines(True)[1])
    with pytest.raises(StoreError, match=f"the key {RUNS[0].key} is in row 2 too; remove one"):
        Store(mine.folder).collect("digits")

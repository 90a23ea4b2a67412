"""`remove` takes out the rows that are asked for, with all that belongs to them, and `collect --from` brings them back."""
import pytest
from made_up import contents, fill, row
from stored import table
from test_command_refusals import refused

from benchmarks import results
from benchmarks.__main__ import main
from benchmarks.files import StoreError
from benchmarks.grid import Spec
from benchmarks.results import Store

SPECS = [Spec("digits", method, sparsity, seed, options=options) for method, options in (("gmp", {}), ("gmp", {"ramp_end": 0.7}), ("mine.py:Mine", {}))
         for sparsity in (0.9, 0.95) for seed in range(2)]


@pytest.fixture
def store(tmp_path):
    fill(tmp_path, "digits", SPECS)
    return Store(tmp_path)


def words(store, *more):
    return ["remove", "digits", "--results", str(store.folder), *map(str, more)]


def kept(store):
    """The runs whose rows are there, which have their lines in the other tables."""
    keys = {spec.key: spec for spec in SPECS}
    assert {line["key"] for name in ("curves", "layers") for line in table(store, name)} == {line["key"] for line in table(store, "runs")}
    return {keys[line["key"]] for line in table(store, "runs")}


@pytest.mark.parametrize("more, gone", [
    (["--methods", "mine.py:Mine"], lambda spec: spec.method == "mine.py:Mine"),
    (["--methods", "gmp"], lambda spec: spec.method == "gmp"),
    (["--methods", "gmp", "--set", "ramp_end=.70"], lambda spec: spec.options),
    (["--methods", "gmp", "mine.py:Mine", "--sparsities", "0.95", "--seeds", "1-1"], lambda spec: spec.sparsity == 0.95 and spec.seed == 1),
    (["--keys", SPECS[0].key, SPECS[5].key], lambda spec: spec in (SPECS[0], SPECS[5])),
])
def test_the_rows_that_are_asked_for_go_and_come_back(more, gone, store, capsys):
    before = contents(store.folder)
    assert main(words(store, *more)) == 0
    out = capsys.readouterr().out.splitlines()
    left = {spec for spec in SPECS if not gone(spec)}
    number = len(SPECS) - len(left)
    assert {line.split()[0] for line in out[:-1]} == {spec.key for spec in SPECS if gone(spec)} and len(out) == number + 1
    assert out[-1].startswith(f"{number} rows would be removed; --yes ") and contents(store.folder) == before
    assert main(words(store, *more, "--yes")) == 0 and kept(store) == left
    assert f"{number} rows removed; `python -m benchmarks collect digits --results {store.folder} --from {store.folder / 'removed'}`" in capsys.readouterr().out
    assert main(["collect", "digits", "--results", str(store.folder), "--from", str(store.folder / "removed")]) == 0
    after = contents(store.folder)
    assert kept(store) == set(SPECS) and all(sorted(after[path].splitlines()) == sorted(before[path].splitlines()) for path in before)


def test_what_belongs_to_a_run_goes_with_its_row(store):
    """Or a row that was not collected yet, or an older one under it, would be there again, and the run would go on from its last checkpoint."""
    failed, other = Spec("digits", "st3", 0.9, 0), Spec("digits", "st3", 0.9, 1)
    for spec in (failed, other):
        store.write(row(spec, epochs=30, finished_at="2030", status="failed" if spec == failed else "ok"), keep=True)
        for path in (store.log(spec.key), store.checkpoint(spec.key), store.model(spec.key)):
            path.parent.mkdir(exist_ok=True)
            path.write_text("something")
    store.again(failed.key).write_text("{}")
    assert main(words(store, "--failed", "--yes")) == 0
    assert set(store.rows("digits")) == {spec.key for spec in (*SPECS, other)} and not list(store.folder.glob(f"*/{failed.key}*"))
    assert {path.name for path in store.folder.glob("removed/*/*")} == {f"{failed.key}.json", f"{failed.key}.log", f"{failed.key}.pt"}
    assert len(list(store.folder.glob(f"*/{other.key}.*"))) == 4
    store.collect("digits")
    assert failed.key not in {line["key"] for line in table(store, "runs")}


def test_a_row_that_is_written_meanwhile_stays(store, monkeypatch):
    spec, read = SPECS[0], Store._whole

    def then_written(self, suite):
        found = read(self, suite)
        self.write(row(spec, epochs=30, finished_at="2031", top1=12.5))
        return found
    monkeypatch.setattr(Store, "_whole", then_written)
    assert main(words(store, "--keys", spec.key, "--yes")) == 0
    assert store.rows("digits")[spec.key]["top1"] == 12.5


def test_where_removed_rows_cannot_be_kept_none_is_removed(store, capsys):
    (store.folder / "removed").write_text("something else")
    before = contents(store.folder)
    assert main(words(store, "--methods", "gmp", "--yes")) == 2
    err, = capsys.readouterr().err.splitlines()
    assert f"{store.folder / 'removed'} cannot be written" in err and err.endswith("; rows that are removed are kept there")
    assert contents(store.folder) == before


def test_where_the_disk_is_full_in_between_it_is_said_how_the_rows_come_back(store, capsys, monkeypatch):
    before, write = contents(store.folder), results.write_table

    def full(path, *rest):
        if path.stem == "curves":
            raise StoreError(f"{path} cannot be written (No space left on device)")
        write(path, *rest)
    monkeypatch.setattr(results, "write_table", full)
    assert main(words(store, "--methods", "gmp", "--yes")) == 2
    err, = capsys.readouterr().err.splitlines()
    assert "curves.csv cannot be written: the rows are removed" in err and f"`collect digits --from {store.folder / 'removed'}` brings" in err
    monkeypatch.setattr(results, "write_table", write)
    assert {line["method"] for line in table(store, "runs")} == {"mine.py:Mine"}
    assert main(["collect", "digits", "--results", str(store.folder), "--from", str(store.folder / "removed")]) == 0
    after = contents(store.folder)
    assert all(sorted(after[path].splitlines()) == sorted(before[path].splitlines()) for path in before)


@pytest.mark.parametrize("more, parts", [
    ([], ("name the rows with --keys, --methods or --failed",)),
    (["--sparsities", "0.9"], ("name the rows",)),
    (["--methods", "rgil"], ("digits has no such rows",)),
    (["--methods", "gmp", "--set", "ramp_end=0.8"], ("digits has no such rows",)),
    (["--failed", "--yes"], ("digits has no such rows",)),
    (["--keys", "0123456789ab"], ("digits has no row with the key 0123456789ab",)),
    (["--methods", "gmp", "--set", "ramp_end"], ("--set", "NAME=VALUE")),
])
def test_what_names_no_row_is_refused(more, parts, store, capsys):
    before = contents(store.folder)
    refused(capsys, words(store, *more), *parts)
    assert contents(store.folder) == before


def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path, capsys):
    refused(capsys, ["remove", "digits", "--methods", "gmp", "--results", str(tmp_path / "no"), "--yes"], "there is no results folder")
    refused(capsys, ["remove", "digit", "--methods", "gmp"], "digit", "digits cifar10 cifar100 imagenet")
    assert not (tmp_path / "no").exists()

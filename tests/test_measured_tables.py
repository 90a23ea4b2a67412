"""Tables of measurements that are empty or damaged: no figure and no verdict is made of them."""
import importlib
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "reproduce"))
costs, claims, rows, measured = map(importlib.import_module, ("claimed_costs", "claims", "rows", "measured"))
FIGURES = {"speed": "overhead", "sparse_figure1": "sparse_speed", "sparse_figure2": "sparse_growth", "gse_figure4": "training_flops",
           "gse_figure8": "products", "packs": "throughput"}


def changed(folder, name, change):
    """A copy of the stored measurements in which the text of one table is changed; returns the folder."""
    shutil.copytree(ROOT / "results" / "performance", folder / "performance")
    path = folder / "performance" / f"{name}.csv"
    path.write_text(change(path.read_text()))
    return folder


@pytest.mark.parametrize("figure, table", FIGURES.items())
def test_a_table_without_lines_or_cut_off_is_one_line(tmp_path, figure, table):
    source = importlib.import_module(figure).source
    for place, (change, error, said) in enumerate((
            (lambda text: text.splitlines()[0] + "\n", rows.NoRows, f"{table}.csv, or nothing for this figure in it; make it with: python -m benchmarks."),
            (lambda text: text.rpartition(",")[0], ValueError, f"{table}.csv is no table, or is damaged"),
            (lambda text: "", ValueError, f"{table}.csv is no table, or is damaged"))):
        with pytest.raises(error) as raised:
            source((), "cifar10", changed(tmp_path / str(place), table, change))
        assert said in str(raised.value) and "\n" not in str(raised.value)


def emptied(name, *columns):
    """A change of a table's text that empties these columns."""
    def change(text):
        table = pd.read_csv(ROOT / "results" / "performance" / f"{name}.csv")
        return table.assign(**dict.fromkeys(columns)).to_csv(index=False)
    return change


@pytest.mark.parametrize("judge, name, columns", [
    (costs.flops, "training_flops", ["gse_flops"]), (costs.slopes, "sparse_growth", ["update_ms", "peak_mb"]),
    (lambda results: costs.overhead(results, claims.ST3), "overhead", ["ratio_low", "ratio", "ratio_high"])])
def test_empty_cells_decide_nothing(tmp_path, judge, name, columns):
    stored = [part.holds for part in judge(ROOT / "results")]
    parts = judge(changed(tmp_path, name, emptied(name, *columns)))
    assert any(holds is not None for holds in stored) and len(parts) == len(stored) and all(part.holds is None for part in parts)


def test_the_99_percent_of_b6_are_those_alone(tmp_path):
    def others(text):
        table = pd.read_csv(ROOT / "results" / "performance" / "training_flops.csv")
        return table[(table.sparsity - 0.99).abs() > 1e-6].to_csv(index=False)
    assert costs.flops(ROOT / "results") and not costs.flops(changed(tmp_path, "training_flops", others))


@pytest.mark.parametrize("table, name, other", [
    (measured.step_times, "overhead", dict(precision="fp32")), (measured.step_times, "overhead", dict(sparsity=0.5)),
    (measured.faster, "sparse_speed", dict(batch_size=1)),
    (measured.training, "sparse_training", dict(method="set")), (measured.training, "sparse_training", dict(epochs=300))])
def test_measurements_of_another_kind_are_not_mixed_in(tmp_path, table, name, other):
    """Those of other precisions, sparsities, batches, methods and lengths, which the same file has."""
    def more(text):
        lines = pd.read_csv(ROOT / "results" / "performance" / f"{name}.csv")
        numbers = [column for column in ("ratio", "seconds", "top1") if column in lines]
        return pd.concat([lines, lines.assign(**other, **{column: 9.99 for column in numbers})]).to_csv(index=False)
    stored, found = (table(folder) for folder in (ROOT / "results", changed(tmp_path, name, more)))
    if other == dict(epochs=300):  # of which there are lines of their own
        assert [line for line in found.splitlines() if "| 300 |" not in line] == stored.splitlines() != found.splitlines()
    else:
        assert found == stored

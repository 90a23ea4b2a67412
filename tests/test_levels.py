"""Levels of sparsity: how many weights each keeps, and a row for each."""
from pathlib import Path

import pytest
import torch
from canonical import W, step, training
from stored import timeless

from benchmarks.__main__ import main
from benchmarks.grid import Spec
from benchmarks.levels import levels_of, uncovered
from benchmarks.models import build
from benchmarks.results import Store
from benchmarks.run import run as make_row
from benchmarks.run import store_failure
from benchmarks.workers.again import renew
from benchmarks.workers.run_claims import Claim
from methods import SparseModel, Training, get
from methods.base import Cycle

CYCLIC = ["lrr", "lrr_aug_reset", "lrr_st3", "imp"]


@pytest.mark.parametrize("name", CYCLIC)
def test_levels(name):
    levels = get(name).levels(0.991, {})
    expected = {0: 0, 1: 0.2, 2: 0.36, 3: 0.488, 4: 0.5904, 5: 0.67232, 6: 0.737856, 7: 0.790285, 8: 0.832228, 9: 0.865782,
                10: 0.892626, 11: 0.914101, 18: 0.981986, 21: 0.990777}
    assert {c: levels[c] for c in expected} == pytest.approx(expected, abs=5e-7)
    assert get(name).levels(0.67232, {}) == levels[:6]  # to the bit, though 1 - 0.8**5 is not 0.67232 in binary
    assert get(name).levels(0.9, {}) == [*levels[:11], 0.9]  # a sparsity between two levels is a last one
    assert get(name).levels(0.95, {"level_list": "0,0.5,0.75,0.9,0.95,0.98"}) == [0, 0.5, 0.75, 0.9, 0.95]
    for nonsense in ("0,half", "0.9,0.5", "0,1.1", "-0.1,0.9", "0,nan", "0,nan,0.9", "0,0.9,0.9", "0,0.9,"):
        with pytest.raises(ValueError, match=f"^option level_list takes rising sparsities with commas between, not '{nonsense}'$"):
            get(name).levels(0.9, {"level_list": nonsense})


def test_rows_of_levels_are_named_to_six_digits():
    """As the stored ones are, whose keys have them."""
    levels = levels_of(Spec("cifar10-resnet20", "lrr", 0.8, 0))
    assert [level.sparsity for level in levels] == [0.0, 0.2, 0.36, 0.488, 0.5904, 0.67232, 0.737856, 0.790285, 0.8]


@pytest.mark.parametrize("name", ["lrr", "lrr_aug_reset", "imp", "lamp_imp"])
def test_a_first_level_that_is_not_dense_is_refused(name, tmp_path, capsys):
    for levels, sparsity in (("0.5,0.9", "0.9"), ("0.5", "0.3")):
        words = ["run", "--task", "digits", "--method", name, "--sparsity", sparsity, "--set", f"level_list={levels}"]
        assert main([*words, "--results", str(tmp_path)]) == 2
        said = f"option level_list must begin with 0, for the first cycle of {name} is dense, not '{levels}'"
        assert capsys.readouterr().err == f"error: {said}\n"
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("name", ["lrr_st3", "lrr_feather"])
def test_dense_weights_may_begin_at_any_level(name):
    method = training(name, 0.5, level_list="0.5").model.method
    assert int(method.mask.sum()) == method.budget_at(0) == 3


def resnet20(name, sparsity=0.9, **options):
    return SparseModel(build("resnet20", 10), name, sparsity, **options)


@pytest.mark.parametrize("name", ["lrr", "lrr_aug_reset", "lrr_st3"])
def test_lrr_counts_on_resnet20(name):
    method = resnet20(name).method
    assert [method.budget_at(c) for c in (0, 1, 2, 5, 10)] == [270_896, 216_717, 173_373, 88_767, 29_088]
    assert all(method.budget_at(c) == 270_896 - int(270_895 * (1 - 0.8**c)) - 1 for c in range(1, 11))
    assert resnet20(name, 0.36).method.budget == 173_373


def test_lrr_prunes_to_its_counts():
    torch.manual_seed(0)
    model = resnet20("lrr")
    run = Training(model, torch.optim.SGD(model.parameters(), lr=0.1), 1, 1)
    masks = []
    for cycle in range(6):
        run.start(cycle)
        masks.append(model.method.mask.clone())
        with torch.no_grad():
            run.theta.add_(0.05 * torch.randn(run.theta.shape) * model.method.mask)
    assert [int(m.sum()) for m in masks[1:3] + masks[5:]] == [216_717, 173_373, 88_767]
    assert not any((late & ~early).any() for early, late in zip(masks, masks[1:]))


@pytest.mark.parametrize("rounding, expected", [
    ("exact", [216_717, 173_374, 138_699]),
    ("open_lth", [216_715, 173_371, 138_695]),
])
def test_imp_counts_on_resnet20(rounding, expected):
    method = resnet20("imp", rounding=rounding).method
    assert [method.budget_at(c) for c in (1, 2, 3)] == expected
    # the row of a level is that of a run which ends there
    assert [resnet20("imp", level, rounding=rounding).method.budget for level in (0.2, 0.36, 0.488)] == expected


def test_a_sparsity_just_beyond_a_step_has_no_more_weights_than_the_step():
    method = resnet20("imp", 0.48801, rounding="open_lth").method
    assert [method.budget_at(c) for c in (2, 3, 4)] == [173_371, 138_695, 138_695]  # round(N · .51199) is 138,696
    assert method.budget == 138_695 and resnet20("imp", 0.4881, rounding="open_lth").method.budget == 138_672


def test_imp_rewinds_to_an_epoch_of_its_cycles():
    method = resnet20("imp", 0.36, rewind_epoch=9).method
    assert method.cycles(10) == [Cycle(10), Cycle(10, first=9), Cycle(10, first=9)]
    with pytest.raises(ValueError, match="^option rewind_epoch must be less than the 9 epochs of a cycle, not 9$"):
        method.cycles(9)


def test_imp_counts_of_gse():
    method = SparseModel(build("resnet56", 10), "imp", 0.98, level_list="0,0.5,0.75,0.9,0.95,0.98").method
    assert [method.budget_at(c) for c in range(6)] == [848_944, 424_472, 212_236, 84_894, 42_447, 16_979]
    slow = SparseModel(build("resnet56", 10), "imp", 0.3, level_list="0,0.1,0.2,0.3").method  # each prunes less than the usual fifth
    assert [slow.budget_at(c) for c in range(4)] == [848_944, 764_050, 679_155, 594_261]


@pytest.mark.parametrize("rounding, mask", [("exact", [[1, 1, 1], [0, 1, 1]]), ("open_lth", [[1, 0, 0], [0, 1, 1]])])
def test_imp_first_round(rounding, mask):
    run = training("imp", 0.4, rounding=rounding)
    run.start(1)
    assert run.model.method.mask.view(2, 3).tolist() == mask


# ---- one run, many rows

LADDER = Spec("digits", "lrr", 0.8, 0, epochs=1, options={"source": "last"})  # levels 0, .5, .8


@pytest.fixture(scope="module")
def ladder(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("results"))
    with Claim(store, LADDER.key) as claim:
        row = make_row(LADDER, store, begun=claim.begun)
    return store, row, claim.content["epochs"]


def test_levels_of_a_run():
    assert [spec.sparsity for spec in levels_of(LADDER)] == [0, 0.5, 0.8] and levels_of(LADDER)[-1] == LADDER
    assert levels_of(Spec("digits", "st3", 0.8, 0)) == [Spec("digits", "st3", 0.8, 0)]
    recursive = levels_of(Spec("cifar10-resnet20", "lrr", 0.67232, 0))
    assert [spec.sparsity for spec in recursive] == [0, 0.2, 0.36, 0.488, 0.5904, 0.67232]


def test_a_row_for_each_level(ladder):
    store, last, epochs = ladder
    assert epochs == 3  # of all cycles, which status counts
    rows = store.rows("digits")
    assert set(rows) == {spec.key for spec in levels_of(LADDER)}
    counts = 19_408, 19_408 - 9_703 - 1, 19_408 - 15_525 - 1
    for cycle, (spec, nnz) in enumerate(zip(levels_of(LADDER), counts)):
        row = rows[spec.key]
        found = row["status"], row["sparsity"], row["nnz"], row["cycles"], row["epochs"]
        assert found == ("ok", spec.sparsity, nnz, cycle + 1, 1)
    assert rows[LADDER.key] == last
    costs = [rows[spec.key]["train_flops_fraction"] for spec in levels_of(LADDER)]
    assert costs == sorted(costs) and costs[0] == pytest.approx(1) and 1.4 < costs[1] < 1.7


def test_the_row_of_a_level_is_that_of_its_own_run(ladder, tmp_path):
    half = levels_of(LADDER)[1]
    assert timeless(make_row(half, Store(tmp_path))) == timeless(ladder[0].rows("digits")[half.key])


@pytest.mark.parametrize("options", [{}, {"rewind_epoch": "1"}])
def test_the_curves_of_a_level_are_its_own(tmp_path, options):
    spec, store = Spec("digits", "imp", 0.8, 0, epochs=2, options=options), Store(tmp_path)
    make_row(spec, store)
    store.collect("digits")
    lines = [line.split(",") for line in (tmp_path / "digits" / "curves.csv").read_text().splitlines()]
    epochs = {level.key: [int(line[1]) for line in lines if line[0] == level.key] for level in levels_of(spec)}
    assert lines[0][1] == "epoch" and sum(epochs.values(), []) == list(range(len(lines) - 1))  # of all cycles, as they were trained
    for level in levels_of(spec):
        curve = [dict(zip(lines[0], line)) for line in lines if line[0] == level.key]
        assert len(curve) == 2 - (level.sparsity > 0) * len(options)
        assert [float(line["sparsity"]) for line in curve] == pytest.approx([level.sparsity] * len(curve), abs=1e-4)


def test_a_longer_run_leaves_the_rows_of_its_levels_as_they_are(ladder, tmp_path):
    """But where it is made again."""
    rows, store = ladder[0].rows("digits"), Store(tmp_path)
    half = levels_of(LADDER)[1]
    store.write({**rows[half.key], "device": "another"})
    make_row(LADDER, store)
    found = store.rows("digits")
    assert found[half.key]["device"] == "another" and {key: row["status"] for key, row in found.items()} == dict.fromkeys(rows, "ok")
    renew([LADDER], store, "digits")
    make_row(LADDER, store)
    assert timeless(store.row(half.key)) == timeless(rows[half.key]) and store.row(half.key)["device"] != "another"
    store.write({**rows[half.key], "device": "another"})
    renew([half], store, "digits", "--outdated")  # which a longer run, that was missing, passes
    make_row(LADDER, store)
    assert store.row(half.key)["device"] != "another" and not store.again(half.key).exists()


FALLS = """
from methods import get


class Falls(get("lrr")):
    def after_step(self, run):
        super().after_step(run)
        if run.cycle:
            raise {error}("the loss is nan")
"""


@pytest.mark.parametrize("status, error", [("diverged", "FloatingPointError"), ("failed", "KeyError")])
def test_levels_that_are_not_reached_have_rows_too(status, error, tmp_path, monkeypatch):
    """The first level is there, the others end as the run does; a row that another run has made stays."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FALLS.format(error=error))
    spec, store = Spec("digits", "mine.py:Falls", 0.8, 0, epochs=1), Store("results")
    levels = levels_of(spec)
    made = make_row(Spec("digits", "st3", 0.5, 0, epochs=1), store)
    store.write({**made, "key": levels[1].key, "method": spec.method, "sparsity": levels[1].sparsity})
    assert make_row(spec, store)["status"] == status
    rows = store.rows("digits")
    assert [rows[level.key]["status"] for level in levels] == ["ok", "ok", status]
    for file in store.runs.glob("*.json"):
        file.unlink()
    make_row(spec, store)
    assert [store.rows("digits")[level.key]["status"] for level in levels] == ["ok", status, status]


def test_levels_that_failed_in_an_earlier_try_end_as_this_one_does(tmp_path, monkeypatch):
    """A diverged seed counts as chance, a failed one not at all."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FALLS.format(error="FloatingPointError"))
    spec, store = Spec("digits", "mine.py:Falls", 0.95, 0, epochs=1), Store("results")
    store_failure(spec, "its process died", store, store.stamp(spec.key))
    levels = levels_of(spec)
    assert [store.row(level.key)["status"] for level in levels] == ["failed"] * 5
    make_row(spec, store)
    assert [store.row(level.key)["status"] for level in levels] == ["ok"] + ["diverged"] * 4
    assert [store.row(level.key)["cycles"] for level in levels] == [1, 2, 3, 4, 5]  # as of the other seeds, with which it is compared
    store_failure(spec, "its process died", store, store.stamp(spec.key))
    assert [store.row(level.key)["status"] for level in levels] == ["ok"] + ["diverged"] * 3 + ["failed"]


def test_covered_specs_are_not_run():
    levels, other = levels_of(LADDER), Spec("digits", "lrr", 0.5, 1, epochs=1)
    plain = [Spec("digits", "st3", s, 0) for s in (0.5, 0.8)]
    assert uncovered([*levels, other, *plain]) == [LADDER, other, *plain]
    assert uncovered(levels[:2]) == [levels[1]]


def test_lrr_with_st3_trains_pruned_weights_in_every_cycle():
    run = training("lrr_st3", 0.5, epochs=1, level_list="0.25,0.5", rescale="off", source="last")
    step(run, torch.zeros_like(W))
    run.start(1)
    run.optimizer.param_groups[0]["weight_decay"] = 0.0
    gradient = torch.zeros_like(W)
    gradient[0, 1] = 4  # of -.2, which is pruned: it becomes -.6
    step(run, gradient)
    assert run.theta[1].item() == pytest.approx(-0.6, abs=1e-3)
    assert run.method.mask.tolist() == [True, True, False, False, False, True]


def test_levels_that_would_share_a_row_are_refused():
    with pytest.raises(ValueError, match="^option level_list takes rising sparsities"):
        get("lrr").levels(0.95, {"level_list": "0,0.9,0.9000001,0.95"})


def test_levels_of_a_very_sparse_network():
    levels = get("lrr").levels(0.999, {})  # 0.8**30 is above a thousandth, 0.8**31 is not
    assert len(levels) == 32 and levels[-2] == pytest.approx(1 - 0.8**30) and levels[-1] == 0.999

"""What decides each claim, by worked numbers on both sides of its limit. Rows here are made up, in tmp_path only."""
import pandas as pd
import pytest
from made_up import keyed
from test_report import CLAIMS, report, scales, write  # before the next: it says where that is

from claims import AS_GSE

from benchmarks.records import RUN_COLUMNS


def store(folder, task, runs, precision="bf16", nnz={}, achieved={}):
    """Rows of {(series, sparsity, epochs): accuracy of each seed}; nnz: those of some of them; achieved: sparsities that methods reach instead."""
    suite = task.partition("-")[0]
    write(folder / suite / "runs.csv", [keyed(dict.fromkeys(RUN_COLUMNS, "") | dict(
        suite=suite, task=task, dataset=suite, method=series.partition(" ")[0],
        options=series.partition(" ")[2], sparsity=sparsity, seed=seed, epochs=epochs, status="ok", precision=precision, top1=accuracy,
        achieved_sparsity=achieved.get(series, sparsity), nnz=nnz.get((series, sparsity, epochs), "")))
        for (series, sparsity, epochs), own in runs.items() for seed, accuracy in enumerate(own)])


def table(folder, name, columns, *lines):
    """results/performance/NAME.csv with these lines."""
    write(folder / "performance" / f"{name}.csv", [dict(zip(columns.split(), line)) for line in lines], columns.split())


def own(claim, folder):
    """[(text, holds)] at the paper's own scale."""
    return [(part.text, part.holds) for _, mine, parts in scales(claim, folder) if mine for part in parts]


@pytest.mark.parametrize("mean, holds", [(90.8, True), (90.6, False)])  # 0.4 and 0.6 below the paper's
def test_the_dense_baseline_may_miss_half_a_point(tmp_path, mean, holds):
    store(tmp_path, "cifar10-resnet20", {("dense", 0.0, 160): (mean - 0.02, mean, mean + 0.02)})
    store(tmp_path, "digits", {("dense", 0.0, 30): (91.2,) * 3}, precision="fp32")  # another network, of which the paper says nothing
    assert [scale for scale, _, parts in scales("A1", tmp_path) if parts] == ["ResNet-20, CIFAR-10"]
    assert own("A1", tmp_path) == [(f"`dense` - the paper's 91.2 (claimed: above -0.5): {mean - 91.2:+.2f} ± 0.05 points, 3 seeds", holds)]


@pytest.mark.parametrize("hard, holds", [(80.5, True), (81.5, False)])
def test_hard_thresholds_fail_from_ten_points_on(tmp_path, hard, holds):
    spread = (-0.02, 0, 0.02)  # t(2) * 0.02 / sqrt(3) = 0.05
    store(tmp_path, "cifar10-resnet20", {("dense", 0.0, 160): (91.0,) * 3, ("ste_hard", 0.99, 160): [hard + d for d in spread],
                                         ("ste_soft", 0.99, 160): (85.0,) * 3, ("ste_hard", 0.98, 160): (91.0,) * 3,
                                         ("static", 0.99, 160): (82.0,) * 3})
    (text, failed), (other, below), (_, above) = own("A2", tmp_path)
    assert other.startswith("`static` above `ste_hard` at 99 %: ") and below is (hard < 82)
    assert text == f"`ste_hard` - `dense` at 99 % (failing: below -10): {hard - 91:+.2f} ± 0.05 points, 3 seeds"
    assert failed is holds and above


def test_lower_sparsities_than_a_single_cycle_is_given_are_no_comparison(tmp_path):
    """LRR's first levels have rows too."""
    rows = {(method, sparsity, 160): [accuracy + seed + 0.1 * seed * (method == "lrr") for seed in range(3)]
            for method, accuracy in (("lrr", 92), ("st3", 91)) for sparsity in (0.2, 0.488, 0.67232, 0.9)}
    store(tmp_path, "cifar10-resnet20", rows)
    assert [text.partition(":")[0] for text, _ in own("A5", tmp_path)] == [f"`lrr` above `st3` at {s} %" for s in ("67.232", "90")]


def test_lrr_with_st3_is_compared_with_lrr(tmp_path):
    store(tmp_path, "cifar10-resnet20", {(method, 0.9, 160): [accuracy + d for d in (-0.02, 0, 0.02)]
                                         for method, accuracy in (("lrr", 92), ("st3", 90), ("lrr_st3", 91))})
    assert [(text.partition(":")[0], holds) for text, holds in own("A5", tmp_path) if holds is not None] == [
        ("`lrr` above `st3` at 90 %", True), ("`lrr_st3` above `lrr` at 90 %", False)]


@pytest.mark.parametrize("lrr, difference, holds", [(92.2, "+0.20", True), (92.6, "-0.20", False)])
def test_st3_of_four_times_the_epochs_against_six_trainings(tmp_path, lrr, difference, holds):
    """At LRR's fifth pruning, 1 - 0.8⁵; ST-3's runs of the usual length are no part of it."""
    store(tmp_path, "cifar10-resnet20", {("st3", 0.67232, 640): (92.38, 92.4, 92.42), ("st3", 0.67232, 160): (80.0,) * 3,
                                         ("lrr", 0.67232, 160): (lrr,) * 3, ("lrr", 0.738, 160): (99.0,) * 3})
    assert own("A7", tmp_path) == [(f"`st3`, 640 epochs, - `lrr` at 67.23 % (paper: +0.16): {difference} ± 0.05 points, 3 seeds", holds)]


def test_distances_are_of_cifar10_alone(tmp_path):
    """Digits beside runs as long on CIFAR-100 is no such comparison."""
    for task in ("digits", "cifar100-wrn34x2"):
        store(tmp_path, task, {("st3", 0.9, 30): (90.0, 90.1), ("lrr", 0.9, 30): (91.0, 91.1)})
    assert own("A8", tmp_path) == [] and "| A8 |" in report.report(tmp_path)
    assert "on CIFAR-100 - on CIFAR-10" not in report.report(tmp_path)


def test_what_repeated_cycles_reach_is_expected_at_the_sparsities_of_the_leaderboard(tmp_path):
    """Not only where figure 3 has LRR's levels: `run_all.sh` gives it the sparsities of all methods."""
    store(tmp_path, "cifar10-resnet20", {("lrr", 0.99, 160): (90.0, 90.1), ("st3", 0.99, 160): (89.0, 89.1)})
    (_, _, parts), *_ = report.judged(CLAIMS["A5"], report.all_runs(tmp_path), tmp_path)
    assert {f"`lrr` above `st3` at {s:g} %" for s in (80, 90, 95, 98)} <= {part.text for part in parts if part.missing}


@pytest.mark.parametrize("near, far, difference, holds", [(90.0, 89.0, "+1.00", True), (89.0, 90.0, "-1.00", False)])
def test_distances_on_two_data_sets(tmp_path, near, far, difference, holds):
    """Both intervals count, by Welch's test about hypot(t(2) * 0.1 / √3, t(3) * 0.1414 / √4) = hypot(0.248, 0.225); as many seeds as both have."""
    gaps = {"cifar10-resnet20": (near, (1.0, 1.1, 1.2)), "cifar100-wrn34x2": (far, (1.0, 1.0, 1.3, 1.1))}
    for task, (st3, gap) in gaps.items():
        store(tmp_path, task, {("st3", 0.9, 160): [st3] * len(gap), ("lrr", 0.9, 160): [90 + more for more in gap]})
    assert own("A8", tmp_path) == [(f"`lrr` - `st3` at 90 %, on CIFAR-100 - on CIFAR-10: {difference} ± 0.33 points, 3 seeds", holds)]


@pytest.mark.parametrize("best, leads", [(65.5, True), (65.6, False), (70.0, False)])
def test_published_numbers_on_imagenet(tmp_path, monkeypatch, best, leads):
    """ST-3 against what is as sparse within 0.6 %. Its lead at 95 % is five to whole points, over the best of the others, and undecided where
    one of the two that the paper names has no number. Its own variant is no other method."""
    import beyond
    monkeypatch.setattr(beyond, "literature", lambda: pd.DataFrame(
        [("imagenet-resnet50", "acdc", 0.95, 71.0, 100), ("imagenet-resnet50", "feather", 0.8, 77.0, None), ("imagenet-resnet50", "rigl", 0.8, 78.0, 100),
         ("imagenet-mobilenetv1", "acdc", 0.95, 79.0, 100)], columns=["task", "method", "sparsity", "mean", "epochs"]))
    rows = [("st3", 0.95, 70.0), ("st3_sigma", 0.95, 75.0), ("gmp", 0.955, best), ("rigl", 0.95, 60.0), ("str", 0.957, 80.0),
            ("dnw", 0.94, 10.0), ("st3", 0.8, 76.0), ("gmp", 0.8, 75.0), ("st3", 0.5, 77.0), ("dense", 0.0, 90.0), ("granet", 0.95, 61.0)]
    import figure4
    for more, second in (([], None), ([("probmask", 0.95, 62.0)], leads)):
        literature = pd.DataFrame(rows + more, columns=["method", "sparsity", "mean"]).assign(epochs=100)
        monkeypatch.setattr(figure4, "literature", lambda task: literature)
        (_, mine, parts), = report.judged(CLAIMS["A13"], None, tmp_path)
        assert not mine and [part.holds for part in parts] == [best < 70, second, False, True, None]
        assert parts[0].text == f"published, 95 %: ST-3 70.00, best other of figure 4 gmp {best:.2f}"
        assert f"leads by {70 - best:.1f} points" in parts[1].text and ("no number for probmask" in parts[1].text) == (second is None)
        assert parts[2].text == "published, 95 %: ST-3 70.00, best beyond the two papers acdc 71.00"
        assert "80 %" in parts[3].text and parts[4].text.endswith("best beyond the two papers feather 77.00 (length not stated)")
        literature.loc[literature.method == "gmp", "epochs"] = None
        (_, _, parts), = report.judged(CLAIMS["A13"], None, tmp_path)
        assert [part.holds for part in parts] == [None, second, False, None, None] and parts[0].text.endswith("(length not stated)")


def test_subsets_of_other_sizes_and_pure_growth(tmp_path):
    """At figure 2's 98 % alone; against larger subsets one point is allowed, smaller ones cannot contradict that this one suffices."""
    accuracy = {"gse_uniform": 90, "set": 89, "rigl": 91, "gse_uniform gamma=0.5": 90.8, "gse_uniform gamma=2.0": 91.2,
                "gse_uniform width=2.0": 99, "gse_uniform gamma=2.0 storage=sparse": 99, "gse_grabo gamma=2.0": 99,
                AS_GSE[0]: 60, "rigl scope=global": 50}
    store(tmp_path, "cifar10-resnet56", {(series, s, 200): [mean - 0.02 * (i - 1) * (series != "gse_uniform") for i in range(3)]
                                         for series, mean in accuracy.items() for s in (0.9, 0.98, 0.99)})
    assert [(text.partition(":")[0], holds) for text, holds in own("B2", tmp_path)] == [
        ("`gse_uniform` above `set` at 98 %", True), ("`gse_uniform` above `rigl` at 98 %", False), (f"`gse_uniform` above `{AS_GSE[0]}` at 98 %", True),
        ("`gse_uniform` at least `gse_uniform gamma=2.0` at 98 %", False)]


@pytest.mark.parametrize("task, words", [("cifar100-resnet56", "gains"), ("cifar100-vit", "loses")])
@pytest.mark.parametrize("wide, difference", [(65, "+5.00"), (55, "-5.00")])
def test_the_widest_network_against_width_1(tmp_path, task, words, wide, difference):
    """With as many connections as it has at 98 %; other lengths, numbers and storage are no part of it."""
    active = {("gse_uniform", 0.98, 200): 1000, ("gse_uniform", 0.95, 200): 2500, ("gse_uniform width=4.0", 0.9987, 200): 1004,
              ("gse_uniform width=10.0", 0.9998, 200): 996, ("gse_uniform width=12.0", 0.99986, 200): 1011,
              ("gse_uniform width=20.0", 0.99995, 100): 1000, ("gse_uniform width=30.0 storage=sparse", 0.99998, 200): 1000}
    runs = dict(zip(active, [(60, 60, 60), (70, 70, 70), (0, 0, 0), (wide - 0.1, wide, wide + 0.1), (0, 0, 0), (0, 0, 0), (0, 0, 0)]))
    store(tmp_path, task, runs, nnz=active)
    assert own("B4", tmp_path) == [(f"10 × the width - 1 ×, with the connections of 98 % there (claimed: it {words}): {difference} ± 0.25 points, 3 seeds",
                                    (words == "gains") == (wide == 65))]


def test_a_wider_network_is_compared_wherever_it_has_as_many_connections(tmp_path):
    """Widths are multiples of the model's: 0.5 is this task's own."""
    active = {("gse_uniform", 0.98, 6): 1360, ("gse_uniform", 0.92, 6): 5430, ("gse_uniform", 0.9, 6): 6800,
              ("gse_uniform width=1.0", 0.99498, 6): 1360, ("gse_uniform width=2.0", 0.99498, 6): 5429}
    store(tmp_path, "cifar10-resnet20w8", {point: (50 + count / 1000,) * 3 for point, count in active.items()}, nnz=active)
    (_, mine, parts), = scales("B4", tmp_path)
    assert not mine and [part.text.partition(" (")[0] for part in parts] == [
        "4 × the width - 1 ×, with the connections of 92 % there", "2 × the width - 1 ×, with the connections of 98 % there"]


def test_each_longer_training_against_the_next_shorter(tmp_path):
    runs = {("gse_uniform", 0.98, epochs): [accuracy, accuracy + 0.1 * (epochs // 100 % 2), accuracy] for epochs, accuracy in
            ((50, 95), (100, 90), (200, 60), (300, 62), (400, 61))}
    store(tmp_path, "cifar100-vgg16", runs | {("gse_uniform", 0.95, 500): (1, 1, 1), ("rigl", 0.98, 500): (1, 1, 1)})
    assert [(text.partition(" ±")[0], holds) for text, holds in own("B5", tmp_path)] == [
        ("at 98 %, 300 - 200 epochs: +2.03", True), ("at 98 %, 400 - 300 epochs: -1.03", False)]
    assert [(mine, [part.text.partition(" epochs")[0][9:] for part in parts]) for _, mine, parts in scales("B5", tmp_path) if parts] == [
        (True, ["300 - 200", "400 - 300"]), (False, ["100 - 50", "200 - 100", "300 - 200", "400 - 300"])]  # none of 100 epochs besides


def test_the_highest_sparsity_is_one_that_has_rows(tmp_path):
    """On digits, where nothing of the papers is missed, though the figures hold more sparsities."""
    store(tmp_path, "digits", {(method, s, 30): (accuracy, accuracy, accuracy + 0.5) for method, s, accuracy in
                               (("dense", 0.0, 98.0), ("ste_soft", 0.9, 97.0), ("ste_hard", 0.9, 80.0))}, precision="fp32")
    (_, mine, parts), = scales("A2", tmp_path)
    assert not mine and [part.text.partition(":")[0] for part in parts] == [
        "`ste_hard` - `dense` at 90 % (failing", "`ste_soft` above `ste_hard` at 90 %"]


def test_st3_sigma_is_about_imagenet_and_tried_besides(tmp_path):
    """ResNet-20 of full length decides nothing, and nothing is missed of it; ResNet-50's rows do, and MobileNet's are missed."""
    accuracy = {"st3": (76.0, 76.1, 76.2), "st3_sigma": (75.9, 76.0, 76.1)}
    for task, epochs in (("cifar10-resnet20", 160), ("cifar100-wrn34x2", 160), ("imagenet-resnet50", 100)):
        store(tmp_path, task, {(method, 0.9, epochs): own for method, own in accuracy.items()})
    found = report.judged(CLAIMS["A9"], report.all_runs(tmp_path), tmp_path)
    assert [(scale, mine) for scale, mine, _ in found] == [
        ("ResNet-50, ImageNet", True), ("MobileNetV1, ImageNet", True), ("ResNet-20, CIFAR-10", False), ("WRN-34x2, CIFAR-100", False)]
    assert [[part.missing for part in parts].count(False) for _, _, parts in found] == [1, 0, 1, 1]
    assert all(len(parts) == 1 for _, mine, parts in found if not mine)
    line = next(line for line in report.report(tmp_path).splitlines() if line.startswith("| A9 |"))
    assert "**incomplete (1 of " in line and "| 2 as claimed |" in line


def test_a_diverged_run_is_no_point_of_st3_s_at_equal_macs(tmp_path):
    """Chance, at the MACs of the middle of a training, would be what ST-3's accuracy is interpolated towards."""
    rows = [dict(method=method, sparsity=sparsity, macs=macs, top1=accuracy + 0.1 * seed, seed=seed, status="ok")
            for method, sparsity, macs, accuracy in (("st3", 0.9, 100.0, 90.0), ("st3", 0.95, 50.0, 80.0), ("st3", 0.98, 25.0, 70.0),
                                                     ("st3_sigma", 0.95, 50.0, 85.0)) for seed in range(3)]
    rows[3].update(status="diverged", top1="", macs=60.0)  # at 95 %, seed 0
    write(tmp_path / "imagenet" / "runs.csv", [keyed(dict.fromkeys(RUN_COLUMNS, "") | dict(
        suite="imagenet", task="imagenet-resnet50", dataset="imagenet", epochs=100, precision="bf16", achieved_sparsity=each["sparsity"], **each))
        for each in rows], RUN_COLUMNS)
    text, = (text for text, _ in own("A9", tmp_path) if "equal MACs" in text and "95 %" in text)
    assert text.startswith("`st3_sigma` of 95 % above `st3` at equal MACs: +5.00 ")


def test_rows_of_ones_own_on_imagenet_decide_besides_the_published_numbers(tmp_path):
    """All methods with one cycle are expected wherever the paper has ST-3 or it has rows; a shorter run is none."""
    store(tmp_path, "imagenet-resnet50", {
        ("st3", 0.95, 100): (74.4, 74.5, 74.6), ("gmp", 0.95, 100): (71.0, 71.1, 71.3), ("rigl", 0.95, 100): (74.9, 75.0, 75.1),
        ("str", 0.95, 90): (90.0,) * 3, ("st3_sigma", 0.95, 100): (80.0,) * 3})
    (scale, mine, parts), (others, published, _) = report.judged(CLAIMS["A13"], report.all_runs(tmp_path), tmp_path)
    assert (scale, mine, published) == ("ResNet-50, ImageNet", True, False) and others.startswith("published numbers")
    assert [(part.text.partition(":")[0], part.holds) for part in parts if not part.missing] == [
        ("`st3` above `gmp` at 95 %", True), ("`st3` above `rigl` at 95 %", False)]
    missing = {part.text for part in parts if part.missing}
    assert {"`st3` above `gmp` at 80 %", "`st3` above `str` at 95 %", "`st3` above `dnw` at 90 %"} <= missing
    store(tmp_path, "imagenet-resnet50", {("st3", 0.95, 100): (74.4, 74.5, 74.6), ("gmp", 0.95, 100): (71.0, 71.1, 71.3)})
    *_, parts = report.judged(CLAIMS["A13"], report.all_runs(tmp_path), tmp_path)[0]
    assert report.verdict(parts).startswith("incomplete (1 of ")
    store(tmp_path, "imagenet-resnet50", {("st3", 0.95, 100): (74.4, 74.5, 74.6), ("dense", 0.0, 100): (77.1, 77.2, 77.3)})
    assert [mine for _, mine, _ in report.judged(CLAIMS["A13"], report.all_runs(tmp_path), tmp_path)] == [False]


def test_many_short_cycles_are_shown_against_one_and_judged_at_full_length_alone(tmp_path):
    for epochs in (24, 160):
        store(tmp_path, "cifar10-resnet20", {(method, 0.9, epochs): [mean + 0.02 * seed * (method == "st3") for seed in range(3)]
                                             for method, mean in (("lrr", 92), ("lrr_aug_reset", 91), ("st3", 85))})
        *_, (text, holds) = own("A6", tmp_path) if epochs == 160 else [
            (part.text, part.holds) for scale, _, parts in scales("A6", tmp_path) if "24 of 160" in scale for part in parts]
        assert text.startswith("`lrr_aug_reset` near `st3` at 90 %: +5.98 ± 0.04") and text.endswith("not judged)") is (epochs == 24)
        assert holds is (False if epochs == 160 else None)

"""What rows may say for or against a claim: which of them count, and how sure a difference is. Rows here are made up, in tmp_path only."""
from dataclasses import replace

import numpy as np
import pytest
from made_up import row
from scipy.stats import t, ttest_1samp
from test_claims import own, store, table  # before the next: it says where that is
from test_report import report, scales, write

from claims import OTHERS
from evidence import Difference, Evidence

from benchmarks.grid import Spec
from benchmarks.records import RUN_COLUMNS
from benchmarks.stats import interval, resolution

SPREAD = (-0.02, 0.0, 0.02)


def stored(folder, suite, specs, **changes):
    """A row for each Spec; changes: {column: function of the Spec}."""
    write(folder / suite / "runs.csv", [row(replace(spec, seed=spec.seed % 3), key=spec.key, seed=spec.seed,
                                            **{column: of(spec) for column, of in changes.items()}) for spec in specs])


def test_a_short_dense_training_says_nothing_of_the_papers_accuracy(tmp_path):
    store(tmp_path, "cifar10-resnet20", {("dense", 0.0, 8): (70.0, 70.1, 70.2)})
    assert scales("A1", tmp_path) == []


def test_a_scale_is_named_by_its_length():
    for epochs, words in ((30, ""), (10, ", 10 of 30 epochs"), (120, ", 120 epochs")):
        assert Evidence(None, "digits", epochs, None, "fp32").scale == f"ResNet-8, digits (miniature){words}, fp32"


def test_a_difference_of_two_distances_has_the_fewer_degrees_of_freedom(tmp_path):
    """Of Welch's tests of 3 and of 4 seeds: the former's, a little over 2, not their sum."""
    gaps = {"cifar10-resnet20": (1.0, 1.1, 1.2), "cifar100-wrn34x2": (0.0, 0.0, 0.3, 0.1)}
    for task, gap in gaps.items():
        store(tmp_path, task, {("st3", 0.9, 160): [80] * len(gap), ("lrr", 0.9, 160): [80 + more for more in gap]})
    part, = (part for _, mine, parts in scales("A8", tmp_path) for part in parts if mine)
    least = resolution("cifar10")**2 / 2  # the variance of equal accuracies
    halves, degrees = [], []
    for gap in gaps.values():
        n, own = len(gap), np.var(gap, ddof=1)
        degrees.append((own + least)**2 / (own**2 + least**2) * (n - 1))
        halves.append(t.ppf(0.975, degrees[-1]) * ((own + least) / n)**0.5)
    ratio = t.ppf(0.975, min(degrees)) / np.hypot(*halves)
    assert part.holds is False and part.p == pytest.approx(2 * t.sf(ratio, min(degrees)), rel=1e-6) and 2 < min(degrees) < 2.1


def test_a_method_that_misses_the_sparsity_lends_no_spread(tmp_path):
    """As on the leaderboard, where it has no rank."""
    runs = {("st3", 0.9, 160): (80.0, 80.1, 80.2), ("gmp", 0.9, 160): (79.0, 79.2, 79.1), ("str", 0.9, 160): (78.0, 78.1, 78.3)}
    wild = {("dst_mask", 0.9, 160): (60.0, 70.0, 80.0)}
    halves = []
    for name, rows, achieved in (("alone", runs, {}), ("missed", runs | wild, {"dst_mask": 0.2}), ("kept", runs | wild, {})):
        store(tmp_path / name, "cifar10-resnet20", rows, achieved=achieved)
        found = report.all_runs(tmp_path / name)
        halves.append(Evidence(found, "cifar10-resnet20", 160, tmp_path / name).apart("st3", "gmp", 0.9).half)
    assert halves[0] == halves[1] != halves[2]


def test_the_summary_names_what_speaks_against_a_claim_and_what_only_sparse_storage_has(tmp_path):
    three = {(f"{method} storage=sparse", 0.98, 200): (90.0, 90.1, 90.2) for method in ("gse_uniform", "gse_grabo", "gse_graest")}
    short = {(f"{method} bn_momentum=0.99", 0.9, 6): (80.0, 80.1, 80.2) for method in ("lrr", "lrr_aug_reset")}
    store(tmp_path, "cifar10-vgg16", {**three, **short})
    table(tmp_path, "overhead", "method ratio ratio_low ratio_high task precision runs device",
          ("st3", 1.07, 1.06, 1.09, "cifar10-resnet20", "bf16", 1, "core"), ("st3", 1.02, 1.01, 1.03, "cifar10-vgg11", "bf16", 1, "core"))
    words, against = report.score(tmp_path), "Against A12: step of `st3` / dense: 1.070 (quartiles 1.060 to 1.090), cifar10-resnet20, bf16, core."
    assert words.count(against) == words.count("Against") == 1
    assert words.count("B3 has such runs only with storage=sparse, VGG-16, CIFAR-10: as claimed.") == words.count("has such runs") == 1


def test_methods_of_unlike_lengths_are_not_paired(tmp_path):
    """What both gain with a seed is no part of the difference's spread if they are paired; Welch's test does not ask."""
    store(tmp_path, "cifar10-resnet20", {("st3", 0.9, 640): (80.0, 81.0, 82.0), ("lrr", 0.9, 160): (79.0, 80.0, 81.0)})
    e = Evidence(report.all_runs(tmp_path), "cifar10-resnet20", 160, tmp_path)
    two = e.seeds("st3", 0.9, epochs=640), e.seeds("lrr", 0.9)
    found, paired = e.unpaired(*two), e.between(*two)
    assert found.mean == paired.mean == 1 and paired.half < 0.5
    assert found.half == pytest.approx(t.ppf(0.975, 4) * (2 / 3)**0.5) and found.df == pytest.approx(4) and found.seeds == 3
    assert e.unpaired(two[0], {7: 80.0}) is None


def equal_macs(folder, st3, sigma):
    """[(text, holds)] at equal MACs, of {(sparsity, MACs): accuracy} of the two methods."""
    rows = {("st3" if own is st3 else "st3_sigma", sparsity, macs): accuracy for own in (st3, sigma) for (sparsity, macs), accuracy in own.items()}
    write(folder / "imagenet" / "runs.csv", [row(
        Spec("imagenet-resnet50", method, sparsity, seed, 100), macs=macs, top1=accuracy + SPREAD[seed], precision="bf16")
        for (method, sparsity, macs), accuracy in rows.items() for seed in range(3)])
    return [(part.text, part.holds) for _, mine, parts in scales("A9", folder) for part in parts if mine and "equal MACs" in part.text]


def test_between_two_sparsities_accuracy_goes_with_the_logarithm_of_the_macs(tmp_path):
    """200 is halfway from 100 to 400: ST-3 has 71 there."""
    (text, holds), = equal_macs(tmp_path, {(0.8, 400): 72.0, (0.9, 100): 70.0}, {(0.8, 200): 71.5, (0.9, 50): 69.0})
    assert text.startswith("`st3_sigma` of 80 % above `st3` at equal MACs: +0.50 ") and holds


def test_masks_that_need_more_macs_at_a_higher_sparsity_are_between_their_neighbours(tmp_path):
    """As that of a diverged run may: at 95 % here more than at 80 %. 200 lies between 100 and 400 all the same."""
    (text, holds), = equal_macs(tmp_path, {(0.8, 400): 72.0, (0.9, 100): 70.0, (0.95, 800): 10.0},
                                {(0.8, 200): 71.5, (0.9, 50): 69.0, (0.95, 25): 68.0})
    assert text.startswith("`st3_sigma` of 80 % above `st3` at equal MACs: +0.50 ") and holds


def test_collapsed_and_diverged_seeds_speak_against_a_method(tmp_path):
    """They count with what they reached and with chance: without them `str` would be level with `gmp`."""
    seeds = range(3)
    specs = [Spec("cifar10-resnet20", method, 0.9, seed, 160) for method in ("str", "gmp", "st3") for seed in seeds]
    lost = {("str", 1): "diverged"}
    stored(tmp_path, "cifar10", specs, precision=lambda spec: "bf16", status=lambda spec: lost.get((spec.method, spec.seed), "ok"),
           top1_best_val=lambda spec: {("str", 1): "", ("str", 2): 10.5}.get((spec.method, spec.seed), 90 + SPREAD[spec.seed]))
    found = Evidence(report.all_runs(tmp_path), "cifar10-resnet20", 160, tmp_path)
    assert found.seeds("str", 0.9) == {0: 89.98, 1: 10.0, 2: 10.5}
    assert found.apart("str", "gmp", 0.9).mean == pytest.approx((89.98 + 10 + 10.5) / 3 - 90)


def test_only_seeds_that_both_have_are_compared(tmp_path):
    """The third of `str` alone, which is far off, is no part of its difference to `gmp`."""
    store(tmp_path, "cifar10-resnet20", {("str", 0.9, 160): (90.0, 90.1, 50.0), ("gmp", 0.9, 160): (89.0, 89.1)})
    found = Evidence(report.all_runs(tmp_path), "cifar10-resnet20", 160, tmp_path).apart("str", "gmp", 0.9)
    assert found.mean == pytest.approx(1.0) and found.seeds == 2


def test_variants_and_copies_of_a_training_do_not_lend_their_spread(tmp_path):
    """Without pruning LRR is dense, run for run; a method's variants are as many as somebody has tried."""
    base = {"str": (90.0, 90.3, 90.1), "gmp": (89.0, 89.1, 89.5), "rigl": (88.0, 88.2, 88.7), "set": (87.0, 87.6, 87.1)}

    def half(more):
        store(tmp_path, "cifar10-resnet20", {(series, 0.9, 160): accuracy for series, accuracy in (base | more).items()})
        return Evidence(report.all_runs(tmp_path), "cifar10-resnet20", 160, tmp_path).apart("str", "gmp", 0.9).half
    alone = half({})
    assert half({"lrr": base["set"]}) == pytest.approx(alone) == half({"rigl scope=global": (80.0, 85.0, 90.0)})
    assert half({"lrr": (86.0, 86.2, 86.1)}) != pytest.approx(alone)  # a training of its own does


def test_equal_differences_of_all_seeds_are_no_proof(tmp_path):
    """Rounding to 300 test images alone spreads a difference by 1/3 / √6 points: ± t(2) of that / √3."""
    store(tmp_path, "digits", {("dense", 0.0, 30): (95.0,) * 3, ("ste_hard", 0.9, 30): (80.0,) * 3, ("ste_soft", 0.9, 30): (90.0,) * 3},
          precision="fp32")
    (_, _, parts), = scales("A2", tmp_path)
    assert parts[0].text.endswith(f"-15.00 ± {t.ppf(0.975, 2) / 3 / 6**0.5 / 3**0.5:.2f} points, 3 seeds") and parts[0].text.count("± 0.34 ") == 1


@pytest.mark.parametrize("mean, limit", [(3.0, 1.0), (-3.0, -1.0)])
def test_the_p_value_of_near_is_that_of_the_limit_that_is_passed(mean, limit):
    half = t.ppf(0.975, 2) * 0.5  # a standard error of a half
    part = Difference(mean, half, 3, 2).part("a near b", low=-1.0, high=1.0)
    assert part.p == pytest.approx(2 * t.sf(abs(mean - limit) / 0.5, 2))


def test_a_difference_is_a_t_test():
    values = [0.4, 1.1, 0.9]
    found = Difference(np.mean(values), interval(values), 3, 2)
    for limit in (-1.0, 0.0, 1.0):
        assert found.p(limit) == pytest.approx(ttest_1samp(values, limit).pvalue)
    assert np.isnan(Difference(0.4, np.nan, 1, 0).p(0))


@pytest.mark.parametrize("mean, half, limits, holds", [
    (2, 1, {}, True), (2, 3, {}, None), (-2, 1, {}, False), (-2, 3, {}, None), (0.2, 0.5, dict(low=-1, high=1), True),
    (0.2, 1.5, dict(low=-1, high=1), None), (3, 1, dict(low=-1, high=1), False), (-3, 1, dict(low=-1, high=1), False)])
def test_what_the_whole_interval_says(mean, half, limits, holds):
    part = Difference(mean, half, 3, 2).part("a above b", **limits)
    assert part.holds is holds and f"{mean:+.2f} ± {half:.2f} points, 3 seeds" in part.text
    inside = limits and limits["low"] < mean < limits["high"]
    assert (part.p == 1) == bool(inside) and (inside or part.p < 0.05 or holds is None)


def test_two_seeds_can_decide_and_a_claim_needs_the_whole_interval(tmp_path):
    """By the seeds' own differences t(1) = 12.7: 0.9 and 1.1 have ± 1.27 and decide nothing, 0.99 and 1.01 ± 0.13."""
    accuracy = {24: (89.11, 88.89), 48: (90.1, 89.9), 96: (91.0, 91.0)}
    store(tmp_path, "cifar100-vit", {("gse_uniform", 0.98, epochs): own for epochs, own in accuracy.items()})
    assert [(part.text, part.holds) for _, _, parts in scales("B5", tmp_path) for part in parts if not part.missing] == [
        ("at 98 %, 48 - 24 epochs: +1.00 ± 0.13 points, 2 seeds", True), ("at 98 %, 96 - 48 epochs: +1.00 ± 1.27 points, 2 seeds", None)]


def test_methods_at_one_sparsity_are_compared_as_in_the_leaderboard(tmp_path):
    """With the spread of all series there: rows of other sparsities and lengths change nothing, others of the same do."""
    def found(**more):
        accuracy = {"st3": (91.0, 91.2, 91.1), "str": (90.3, 90.0, 90.3), "gmp": (89.0, 89.4, 89.5), **more}
        rows = {(method, 0.9, 160): own for method, own in accuracy.items()}
        rows |= {("rigl", 0.95, 160): (10, 50, 90), ("rigl", 0.9, 80): (10, 50, 90)}
        store(tmp_path, "cifar10-resnet20", rows)
        from benchmarks.stats import differences, resolution
        apart, half, p, _ = differences(np.array([*accuracy.values()], float), resolution("cifar10"))
        for (one, other), part in zip(((1, 2), (0, 1)), [part for part in scales("A4", tmp_path)[0][2] if not part.missing], strict=True):
            assert f": {apart[one, other]:+.2f} ± {half[one, other]:.2f} points, 3 seeds" in part.text
            assert part.p == pytest.approx(p[one, other])
        return half[0, 1]

    alone = found()
    assert found(rigl=(91.0, 91.1, 91.2), dnw=(89.0, 89.1, 89.2), set=(88.1, 88.1, 88.2)) < alone


def test_all_of_a_claim_s_methods_are_expected(tmp_path):
    """What the papers ran and nobody has stored is missing, and named."""
    def missing(claim):
        return {part.text.split("`")[3] for _, mine, parts in report.judged(report_claim(claim), report.all_runs(tmp_path), tmp_path)
                for part in parts if mine and part.missing}

    def report_claim(name):
        return next(claim for claim in report.CLAIMS if claim[0] == name)
    store(tmp_path, "cifar10-resnet56", {("dense", 0.0, 200): (90.0,)})
    assert missing("B1") >= {*OTHERS} and missing("B3") == {"gse_grabo", "gse_graest"}
    assert missing("A3") == {"gmp", "str", "probmask", "granet", "dnw", "rigl"}


def test_gse_is_compared_at_the_papers_three_sparsities(tmp_path):
    """90, 95 and 98 %: what is stored at 99 % is no part of its table."""
    store(tmp_path, "cifar10-resnet56", {(method, sparsity, 200): [mean + d for d in SPREAD] for sparsity in (0.98, 0.99)
                                         for method, mean in (("gse_uniform", 80), ("rigl", 80 + 10 * (sparsity == 0.99)))})
    assert [(text.partition(":")[0], holds) for text, holds in own("B1", tmp_path)] == [("`gse_uniform` at least `rigl` at 98 %", True)]


def test_a_row_of_a_task_that_is_not_the_suites_decides_nothing(tmp_path):
    store(tmp_path, "cifar10-mine", {("st3", 0.9, 160): (91, 92, 93), ("gmp", 0.9, 160): (90, 91, 92)})
    assert len(report.all_runs(tmp_path)) == 0 and own("A3", tmp_path) == []


def test_runs_that_share_an_option_are_compared_with_each_other_alone(tmp_path):
    """ST-3's released code has another momentum of normalisation: such runs are a scale of their own and decide nothing for the paper's."""
    means = {"st3 bn_momentum=0.99": 92, "gmp bn_momentum=0.99": 91, "gmp": 95, "st3 straight_through=False bn_momentum=0.99": 90}
    store(tmp_path, "cifar10-resnet20", {(series, 0.9, epochs): [mean + 0.02 * seed for seed in range(3)]
                                         for series, mean in means.items() for epochs in (24, 160)})
    found = [(scale, mine, [part.text.partition(" points")[0] for part in parts if not part.missing]) for scale, mine, parts in scales("A3", tmp_path)]
    assert [each for each in found if each[2]] == [
        (f"ResNet-20, CIFAR-10{length}, bn_momentum=0.99", False, ["`st3` above `gmp` at 90 %: +1.00 ± 0.05"]) for length in ("", ", 24 of 160 epochs")]


def test_runs_without_dense_weights_are_compared_with_each_other_alone(tmp_path):
    means = {"gse_uniform storage=sparse": 85, "rigl storage=sparse": 84, "rigl": 95}
    store(tmp_path, "cifar10-vgg16", {(series, 0.98, 200): [mean + 0.02 * seed for seed in range(3)] for series, mean in means.items()})
    found = [(scale, mine, [part.text.partition(" points")[0] for part in parts if not part.missing]) for scale, mine, parts in scales("B1", tmp_path)]
    assert [each for each in found if each[2]] == [
        ("VGG-16, CIFAR-10, storage=sparse", False, ["`gse_uniform` at least `rigl` at 98 %: +1.00 ± 0.05"])]


def switches(saved, epochs=160, sparsity=0.9):
    """Rows of ST-3 that count switches: by seed and quarter the cubic schedule saves so many of 1000, which are those of 250 weights."""
    options = {"fixed": "count_switches=True ramp_power=0.0", "cubic": "count_switches=True"}
    specs = {(schedule, seed): Spec("cifar10-resnet20", "st3", sparsity, seed, epochs, options=[pair.split("=") for pair in text.split()])
             for schedule, text in options.items() for seed in range(len(saved))}
    lines = [dict(key=spec.key, schedule=schedule, group=group, final_state="zero",
                  **(dict(switches=4, weights=250) if schedule == "fixed" else dict(switches=2, weights=(1000 - less) // 2)))
             for (schedule, seed), spec in specs.items() for group, less in enumerate(saved[seed])]
    return [row(spec, precision="bf16") for spec in specs.values()], lines


def test_switches_are_those_of_runs_of_one_length_and_sparsity(tmp_path):
    """Shorter ones, where the cubic schedule saves nothing, are a scale of their own; those at 95 % are none."""
    nothing = [(-900, -900, -900, -900)] * 2 + [(-910, -906, -900, -900)]
    runs, lines = map(sum, zip(*map(switches, ([(100, 300, 100, 100)] * 2 + [(110, 320, 90, 106)], nothing, nothing), (160, 24, 160),
                                    (0.9, 0.9, 0.95))), ([], []))
    write(tmp_path / "cifar10" / "runs.csv", runs, RUN_COLUMNS)
    write(tmp_path / "cifar10" / "switches.csv", lines, list(lines[0]))
    (full, holds), (short, fails) = ((scale, [part.holds for part in parts]) for scale, _, parts in scales("A11", tmp_path))
    assert (full, holds) == ("ResNet-20, CIFAR-10", [True] * 4) and "24 of 160" in short and fails[0] is False


def test_switches_of_a_diverged_run_are_those_of_a_part_of_it(tmp_path):
    """And do not count: here the fixed schedule's third seed would have switched less than the cubic one's."""
    saved = [(100, 300, 100, 100)] * 2
    runs, lines = switches([*saved, (-900, -900, -900, -900)])
    for one in runs:
        one["status"] = "diverged" if one["seed"] == 2 else "ok"
    write(tmp_path / "cifar10" / "runs.csv", runs, RUN_COLUMNS)
    write(tmp_path / "cifar10" / "switches.csv", lines, list(lines[0]))
    (_, _, parts), = scales("A11", tmp_path)
    assert "2 seeds" in parts[0].text and "quarter 1: 10 %, quarter 2: 30 %" in parts[0].text


def test_where_it_is_not_sure_that_switches_are_saved_no_quarter_saves_most(tmp_path):
    """In the second 1, 30 and 5 %: more than in the others with each seed, but itself perhaps nothing."""
    runs, lines = switches([(-390, 10, -390, -390), (-100, 300, -100, -100), (-350, 50, -350, -350)])
    write(tmp_path / "cifar10" / "runs.csv", runs, RUN_COLUMNS)
    write(tmp_path / "cifar10" / "switches.csv", lines, list(lines[0]))
    (_, _, parts), = scales("A11", tmp_path)
    assert [part.holds for part in parts[1:]] == [None] * 3 and all("(nothing is saved in quarter 2)" in part.text for part in parts[1:])


@pytest.mark.parametrize("gse, holds", [((0.10, 0.11, 0.12), True), ((0.10, 0.11, 0.14), None), ((0.14, 0.13, 0.15), False)])
def test_training_flops_of_runs_are_below_rigls_with_each_seed_or_not(tmp_path, gse, holds):
    """RigL's are 0.13; runs in another precision are not compared, nor one that diverged early, and no run of these decides the claim, which
    is about ResNet-50."""
    from claimed_costs import trained_flops
    specs = [Spec("cifar10-vgg16", method, 0.98, seed, 200) for method in ("gse_uniform", "rigl") for seed in range(3)]
    more = [Spec("cifar10-vgg16", method, 0.98, seed, 200, "fp32") for method in ("gse_uniform", "rigl") for seed in range(3)]
    early = [Spec("cifar10-vgg16", method, 0.98, 3, 200) for method in ("gse_uniform", "rigl")]
    stored(tmp_path, "cifar10", specs + more + early, precision=lambda spec: spec.precision or "bf16", train_flops_fraction=lambda spec: (
        9.0 if spec.precision else (*gse, 0.001)[spec.seed]) if spec.method == "gse_uniform" else 0.13,
        status=lambda spec: "diverged" if (spec.method, spec.seed) == ("gse_uniform", 3) else "ok")
    (scale, (part,)), = trained_flops(report.all_runs(tmp_path), tmp_path)
    ratio = sum(each / 0.13 for each in gse) / 3
    assert scale == "VGG-16, CIFAR-10" and part.holds is holds and part.text.endswith(f"at 98 % (claimed: below 1): {ratio:.2f}, 3 seeds")
    assert [(mine, parts) for _, mine, parts in scales("B6", tmp_path)] == [(False, [part])]

"""Options: the defaults are the published settings, and values that mean nothing are refused."""
import pytest
import torch
from torch import nn

import methods
from methods import SparseModel

RAMP = dict(ramp_start=5 / 160, ramp_end=80 / 160, ramp_power=3, ramp_granularity="step", threshold="quantile_lerp")  # ST-3
GSE = dict(interval=1000, drop_fraction=0.2, update_end=120 / 200, gamma=1, scope="global", score_batches="ceil10", skip_step=False,
           sampler="exact", redistribute=False)
EVCI = dict(interval=100, drop_fraction=0.3, update_end=0.75, scope="layer", regrow="keeps", drop_rounding="floor", noise=1e-5)
PUBLISHED = {
    "st3": dict(RAMP, rescale="smoothed", straight_through=True, ft_epochs=0, rewind_finetune=False),
    "st3_sigma": dict(RAMP, norm="shape_sum"),
    "str": dict(RAMP, rescale="off", straight_through=False),
    "str_original": dict(a0=-3200),
    "gmp": dict(RAMP, mask_form="sticky", scope="global", every=1),
    "lrr": dict(source="best", momentum="reset", replay="none", threshold="quantile_lerp"),
    "lrr_aug_reset": dict(replay="all"),
    "lrr_st3": dict(mask_form="live", rescale="smoothed"),
    "imp": dict(rewind_epoch=0, rounding="exact"),
    "probmask": dict(form="original", mask_lr=6e-3, ramp_start=0.16, ramp_end=0.6, ramp_granularity="epoch", trials=10, finetune=20 / 300,
                     finetune_lr=0.01, bn_stats="train"),
    "snip": dict(n_batches=0, restore_bn=False, count="exact"),
    "grasp": dict(n_batches=0, temperature=200, count="exact"),
    "synflow": dict(rounds=100, count="exact"),
    "static": dict(sampler="exact", redistribute=False),
    "set": dict(EVCI, skip_step=False),
    "rigl": dict(EVCI, skip_step=True, score_batches="train_batch"),
    "granet": dict(interval=1000, initial_sparsity=0.5, prune_start=0, prune_end=80 / 160, exact_k=True, regenerate=True,
                   drop_rounding="ceil", noise=0),
    "topkast": dict(gamma=1, penalty=1e-4, every_step_until=21 / 200, interval=1000, mode="correct", start_weights="network"),
    "gradual": dict(interval=1000, update_end=120 / 200),
    "gse_uniform": GSE, "gse_grabo": GSE, "gse_graest": dict(GSE, signs="corrected"),
    "fisher_diag": dict(damping=1e-5),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_defaults(name):
    options = methods.get(name).options()
    assert {option: options[option].default for option in PUBLISHED[name]} == PUBLISHED[name], (
        f"not the published default: if that is meant, make the rows of {name}, and of what inherits from it, anew (--again)")


SHARES = ("update_end", "drop_fraction", "ramp_start", "ramp_end", "prune_start", "prune_end", "every_step_until", "finetune")
AT_LEAST_ONE = ("interval", "trials", "trial_batches", "rounds")


@pytest.mark.parametrize("name, option", [(name, o) for name in methods.available() for o in methods.get(name).options()
                                          if o in (*SHARES, *AT_LEAST_ONE)])
def test_shares_and_counts_have_bounds(name, option):
    share = option in SHARES
    for allowed in (0, 0.5, 1) if share else (1, 2):
        assert methods.get(name).options()[option].parse(allowed) == allowed
    takes = "a number of at least 0 and at most 1" if share else "a whole number of at least 1"
    for value in (-0.1, 1.1) if share else (0, -1):
        with pytest.raises(ValueError, match=f"^option {option} takes {takes}, not {value}$"):
            SparseModel(nn.Linear(40, 30), name, 0.5, **{option: value})


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", float("nan"), float("inf"), "", "many", None, True])
@pytest.mark.parametrize("name, option", [(name, option) for name in ("rigl", "str", "gmp") for option, declared in
                                          methods.get(name).options().items() if type(declared.default) in (int, float)])
def test_what_is_no_number_is_refused(name, option, value):
    with pytest.raises(ValueError, match=f"^option {option} takes "):
        methods.get(name).options()[option].parse(value)


@pytest.mark.parametrize("name, option, least", [
    ("grasp", "temperature", "0.001"),  # by which logits are divided
    ("probmask", "finetune_lr", "1e-09"),  # 0 means that the rate is not constant (Cycle)
    ("movement", "score_lr", "1e-09"),  # scores that stay 0 keep the first weights
    ("spartan", "beta", "1")])  # which it rises from
def test_what_would_make_another_method_is_refused(name, option, least):
    with pytest.raises(ValueError, match=f"^option {option} takes a number of at least {least}, not 0$"):
        SparseModel(nn.Linear(40, 30), name, 0.5, **{option: 0})


def test_what_is_true_or_false_may_be_either():
    for name in methods.available():
        for option in methods.get(name).options().values():
            if isinstance(option.default, bool):
                assert [option.parse(value) for value in ("true", "false", True, False)] == [True, False, True, False], (name, option.name)


def test_passes_of_a_step():
    torch.manual_seed(0)
    cycles = {name: SparseModel(nn.Linear(40, 30), name, 0.5).method.cycles(30) for name in methods.available()}
    passes = {name: [cycle.passes for cycle in each] for name, each in cycles.items()}
    assert {name: each for name, each in passes.items() if set(each) != {1}} == {"probmask": [2, 1]}


def test_where_the_sparsity_is_learned():
    """All others end with exactly their budget, which their tests look at for those alone that promise it."""
    torch.manual_seed(0)
    found = {name for name in methods.available() if not SparseModel(nn.Linear(40, 30), name, 0.5).method.exact}
    assert found == {"dst_mask", "srigl", "str_original"}

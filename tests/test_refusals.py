"""Nonsense that any method is given is refused in one line."""
import math

import pytest
import torch
from test_every_method import SPARSITY, every_method
from torch import nn

import methods
from methods import SparseModel


def refusal(name, sparsity=SPARSITY, **options):
    with pytest.raises(ValueError) as caught:
        SparseModel(nn.Linear(40, 30), name, sparsity, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250
    return str(caught.value)


@every_method
@pytest.mark.parametrize("sparsity", [1.2, 1, -0.1, math.nan, "0.5"])
def test_sparsity_out_of_range(name, sparsity):
    message = refusal(name, sparsity)
    assert "sparsity" in message and repr(sparsity) in message


@every_method
def test_sparsity_that_is_missing(name):
    if name == "dense" or not methods.get(name).exact:
        assert SparseModel(nn.Linear(40, 30), name).method.sparsity == 0
    else:
        assert refusal(name, None).startswith(f"{name} needs a sparsity, ")


@every_method
def test_unknown_option(name):
    assert "no_such_option" in refusal(name, no_such_option=1)


@pytest.mark.parametrize("name, option", [(name, o) for name in methods.available() for o in methods.get(name).options()])
def test_option_of_a_wrong_value(name, option):
    declared = methods.get(name).options()[option]
    wrong = {bool: ("perhaps", 2), int: ("many", 1.5, math.inf), float: ("many", math.nan, True), str: (3,)}
    for value in (*wrong[type(declared.default)], None, "" if declared.choices else None):
        assert option in refusal(name, **{option: value})
    for value in declared.choices or (declared.default,):
        assert declared.parse(value) == declared.parse(str(value)) == value


def test_unknown_method_names_the_nearest():
    assert "rigl" in refusal("rgil")


@pytest.mark.parametrize("name, nonsense", [("st3", dict(sparsity=1.2)), ("st3", dict(sparsity=0.5, no_such_option=1)),
                                            ("static", dict(sparsity=0.9999999)), ("no_such_method", dict(sparsity=0.5))])
def test_a_refused_network_is_left_whole(name, nonsense):
    net = nn.Linear(4, 3)
    before = net(torch.eye(4))
    with pytest.raises(ValueError):
        SparseModel(net, name, **nonsense)
    assert torch.equal(net(torch.eye(4)), before)


def test_weights_that_are_no_numbers():
    net = nn.Linear(4, 3)
    nn.init.constant_(net.weight, math.nan)
    with pytest.raises(ValueError, match="NaN"):
        SparseModel(net, "st3", 0.5)

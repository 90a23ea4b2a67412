"""Draws with replacement are those of torch.multinomial, number for number, which takes longer; pairs of neurons follow from them."""
import pytest
import torch
from scipy.stats import chisquare

from methods import sampling
from methods.sampling import FEW, pairs, with_replacement

WEIGHTS = {
    "one": lambda n: torch.ones(n),
    "random": lambda n: torch.rand(n),
    "zeros": lambda n: torch.rand(n) * (torch.arange(n) % 3 == 0),
    "zeros at the end": lambda n: torch.rand(n) * (torch.arange(n) <= n // 3),
    "unlike": lambda n: torch.rand(n) ** 40,  # of 1,000, some hundred share a place of the table
    "one alone": lambda n: (torch.arange(n) == n // 2).float(),
}


def drawn(draw, weights, count):
    """What is drawn, and the next number of the generator."""
    generator = torch.Generator().manual_seed(1)
    return draw(weights, count, generator=generator), torch.rand(1, generator=generator)


def plain(weights, count, generator):
    return torch.multinomial(weights, count, True, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_draws_and_generator_are_those_of_torch(kind, n, dtype, monkeypatch):
    monkeypatch.setattr(sampling, "BLOCK", 4096)
    monkeypatch.setattr(sampling, "FEW", 2)  # a single number is torch's, which draws it in other ways in other versions
    torch.manual_seed(0)
    weights = WEIGHTS[kind](n).to(dtype)
    for count in (1, n // 2, n, 4096, 20_000):
        if count:
            for ours, torchs in zip(drawn(with_replacement, weights, count), drawn(plain, weights, count)):
                assert torch.equal(ours, torchs)


@pytest.mark.parametrize("n, draws, torchs", [(2000, 2000, False), (2000, 1999, True), (10, FEW, False), (10, FEW - 1, True)])
def test_torch_searches_where_there_are_few_draws_or_fewer_than_weights(n, draws, torchs, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "multinomial", lambda *args, **kwargs: asked.append(args))
    with_replacement(torch.ones(n), draws)
    assert bool(asked) == torchs


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")], [2.0, -1.0, 0.5]])
def test_weights_that_torch_refuses_are_refused(weights):
    with pytest.raises(RuntimeError):
        with_replacement(torch.tensor(weights), 1000)


@pytest.mark.parametrize("groups", [1, 2])
def test_pairs_follow_outputs_times_inputs(groups):
    generator = torch.Generator().manual_seed(0)
    outputs, inputs = torch.tensor([1.0, 2, 0, 5]), torch.tensor([[1.0, 0, 3], [0, 2, 2]])[:groups]
    count = torch.zeros(12)
    for _ in range(4000):
        count[pairs(outputs, inputs, 1, generator)] += 1
    # a group's outputs have inputs of their own, which sum to one
    share = inputs / inputs.sum(1, keepdim=True)
    expected = (outputs[:, None] * share.repeat_interleave(4 // groups, 0)).flatten()
    assert not count[expected == 0].any()
    assert chisquare(count[expected > 0], 4000 * expected[expected > 0] / expected.sum()).pvalue > 0.001

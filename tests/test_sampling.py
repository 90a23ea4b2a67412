"""Draws with replacement are those of torch.multinomial, number for number, which takes longer."""
import pytest
import torch

from methods import sampling
from methods.sampling import with_replacement

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
    torch.manual_seed(0)
    weights = WEIGHTS[kind](n).to(dtype)
    for count in (1, n // 2, n, 4096, 20_000):
        if count:
            for ours, torchs in zip(drawn(with_replacement, weights, count), drawn(plain, weights, count)):
                assert torch.equal(ours, torchs)


def test_torch_searches_only_where_there_are_fewer_draws_than_weights(monkeypatch):
    monkeypatch.setattr(torch, "multinomial", lambda *args, **kwargs: pytest.fail("torch was asked"))
    assert len(with_replacement(torch.ones(100), 100)) == 100
    with pytest.raises(pytest.fail.Exception, match="torch was asked"):
        with_replacement(torch.ones(100), 99)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")], [2.0, -1.0, 0.5]])
def test_weights_that_torch_refuses_are_refused(weights):
    with pytest.raises(RuntimeError):
        with_replacement(torch.tensor(weights), 1000)

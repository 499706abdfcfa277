"""Dropout by counters: as often as it says, without patterns, and the same wherever an entry is computed."""

from __future__ import annotations

import pytest
import torch

from meshwright.kernels.dropout import draw, dropout


def kept(rate: float, samples: int = 4, tokens: int = 64, channels: int = 96, seed: int = 0) -> torch.Tensor:
    draws = draw(seed, torch.arange(samples))
    return dropout(torch.ones(samples, tokens, channels), rate, draws, 3, torch.arange(tokens)) > 0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_every_line_drops_at_the_rate(rate: float) -> None:
    """Over each sequence, each token and each channel: within five standard deviations of a fair coin."""
    found = 1.0 - kept(rate, samples=16).float()
    for dims in [(1, 2), (0, 2), (0, 1)]:
        means = found.mean(dims)
        deviation = (rate * (1 - rate) * means.numel() / found.numel()) ** 0.5
        assert (means - rate).abs().max() < 5 * deviation


def test_neighbours_do_not_know_of_each_other() -> None:
    """Correlations of masks one sequence, token or channel apart vanish, as do those of two sites and two seeds."""
    mask = kept(0.5, samples=16).double() * 2 - 1
    bound = 5 / mask.numel() ** 0.5
    for dim in range(3):
        assert (mask * mask.roll(1, dim)).mean().abs() < bound
    other = kept(0.5, samples=16, seed=1).double() * 2 - 1
    assert (mask * other).mean().abs() < bound


def test_what_stays_is_scaled_and_so_is_its_gradient() -> None:
    x = torch.randn(2, 5, 8, requires_grad=True, generator=torch.Generator().manual_seed(0))
    arguments = (0.25, draw(7, torch.tensor([3, 1 << 33])), 0, torch.arange(5))
    found = dropout(x, *arguments)
    assert torch.equal(found[found != 0], (x / 0.75)[found != 0])
    found.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.where(found != 0, 1 / 0.75, 0.0))


def test_a_part_drops_what_the_whole_drops() -> None:
    """Whichever sequences and tokens a rank has, and in whatever order."""
    x, draws, positions = torch.ones(4, 8, 16), draw(0, torch.arange(4)), torch.arange(8)
    whole = dropout(x, 0.5, draws, 2, positions)
    order = torch.tensor([7, 0, 3])
    assert torch.equal(dropout(x[1:3, order], 0.5, draws[1:3], 2, positions[order]), whole[1:3, order])
    assert not torch.equal(dropout(x, 0.5, draws, 3, positions), whole)


def test_no_dropout_is_nothing() -> None:
    x = torch.ones(1, 2, 3)
    assert dropout(x, 0.0, torch.zeros(1, dtype=torch.int64), 0, torch.arange(2)) is x

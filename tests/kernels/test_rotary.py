"""Rotations beyond what the suite asks of every kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from meshwright.kernels.rotary import rotary, rotary_reference, rotary_tables

FREQUENCIES = torch.tensor([1.0, 0.3, 0.1])


def heads(count: int = 3, seq_len: int = 5, width: int = 10, seed: int = 0) -> Tensor:
    """[2, count, seq_len, width] as projections give them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, seq_len, count, width, generator=generator).transpose(1, 2)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("places", ["shared", "own"])
def test_positions_choose_rows_of_the_tables(pairs: bool, places: str, device: str) -> None:
    """Those of a rank of context parallelism, alike in all sequences, and of documents, where each has its own."""
    from meshwright.kernels.fast import rotary as fast

    cos, sin = rotary_tables(FREQUENCIES, torch.arange(20), torch.float32)
    shared = torch.tensor([3, 4, 15, 16, 0])
    positions = shared if places == "shared" else torch.stack([shared, torch.tensor([0, 1, 0, 1, 2])])
    query, key = heads(), heads(2, seed=1)
    expected = rotary(query, key, cos, sin, positions, pairs=pairs)
    for row in range(2):
        own = positions if places == "shared" else positions[row]
        alone = [x[row : row + 1] for x in (query, key)]
        found = rotary_reference(*alone, cos[own], sin[own], pairs=pairs)
        torch.testing.assert_close([x[row : row + 1] for x in expected], list(found))
    given = [x.to(device) for x in (query, key, cos, sin, positions)]
    found = fast.rotary(*given, pairs=pairs)
    torch.testing.assert_close([x.cpu() for x in found], list(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pairs", [False, True])
def test_the_gradient_turns_back(pairs: bool, device: str) -> None:
    """Rotations keep lengths, so the gradient of half the squared length is what was turned."""
    from meshwright.kernels.fast import rotary as fast

    cos, sin = (x.to(device) for x in rotary_tables(FREQUENCIES, torch.arange(5), torch.float32))
    query, key = (x.to(device).requires_grad_() for x in (heads(), heads(2, seed=1)))
    turned = fast.rotary(query, key, cos, sin, pairs=pairs)
    loss = sum(x.square().sum() / 2 for x in turned)
    found = torch.autograd.grad(loss, (query, key))  # type: ignore[arg-type]
    torch.testing.assert_close(found, (query, key), rtol=1e-5, atol=1e-5)


def test_pairs_of_narrow_tables_turn_the_first_entries() -> None:
    cos, sin = rotary_tables(FREQUENCIES, torch.arange(5), torch.float32)
    query = heads()
    turned, _ = rotary(query, heads(0), cos, sin, pairs=True)
    assert torch.equal(turned[..., 6:], query[..., 6:])
    angles = torch.outer(torch.arange(5).float(), FREQUENCIES)
    pairs = torch.view_as_complex(query[..., :6].unflatten(-1, (3, 2)).contiguous())
    expected = pairs * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned[..., :6], torch.cat((expected.real, expected.imag), dim=-1))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"query": torch.zeros(2, 5, 10)}, ValueError, "rotary: query has 3 dimensions, expected 4"),
        ({"key": torch.zeros(2, 2, 4, 10)}, ValueError, r"key has shape \[2, 2, 4, 10\], expected \[2, 2, 5, 10\]"),
        ({"cos": torch.zeros(4, 6)}, ValueError, r"rotary: sin has shape \[5, 6\], expected \[4, 6\]"),
        (
            {"cos": torch.zeros(4, 6), "sin": torch.zeros(4, 6)},
            ValueError,
            r"cos has shape \[4, 6\], expected \[5, 6\]",
        ),
        ({"cos": torch.zeros(5, 12), "sin": torch.zeros(5, 12)}, ValueError, "expected an even width of at most 10"),
        ({"positions": torch.zeros(4).long()}, ValueError, r"positions has shape \[4\], expected \[2, 5\]"),
        ({"positions": torch.zeros(5)}, TypeError, r"positions is torch\.float32, expected torch\.int64"),
        ({"key": heads(2).double()}, TypeError, r"rotary: key is torch\.float64, expected torch\.float32"),
        ({"key": heads(2).to("meta")}, ValueError, "rotary: key is on meta, expected cpu, where query is"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Tensor], kind: type[Exception], message: str) -> None:
    fitting = {"query": heads(), "key": heads(2), "cos": torch.zeros(5, 6), "sin": torch.zeros(5, 6)}
    with pytest.raises(kind, match=message):
        rotary(**{**fitting, **change})

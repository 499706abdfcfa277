"""Who sees whom, decided chunk by chunk, against every pair of tokens one by one; the planner's counts beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meshwright.planner.sequence import halves, hops, local_tokens, reach
from meshwright.runtime.parallel.context import zigzag
from meshwright.runtime.parallel.context.tiles import Sight, View
from meshwright.runtime.parallel.context.zigzag import Zigzag, joined, order, parted

Scene = tuple[int, int, int | None, Tensor | None]


def pairs(size: int, local: int, window: int | None, documents: Tensor | None) -> Tensor:
    """Which token sees which, bool [batch, size x local, size x local], rank after rank."""
    places = order(local, size)
    distance = places[:, None] - places[None]
    seen = ((distance >= 0) & (distance < (window or size * local)))[None]
    return seen if documents is None else seen & (documents[:, :, None] == documents[:, None])


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Ranks, tokens of each, a window, and ascending documents of two sequences, rank after rank."""
    size, local = draw(st.integers(2, 5)), 2 * draw(st.integers(1, 4))
    window = draw(st.none() | st.integers(1, size * local + 2))
    ends = st.lists(st.booleans(), min_size=size * local, max_size=size * local)
    if not draw(st.booleans()):
        return size, local, window, None
    along = torch.tensor([draw(ends), draw(ends)]).cumsum(1)
    return size, local, window, along[:, order(local, size)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(scenes())
def test_tiles_hold_every_pair_and_say_which(scene: Scene) -> None:
    size, local, *_ = scene
    view, truth = View.of(*scene), pairs(*scene)
    found = torch.zeros_like(truth)
    for queries in range(size):
        for keys in range(size):
            tile = view.tiles[queries][keys]
            if tile is None:
                continue
            rows = slice(queries * local + tile.rows.start, queries * local + tile.rows.stop)
            columns = slice(keys * local + tile.columns.start, keys * local + tile.columns.stop)
            mask = view.mask(tile, torch.device("cpu"))
            block = found[:, rows, columns]
            if mask is not None:
                block |= mask.squeeze(1)
            elif tile.sight is Sight.CAUSAL:
                block |= torch.ones(block.shape[1:], dtype=torch.bool).tril()
            else:
                block |= True
    assert torch.equal(found, truth)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(scenes())
def test_no_round_is_made_for_nobody(scene: Scene) -> None:
    size, local, _, documents = scene
    blocks = pairs(*scene).unflatten(1, (size, local)).unflatten(3, (size, local)).any(0).any(1).any(2)
    view = View.of(*scene)
    for direction in (1, -1):
        needed = [any(blocks[r, (r - direction * shift) % size] for r in range(size)) for shift in range(size)]
        assert {shift for shift in range(size) if needed[shift]} <= set(view.shifts(direction))
        if documents is None:
            assert view.shifts(direction) == [shift for shift in range(size) if needed[shift]]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(scenes())
def test_the_planner_counts_the_same_chunks(scene: Scene) -> None:
    size, local, window, _ = scene
    view, far = View.of(size, local, window, None), reach(size, local, window)
    table = view.tiles
    chunks = [[0 if tile is None else (tile.rows.stop - tile.rows.start) * 2 // local for tile in row] for row in table]
    assert [list(row) for row in halves(size, far)] == chunks
    assert hops(size, far) == len(view.shifts(1)) - 1 == len(view.shifts(-1)) - 1


def test_the_host_orders_tokens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer asks, for masks, rotations and dropout: on a GPU each copy of a host's tensor would be waited for."""
    made: list[tuple[int, int]] = []

    def counting(local: int, size: int) -> Tensor:
        made.append((local, size))
        return order(local, size)

    monkeypatch.setattr(zigzag, "order", counting)
    zigzag.order_on.cache_clear()
    device, view = torch.device("cpu"), View.of(2, 12, 3, None)
    masks = [view.mask(tile, device) for row in view.tiles for tile in row if tile is not None]
    layout = Zigzag(seq_len=24, size=2)
    for rank in (0, 1, 0):
        layout.positions(rank, device)
    assert sum(mask is not None for mask in masks) > 1
    assert made == [(12, 2)]


@pytest.mark.parametrize("size", [2, 3, 8])
def test_every_rank_has_as_much_to_do(size: int) -> None:
    seen = pairs(size, 6, None, None)[0].sum(1).view(size, 6).sum(1)
    assert len(set(seen.tolist())) == 1


SEQUENCES = [(32, 4, 1, 8), (27, 4, 1, 8), (25, 4, 3, 12), (5, 1, 2, 5)]


@pytest.mark.parametrize(("seq_len", "size", "multiple", "local"), SEQUENCES)
def test_a_sequence_is_padded_at_its_end(seq_len: int, size: int, multiple: int, local: int) -> None:
    layout = Zigzag(seq_len=seq_len, size=size, multiple=multiple)
    assert layout.local == local_tokens(seq_len, size, multiple) == local
    tokens = torch.arange(1, seq_len + 1).unsqueeze(0)
    held = torch.cat([layout.share(tokens, rank, padding=0) for rank in range(size)], dim=1)
    assert sorted(held[held > 0].tolist()) == list(range(1, seq_len + 1))
    assert torch.equal(held, layout.spread(tokens, padding=0))
    for rank in range(size):
        mine = layout.share(tokens, rank, padding=0)[0]
        places = layout.positions(rank)
        assert torch.equal(mine[mine > 0] - 1, places[mine > 0])
        assert places.max() < seq_len


def test_neighbours_join_to_one_rank_of_a_smaller_group() -> None:
    whole = torch.arange(48)
    fine, coarse = whole[order(6, 8)].view(8, 6), whole[order(12, 4)].view(4, 12)
    for group in range(4):
        together = joined(fine[2 * group : 2 * group + 2], dim=0)
        assert torch.equal(together, coarse[group])
        assert torch.equal(parted(together, 2, dim=0), fine[2 * group : 2 * group + 2])

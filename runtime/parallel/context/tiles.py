"""Tiles: what the queries of one rank see of the keys of another, chunk by chunk.

Every rank knows what every other sees, so that all skip the same empty blocks without a word.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import torch
from torch import Tensor

from .zigzag import chunk_of, order_on


class Sight(Enum):
    """How much of a block its queries see."""

    NOTHING = 0
    CAUSAL = 1  # what is not later
    SOME = 2
    ALL = 3


@dataclass(frozen=True, slots=True)
class Tile:
    """The smallest block of whole chunks that holds every visible pair of two ranks."""

    queries: int  # rank
    keys: int  # rank
    rows: slice  # of the local queries
    columns: slice  # of the local keys
    sight: Sight


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How `size` ranks with `local` tokens each see each other in one microbatch.

    `tiles[q][k]` is what queries of rank q see of keys of rank k (None: nothing); `documents` are those of all ranks'
    tokens, [batch, size x local], rank after rank.
    """

    size: int
    local: int
    window: int | None
    documents: Tensor | None
    tiles: tuple[tuple[Tile | None, ...], ...]

    @classmethod
    def of(cls, size: int, local: int, window: int | None, documents: Tensor | None) -> View:
        """Found out from the documents, for which a device is waited for."""
        chunks = _Chunks(local // 2, window or size * local, None if documents is None else _ranges(documents, size))
        tiles = tuple(tuple(_tile(chunks, queries, keys, size) for keys in range(size)) for queries in range(size))
        return cls(size=size, local=local, window=window, documents=documents, tiles=tiles)

    def shifts(self, direction: int) -> list[int]:
        """Distances at which some rank sees keys of the rank so far before it (1) or behind it (-1); 0 is first."""
        ranks = range(self.size)
        return [shift for shift in ranks if any(self.tiles[r][(r - direction * shift) % self.size] for r in ranks)]

    def mask(self, tile: Tile, device: torch.device) -> Tensor | None:
        """Which pairs of a tile see each other, bool [1 or batch, 1, rows, columns]; None where its sight says it."""
        if tile.sight is not Sight.SOME:
            return None
        positions = order_on(self.local, self.size, device).view(self.size, -1)
        distance = positions[tile.queries, tile.rows].unsqueeze(1) - positions[tile.keys, tile.columns].unsqueeze(0)
        seen = distance >= 0
        if self.window is not None:
            seen = seen & (distance < self.window)
        if self.documents is None:
            return seen[None, None]
        each = torch.unflatten(self.documents, 1, (self.size, -1))
        same = each[:, tile.queries, tile.rows].unsqueeze(2) == each[:, tile.keys, tile.columns].unsqueeze(1)
        return (seen & same).unsqueeze(1)


class Views:
    """Those that the layers of a stage share. A microbatch gives all of them the same documents, and they differ in few
    windows: the last views are kept, and with them the documents of the last microbatches. What has no documents is
    kept for all."""

    def __init__(self) -> None:
        self._recent: deque[View] = deque(maxlen=4)

    def of(self, size: int, local: int, window: int | None, documents: Tensor | None) -> View:
        """The one that is known, or else a new one."""
        if documents is None:
            return _plain(size, local, window)
        for view in self._recent:
            if (view.size, view.local, view.window) == (size, local, window) and view.documents is documents:
                return view
        self._recent.append(View.of(size, local, window, documents))
        return self._recent[-1]


@lru_cache(maxsize=64)
def _plain(size: int, local: int, window: int | None) -> View:
    """Without documents, and so without tensors to keep. In rounds every layer asks for a view of each sequence: they
    are more than the last few, and each is made of the square of `size` tiles."""
    return View.of(size, local, window, None)


@dataclass(frozen=True, slots=True)
class _Chunks:
    """Chunks of `length` tokens, counted along the sequence; `documents` are the lowest and the highest of each
    chunk, by sequence of the batch."""

    length: int
    window: int
    documents: list[list[tuple[int, int]]] | None

    def sight(self, row: int, column: int) -> Sight:
        """What chunk `row` of queries sees of chunk `column` of keys."""
        nearest, farthest = (row - column - 1) * self.length + 1, (row - column + 1) * self.length - 1
        if row < column or nearest >= self.window or not self._meet(row, column):
            return Sight.NOTHING
        if farthest >= self.window or not self._one_document(row, column):
            return Sight.SOME
        return Sight.CAUSAL if row == column else Sight.ALL

    def _meet(self, row: int, column: int) -> bool:
        """Some sequence may have a document in both chunks."""
        if self.documents is None:
            return True
        pairs = zip(self.documents[row], self.documents[column], strict=True)
        return any(low <= last and first <= high for (first, last), (low, high) in pairs)

    def _one_document(self, row: int, column: int) -> bool:
        if self.documents is None:
            return True
        pairs = zip(self.documents[row], self.documents[column], strict=True)
        return all(one == other and one[0] == one[1] for one, other in pairs)


def _tile(chunks: _Chunks, queries: int, keys: int, size: int) -> Tile | None:
    halves = (0, 1)
    seen = [[chunks.sight(chunk_of(queries, i, size), chunk_of(keys, j, size)) for j in halves] for i in halves]
    rows = [i for i in halves if any(sight is not Sight.NOTHING for sight in seen[i])]
    columns = [j for j in halves if any(seen[i][j] is not Sight.NOTHING for i in halves)]
    if not rows:
        return None
    return Tile(
        queries,
        keys,
        slice(rows[0] * chunks.length, (rows[-1] + 1) * chunks.length),
        slice(columns[0] * chunks.length, (columns[-1] + 1) * chunks.length),
        _together([[seen[i][j] for j in columns] for i in rows]),
    )


def _together(inside: list[list[Sight]]) -> Sight:
    """One word for all chunks of a tile: anything but ALL or CAUSAL needs a mask."""
    if all(sight is Sight.ALL for row in inside for sight in row):
        return Sight.ALL
    causal = [[Sight.CAUSAL, Sight.NOTHING], [Sight.ALL, Sight.CAUSAL]]
    return Sight.CAUSAL if inside == causal else Sight.SOME


def _ranges(documents: Tensor, size: int) -> list[list[tuple[int, int]]]:
    """Lowest and highest of [batch, size x local], rank after rank, by chunk along the sequence."""
    halves = torch.unflatten(documents, 1, (2 * size, -1))
    lows, highs = halves.amin(-1).t().tolist(), halves.amax(-1).t().tolist()
    held = [list(zip(low, high, strict=True)) for low, high in zip(lows, highs, strict=True)]
    return [held[2 * min(chunk, 2 * size - 1 - chunk) + (chunk >= size)] for chunk in range(2 * size)]

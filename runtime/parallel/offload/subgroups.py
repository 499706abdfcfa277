"""Subgroups: what of the optimizer is updated together; the host works on one while the link carries its neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...shards import held, views

SUBGROUP_ELEMENTS = 1 << 24
"""64 MiB of each state: long enough that the link is busy, short enough that a few buffers are little memory."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive elements of what this rank holds of a parameter."""

    parameter: nn.Parameter
    elements: range

    def of(self, tensor: Tensor) -> Tensor:
        """Those of the parameter, or of its gradient; writing to them changes a tensor without gaps."""
        return held(tensor).reshape(-1)[self.elements.start : self.elements.stop]


@dataclass(frozen=True, slots=True)
class Subgroup:
    """Some pieces of one group of options (learning rate, decay); their states are `elements` of all offloaded ones."""

    options: dict[str, Any]  # the optimizer's own group: what changes there counts here
    pieces: tuple[Piece, ...]
    elements: range

    def views(self, flat: Tensor) -> list[Tensor]:
        """A buffer cut into the pieces."""
        return views(flat, [torch.Size([len(piece.elements)]) for piece in self.pieces])


def on_its_own(view: Tensor) -> Tensor:
    """The same host memory as a tensor that begins where its storage begins: who copies a DTensor takes one that does
    not for a tensor with memory of its own."""
    return torch.from_numpy(view.numpy())


def offloaded(parameters: list[nn.Parameter], fraction: float) -> set[nn.Parameter]:
    """Which parameters' states live on the host: spread evenly over the list, never less than `fraction` of the
    elements, and more by less than one parameter."""
    chosen: set[nn.Parameter] = set()
    total = taken = 0
    for parameter in parameters:
        size = held(parameter).numel()
        total += size
        if taken < fraction * total:
            chosen.add(parameter)
            taken += size
    return chosen


def subgroups(
    groups: Iterable[tuple[dict[str, Any], Sequence[nn.Parameter]]], most: int = SUBGROUP_ELEMENTS
) -> list[Subgroup]:
    """Parameters in order, at most so many elements together. Only a parameter with more is cut, where vector
    instructions cut it anyhow (`most` is a multiple of 64), so that the update of every element stays the same."""
    found: list[Subgroup] = []
    for options, parameters in groups:
        pieces: list[Piece] = []
        for piece in (each for parameter in parameters for each in _cut(parameter, most)):
            if pieces and sum(len(each.elements) for each in pieces) + len(piece.elements) > most:
                found.append(_after(found, options, pieces))
                pieces = []
            pieces.append(piece)
        if pieces:
            found.append(_after(found, options, pieces))
    return found


def _cut(parameter: nn.Parameter, most: int) -> list[Piece]:
    assert held(parameter).is_contiguous()  # or writing to its pieces would not reach it
    size = held(parameter).numel()
    return [Piece(parameter, range(start, min(start + most, size))) for start in range(0, max(size, 1), most)]


def _after(earlier: Sequence[Subgroup], options: dict[str, Any], pieces: Sequence[Piece]) -> Subgroup:
    start = earlier[-1].elements.stop if earlier else 0
    size = sum(len(piece.elements) for piece in pieces)
    return Subgroup(options, tuple(pieces), range(start, start + size))

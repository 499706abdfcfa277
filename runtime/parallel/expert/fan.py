"""Fan: a few rows that are copied to many, and many that are added up to few. Both directions only gather, forward and
backward: sums are taken in the same order in every run, which an index_add on a GPU does not promise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NOWHERE = -1


@dataclass(frozen=True, slots=True)
class Fan:
    """`owner` int64 [many]: the row of few that each one is a copy of. `places` int64 [few, most]: where the copies of
    a row are, and -1 where there are fewer."""

    owner: Tensor
    places: Tensor

    def out(self, rows: Tensor) -> Tensor:
        """Rows [few, ...] copied to [many, ...]; gradients are added up, in float32 at least."""
        return _out(rows, self.owner, self.places)

    def back(self, rows: Tensor, weights: Tensor | None = None) -> Tensor:
        """Rows [many, ...] added up to [few, ...], each times its weight of [many, 1]; sums are in float32 at least."""
        return _back(rows, weights, self.owner, self.places)


def fan_to_parts(parts: Tensor, count: int, size: int) -> Fan:
    """Each row once to every part that its `parts` int64 [few, choices] name, of `count`; below zero names none.

    `size` rows come of it, those to part 0 first, in each part in order of the rows. It is given so that nobody need
    ask a device.
    """
    names = visited(parts, count)
    flat = names.t().flatten()
    position = torch.where(flat, flat.cumsum(0) - 1, _NOWHERE).view(count, len(parts)).t()
    return _fan(position, size, min(parts.shape[-1], count))


def visited(parts: Tensor, count: int) -> Tensor:
    """bool [few, count]: whether a row's `parts` int64 [few, choices] name a part; below zero names none."""
    names = torch.zeros(len(parts), count + 1, dtype=torch.bool, device=parts.device)
    return names.scatter_(1, torch.where(parts < 0, count, parts), True)[:, :count]


def fan_to_choices(slots: Tensor, count: int, size: int) -> tuple[Fan, Fan, Tensor]:
    """Each row to every one of its slots int64 [few, choices], of `count`, none of them twice; below zero is none.

    `size` rows come of it, slot after slot, in each in order of the rows. Also the fan of the pairs of row and choice
    [few x choices] to the same rows, and how many rows each slot has, int64 [count].
    """
    few, choices = slots.shape
    flat = torch.where(slots < 0, count, slots).flatten()
    order = flat.argsort(stable=True)[:size]
    row = torch.arange(size, device=slots.device)
    inverse = torch.full_like(flat, _NOWHERE).scatter_(0, order, row)
    counts = torch.zeros(count + 1, dtype=torch.int64, device=slots.device).scatter_add_(0, flat, torch.ones_like(flat))
    owner = order.div(choices, rounding_mode="floor")
    rows = Fan(owner, _compressed(inverse.view(few, choices), min(choices, count)))
    return rows, Fan(order, inverse.unsqueeze(-1)), counts[:count]


def _fan(position: Tensor, size: int, most: int) -> Fan:
    """Of `position` int64 [few, columns]: where the copies of a row are, at most `most` of them, or -1."""
    few, columns = position.shape
    rows = torch.arange(few, device=position.device).repeat_interleave(columns)
    owner = torch.empty(size + 1, dtype=torch.int64, device=position.device)  # one for those that are nowhere
    owner.scatter_(0, torch.where(position < 0, size, position).flatten(), rows)
    return Fan(owner[:size], _compressed(position, most))


def _compressed(position: Tensor, most: int) -> Tensor:
    """The columns [few, most] of those that are somewhere, in their order."""
    few, columns = position.shape
    if columns == most:
        return position
    somewhere = position >= 0
    column = torch.where(somewhere, somewhere.cumsum(1) - 1, most)
    return position.new_full((few, most + 1), _NOWHERE).scatter_(1, column, position)[:, :most]


def _sums(rows: Tensor, weights: Tensor | None, places: Tensor) -> Tensor:
    """One column of places after the other, so that nothing as large as [few, most, ...] is made."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    total = rows.new_zeros(len(places), *rows.shape[1:], dtype=wide)
    if len(rows) == 0:
        return total.to(rows.dtype)
    for place in places.unbind(1):
        taken, index = place.unsqueeze(-1) >= 0, place.clamp(min=0)
        row = rows[index].to(wide)
        total += (row if weights is None else row * weights[index]).masked_fill_(~taken, 0.0)
    return total.to(rows.dtype)


class _Out(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, owner: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        return rows[owner]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _sums(gradients[0], None, ctx.saved_tensors[0]), None, None


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor | None, owner: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(owner, *(() if weights is None else (rows, weights)))
        return _sums(rows, weights, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        owner, *weighted = ctx.saved_tensors
        gradient = gradients[0][owner]
        if not weighted:
            return gradient, None, None, None
        rows, weights = weighted
        products = (gradient * rows.to(weights.dtype)).sum(-1, keepdim=True)
        return (gradient * weights).to(rows.dtype), products, None, None


_out: Callable[[Tensor, Tensor, Tensor], Tensor] = _Out.apply
_back: Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor] = _Back.apply

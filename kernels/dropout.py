"""Dropout whose masks follow from numbers, not from the state of a generator: equal on every mesh, and in every rerun.

A counter-based generator (as in Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011) with the mixing
function lowbias32 of Wellons (hash-prospector): 32 bits of (draw, site, position, channel), kept where they are at
least `rate` x 2^32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .mix import MASK, mix


def dropout(x: Tensor, rate: float, draws: Tensor, site: int, positions: Tensor) -> Tensor:
    """Zero entries of `x` [batch, tokens, channels] with probability `rate`, and scale the others by 1 / (1 - rate).

    `draws` int64 [batch] number the sequences of a whole run, `site` the places in a model, `positions` int64 [tokens]
    the tokens in their sequence. The mask is made again in the backward pass: nothing of it is kept.
    """
    return x if rate == 0.0 else _dropout(x, rate, draws, site, positions)


def draw(seed: int, samples: Tensor) -> Tensor:
    """What the sequences numbered `samples` int64 of a run with this seed draw."""
    return mix(mix(samples & MASK) ^ mix((samples >> 32) + 1) ^ mix(torch.tensor(seed & MASK)))


def _kept(rate: float, draws: Tensor, site: int, positions: Tensor, channels: int) -> Tensor:
    """Which entries [batch, tokens, channels] stay."""
    places = mix(draws ^ mix(torch.tensor(site + 1, device=draws.device)))
    tokens = mix(places.unsqueeze(-1) ^ mix(positions + 0x5BD1))
    entries = mix(tokens.unsqueeze(-1) ^ mix(torch.arange(channels, device=draws.device) + 0x2545))
    return entries >= int(rate * 2**32)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float, draws: Tensor, site: int, positions: Tensor) -> Tensor:
        ctx.save_for_backward(draws, positions)
        ctx.rate, ctx.site = rate, site
        return _scaled(x, rate, draws, site, positions)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        draws, positions = ctx.saved_tensors
        return _scaled(gradients[0], ctx.rate, draws, ctx.site, positions), None, None, None, None


def _scaled(x: Tensor, rate: float, draws: Tensor, site: int, positions: Tensor) -> Tensor:
    kept = _kept(rate, draws, site, positions, x.shape[-1])
    return torch.where(kept, x / (1.0 - rate), x.new_zeros(()))


_dropout: Callable[[Tensor, float, Tensor, int, Tensor], Tensor] = _Dropout.apply

"""Homes: of the plan that was found, which tokens of a sequence tp ranks had better take to the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...units import significant
from ..configuration import Configuration
from ..experts.planned import ExpertPlacement
from ..experts.token_homes import TokenHomes, packed, tp_groups

if TYPE_CHECKING:
    from ..experts.routing import Fitted, Routing
    from ..experts.trace import Trace

_FITTED, _HELD = 131_072, 32_768
"""Tokens of the half that homes are found by, and of the other, at most."""


def can_shuffle(placed: Fitted, configuration: Configuration) -> bool:
    """Whether tp ranks share out sequences, and the experts of an ep group that tp groups of one node each make up."""
    nodes, groups = placed.made.node_of_rank, tp_groups(configuration.mesh)
    inside = all(len({int(nodes[rank]) for rank in group}) == 1 for group in groups)
    return bool(groups) and inside and configuration.sp and configuration.expert_replicas == 0


def home_tokens(
    routing: Routing, placed: Fitted, configuration: Configuration, seq_len: int
) -> tuple[ExpertPlacement, TokenHomes] | None:
    """Homes by half of the trace, with what they save on the other, and the placement with the ranks of every tp group
    exchanged, layer by layer, so that an id finds its experts on one rank: loads and nodes stay as they are. None where
    that saves nothing. `configuration` is one that can shuffle."""
    from ..experts.shuffle import aligned, fit, homes, measure

    mesh, groups = configuration.mesh, tp_groups(configuration.mesh)
    known, held = _some(routing.fit, _FITTED), _some(routing.held, _HELD)
    length = min(seq_len // mesh.cp, held.tokens) // mesh.tp * mesh.tp
    assert known.token is not None  # or the request was refused
    assert held.token is not None
    layers = known.num_layers
    ranks = np.tile(placed.made.contiguous, (layers, 1)) if placed.placement is None else placed.placement.rank_of
    ranks = aligned(known, known.token, ranks, groups)
    by = fit(known, known.token, ranks, mesh.ep)
    saved = measure(held, held.token, ranks, groups, length, by).saved if length else 0.0
    if saved <= 0:
        return None
    tables = tuple(packed(each.tobytes()) for each in homes(by, groups))
    slots = tuple(tuple(map(int, np.argsort(row, kind="stable"))) for row in ranks)
    return ExpertPlacement(slots=slots), TokenHomes(members=mesh.tp, homes=tables, saved=significant(saved))


def _some(trace: Trace, most: int) -> Trace:
    """So many tokens at random: a run that shuffles its tokens has recorded them rank by rank."""
    return trace.take(np.random.default_rng(0).permutation(trace.tokens)[:most])

"""What no run can have been: rows whose figures contradict each other, or are too large to be played."""

from __future__ import annotations

from collections.abc import Iterator

from .row import Row
from .shape import NotModelledError

MOST_LAYERS = 10_000
MOST_GPUS = 1_000_000
MOST_ACTIONS = 1_000_000
"""Of a schedule: the interpreter takes some seconds for so many."""


def refuse_unsound(row: Row) -> None:
    """Raises NotModelledError with the first thing about a row that cannot be expressed."""
    for reason in (*_too_large(row), *_attention(row), *_experts(row)):
        raise NotModelledError(reason)
    if (row.zero_stage or 0) > 3:
        raise NotModelledError(f"ZeRO {row.zero_stage}")


def refuse_too_long(microbatches: int, stages: int) -> None:
    """Raises NotModelledError for a step of more actions than are played."""
    if 2 * microbatches * stages > MOST_ACTIONS:
        raise NotModelledError(f"a step of {microbatches:,} microbatches through {stages:,} stages")


def _too_large(row: Row) -> Iterator[str]:
    for count, most, of in ((row.layers, MOST_LAYERS, "layers"), (row.gpus, MOST_GPUS, "GPUs")):
        if (count or 0) > most:
            yield f"more than {most:,} {of}"


def _attention(row: Row) -> Iterator[str]:
    heads, kv_heads, tp = row.heads or 0, row.kv_heads or 0, row.tp or 1
    if row.head_dim is None and row.hidden and (heads or 128) > row.hidden:
        yield f"a hidden size of {row.hidden}, less than {heads or 'its'} heads"
    if heads % tp:
        yield f"{heads} heads over tp {tp}"
    if kv_heads and heads and heads % kv_heads:
        yield f"{heads} heads on {kv_heads} key and value heads"


def _experts(row: Row) -> Iterator[str]:
    experts, ep = row.experts or 0, row.ep or 1
    if not experts and row.layers and row.hidden and (ep > 1 or (not row.ffn_hidden and row.expert_ffn)):
        yield "an unknown number of experts"
    if experts % ep:
        yield f"{experts} experts over ep {ep}"
    if experts and not row.top_k:
        yield f"{experts} experts of which a token visits an unknown number (top_k)"
    if (row.top_k or 0) > experts > 0:
        yield f"{row.top_k} of {experts} experts"

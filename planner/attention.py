"""Attention of a job: dense, or every group of heads with a shard of the sequence (S2-Attention, arXiv:2407.17678)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, field_validator

from ..errors import InputError, did_you_mean
from ..kernels.facts.sparse import Pattern
from ..schema import Frozen, parse
from .model import Architecture, Attention

Kind = Literal["dense", "s2"]


class S2(Frozen):
    """Which blocks of a sequence a head sees."""

    block: int = Field(128, ge=16, description="tokens of a block; a multiple of 128 for the fast path on CUDA devices")
    local_blocks: int = Field(8, gt=0, description="nearest blocks that every head sees, its own included")
    stride: int = Field(4, gt=1, description="of the blocks beyond, a head sees every so many-th")
    dense_heads: int = Field(0, ge=0, description="key-value heads that see everything, the first ones")
    dense_every: int = Field(0, ge=0, description="every so many-th layer is dense, the first one too; 0: none")

    @field_validator("block")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        if value & (value - 1):
            raise ValueError(f"must be a power of two, for example {1 << value.bit_length()}")
        return value

    def sparse(self, index: int) -> bool:
        """Whether layer `index` is."""
        return self.dense_every == 0 or index % self.dense_every != 0

    def of_heads(self, heads_per_key: int, first_head: int = 0) -> Pattern:
        """For heads of a model from `first_head` on, of which so many share a key."""
        return Pattern(
            block=self.block,
            local=self.local_blocks,
            stride=self.stride,
            dense_heads=self.dense_heads,
            first_head=first_head,
            heads_per_key=heads_per_key,
        )


def attended(model: Architecture, s2: S2 | None) -> Architecture:
    """A model whose sparse layers know what their heads see; once and for all."""
    if s2 is None or model.attended:
        return model
    layers = tuple(
        replace(layer, attention=_sharded(layer.attention, s2)) if s2.sparse(index) else layer
        for index, layer in enumerate(model.layers)
    )
    return replace(model, layers=layers, attended=True)


def heads_per_key(attention: Attention) -> int:
    """Heads that share a key; of latent attention each has its own."""
    return 1 if attention.latent is not None else attention.heads // attention.kv_heads


def _sharded(attention: Attention, s2: S2) -> Attention:
    return replace(attention, shards=s2.of_heads(heads_per_key(attention)))


def read_attention(text: str) -> dict[str, Any]:
    """Fields of a job that `dense`, `s2` or `s2:local_blocks=8,stride=4` name. Raises InputError."""
    name, _, parameters = text.partition(":")
    if name not in ("dense", "s2"):
        fix = did_you_mean(name, ("dense", "s2"))
        raise InputError.single("command line", "--attention", name, "must be dense or s2", fix)
    given: dict[str, str] = {}
    for part in filter(None, parameters.split(",")):
        key, _, value = (each.strip() for each in part.partition("="))
        if not key or key in given or name == "dense":
            rule = "dense has no parameters" if name == "dense" else "parameters are written block=128, each once"
            raise InputError.single("--attention", part, None, rule, "s2:local_blocks=8,stride=4")
        given[key] = value
    return {"attention": name, "s2": parse(S2, given, "--attention") if given else None}

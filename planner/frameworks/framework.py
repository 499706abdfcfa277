"""Framework: how one generation of a training framework executes a layer, beyond what the mathematics asks for.

Two kinds of figures. What it *does* (fused or not, kept or recomputed, hidden or not) is read from its code or its
documentation. What it *costs* (host time, sustained share of the kernel tables) is fitted once for a generation on
published runs by `planner/published/fit.py`, never for a model or a row.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field

from ...errors import InputError, did_you_mean
from ...schema import Frozen, load_mapping, parse

_CATALOGUE = Path(__file__).parent / "catalogue"

DEFAULT = "megatron-core"
"""What a plan is priced as: the built-in runtime's kernels are those of torch and Transformer Engine's kind."""


class Keeps(Frozen):
    """What stands in memory until the backward pass."""

    gated_copies: int = Field(4, ge=3, le=4, description="widths kept of a gated activation; 3 where it is one kernel")
    scores: bool = Field(False, description="attention that is not fused keeps its score matrices")
    gradient_bytes: int = Field(4, ge=2, le=4, description="of an accumulated gradient in 16-bit recipes")


class Costs(Frozen):
    """What its execution costs beside the kernels that the mathematics asks for. The defaults cost nothing."""

    matmul: float = Field(1.0, gt=0, description="share of the kernel table's rate that matmuls sustain in a step")
    attention: float = Field(1.0, gt=0, description="likewise, of the attention kernel")
    elementwise: float = Field(1.0, gt=0, description="bytes moved by element-wise kernels over those of fused ones")
    tensor: float = Field(1.0, gt=0, description="time of exposed tensor-parallel collectives over the links' own")
    network: float = Field(1.0, gt=0, description="time of data-parallel collectives over the links' own")
    steal: float = Field(0.0, ge=0, lt=1, description="share of compute lost while a collective is in flight")
    host_layer_s: float = Field(0.0, ge=0, description="host seconds to issue one layer in one direction")
    host_microbatch_s: float = Field(
        0.0, ge=0, description="likewise, of a microbatch through a stage beside its layers"
    )
    step_s: float = Field(0.0, ge=0, description="fixed seconds of one step: data, clipping, logging")


class Framework(Frozen):
    """One generation of a training framework."""

    name: str
    title: str
    source: str
    shards_optimizer: bool = Field(True, description="ZeRO 1 by default (Megatron's distributed optimizer)")
    sequence_parallel: bool = Field(True, description="on by default wherever tp > 1")
    overlaps_gather: bool = Field(True, description="ZeRO 1 gathers parameters beside the forward, not after the step")
    waits_for_rings: bool = Field(
        False, description="with a pipeline over nodes, tensor-parallel rings pay the network's latency at every step"
    )
    balances_stages: bool = Field(False, description="pipeline stages are cut by FLOPs, the head's included")
    keeps: Keeps = Keeps()
    costs: Costs = Costs()


def names() -> list[str]:
    """Bundled frameworks."""
    return sorted(path.stem for path in _CATALOGUE.glob("*.yaml"))


@cache
def framework(name: str = DEFAULT) -> Framework:
    """A bundled framework. Raises InputError with the nearest name."""
    path = _CATALOGUE / f"{name}.yaml"
    if name not in names():
        raise InputError.single(
            "command line", "--framework", name, "not a bundled framework", did_you_mean(name, names())
        )
    return parse(Framework, load_mapping(path), str(path))

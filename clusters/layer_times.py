"""LayerTimes: what layers of known sizes, data parallelism around them and the rest of a step took on a device.

Measured by `profile --model`: in the runtime's own blocks, all workers at once, collectives of tensor, context and
expert parallelism included. A layer is described by its sizes, so that any model with such layers finds it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator

from ..schema import Frozen

Size = float | int | bool | str

Kind = Literal["layer", "embedding", "head"]


class LayerTime(Frozen):
    """Seconds and bytes of one layer, or of an end of the model, for one microbatch on one rank."""

    kind: Kind = "layer"
    sizes: dict[str, Size] = Field(description="of the layer: hidden, attention.heads, ffn.width, ...")
    sharding: dict[str, Size] = Field({}, description="tp, sp, cp, ... where they are not as on one device")
    dtype: Literal["fp32", "bf16", "fp16"]
    seq_len: int = Field(ge=1)
    microbatch: int = Field(ge=1)
    forward_s: float = Field(gt=0)
    backward_s: float = Field(gt=0, description="gradients of inputs and of weights, added to those before")
    input_s: float = Field(0.0, ge=0, description="the first half of a split backward")
    weight_s: float = Field(0.0, ge=0, description="the second half: gradients of weights")
    recompute_s: float = Field(0.0, ge=0, description="what full recomputation adds to forward and backward together")
    kept_bytes: float = Field(0.0, ge=0, description="held from forward to backward")
    recompute_kept_bytes: float = Field(0.0, ge=0, description="likewise, where the layer is recomputed")
    fragments: float = Field(
        0.0, ge=0, description="what a caching allocator took for the layer's peak, over that, less 1; prices ignore it"
    )


class UnitTime(Frozen):
    """Seconds that data parallelism adds to one unit of so many parameters: a layer, or what is beside the layers."""

    zero: int = Field(ge=0, le=3)
    ranks: int = Field(ge=2)
    parameters: int = Field(ge=0)
    forward_s: float = Field(description="to every forward")
    first_s: float = Field(description="more, to the first of a step")
    backward_s: float = Field(description="to every backward")
    last_s: float = Field(description="more, to the last of a step")


class TailTime(Frozen):
    """Clipping and optimizer of a rank that owns so many parameters; `step_s` is what else every step takes."""

    sharded: bool
    parameters: int = Field(ge=1)
    seconds: float = Field(gt=0)
    step_s: float = Field(0.0, ge=0)
    state_bytes: float = Field(0.0, ge=0, description="of the optimizer, beside parameters and gradients")


class LayerTimes(Frozen):
    """All that was measured of the layers of a model."""

    source: str = ""
    layers: tuple[LayerTime, ...] = ()
    units: tuple[UnitTime, ...] = ()
    tails: tuple[TailTime, ...] = ()
    pace: dict[int, float] = Field(
        {},
        description="of a worker while so many of all workers compute over that while all do and wait for nothing: "
        "cores are shared",
    )
    wake_s: dict[int, float] = Field(
        {}, description="seconds until a worker begins with what another has sent, while so many of all compute"
    )

    @field_validator("pace")
    @classmethod
    def _no_slower(cls, pace: dict[int, float]) -> dict[int, float]:
        if any(busy < 1 or factor <= 0 for busy, factor in pace.items()):
            raise ValueError("counts of workers are 1 or more, their paces above 0")
        if any(few < more for few, more in pairwise(pace[busy] for busy in sorted(pace))):
            raise ValueError("no worker is slower while fewer compute")
        if pace and pace[max(pace)] > 1:
            raise ValueError("all workers at once are no faster for waiting: at most 1")
        return pace

    @field_validator("wake_s")
    @classmethod
    def _not_before(cls, wake_s: dict[int, float]) -> dict[int, float]:
        if any(busy < 1 or seconds < 0 for busy, seconds in wake_s.items()):
            raise ValueError("counts of workers are 1 or more, their seconds 0 or more")
        return wake_s

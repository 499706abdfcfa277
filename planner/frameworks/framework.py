"""Framework: how one generation of a training framework executes a layer, beyond what the mathematics asks for.

Two kinds of figures. What it *does* (fused or not, kept or recomputed, hidden or not) is read from its code or its
documentation. What it *costs* (host time, sustained share of the kernel tables) is fitted once for a generation on
published runs by `planner/published/fit.py`, never for a model or a row.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from ...clusters.schema import Device
from ...errors import InputError, did_you_mean
from ...schema import Frozen, dump_yaml, load_mapping, parse
from ..configuration import CpAlgorithm
from .typical import Figure, compared

_CATALOGUE = Path(__file__).parent / "catalogue"

DEFAULT = "meshwright"
"""What a plan is priced as: the built-in runtime."""


WeightGradients = Literal["shape", "layer", "model"]


SAME_CHIP = {"h200": "h100"}
"""Kinds of devices that compute as another does: H200 is H100 with other memory (NVIDIA H200 datasheet)."""


def kind_of(device: Device) -> str:
    """What figures of devices are kept by: the first word of its name, or that of the device with the same chip."""
    word = device.name.split("-")[0]
    return SAME_CHIP.get(word, word)


class Keeps(Frozen):
    """What stands in memory beyond weights and what the mathematics needs; the defaults are those of Megatron-Core with
    Transformer Engine. `late_gathers` and `fragments` are fitted (`planner/published/fragments.py`), the rest is read
    from code."""

    gated_copies: int = Field(
        default=3, ge=3, le=4, description="widths kept of a gated activation; 3 where it is one kernel"
    )
    eager_norms: bool = Field(
        default=False,
        description="a norm of separate kernels keeps an fp32 copy of its input and the normalised one; "
        "this and the copies below are asked for where kernels are not declared (`bundled_kernels`)",
    )
    routed_copies: int = Field(
        default=1, ge=1, le=2, description="hidden-wide copies of a routed token: 2 where experts' outputs are weighted"
    )
    scores: bool = Field(default=False, description="attention that is not fused keeps its score matrices")
    score_blocks: bool = Field(
        default=False, description="what no fused kernel computes holds a block of fp32 scores (planner/cost/scores.py)"
    )
    dropout: bool = Field(default=False, description="masks of a byte per element (and dropped scores) are kept")
    attention: bool = Field(
        default=False,
        description="under context parallelism full recomputation keeps attention's output and log-sum-exp and runs it "
        "once (LightSeq, arXiv:2310.03294, section 3.3)",
    )
    checkpoints_on_host: bool = Field(default=False, description="what full recomputation keeps goes to host memory")
    gathered_inputs: bool = Field(
        default=False, description="with sequence parallelism, products keep their inputs gathered over tp"
    )
    fp8_inputs: bool = Field(default=True, description="in fp8, inputs of products are kept in one byte")
    fp8_weight_bytes: int = Field(
        default=3, ge=1, le=4, description="1: weights live in fp8 alone; 3: beside 16-bit ones"
    )
    gradient_bytes: int = Field(default=4, ge=2, le=8, description="of an accumulated gradient in 16-bit recipes")
    bucket_bytes: int = Field(default=0, ge=0, le=4, description="of gradients copied for the all-reduce, where dp > 1")
    shards_fp32: bool = Field(
        default=False, description="ZeRO 3 holds one fp32 shard, 16-bit weights only while gathered"
    )
    masters_stay: bool = Field(
        default=False, description="fp32 shards on the device are the master weights: offloading leaves them there"
    )
    weight_gradients: WeightGradients = Field(
        default="shape",
        description="gradients before they are accumulated: one buffer per shape of a layer (Transformer Engine's), "
        "a layer's, or the whole model's",
    )
    logit_bytes: int = Field(default=6, ge=2, le=14, description="per logit at the fullest moment of the loss")
    late_gathers: int = Field(
        default=0,
        ge=0,
        description="gathered hidden states that the allocator gets back late, because a collective's stream may still "
        "read them; without a pipeline, whose transfers wait for the device",
    )
    fragments: float = Field(default=0.25, ge=0, description="allocator's fragments as a share of what comes and goes")


class Experts(Frozen):
    """How routed tokens travel to the ranks of their experts and back."""

    dispatch: Literal["copies", "distinct"] = Field(
        default="copies",
        description="a copy for each expert (all-to-all), or one for each rank and each NVLink domain that a token "
        "visits (DeepEP, HybridEP)",
    )
    planned: bool = Field(
        default=False,
        description="a plan says what is sent, in how many parts and to how many copies of an expert, and `dispatch` "
        "and `overlaps` say nothing",
    )
    overlaps: bool = Field(
        default=False,
        description="beside the compute of another microbatch (Megatron's overlap_moe_expert_parallel_comm)",
    )
    synchronises: bool = Field(
        default=False,
        description="the host waits for the counts of tokens before it issues the experts (Megatron's all-to-all "
        "without dropped tokens), so that neither runs ahead of the other",
    )
    spread: float = Field(
        default=0.0, ge=0, description="standard deviation of the experts' loads over their mean; 0: balanced routing"
    )


class Graphs(Frozen):
    """Shares of the host's time that are left where CUDA graphs replay what it issued once."""

    layer: float = Field(default=1.0, ge=0, le=1, description="of a layer's")
    moe: float = Field(default=1.0, ge=0, le=1, description="of what experts add to it")


class Costs(Frozen):
    """What its execution costs beside the kernels that the mathematics asks for. The defaults cost nothing."""

    matmul: float = Field(
        default=1.0, gt=0, description="share of the kernel table's rate that matmuls sustain in a step"
    )
    attention: float = Field(default=1.0, gt=0, description="likewise, of the attention kernel")
    elementwise: float = Field(
        default=1.0, gt=0, description="bytes moved by element-wise kernels over those of fused ones"
    )
    tensor: float = Field(
        default=1.0, gt=0, description="time of tensor-parallel collectives inside a domain over the links' own"
    )
    network: float = Field(
        default=1.0, gt=0, description="likewise, of data-parallel ones, and of tensor-parallel ones between domains"
    )
    experts: float = Field(
        default=1.0, gt=0, description="share of `matmul`'s rate that grouped matmuls of experts reach"
    )
    dispatch: float = Field(default=1.0, gt=0, description="time of exposed expert dispatch over the links' own")
    steal: float = Field(default=0.0, ge=0, lt=1, description="share of compute lost while a collective is in flight")
    host_layer_s: float = Field(default=0.0, ge=0, description="host seconds to issue one layer in one direction")
    host_moe_s: float = Field(default=0.0, ge=0, description="host seconds more of a layer with experts")
    host_microbatch_s: float = Field(
        default=0.0, ge=0, description="likewise, of a microbatch through a stage beside its layers"
    )
    step_s: float = Field(default=0.0, ge=0, description="fixed seconds of one step: data, clipping, logging")


class Overrides(Frozen):
    """Costs that differ on one kind of device."""

    matmul: float | None = Field(default=None, gt=0)
    attention: float | None = Field(default=None, gt=0)
    elementwise: float | None = Field(default=None, gt=0)
    host_layer_s: float | None = Field(default=None, ge=0)


class Spread(Frozen):
    """Measured over predicted step time: what 90 % of published runs lie between, when their source was left out."""

    low: float = Field(gt=0, le=1)
    high: float = Field(ge=1)


UNKNOWN = Spread(low=0.8, high=1.6)
"""Of a framework without published runs."""


class Framework(Frozen):
    """One generation of a training framework."""

    name: str
    title: str
    source: str
    shards_optimizer: bool = Field(default=True, description="ZeRO 1 by default (Megatron's distributed optimizer)")
    sequence_parallel: bool = Field(default=True, description="on by default wherever tp > 1")
    overlaps_gather: bool = Field(
        default=True, description="ZeRO 1 gathers parameters beside the forward, not after the step"
    )
    overlaps_reduce: bool = Field(
        default=True, description="gradients are reduced beside the last backward (ZeRO 0 and 1), not after it"
    )
    overlaps_shards: bool = Field(
        default=True, description="ZeRO 2 and 3 gather and reduce beside compute, not before and after it"
    )
    wire_bytes: Literal[2, 4] | None = Field(
        default=None, description="of a reduced gradient in 16-bit recipes; not said: as it is accumulated"
    )
    flat_rings: bool = Field(
        default=False,
        description="a collective over nodes is one ring through all members: each network card carries it whole (NCCL "
        "before its trees took large messages on two nodes)",
    )
    waits_for_rings: bool = Field(
        default=False,
        description="with a pipeline over nodes, tensor-parallel rings pay the network's latency at every step",
    )
    splits_backward: bool = Field(default=False, description="has schedules whose backwards come in two halves")
    spreads_vocabulary: bool = Field(default=False, description="shares out embedding and head over pipeline ranks")
    chunks_loss: bool = Field(
        default=False, description="head and loss can be computed in chunks of tokens (`logits_chunks`)"
    )
    context: tuple[CpAlgorithm, ...] = Field(
        default=("ring",), description="algorithms of context parallelism that a search tries"
    )
    zero: tuple[int, ...] = Field(default=(0, 1, 2, 3), description="ZeRO stages that a search tries")
    fills_stages: bool = Field(default=False, description="layers that do not divide leave the last stages short")
    balances_stages: bool = Field(default=False, description="pipeline stages are cut by FLOPs, the head's included")
    bundled_kernels: bool = Field(
        default=False,
        description="on CUDA devices it runs the kernels of `kernels/`, or their references where a job says so: "
        "bytes moved and kept are those of their declarations (`planner/cost/declared.py`)",
    )
    keeps: Keeps = Keeps()
    experts: Experts = Experts()
    graphs: Graphs = Graphs()
    narrow_heads: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="rate of fused attention with heads of 64 over that with heads of 128; "
        "cuDNN on H100 at 4k: 408 and 609 TFLOP/s (FlashAttention-3, arXiv:2407.08608, figure 5)",
    )
    accumulate_bytes: float = Field(
        default=0.0, ge=0, description="memory traffic per parameter to add one microbatch's gradient to the sum"
    )
    like: str = Field(
        default="", description="nothing was fitted for it: costs are those of this one, the spread no narrower"
    )
    costs: Costs = Costs()
    fitted_on: str = Field(default="", description="kind of device, the first word of its name, that `costs` are of")
    on: dict[str, Overrides] = Field(default={}, description="by further kinds of device: h100")
    spread: Spread = UNKNOWN

    def costs_on(self, device: Device) -> Costs:
        """Costs on a device: `h100-sxm-80gb` is of kind h100. On a kind without runs its kernels compare with those of
        the kind that was fitted as they do for other frameworks (`typical.py`). On a CPU, whatever it is called,
        nothing was fitted: none."""
        if device.kind == "cpu":
            return Costs()
        kind = kind_of(device)
        own = self.on.get(kind)
        if own is None:
            return self.costs.model_copy(update=self._compared(kind))
        return self.costs.model_copy(update={name: value for name, value in own if value is not None})

    def spread_on(self, device: Device) -> Spread:
        """The interval on a device: no narrower than where nothing is known on a kind without runs."""
        kind = kind_of(device)
        return self.spread if kind in {self.fitted_on, *self.on} else _unseen(self.spread)

    def _compared(self, kind: str) -> dict[str, float]:
        """Shares of the kernel tables on a kind of device that this framework was not fitted on."""
        figures: tuple[Figure, ...] = ("matmul", "attention")
        known = {figure: compared(figure) for figure in figures if self.fitted_on and kind != self.fitted_on}
        return {
            figure: getattr(self.costs, figure) * parts[kind] / parts[self.fitted_on]
            for figure, parts in known.items()
            if kind in parts and self.fitted_on in parts
        }


def names() -> list[str]:
    """Bundled frameworks."""
    return sorted(path.stem for path in _CATALOGUE.glob("*.yaml"))


def _bundled(name: str) -> str:
    if name not in names():
        expected = ", ".join(f"{each!r}" for each in names())
        raise PydanticCustomError("literal_error", "must be a bundled framework", {"expected": expected})
    return name


FrameworkName = Annotated[str, AfterValidator(_bundled)]
"""Of a bundled framework, as a field of a file."""


@cache
def framework(name: str = DEFAULT) -> Framework:
    """A bundled framework. Raises InputError with the nearest name."""
    path = _CATALOGUE / f"{name}.yaml"
    if name not in names():
        raise InputError.single(
            "command line", "--framework", name, "not a bundled framework", did_you_mean(name, names())
        )
    found = parse(Framework, load_mapping(path), str(path))
    if not found.like:
        return found
    model = framework(found.like)
    return found.model_copy(
        update={
            "costs": model.costs,
            "fitted_on": model.fitted_on,
            "on": model.on,
            "spread": _unseen(model.spread),
        }
    )


def _unseen(spread: Spread) -> Spread:
    """Where nothing was measured the interval is no narrower than where nothing is known."""
    return Spread(low=min(spread.low, UNKNOWN.low), high=max(spread.high, UNKNOWN.high))


def save(changed: Framework) -> None:
    """Write a bundled framework's costs and spread, as `planner/published/fit.py` found them."""
    path = _CATALOGUE / f"{changed.name}.yaml"
    fitted = changed.model_dump(include={"costs", "fitted_on", "on", "spread"}, exclude_none=True)
    path.write_text(dump_yaml(load_mapping(path) | fitted))

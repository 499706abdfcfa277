"""Case: a published row as the planner would have planned it, beside what had to be assumed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..configuration import Configuration, Mesh, Recompute, ScheduleName
from ..cost.setting import Setting
from ..frameworks.framework import framework
from ..job import Job, Precision
from ..model import Architecture
from .completion import completed
from .generation import ASSUMED, generation, recognized, recompute_default
from .machine import row_cluster
from .recipe import as_row_ran, offload, recompute_modules, shards_optimizer
from .row import Row
from .shape import NotModelledError, row_architecture
from .sound import refuse_too_long, refuse_unsound
from .stages import stage_layers

_PRECISIONS: tuple[tuple[str, Precision], ...] = (
    ("fp4", "fp8"),
    ("fp8", "fp8"),
    ("bf16", "bf16"),
    ("fp16", "fp16"),
    ("fp32", "fp32"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """What is priced."""

    setting: Setting
    configuration: Configuration
    assumptions: tuple[str, ...]
    complete: bool


def make_case(row: Row) -> Case:
    """The prediction's input. Raises NotModelledError where a row cannot be expressed."""
    assumptions: list[str] = []
    if row.train_mode == "lora":
        raise NotModelledError("LoRA: gradients of frozen weights are not computed")
    row = completed(row, assumptions)
    refuse_unsound(row)
    if not row.seq_len or not row.gbs:
        raise NotModelledError("the batch is not stated" if row.seq_len else "the sequence length is not stated")
    shape, cluster = row_architecture(row, assumptions), row_cluster(row, assumptions)
    precision = _precision(row, assumptions)
    setting = Setting(
        shape,
        cluster,
        Job(seq_len=row.seq_len, global_batch=row.gbs, precision=precision),
        framework=as_row_ran(framework(generation(row)), row),
        narrow="fp4" if "fp4" in row.precision.lower() else None,
    )
    if not recognized(row):
        assumptions.append(f"the framework {ASSUMED}")
    configuration = _configuration(row, shape, assumptions)
    complete = row.layout_complete == "yes" and not any(note.startswith(_WEAK) for note in assumptions)
    return Case(setting, configuration, tuple(assumptions), complete)


_WEAK = (
    "recompute:",
    "microbatch of",
    "batch of",
    "the network of",
    "the framework",
    "feed-forward width",
    "tp ",
    "sequence length of",
)
"""How the assumptions begin that leave a configuration incomplete."""


def _precision(row: Row, assumptions: list[str]) -> Precision:
    text = row.precision.lower().replace("nvfp4", "fp4")
    for name, precision in _PRECISIONS:
        if name in text:
            return precision
    default: Precision = "bf16" if (row.year or 2023) >= 2023 and not row.gpu.startswith("V100") else "fp16"
    assumptions.append(f"precision: {default}")
    return default


def _configuration(row: Row, shape: Architecture, assumptions: list[str]) -> Configuration:
    if re.search(r"vocab-\d|interlaced", row.schedule):
        raise NotModelledError("a vocabulary that is spread over the pipeline")
    mesh = _mesh(row, assumptions)
    vpp, stages = row.vpp or 1, mesh.pp * (row.vpp or 1)
    layers = len(shape.layers)
    if stages > layers + 2:
        raise NotModelledError(f"{stages} pipeline stages of {layers} layers")
    microbatch, microbatches = _batch(row, mesh, assumptions)
    return Configuration(
        mesh=mesh,
        stage_layers=stage_layers(framework(generation(row)), shape, stages, row.seq_len or 1, "redis" in row.schedule),
        microbatch=microbatch,
        microbatches=microbatches,
        schedule=_schedule(row, vpp),
        vpp=vpp,
        zero=_zero(row, mesh, assumptions),
        sp=_sequence_parallel(row, mesh, assumptions),
        recompute=(_recompute(row, assumptions),) * mesh.pp,
        recompute_operations=recompute_modules(row),
        offload=offload(row),
        cp_algorithm="ulysses" if "ulysses" in row.features.lower() else "ring",
    )


def _mesh(row: Row, assumptions: list[str]) -> Mesh:
    if row.tp is None or row.pp is None:
        raise NotModelledError("the parallel layout is not stated")
    gpus, model = row.gpus or 0, row.tp * row.pp * (row.cp or 1)
    dp = row.dp or int(row.derived_dp or 0) or max(1, gpus // model)
    if dp * model != gpus:
        raise NotModelledError(f"{dp * model} ranks on {gpus} GPUs")
    ep, etp = row.ep or 1, row.etp or (row.tp if row.experts and (row.ep or 1) == 1 else 1)
    if dp * (row.cp or 1) * row.tp % (ep * etp):
        raise NotModelledError(f"ep {ep} x etp {etp} does not divide the ranks of a stage")
    return Mesh(pp=row.pp, dp=dp, cp=row.cp or 1, tp=row.tp, ep=ep, etp=etp)


def _batch(row: Row, mesh: Mesh, assumptions: list[str]) -> tuple[int, int]:
    assert row.gbs
    if row.mbs is None:
        assumptions.append("microbatch of 1")
    microbatch = row.mbs or 1
    microbatches = -(-row.gbs // (mesh.dp * microbatch))
    refuse_too_long(microbatches, mesh.pp * (row.vpp or 1))
    if (whole := microbatches * microbatch * mesh.dp) != row.gbs:
        assumptions.append(
            f"batch of {whole} for {row.gbs}, in whole microbatches of {microbatch} on {mesh.dp} replicas"
        )
    return microbatch, microbatches


def _schedule(row: Row, vpp: int) -> ScheduleName:
    if "gpipe" in row.schedule.lower():
        return "gpipe"
    return "interleaved" if vpp > 1 else "1f1b"


def _zero(row: Row, mesh: Mesh, assumptions: list[str]) -> int:
    if mesh.pp == 1 and "use_megatron_fsdp" in row.features:
        return 3
    if row.zero_stage is not None:
        return _legal_zero(row.zero_stage, mesh, assumptions)
    modern = shards_optimizer(framework(generation(row)), row)
    if mesh.dp * mesh.cp > 1:
        assumptions.append(f"ZeRO {int(modern)}")
    return int(modern)


def _legal_zero(stage: int, mesh: Mesh, assumptions: list[str]) -> int:
    """Under a pipeline gradients stay whole until the last microbatch, whatever a row says."""
    if stage < 2 or mesh.pp == 1:
        return stage
    assumptions.append(f"ZeRO 1 for {stage}, under a pipeline")
    return 1


def _sequence_parallel(row: Row, mesh: Mesh, assumptions: list[str]) -> bool:
    if mesh.tp == 1:
        return False
    if row.sp is not None:
        return bool(row.sp)
    modern = framework(generation(row)).sequence_parallel
    assumptions.append("sequence parallelism" if modern else "no sequence parallelism")
    return modern


def _recompute(row: Row, assumptions: list[str]) -> Recompute:
    text = row.recompute.lower()
    if not text:
        default = recompute_default(row)
        assumptions.append(f"recompute: {default}")
        return default
    if re.match(r"full x\d+ layers", text):
        assumptions.append(f"recompute: none, for {text}")
        return "none"
    if text.startswith(("full", "yes", "true", "all", "1")):
        return "full"
    return "selective" if text.startswith(("selective", "op")) else "none"

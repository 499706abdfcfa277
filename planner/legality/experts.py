"""How experts fold over the ranks of a pipeline stage."""

from __future__ import annotations

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from .rule import Rule, divides, nearest_divisor


def _dense_has_no_experts(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh = configuration.mesh
    if setting.has_experts or mesh.ep == mesh.etp == 1:
        return None
    field, value = ("ep", mesh.ep) if mesh.ep > 1 else ("etp", mesh.etp)
    return Problem(f"--pin {field}", value, "the model has no experts", f"{field}=1")


def _ep_experts(setting: Setting, configuration: Configuration) -> Problem | None:
    for layer in setting.kinds:
        if layer.moe and (problem := divides("ep", configuration.mesh.ep, layer.moe.experts, "the experts")):
            return problem
    return None


def _etp_width(setting: Setting, configuration: Configuration) -> Problem | None:
    for layer in setting.kinds:
        width = layer.moe.expert.width if layer.moe else 0
        if width and (problem := divides("etp", configuration.mesh.etp, width, "the width of an expert")):
            return problem
    return None


def _folding(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh = configuration.mesh
    ranks = mesh.dp * mesh.cp * mesh.tp
    if ranks % (mesh.ep * mesh.etp) == 0:
        return None
    rule = f"ep x etp ({mesh.ep * mesh.etp}) must divide dp x cp x tp ({ranks})"
    if ranks % mesh.ep == 0:
        return Problem("--pin etp", mesh.etp, rule, f"etp={nearest_divisor(ranks // mesh.ep, mesh.etp)}")
    return Problem("--pin ep", mesh.ep, rule, f"ep={nearest_divisor(max(1, ranks // mesh.etp), mesh.ep)}")


def _experts_need_sp(setting: Setting, configuration: Configuration) -> Problem | None:
    if not setting.has_experts or configuration.mesh.tp == 1 or configuration.sp:
        return None
    return Problem(
        "--pin sp", False, "experts with tp > 1 need sequence parallelism, or ranks route the same tokens", "sp=true"
    )


RULES: tuple[Rule, ...] = (
    Rule("no-experts", "ep and etp shard experts", _dense_has_no_experts),
    Rule("ep-experts", "ranks hold whole experts", _ep_experts),
    Rule("etp-width", "expert columns are split evenly", _etp_width),
    Rule("folding", "experts fold over the dense ranks of a stage", _folding),
    Rule("experts-sp", "tokens are routed once (Megatron-Core has the same rule)", _experts_need_sp),
)

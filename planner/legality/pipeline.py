"""Stages, their layers, and what a schedule asks of them."""

from __future__ import annotations

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from ..search.partition import even_split
from .rule import Rule, nearest_divisor


def _stages(setting: Setting, configuration: Configuration) -> Problem | None:
    stages, layers = configuration.mesh.pp * configuration.vpp, len(setting.architecture.layers)
    if stages <= layers:
        return None
    field, value = ("vpp", configuration.vpp) if configuration.vpp > 1 else ("pp", configuration.mesh.pp)
    fix = max(1, layers // configuration.mesh.pp) if field == "vpp" else layers
    return Problem(
        f"--pin {field}", value, f"pp x vpp ({stages}) stages need as many layers, {layers} exist", f"{field}={fix}"
    )


def _every_layer_once(setting: Setting, configuration: Configuration) -> Problem | None:
    stages, layers = configuration.mesh.pp * configuration.vpp, len(setting.architecture.layers)
    given = configuration.stage_layers
    if stages > layers or (len(given) == stages and sum(given) == layers and min(given) >= 1):
        return None
    rule = f"must hold {layers} layers in all, in {stages} {'stage' if stages == 1 else 'stages'} of one or more"
    return Problem("stage_layers", list(given), rule, str(list(even_split(layers, stages))))


def _interleaved_chunks(setting: Setting, configuration: Configuration) -> Problem | None:
    if (configuration.schedule == "interleaved") == (configuration.vpp > 1):
        return None
    if configuration.vpp > 1:
        rule = f"only the interleaved schedule has virtual stages, not {configuration.schedule}"
        return Problem("--pin vpp", configuration.vpp, rule, "schedule=interleaved")
    return Problem("--pin schedule", "interleaved", "needs at least 2 virtual stages a rank", "vpp=2")


def _interleaved_pipeline(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.schedule != "interleaved" or configuration.mesh.pp > 1:
        return None
    return Problem("--pin schedule", "interleaved", "needs a pipeline", "pp=2")


def _interleaved_groups(setting: Setting, configuration: Configuration) -> Problem | None:
    pp, microbatches = configuration.mesh.pp, configuration.microbatches
    if configuration.schedule != "interleaved" or microbatches % pp == 0:
        return None
    rule = f"microbatches ({microbatches}) must be a multiple of pp in the interleaved schedule"
    return Problem("--pin pp", pp, rule, f"pp={nearest_divisor(microbatches, pp)}")


def _recompute_ranks(setting: Setting, configuration: Configuration) -> Problem | None:
    given, pp = configuration.recompute, configuration.mesh.pp
    if len(given) == pp:
        return None
    word = given[0] if given else "none"
    return Problem("recompute", given, f"must hold one word for each of {pp} pipeline ranks", f"recompute={word}")


RULES: tuple[Rule, ...] = (
    Rule("stages", "a stage without a layer computes nothing", _stages),
    Rule("layers", "every layer runs once", _every_layer_once),
    Rule("interleaved-vpp", "virtual stages are the interleaved schedule", _interleaved_chunks),
    Rule("interleaved-pp", "interleaving is between pipeline ranks", _interleaved_pipeline),
    Rule("interleaved-groups", "microbatches advance in groups of pp (arXiv:2104.04473)", _interleaved_groups),
    Rule("recompute-ranks", "every pipeline rank knows what it recomputes", _recompute_ranks),
)

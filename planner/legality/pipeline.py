"""Stages, their layers, and what a schedule asks of them."""

from __future__ import annotations

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from ..schedule.name import CUSTOM
from ..schedule.table import build, table
from ..search.partition import even_split
from .rule import Rule, nearest_divisor


def _stages(setting: Setting, configuration: Configuration) -> Problem | None:
    stages, layers = configuration.stages, len(setting.architecture.layers)
    if stages <= layers:
        return None
    if configuration.schedule == CUSTOM:
        return Problem("--schedule-file", stages, f"lists more stages than the model has layers ({layers})", "fewer")
    field, value = ("vpp", configuration.vpp) if configuration.vpp > 1 else ("pp", configuration.mesh.pp)
    fix = max(1, layers // configuration.mesh.pp) if field == "vpp" else layers
    return Problem(
        f"--pin {field}", value, f"pp x vpp ({stages}) stages need as many layers, {layers} exist", f"{field}={fix}"
    )


def _every_layer_once(setting: Setting, configuration: Configuration) -> Problem | None:
    stages, layers = configuration.stages, len(setting.architecture.layers)
    given = configuration.stage_layers
    if stages > layers or (len(given) == stages and sum(given) == layers and min(given) >= 1):
        return None
    rule = f"must hold {layers} layers in all, in {stages} {'stage' if stages == 1 else 'stages'} of one or more"
    return Problem("stage_layers", list(given), rule, str(list(even_split(layers, stages))))


def _chunks(setting: Setting, configuration: Configuration) -> Problem | None:
    name, vpp = configuration.schedule, configuration.vpp
    if name == CUSTOM or vpp in table()[name].chunks:
        return None
    fewest, unlimited = table()[name].chunks.start, len(table()[name].chunks) > 1
    if vpp < fewest:
        rule = f"needs {'at least ' if unlimited else ''}{fewest} virtual stages a rank"
        return Problem("--pin schedule", name, rule, f"vpp={fewest}")
    have = [each for each, builder in table().items() if vpp in builder.chunks]
    rule = f"only {', '.join(have)} can have {vpp} virtual stages a rank, not {name}"
    return Problem("--pin vpp", vpp, rule, f"vpp={fewest}" if fewest > 1 else "schedule=interleaved")


def _needs_pipeline(setting: Setting, configuration: Configuration) -> Problem | None:
    name = configuration.schedule
    plain = name != CUSTOM and table()[name].chunks.start == 1 and not table()[name].splits
    if plain or configuration.mesh.pp > 1:
        return None
    return Problem("--pin schedule", name, "needs a pipeline", "pp=2")


def _whole_groups(setting: Setting, configuration: Configuration) -> Problem | None:
    pp, microbatches, name = configuration.mesh.pp, configuration.microbatches, configuration.schedule
    if name == CUSTOM or not table()[name].whole_groups or microbatches % pp == 0:
        return None
    rule = f"microbatches ({microbatches}) must be a multiple of pp in the {name} schedule"
    return Problem("--pin pp", pp, rule, f"pp={nearest_divisor(microbatches, pp)}")


def _in_flight(setting: Setting, configuration: Configuration) -> Problem | None:
    given, pp = configuration.in_flight, configuration.mesh.pp
    if not given:
        return None
    needed = [len(configuration.stages_of(rank)) for rank in range(pp)]
    fix = f"in_flight={max(needed)}"
    if pp == 1:
        return Problem("--pin in_flight", given, "limits what ranks of a pipeline hold, and pp is 1", "pp=2")
    if configuration.schedule == CUSTOM:
        return Problem("--pin in_flight", given, "a custom schedule says itself what ranks hold", "leave it out")
    if len(given) not in (1, pp):
        return Problem("--pin in_flight", given, f"must hold one number, or one for each of {pp} ranks", fix)
    if any(cap < least for cap, least in zip(given * pp if len(given) == 1 else given, needed, strict=True)):
        rule = f"a rank must hold a microbatch for each of its virtual stages ({max(needed)})"
        return Problem("--pin in_flight", given, rule, fix)
    return None


def _custom(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.schedule != CUSTOM:
        return None
    listed = build(configuration)
    if listed.ranks != configuration.mesh.pp:
        rule = f"the schedule file has {listed.ranks} rows, one for each pipeline rank"
        return Problem("--pin pp", configuration.mesh.pp, rule, f"pp={listed.ranks}")
    if listed.microbatches != configuration.microbatches:
        rule = f"the schedule file lists {listed.microbatches} microbatches for each pipeline"
        whole = listed.microbatches * configuration.mesh.dp * configuration.microbatch
        return Problem("--global-batch", setting.job.global_batch, rule, f"--global-batch {whole}")
    chunks = max(len(listed.stages_of(rank)) for rank in range(listed.ranks))
    if chunks != configuration.vpp:
        rule = f"the schedule file gives a rank {chunks} virtual stages at most"
        return Problem("--pin vpp", configuration.vpp, rule, f"vpp={chunks}")
    return None


def _recompute_ranks(setting: Setting, configuration: Configuration) -> Problem | None:
    given, pp = configuration.recompute, configuration.mesh.pp
    if len(given) == pp:
        return None
    word = given[0] if given else "none"
    return Problem("recompute", given, f"must hold one word for each of {pp} pipeline ranks", f"recompute={word}")


def _spread_vocabulary(setting: Setting, configuration: Configuration) -> Problem | None:
    if not configuration.spread_vocabulary or configuration.mesh.pp > 1:
        return None
    rule = "spreads embedding and head over the ranks of a pipeline, and pp is 1"
    return Problem("--pin spread_vocabulary", True, rule, "pp=2")


RULES: tuple[Rule, ...] = (
    Rule("stages", "a stage without a layer computes nothing", _stages),
    Rule("layers", "every layer runs once", _every_layer_once),
    Rule("virtual-stages", "each schedule has its number of stages a rank", _chunks),
    Rule("needs-pipeline", "virtual stages and halves of backwards save bubbles between ranks", _needs_pipeline),
    Rule("whole-groups", "microbatches advance in groups of pp (arXiv:2104.04473)", _whole_groups),
    Rule("in-flight", "a microbatch that cannot go on locks the pipeline", _in_flight),
    Rule("custom", "an action list is for one number of ranks and microbatches", _custom),
    Rule(
        "spread-vocabulary", "all ranks of a pipeline share out the vocabulary (arXiv:2411.05288)", _spread_vocabulary
    ),
    Rule("recompute-ranks", "every pipeline rank knows what it recomputes", _recompute_ranks),
)

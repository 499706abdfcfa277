"""Why this plan, what binds, and where the others lose: short sentences for people."""

from __future__ import annotations

from collections.abc import Sequence

from ..units import format_bytes, format_seconds
from .configuration import Configuration, Mesh
from .cost.balance import counts_s
from .cost.interval import WITHOUT_LAYERS, lacks_layers
from .cost.setting import Setting
from .explain_mapping import mapping_words
from .goal import Objective
from .legality import runtime_problems
from .placed import placed
from .plan import Breakdown, MeshDegrees, Prediction, Proof

MEANING = {
    "compute": "compute",
    "tp": "exposed tensor-parallel communication",
    "cp": "exposed context-parallel communication",
    "ep": "expert dispatch and combine",
    "pp": "pipeline transfers",
    "dp": "exposed gradient reduction and parameter gathers",
    "bubble": "the pipeline bubble",
    "optimizer": "the optimizer step",
    "offload": "host transfers of offloaded states",
}


SEEN = "Of other meshes the best that was seen; `--pin` of a mesh searches it to its end:"


def explain(
    setting: Setting,
    configuration: Configuration,
    predicted: Prediction,
    proof: Proof,
    others: Sequence[tuple[Configuration, Prediction, float, bool]],
    objective: Objective,
) -> tuple[str, ...]:
    """Sentences, the most important first. `others` are runners-up, each with how much worse it is (0.05: 5%), and
    whether it misses the deadline."""
    return (
        _proven(proof),
        _time(predicted),
        _memory(predicted),
        *_devices(setting, configuration),
        *mapping_words(setting, configuration, proof),
        *((SEEN,) if others else ()),
        *(_loses(predicted, *other, objective) for other in others),
        *((_without_layers(setting),) if lacks_layers(setting.used(configuration), configuration) else ()),
        _runs(setting, configuration),
    )


def describe(mesh: Mesh | MeshDegrees) -> str:
    """`pp2 dp4 tp8`: the degrees above 1, in rank order."""
    degrees = [(name, getattr(mesh, name)) for name in ("pp", "dp", "cp", "tp", "ep", "etp")]
    return " ".join(f"{name}{degree}" for name, degree in degrees if degree > 1) or "one device"


def _proven(proof: Proof) -> str:
    priced = proof.candidates - proof.pruned
    were = "was" if priced == 1 else "were"
    rest = f"no other is more than {proof.gap:.1%} better" if proof.gap >= 0.0005 else "no other is better"
    return f"Of {proof.candidates} legal configurations {priced} {were} priced in full; bounds show that {rest}."


def _time(predicted: Prediction) -> str:
    shares = _shares(predicted.breakdown_s)
    rest = [f"{share:.0%} {MEANING[name]}" for name, share in shares if name != "compute" and share >= 0.005]
    repeated = 1 - predicted.mfu / predicted.hfu
    recomputed = f" (recomputation is {repeated:.0%} of its FLOPs)" if repeated >= 0.005 else ""
    most = f"{dict(shares)['compute']:.0%} of the step is compute{recomputed}"
    return f"{most}; then {', '.join(rest[:3])}." if rest else f"{most}."


def _shares(breakdown: Breakdown) -> list[tuple[str, float]]:
    parts = breakdown.model_dump()
    return sorted(((name, part / breakdown.total) for name, part in parts.items()), key=lambda each: -each[1])


def _memory(predicted: Prediction) -> str:
    stage = predicted.fullest
    name, size = max(predicted.memory[stage].model_dump().items(), key=lambda part: part[1])
    used, limit = map(format_bytes, predicted.fullest_bytes)
    return f"Stage {stage} is fullest: {used} of {limit}, most of it {name} ({format_bytes(size)})."


def _devices(setting: Setting, configuration: Configuration) -> list[str]:
    found, world = [], configuration.mesh.world
    if world < setting.cluster.num_devices:
        found.append(f"It uses {world} of {setting.cluster.num_devices} devices.")
    if configuration.offload:
        place = "on the nodes' drives" if configuration.offload_to == "nvme" else "in host memory"
        found.append(f"{configuration.offload:.0%} of the optimizer states live {place}.")
    if configuration.swap_layers:
        found.append(f"{configuration.swap_layers} layers at a time are on a device, the others in host memory.")
    if configuration.spread_vocabulary:
        found.append("Embedding and output layer are spread over all pipeline ranks.")
    if configuration.dp_replicate > 1:
        found.append(f"ZeRO shards inside each of {configuration.dp_replicate} copies.")
    return found + _experts(setting, configuration) + placed(setting, configuration)


SENT = {"copies": "each of its experts", "ranks": "each rank that it visits", "nodes": "each node that it visits"}


def _experts(setting: Setting, configuration: Configuration) -> list[str]:
    """How tokens reach their experts, and what that is based on."""
    if not setting.has_experts or not setting.framework.experts.planned:
        return []
    found, parts = [], configuration.dispatch_chunks
    if configuration.mesh.ep > 1:
        overlap = f", in {parts} parts of a microbatch that overlap" if parts > 1 else ""
        found.append(f"A token is sent once to {SENT[configuration.dispatch]}{overlap}.")
        if configuration.expert_replicas:
            slots = configuration.expert_replicas // configuration.mesh.ep
            found.append(f"Every ep rank has {slots} more experts than its share: copies of those in demand.")
        if setting.routing is None:
            found.append("Routing is taken as balanced; --routing takes it from a trace.")
    elif setting.routing is not None:
        found.append("With ep 1 every rank has all experts: the trace has nothing to place.")
    counts = counts_s(setting, configuration, setting.architecture.layers) / configuration.mesh.pp
    if whole := configuration.microbatches * counts:
        found.append(f"Counts for a balancing loss over the global batch take {format_seconds(whole)} of a step.")
    return found


def _loses(
    chosen: Prediction,
    other: Configuration,
    predicted: Prediction,
    worse: float,
    late: bool,
    objective: Objective,
) -> str:
    """Where a runner-up spends more time than the chosen plan, and where clearly less."""
    ours, theirs = chosen.breakdown_s.model_dump(), predicted.breakdown_s.model_dump()
    worst = max(theirs, key=lambda name: theirs[name] - ours[name])
    lost, mesh = theirs[worst] - ours[worst], describe(other.mesh)
    if late:
        return f"{mesh} misses the deadline: a step takes {predicted.step_time_s:.3g} s."
    if objective in ("cost", "energy"):
        does = "costs" if objective == "cost" else "uses"
        what = "" if objective == "cost" else " energy"
        return f"{mesh} {does} {worse:.1%} more{what} a step, and takes {predicted.step_time_s:.3g} s for it."
    best = min(theirs, key=lambda name: theirs[name] - ours[name])
    saved = ours[best] - theirs[best]  # without it a large loss would not add up to a small difference
    but = f", and {saved:.3g} s less on {MEANING[best]}" if saved > lost / 4 else ""
    return f"{mesh} is {worse:.1%} slower: it spends {lost:.3g} s more on {MEANING[worst]}{but}."


def _without_layers(setting: Setting) -> str:
    job = setting.job
    asked = f"--seq-len {job.seq_len} --global-batch {job.global_batch}"
    return (
        "The profile did not time this model's layers as the plan cuts them: on CPUs steps of a small model took up to "
        f"{WITHOUT_LAYERS.high:g} times as long. `meshwright profile --model MODEL {asked}` times them."
    )


def _runs(setting: Setting, configuration: Configuration) -> str:
    found = runtime_problems(setting, configuration)
    if not found and configuration.expert_replicas and setting.routing is None:
        return "The built-in runtime cannot run it: a trace must say which experts have copies (--routing)."
    if not found:
        return "The built-in runtime can run it."
    return f"The built-in runtime cannot run it: {found[0].rule.replace('the built-in runtime', 'it')}."

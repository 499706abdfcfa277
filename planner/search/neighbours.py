"""Neighbours: configurations that differ from one in a single choice, with what follows from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

from ..configuration import Configuration, CpAlgorithm, Dispatch, Mesh, Recompute
from ..cost.setting import Setting
from ..legality import is_legal, runtime_problems
from ..pins import Pins
from ..schedule.name import CUSTOM
from ..schedule.table import table
from .bound import Balancer
from .partition import even_split


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One choice made otherwise: `microbatch`, `1 -> 2`."""

    choice: str
    change: str
    configuration: Configuration


def neighbours(setting: Setting, pins: Pins, configuration: Configuration, runnable: bool) -> Iterator[Neighbour]:
    """All legal ones, in a fixed order, whether they fit or not. What is pinned stays."""
    balancer, given = Balancer(setting), pins.given()
    for choice, change in _CHOICES.items():
        if choice in given:
            continue
        for words, changed in change(setting, configuration):
            found = _balanced(setting, balancer, configuration, changed)
            broken = not is_legal(setting, found) or (runnable and runtime_problems(setting, found))
            if not broken and all(_value(found, name) == value for name, value in given.items()):
                yield Neighbour(choice, words, found)


def _value(configuration: Configuration, name: str) -> object:
    """A pinned field as a pin has it."""
    value = getattr(configuration.mesh, name, None) or getattr(configuration, name)
    return value[0] if name == "recompute" and len(set(value)) == 1 else value


def _balanced(setting: Setting, balancer: Balancer, before: Configuration, after: Configuration) -> Configuration:
    """With its layers balanced where the stages are others; a uniform recomputation for other pipeline ranks."""
    if after.mesh.pp != before.mesh.pp:
        usual = Counter(after.recompute).most_common(1)[0][0]
        after = replace(after, recompute=(usual,) * after.mesh.pp)
    if after.placement == before.placement:
        return after
    layers = len(setting.architecture.layers)
    spread = replace(after, stage_layers=even_split(layers, after.stages))
    return balancer.balanced(spread) if after.stages <= layers and is_legal(setting, spread) else spread


Changed = Iterator[tuple[str, Configuration]]


def _traded(degree: str) -> Callable[[Setting, Configuration], Changed]:
    """Twice or half of a degree, at the expense of data parallelism."""

    def change(setting: Setting, configuration: Configuration) -> Changed:
        mesh = configuration.mesh
        old = getattr(mesh, degree)
        pairs = ((2 * old, mesh.dp / 2), (old / 2, 2 * mesh.dp))
        for new, dp in pairs:
            if new == int(new) and dp == int(dp) and min(new, dp) >= 1:
                made = replace(mesh, **{degree: int(new)}, dp=int(dp))
                yield f"{old} -> {int(new)}, dp {mesh.dp} -> {int(dp)}", _on(setting, configuration, made)

    return change


def _on(setting: Setting, configuration: Configuration, mesh: Mesh) -> Configuration:
    """The same on another mesh: as many sequences, sequence parallelism and ZeRO where they are possible."""
    microbatches = setting.job.global_batch // (mesh.dp * configuration.microbatch)
    shards = mesh.dp * mesh.cp > 1
    wants_sp = configuration.sp or configuration.mesh.tp == 1
    return replace(
        configuration,
        mesh=mesh,
        microbatches=microbatches,
        sp=mesh.tp > 1 and wants_sp and setting.job.seq_len % mesh.tp == 0,
        zero=(configuration.zero or 1)
        if shards and configuration.mesh.dp == 1
        else configuration.zero
        if shards
        else 0,
        dp_replicate=configuration.dp_replicate if mesh.dp % configuration.dp_replicate == 0 else 1,
    )


def _folded(degree: str) -> Callable[[Setting, Configuration], Changed]:
    """Twice or half of a degree of the experts, which fold ranks that are there."""

    def change(setting: Setting, configuration: Configuration) -> Changed:
        old = getattr(configuration.mesh, degree)
        for new in (2 * old, old // 2):
            if setting.has_experts and new >= 1:
                yield f"{old} -> {new}", replace(configuration, mesh=replace(configuration.mesh, **{degree: new}))

    return change


def _microbatch(setting: Setting, configuration: Configuration) -> Changed:
    old, count = configuration.microbatch, configuration.microbatches
    for size, left in ((2 * old, count % 2), (old // 2, old % 2)):
        if not left and size and configuration.schedule != CUSTOM:
            yield f"{old} -> {size}", replace(configuration, microbatch=size, microbatches=count * old // size)


def _schedule(setting: Setting, configuration: Configuration) -> Changed:
    if configuration.mesh.pp == 1 or configuration.schedule == CUSTOM:
        return
    for name, builder in table().items():
        chunks = configuration.vpp if configuration.vpp in builder.chunks else builder.chunks.start
        whole = not builder.whole_groups or configuration.microbatches % configuration.mesh.pp == 0
        possible = not builder.splits or setting.framework.splits_backward
        if name != configuration.schedule and builder.searched and whole and possible:
            words = f"{configuration.schedule} -> {name}" + (f" x{chunks}" if chunks > 1 else "")
            yield words, replace(configuration, schedule=name, vpp=chunks, in_flight=())


def _vpp(setting: Setting, configuration: Configuration) -> Changed:
    if configuration.mesh.pp == 1 or configuration.schedule == CUSTOM:
        return
    for chunks in (configuration.vpp - 1, configuration.vpp + 1):
        if chunks in table()[configuration.schedule].chunks:
            yield f"{configuration.vpp} -> {chunks}", replace(configuration, vpp=chunks, in_flight=())


def _one_of(name: str, values: tuple[object, ...]) -> Callable[[Setting, Configuration], Changed]:
    """Another value of a field that stands alone."""

    def change(setting: Setting, configuration: Configuration) -> Changed:
        old = getattr(configuration, name)
        for value in values:
            if value != old:
                changed: dict[str, Any] = {name: value}
                yield f"{word(old)} -> {word(value)}", replace(configuration, **changed)

    return change


def _recompute(setting: Setting, configuration: Configuration) -> Changed:
    for choice in get_args(Recompute):
        everywhere = (choice,) * configuration.mesh.pp
        if everywhere != configuration.recompute and (choice != "selective" or configuration.recompute_operations):
            old = configuration.recompute
            was = old[0] if len(set(old)) == 1 else "mixed"
            yield f"{was} -> {choice}", replace(configuration, recompute=everywhere)


def _cp_algorithm(setting: Setting, configuration: Configuration) -> Changed:
    if configuration.mesh.cp == 1:
        return
    for name in get_args(CpAlgorithm):
        if name in setting.framework.context and name not in (configuration.cp_algorithm, "usp"):
            changed = replace(configuration, cp_algorithm=name, cp_ulysses=1)
            yield f"{configuration.cp_algorithm} -> {name}", changed


def _logits_chunks(setting: Setting, configuration: Configuration) -> Changed:
    old = configuration.logits_chunks
    for parts in (2 * old, old // 2):
        if parts and setting.framework.chunks_loss:
            yield f"{old} -> {parts}", replace(configuration, logits_chunks=parts)


def _dispatch(setting: Setting, configuration: Configuration) -> Changed:
    if configuration.mesh.ep > 1 and setting.framework.experts.planned:
        yield from _one_of("dispatch", get_args(Dispatch))(setting, configuration)


def _dispatch_chunks(setting: Setting, configuration: Configuration) -> Changed:
    old = configuration.dispatch_chunks
    for parts in (2 * old, old // 2):
        if parts and configuration.mesh.ep > 1 and setting.framework.experts.planned:
            yield f"{old} -> {parts}", replace(configuration, dispatch_chunks=parts)


def _spread_vocabulary(setting: Setting, configuration: Configuration) -> Changed:
    if configuration.mesh.pp > 1 and setting.framework.spreads_vocabulary:
        yield from _one_of("spread_vocabulary", (True, False))(setting, configuration)


def word(value: object) -> str:
    """As people write it."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


_CHOICES: dict[str, Callable[[Setting, Configuration], Changed]] = {
    **{degree: _traded(degree) for degree in ("pp", "cp", "tp")},
    "ep": _folded("ep"),
    "etp": _folded("etp"),
    "microbatch": _microbatch,
    "schedule": _schedule,
    "vpp": _vpp,
    "zero": _one_of("zero", (0, 1, 2, 3)),
    "dp_replicate": _one_of("dp_replicate", (1,)),
    "offload": _one_of("offload", (0.0, 1.0)),
    "sp": _one_of("sp", (True, False)),
    "recompute": _recompute,
    "cp_algorithm": _cp_algorithm,
    "logits_chunks": _logits_chunks,
    "spread_vocabulary": _spread_vocabulary,
    "dispatch": _dispatch,
    "dispatch_chunks": _dispatch_chunks,
}
"""By the name of the pin that would ask for it."""

"""Placed: which devices of a mixed cluster hold which stages and replicas, in sentences for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from .configuration import Configuration
from .cost.replica import classes, replica_ranks
from .cost.setting import Setting


def placed(setting: Setting, configuration: Configuration) -> list[str]:
    """What each kind of device holds; nothing where all are of one kind."""
    if len(_kinds(setting.used(configuration))) < 2:
        return []
    by_stage = [setting.stage_at(configuration, rank) for rank in range(configuration.mesh.pp)]
    found = [_stages(configuration, by_stage)] if configuration.mesh.pp > 1 else []
    if len(classes(setting, configuration)) > 1:
        found.append(_replicas(setting, configuration))
    return [*found, _speeds(setting, configuration)]


def _kinds(setting: Setting) -> list[str]:
    """Names of the devices of a view."""
    return list(dict.fromkeys(group.device.name for group in setting.node_groups))


def _stages(configuration: Configuration, by_stage: Sequence[Setting]) -> str:
    """`Stages 0-3 are on a100: 9 layers each; stages 4-7 on h100: 21 each.`"""
    layers = [0] * configuration.mesh.pp
    for stage, count in enumerate(configuration.stage_layers):
        layers[configuration.rank_of(stage)] += count
    parts = [
        f"{_numbered('stage', ranks)} on {kinds}: {_counts([layers[rank] for rank in ranks], 'layer')}"
        for kinds, ranks in _runs([" and ".join(_kinds(each)) for each in by_stage])
    ]
    return _sentence(parts)


def _replicas(setting: Setting, configuration: Configuration) -> str:
    """`Replicas 0-7 are on a100: 2 microbatches each; ...`, or that they compute as many."""
    kinds = [""] * configuration.mesh.dp
    shares = configuration.shares or (configuration.microbatches,) * configuration.mesh.dp
    for each in classes(setting, configuration):
        seen = [each.setting.at(configuration, rank) for rank in range(configuration.mesh.pp)]
        names = " and ".join(dict.fromkeys(name for view in seen for name in _kinds(view)))
        for rank in replica_ranks(configuration, each):
            kinds[rank] = names
    parts = [
        f"{_numbered('replica', ranks)} on {names}: {_counts([shares[rank] for rank in ranks], 'microbatch')}"
        for names, ranks in _runs(kinds)
    ]
    return _sentence(parts)


def _speeds(setting: Setting, configuration: Configuration) -> str:
    """How the devices compare, and what that is for."""
    views = {
        view.device.name: view for rank in range(configuration.mesh.pp) for view in _seen(setting, configuration, rank)
    }
    choice, times = configuration.recompute[0], dict[str, float]()
    for name, view in views.items():
        block = view.costs(configuration).layers[-1]
        times[name] = block.forward_s + block.backward_s(choice)
    fastest = min(times, key=lambda name: times[name])
    rest = [f"{times[name] / times[fastest]:.2g} times as long on {name}" for name in times if name != fastest]
    if not rest:
        return f"Devices differ; all work is as fast as on {fastest}."
    return f"A layer takes {' and '.join(rest)} as on {fastest}: work is shared out so that none waits long."


def _seen(setting: Setting, configuration: Configuration, rank: int) -> Iterable[Setting]:
    return (each.setting.at(configuration, rank) for each in classes(setting, configuration))


def _runs(names: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Neighbours of one name with their numbers."""
    return [(name, [place for place, _ in run]) for name, run in groupby(enumerate(names), key=lambda each: each[1])]


def _numbered(what: str, numbers: Sequence[int]) -> str:
    return f"{what} {numbers[0]}" if len(numbers) == 1 else f"{what}s {numbers[0]}-{numbers[-1]}"


def _counts(counts: Sequence[int], what: str) -> str:
    """`9 layers each`, or `6 to 9 layers`."""
    few, most = min(counts), max(counts)
    plural = "" if most == 1 else "es" if what.endswith("h") else "s"
    if few < most:
        return f"{few} to {most} {what}{plural}"
    return f"{most} {what}{plural}{' each' if len(counts) > 1 else ''}"


def _sentence(parts: Sequence[str]) -> str:
    whole = "; ".join(parts)
    return f"{whole[0].upper()}{whole[1:]}."

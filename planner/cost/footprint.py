"""Footprint: bytes on the busiest device of each pipeline rank of a configuration, and on its host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..configuration import Configuration
from ..plan import StageMemory
from ..schedule import held_of
from .blocks import ModelCosts
from .data_parallel import owned, rank_parameters
from .offload import host_bytes, of_ends, room_bytes
from .rank_bytes import STUCK as STUCK
from .rank_bytes import RankBytes
from .replica import replicas
from .setting import Setting


def in_flight(configuration: Configuration, rank: int) -> int:
    """Stage inputs that a pipeline rank holds at once; equals schedule.Schedule.in_flight."""
    return max(backward + weight for backward, weight in held_of(configuration, rank).moments)


class Peak(NamedTuple):
    """Memory of a pipeline rank, on the device that it leaves least room on, and what that device has."""

    memory: StageMemory
    limit_bytes: int

    @property
    def room_bytes(self) -> int:
        return self.limit_bytes - self.memory.total

    @property
    def fits(self) -> bool:
        return self.room_bytes >= 0


def footprint(setting: Setting, configuration: Configuration) -> tuple[StageMemory, ...]:
    """Memory of every pipeline rank."""
    return tuple(each.memory for each in peaks(setting, configuration))


def peaks(setting: Setting, configuration: Configuration) -> tuple[Peak, ...]:
    """Of every pipeline rank."""
    return tuple(rank_peak(setting, configuration, rank) for rank in range(configuration.mesh.pp))


def rank_peak(setting: Setting, configuration: Configuration, rank: int) -> Peak:
    """Of one pipeline rank: of the replica that has least room."""
    return min(
        (_peak(seen, asked, rank) for seen, asked in replicas(setting, configuration)),
        key=lambda peak: peak.room_bytes,
    )


def _peak(setting: Setting, configuration: Configuration, rank: int) -> Peak:
    memory = rank_memory(setting, configuration, rank)
    return Peak(memory, setting.at(configuration, rank).memory_limit_bytes)


def fits_host(setting: Setting, configuration: Configuration) -> bool:
    """Whether what a node's devices offload fits into its host memory, or on its drive."""
    leaves = configuration.offload or configuration.swap_layers
    return not leaves or not any(needed > room for needed, room in _hosts(setting, configuration))


def offloaded_bytes(setting: Setting, configuration: Configuration) -> float:
    """What the device whose host has least room keeps there, or on the drive."""
    return fullest_host(setting, configuration)[0]


def fullest_host(setting: Setting, configuration: Configuration) -> tuple[float, float]:
    """The same, and what there is room for."""
    return min(_hosts(setting, configuration), key=lambda host: host[1] - host[0])


def _hosts(setting: Setting, configuration: Configuration) -> Iterator[tuple[float, float]]:
    """Of the devices of every pipeline rank: bytes that one keeps off the device, and its room for them."""
    costs, tied = setting.at(configuration, 0).costs(configuration), setting.architecture.tied_embeddings
    for rank in range(configuration.mesh.pp):
        seen, held = setting.stage_at(configuration, rank), rank_parameters(costs, configuration, rank, tied)
        if configuration.swap_layers:
            held -= of_ends(costs)
        yield host_bytes(seen, configuration, owned(held, configuration)), room_bytes(seen, configuration)


def rank_memory(setting: Setting, configuration: Configuration, rank: int) -> StageMemory:
    """Memory of one pipeline rank at its fullest moment, by cause."""
    ranks = RankBytes(setting.at(configuration, rank), configuration)
    return ranks.memory(ranks.contents_of(configuration, rank))


def resident_bytes(setting: Setting, configuration: Configuration, rank: int) -> int:
    """What one pipeline rank holds at any moment: a part of `rank_memory`, sooner known."""
    ranks = RankBytes(setting.at(configuration, rank), configuration)
    return sum(ranks.resident(ranks.held_of(configuration, rank))) + ranks.setting.context_bytes


def worst_routing_bytes(setting: Setting, configuration: Configuration) -> tuple[int, ...]:
    """What each pipeline rank would hold beyond its footprint if, in every layer and microbatch in flight, all tokens
    of the expert-parallel group visited its own experts. The footprint holds the expected, balanced routing."""
    if not setting.has_experts:
        return ()
    costs = setting.at(configuration, 0).costs(configuration)
    return tuple(_worst_of_rank(costs, configuration, rank) for rank in range(configuration.mesh.pp))


def _worst_of_rank(costs: ModelCosts, configuration: Configuration, rank: int) -> int:
    if configuration.recompute[rank] == "full":
        return round(max(block.worst_routing_bytes for block in costs.layers))
    ranges = [configuration.layer_range(stage) for stage in configuration.stages_of(rank)]
    chunk = max(sum(costs.layers[index].worst_routing_bytes for index in layers) for layers in ranges)
    return round(in_flight(configuration, rank) * chunk)

"""Uneven shares: data-parallel ranks with their own numbers of microbatches."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from ..schedule.name import CUSTOM
from ..schedule.table import table
from .rule import Rule

_EVEN = "leave it out"


def even_shares(total: int, ranks: int) -> tuple[int, ...]:
    """As equal as whole microbatches allow, the first ranks having more."""
    few, more = divmod(total, ranks)
    return (few + 1,) * more + (few,) * (ranks - more)


def _shares(setting: Setting, configuration: Configuration) -> Problem | None:
    """One for each rank, of the global batch, the most of them being what a schedule is made for."""
    shares, dp, batch = configuration.shares, configuration.mesh.dp, setting.job.global_batch
    if not shares:
        return None
    total, left = divmod(batch, configuration.microbatch)
    if left:
        return None  # told by the microbatch
    right = len(shares) == dp and sum(shares) == total and min(shares) >= 1
    if right and configuration.microbatches == max(shares):
        return None
    if right:
        rule = f"is the largest share where shares differ ({max(shares)})"
        return Problem("microbatches", configuration.microbatches, rule, f"microbatches={max(shares)}")
    rule = f"must give each of {dp} data-parallel ranks a microbatch or more, {total} in all"
    return Problem("--pin shares", _written(shares), rule, f"shares={_written(even_shares(total, dp))}")


def _reduced_once(setting: Setting, configuration: Configuration) -> Problem | None:
    if not configuration.shares or configuration.zero < 2:
        return None
    rule = "ZeRO 2 and 3 reduce every microbatch over all replicas, which must have as many"
    return Problem("--pin shares", _written(configuration.shares), rule, "zero=1")


def _own_schedule(setting: Setting, configuration: Configuration) -> Problem | None:
    name, pp, shares = configuration.schedule, configuration.mesh.pp, configuration.shares
    if not shares:
        return None
    if name == CUSTOM:
        rule = "an action list is for one number of microbatches"
        return Problem("--pin shares", _written(shares), rule, _EVEN)
    if table()[name].whole_groups and any(share % pp for share in shares):
        rule = f"each must be a multiple of pp in the {name} schedule"
        return Problem("--pin shares", _written(shares), rule, "schedule=1f1b")
    return None


def _own_experts(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh = configuration.mesh
    if not configuration.shares or mesh.cp * mesh.tp % (mesh.ep * mesh.etp) == 0:
        return None
    rule = "experts over several replicas exchange tokens in every microbatch, of which all must have as many"
    return Problem("--pin shares", _written(configuration.shares), rule, "ep=1")


def _counted_experts(setting: Setting, configuration: Configuration) -> Problem | None:
    """Balancing losses over the global batch count the choices of all replicas in every microbatch."""
    if not configuration.shares or not setting.has_experts:
        return None
    rule = "the built-in runtime balances experts over all replicas in every microbatch"
    return Problem("--pin shares", _written(configuration.shares), rule, _EVEN)


def _written(shares: Iterable[int]) -> str:
    return ",".join(map(str, shares))


RULES: tuple[Rule, ...] = (
    Rule("shares", "a step is the global batch", _shares),
    Rule("shares-zero", "replicas meet once a step", _reduced_once),
    Rule("shares-schedule", "every replica has a schedule of its own", _own_schedule),
    Rule("shares-experts", "replicas meet once a step", _own_experts),
)
RUNTIME_RULES: tuple[Rule, ...] = (Rule("shares-balance", "experts are balanced each microbatch", _counted_experts),)

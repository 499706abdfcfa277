"""Verdict: a sampled step beside the plan, and in words what is off.

In a synchronous step all ranks wait for the slowest, inside of collectives. So the rank with most compute of its own
waits least, and what its collectives take is what they take; it is this rank that a prediction describes. Compute that
is much more than that of ranks with the same work is that rank's fault; else the part that exceeds its prediction most
is named, with the links that it goes over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..clusters.paths import GroupPaths
from ..clusters.topology import Topology
from ..planner.plan import Plan
from ..units import format_seconds
from .components import COLLECTIVES

PARTS = ("compute", *COLLECTIVES, "optimizer", "other")
"""As they are reported; `pp` is all that a rank waits for the others of its pipeline: transfers and bubble."""

SLOW_RANK = 1.2
"""Compute of a rank over the median of its peers', from which it is one of them that is slow: stages that the planner
balanced differ by less."""

Row = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`part` exceeds its prediction most; `rank` computes longer than its peers, `link` is what `part` goes over."""

    part: str
    measured_s: float
    predicted_s: float
    rank: int | None
    link: str | None
    words: str

    def details(self) -> dict[str, Any]:
        """For events.jsonl."""
        return {
            "component": self.part,
            "component_measured_s": self.measured_s,
            "component_predicted_s": self.predicted_s,
            "rank": self.rank,
            "link": self.link,
        }


def predicted_parts(plan: Plan) -> dict[str, float]:
    """Seconds of the parts of a step, as the plan has them."""
    parts = plan.predicted.breakdown_s
    return {
        "compute": parts.compute,
        **{kind: getattr(parts, kind) for kind in COLLECTIVES},
        "pp": parts.pp + parts.bubble,
        "optimizer": parts.optimizer + parts.offload,
        "other": 0.0,
    }


def slowest(table: Sequence[Row]) -> int:
    """The rank that computes longest."""
    return max(range(len(table)), key=lambda rank: table[rank]["compute"])


def measured_parts(table: Sequence[Row]) -> dict[str, float]:
    """Seconds of the parts of a step of the slowest rank; they sum to its step. What it waits for sums of one number
    is for others in its pipeline."""
    row = table[slowest(table)]
    parts = {part: row[part] for part in PARTS}
    parts["pp"] += row["wait"]
    return parts


def verdict(plan: Plan, table: Sequence[Row]) -> Verdict:
    """What exceeds its prediction most."""
    measured, predicted = measured_parts(table), predicted_parts(plan)
    part = max(PARTS, key=lambda each: measured[each] - predicted[each])
    takes, planned = measured[part], predicted[part]
    rank = outlier(plan, table)
    if part == "compute" and rank is not None:
        others = format_seconds(_peers_s(plan, table, rank))
        words = f"rank {rank} computes {format_seconds(takes)} a step, its peers {others}, and they wait for it"
        return Verdict(part, takes, planned, rank, None, words)
    link = link_of(plan, part)
    where = f" over {link}" if link else " on all ranks" if part == "compute" else ""
    alone = part == "pp" and plan.configuration.mesh.pp == 1
    name = "waiting for other ranks" if alone else _NAMES.get(part, part)
    words = f"{name} takes {format_seconds(takes)}{where}, planned {format_seconds(planned)}"
    return Verdict(part, takes, planned, None, link, words)


_NAMES = {
    "pp": "waiting for the pipeline (transfers and bubble)",
    "tp": "tensor-parallel communication",
    "cp": "context-parallel communication",
    "ep": "expert-parallel communication",
    "dp": "data-parallel communication",
    "other": "what is outside of forward, backward and optimizer (data, logs)",
}


def outlier(plan: Plan, table: Sequence[Row]) -> int | None:
    """The rank that computes much longer than its peers, if one does."""
    rank = slowest(table)
    peers_s = _peers_s(plan, table, rank)
    return rank if peers_s > 0 and table[rank]["compute"] > SLOW_RANK * peers_s else None


def _peers_s(plan: Plan, table: Sequence[Row], rank: int) -> float:
    """Median compute of the other ranks of its stage, which have the same work; of a stage of one rank, of all others,
    as the plan has balanced them. 0: there are no others."""
    stage = len(table) // plan.configuration.mesh.pp
    first = rank // stage * stage
    others = [each for each in range(first, first + stage) if each != rank]
    others = others or [each for each in range(len(table)) if each != rank]
    return median(table[each]["compute"] for each in others) if others else 0.0


def link_of(plan: Plan, part: str) -> str | None:
    """The slowest kind of link that a part's groups go over; None where it has none."""
    mesh, world = plan.configuration.mesh, plan.configuration.mesh.world
    sizes = {
        "tp": (1, mesh.tp),
        "cp": (mesh.tp, mesh.cp),
        "dp": (mesh.tp, mesh.dp * mesh.cp),
        "pp": (world // mesh.pp, mesh.pp),
        "ep": (mesh.etp, mesh.ep),
    }
    stride, count = sizes.get(part, (1, 1))
    if count == 1:
        return None
    found: GroupPaths = Topology(plan.cluster, plan.rank_map).slowest_group(stride, count, range(world))
    path = found.outer or found.inner
    return path.link if path else None

"""Scenario: everything that determines a step's price, before anybody has priced it.

A plan without its prediction and proof: what `--set` changes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...clusters.schema import Cluster, NodeGroup
from ...clusters.topology import Topology
from ..configuration import Configuration
from ..cost.setting import Setting
from ..experts.routing_report import RoutingReport
from ..families import ModelSpec, architecture
from ..frameworks.framework import DEFAULT, framework
from ..job import Job
from ..lengths.mix import Mix
from ..plan import Plan
from ..search.visits import reported_visits


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A model trained by a job on a cluster in one configuration."""

    model: ModelSpec
    cluster: Cluster
    job: Job
    configuration: Configuration
    framework: str = DEFAULT  # what the step is priced as
    mix: Mix | None = None  # groups for sequences of different lengths, where the job has lengths
    rank_map: tuple[int, ...] = ()  # the device of each rank; (): in their order
    routing: RoutingReport | None = None  # None: taken as balanced

    @classmethod
    def of(cls, plan: Plan) -> Scenario:
        """What a plan would run."""
        return cls(
            model=plan.model,
            cluster=plan.cluster,
            job=plan.job,
            configuration=plan.configuration,
            framework=plan.framework,
            mix=plan.mix,
            rank_map=plan.rank_map,
            routing=plan.routing,
        )

    @property
    def setting(self) -> Setting:
        """What the step is priced in."""
        executed, visits = framework(self.framework), reported_visits(self.routing)
        kept = architecture(self.model), self.cluster, self.job
        return Setting(*kept, framework=executed, rank_map=self.rank_map, routing=visits)

    @property
    def devices_used(self) -> tuple[tuple[NodeGroup, int], ...]:
        """Devices of each node group that hold a rank, in the order of the ranks."""
        topology = Topology(self.cluster, self.rank_map)
        return tuple(topology.used(self.configuration.mesh.world))

    @property
    def price_per_hour(self) -> float | None:
        """US dollars per hour for the devices in use; None unless every one of them has a price."""
        prices = [(group.price_per_device_hour, count) for group, count in self.devices_used]
        if any(price is None for price, _ in prices):
            return None
        return sum(price * count for price, count in prices if price is not None)

"""The closed loop on the testbed: profile the links of a scenario, plan with what was found, run the step, compare."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed as dist

from meshwright.clusters.catalogue import load_cluster
from meshwright.clusters.save import save_cluster
from meshwright.clusters.schema import Cluster
from meshwright.planner.configuration import Configuration
from meshwright.planner.search.search import find_plan
from meshwright.profiler.links import see
from meshwright.profiler.links_found import Links, read_links
from meshwright.profiler.links_peers import Peers

from .emulated import EmulatedPeers
from .hosts import network
from .launcher import run_ranks
from .planned import measured_cluster, predicted_s, request, unaware, virtual_step
from .scenario import Scenario
from .step import VirtualStep, seconds_of_steps
from .tier import Tier

_OPERATION_LIMIT_S = 30.0
_RUN_LIMIT_S = 150.0


@dataclass(frozen=True, slots=True)
class Run:
    """One order of ranks: what it is, what the simulator says of it, what its steps took."""

    pp: int
    dp: int
    microbatch: int
    stage_layers: tuple[int, ...]
    rank_map: tuple[int, ...]
    bucket_bytes: int
    predicted_s: float
    seconds: tuple[float, ...]

    @property
    def measured_s(self) -> float:
        return median(self.seconds)

    @property
    def error(self) -> float:
        """Of the prediction, over what was measured."""
        return self.predicted_s / self.measured_s - 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one scenario in one tier."""

    scenario: Scenario
    tier: Tier
    links: Links
    cluster: Cluster
    planned: Run
    naive: Run
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Rates in bytes per second."""
        found = self.links.topology
        runs = {
            name: {**asdict(run), "measured_s": run.measured_s, "error": run.error}
            for name, run in (("planned", self.planned), ("naive", self.naive))
        }
        return {
            "scenario": self.scenario.name,
            "tier": self.tier,
            "racks": found.racks,
            "groups": found.groups,
            "slow_hosts": [asdict(slow) for slow in found.slow_hosts],
            "slow_links": [asdict(slow) for slow in found.slow_links],
            "notes": self.notes,
            **runs,
        }


def closed_loop(scenario: Scenario, tier: Tier, budget_s: float, rounds: int) -> Outcome:
    """Raises RankError where a rank fails, InputError where the profile makes no cluster."""
    with _ranks(scenario, tier) as everywhere:
        seen = everywhere(lambda peers: asdict(see(peers, budget_s, host=f"host {peers.rank}")))
        links = read_links(seen)
        assert links is not None, "four hosts were there"
        cluster = _through_a_file(measured_cluster(scenario.name, scenario.hosts, seen))
        runs = list(_orders(cluster, scenario))
        steps = [virtual_step(scenario, cluster, configuration, rank_map) for configuration, rank_map in runs]
        taken = everywhere(lambda peers: seconds_of_steps(peers, steps, rounds))[0]
    planned, naive = (
        _run(scenario, cluster, *run, step, seconds) for run, step, seconds in zip(runs, steps, taken, strict=True)
    )
    notes = tuple(dict.fromkeys(note for each in seen for note in each["notes"]))
    return Outcome(scenario, tier, links, cluster, planned, naive, notes)


Everywhere = Callable[[Callable[[Peers], Any]], list[Any]]


@contextmanager
def _ranks(scenario: Scenario, tier: Tier) -> Iterator[Everywhere]:
    """A call that runs a function on all hosts of the scenario; the network is gone afterwards."""
    if tier == "none":
        yield lambda function: _on_all(scenario, [None] * scenario.hosts, function)
        return
    with network(scenario) as names:
        yield lambda function: _on_all(scenario, list(names), function)


def _on_all(scenario: Scenario, namespaces: list[str | None], function: Callable[[Peers], Any]) -> list[Any]:
    with tempfile.TemporaryDirectory(prefix="meshwright-testbed-") as folder:

        def rank(number: int) -> Any:
            torch.set_num_threads(1)
            store = dist.FileStore(f"{folder}/store", scenario.hosts)
            kind = EmulatedPeers if namespaces[number] is None else Peers
            peers = kind(store, range(scenario.hosts), number, torch.device("cpu"), _OPERATION_LIMIT_S)
            if isinstance(peers, EmulatedPeers):
                peers.scenario = scenario
            return function(peers)

        return run_ranks(rank, namespaces, _RUN_LIMIT_S)


def _through_a_file(cluster: Cluster) -> Cluster:
    """As `plan` gets it from `profile`."""
    with tempfile.TemporaryDirectory(prefix="meshwright-testbed-") as folder:
        path = Path(folder) / "measured.yaml"
        save_cluster(cluster, path)
        return load_cluster(str(path))


def _orders(cluster: Cluster, scenario: Scenario) -> Iterator[tuple[Configuration, tuple[int, ...]]]:
    """The plan for the cluster as it was measured; and that for one where all is alike, in the order of the hosts."""
    plan = find_plan(request(scenario, cluster))
    yield plan.configuration, plan.rank_map
    naive = find_plan(request(scenario, unaware(cluster)))
    yield naive.configuration, tuple(range(scenario.hosts))


def _run(
    scenario: Scenario,
    cluster: Cluster,
    configuration: Configuration,
    rank_map: tuple[int, ...],
    step: VirtualStep,
    seconds: list[float],
) -> Run:
    return Run(
        pp=step.pp,
        dp=step.dp,
        microbatch=configuration.microbatch,
        stage_layers=tuple(configuration.stage_layers),
        rank_map=rank_map or tuple(range(step.pp * step.dp)),
        bucket_bytes=step.smallest_bucket_bytes,
        predicted_s=predicted_s(scenario, cluster, configuration, rank_map),
        seconds=tuple(seconds),
    )

"""Where the nodes of a launch meet: torchrun's arguments, checked before torch waits for them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import Problem, did_you_mean
from ..planner.plan import Plan
from ..planner.rank_map import problems as map_problems
from .placement import devices_of_nodes

BACKENDS = ("c10d", "static")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendezvous:
    """Torchrun's arguments of the same names."""

    nnodes: int = 1
    node_rank: int = 0  # the static backend reads it; c10d gives out ranks itself
    endpoint: str = "localhost:0"
    run_id: str = ""  # the same on all nodes; default: the name of the run folder
    backend: str = "c10d"


def check_rendezvous(plan: Plan, rendezvous: Rendezvous) -> Iterator[Problem]:
    """What keeps the workers of a plan from meeting there."""
    world, nnodes = plan.configuration.mesh.world, rendezvous.nnodes
    if nnodes < 1 or world % nnodes:
        yield Problem("--nnodes", nnodes, f"must divide the {world} workers of the plan", "1")
    elif nnodes > 1 and plan.rank_map:
        yield from _check_nodes(plan, nnodes)
    if not 0 <= rendezvous.node_rank < max(1, nnodes):
        yield Problem("--node-rank", rendezvous.node_rank, f"must lie between 0 and {nnodes - 1}", "0")
    if rendezvous.backend not in BACKENDS:
        yield Problem("--rdzv-backend", rendezvous.backend, "is not known", did_you_mean(rendezvous.backend, BACKENDS))
    elif rendezvous.backend != "static" and plan.rank_map and nnodes > 1:
        rule = "gives out the numbers of nodes itself, and this plan says which node runs which ranks (rank_map)"
        fix = "static, with --node-rank counting the nodes that the plan uses in the order of the cluster file"
        yield Problem("--rdzv-backend", rendezvous.backend, rule, fix)
    elif rendezvous.backend == "static" and rendezvous.endpoint.endswith(":0"):
        yield Problem("--rdzv-endpoint", rendezvous.endpoint, "the static backend needs a port", "localhost:29500")
    if nnodes > 1 and rendezvous.endpoint == Rendezvous().endpoint:
        rule = "is needed with several nodes: a host that all of them reach, and a free port of it"
        yield Problem("--rdzv-endpoint", None, rule, "first-node:29500")
    elif (wrong := _wrong_endpoint(rendezvous.endpoint)) is not None:
        yield Problem("--rdzv-endpoint", rendezvous.endpoint, wrong, "first-node:29500")
    elif nnodes == 1 and _taken(rendezvous.endpoint):
        rule = "another process has this port; one node needs no endpoint"
        yield Problem("--rdzv-endpoint", rendezvous.endpoint, rule, Rendezvous().endpoint)


def _check_nodes(plan: Plan, nnodes: int) -> Iterator[Problem]:
    """Every node starts as many workers, and the map must have as many devices of it."""
    if any(map_problems(plan)):
        return  # told elsewhere
    counts = devices_of_nodes(plan)
    if len(counts) != nnodes:
        yield Problem("--nnodes", nnodes, f"the plan has devices of {len(counts)} nodes (rank_map)", str(len(counts)))
    elif len(set(counts)) > 1:
        rule = "has so many devices of its nodes, and must have as many of each"
        yield Problem("rank_map", ", ".join(map(str, counts)), rule, f"{counts[0]} of each")


def _wrong_endpoint(endpoint: str) -> str | None:
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        return "must be host:port"
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        return f"the host is not known here ({error.strerror})"
    return None


def _taken(endpoint: str) -> bool:
    """Whether somebody else listens there: torch would take them for the rendezvous, and wait."""
    host, _, port = endpoint.rpartition(":")
    if int(port) == 0:
        return False
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host.strip("[]"), int(port))) == 0

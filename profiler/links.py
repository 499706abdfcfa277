"""What joins the workers: every pair, and the collectives of training over sizes and group shapes.

A link that dies in the middle is a note: what was measured stays, and the workers that are left go on.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..clusters.link_costs import moved_bytes, steps
from ..runtime.compat import default_store
from .links_clock import measure_shape
from .links_pairs import measure_pairs
from .links_peers import Alone, Peers, first_line
from .links_shapes import Ranks, crossings, rails, rounds, shapes, without_dead
from .links_topology import find_topology, host_pairs
from .parts import Result, Setting

_PAIRS = 0.25  # of the budget
_LIMITS_S = 10.0, 60.0

Once = Callable[[str, Callable[[], Any]], Any]


@dataclass(slots=True)
class Seen:
    """What one worker has of all links: JSON. Pairs are [a, b, bytes/s there, bytes/s back, latency in s]."""

    hosts: dict[str, str] = field(default_factory=dict)  # of every rank: workers of one machine say the same
    pairs: list[list[float]] = field(default_factory=list)  # of workers, of which this is the first
    nodes: list[list[float]] = field(default_factory=list)  # the same while all workers of two hosts talk at once
    uplinks: list[list[float]] = field(default_factory=list)  # the same while all that can cross between racks
    dead: list[list[int]] = field(default_factory=list)  # pairs that do not answer
    rows: list[dict[str, Any]] = field(default_factory=list)  # of operations, see links_clock.py
    notes: list[str] = field(default_factory=list)


def measure(setting: Setting) -> Result:
    """What this worker has seen (`Seen`), and what fits one line through the rings inside hosts: (ring steps, bytes
    through each worker, seconds) as `rings` and `reduce_scatter`. All empty for a single worker."""
    if setting.world == 1:
        return result(Seen())
    low, high = _LIMITS_S
    limit_s = min(high, max(low, setting.budget_s))
    peers = Peers(default_store(), range(setting.world), setting.rank, setting.device, limit_s)
    return result(see(peers, setting.budget_s, once=setting.once))


def see(peers: Peers, budget_s: float, host: str | None = None, once: Once | None = None) -> Seen:
    """All links, in about `budget_s`. `host` is what workers of one machine have in common."""
    seen, keep = Seen(), once or (lambda _, ask: ask())
    try:
        _see_all(_Turn(peers, seen, keep), budget_s, host or this_host())
    except (Alone, RuntimeError) as error:
        seen.notes.append(f"stopped: {first_line(error)}")
    return seen


@dataclass(frozen=True, slots=True)
class _Turn:
    """One thing after another, each with all that are left."""

    peers: Peers
    seen: Seen
    once: Once

    def __call__(self, what: str, ask: Callable[[], Any], otherwise: Any) -> Any:
        """What was asked for; after a failure a note, and `otherwise` when those that are left have met. Raises Alone
        where this worker is left out."""
        try:
            return self.once(what, ask)
        except RuntimeError as error:
            self.seen.notes.append(f"{what}: {first_line(error)}")
            self.peers.meet()
            return getattr(error, "rows", otherwise)

    def told(self, what: str, own: Any) -> dict[int, Any]:
        """What all have to say, as JSON, never from an earlier run."""
        try:
            texts = self.peers.told(what, json.dumps(own))
        except RuntimeError as error:
            self.seen.notes.append(f"{what}: {first_line(error)}")
            texts = dict.fromkeys(self.peers.meet(), json.dumps(own))
        return {rank: json.loads(text) for rank, text in texts.items()}


def _see_all(turn: _Turn, budget_s: float, host: str) -> None:
    peers, seen = turn.peers, turn.seen
    seen.hosts = {str(rank): name for rank, name in turn.told("host", host).items()}
    _see_pairs(turn, _PAIRS * budget_s)
    gone = [tuple(pair) for pairs in turn.told("dead", seen.dead).values() for pair in pairs]
    peers.only(without_dead(peers.ranks, gone))
    _see_operations(turn, _neighbours(turn), (1 - _PAIRS) * budget_s)


def _see_operations(turn: _Turn, hosts: list[Ranks], budget_s: float) -> None:
    """Shape by shape; of the workers that are left when its turn comes."""
    peers, done = turn.peers, set[str]()
    each_s = budget_s / max(1, len(shapes(hosts)))
    while True:
        there = [tuple(rank for rank in host if rank in peers.ranks) for host in hosts]
        shape = next((each for each in shapes([host for host in there if host]) if each.name not in done), None)
        if shape is None:
            return
        done.add(shape.name)
        turn.seen.rows += turn(f"operations {shape.name}", partial(measure_shape, peers, shape, each_s), [])


def _see_pairs(turn: _Turn, budget_s: float) -> None:
    """Workers, then whole hosts, then racks: each tells which of the next there are."""
    peers, seen = turn.peers, turn.seen
    seen.pairs = _pairs(turn, "pairs of workers", list(rounds(peers.ranks)), budget_s / 2)
    hosts = _hosts(seen, peers)
    if len(hosts) > 1 and max(map(len, hosts)) > 1:
        seen.nodes = _pairs(turn, "pairs of hosts", rails(hosts), budget_s / 4, shared=True)
    own = seen.nodes or seen.pairs
    everybody = [row for rows in turn.told("rates", own).values() for row in rows]
    racks = find_topology(len(hosts), host_pairs(hosts, everybody)).racks if len(hosts) > 1 else ()
    if len(racks) > 1:
        seen.uplinks = _pairs(turn, "pairs of racks", crossings(racks, hosts), budget_s / 4, shared=True)


def _neighbours(turn: _Turn) -> list[Ranks]:
    """Hosts so that those of one rack and of equal cards follow each other: groups are measured where they belong."""
    hosts = _hosts(turn.seen, turn.peers)
    if len(hosts) == 1:
        return hosts
    own = turn.seen.nodes or turn.seen.pairs
    everybody = [row for rows in turn.told("rates again", own).values() for row in rows]
    found = find_topology(len(hosts), host_pairs(hosts, everybody))
    rack_of = {host: index for index, rack in enumerate(found.racks) for host in rack}
    group_of = {host: index for index, group in enumerate(found.groups) for host in group}
    slow = {host for each in found.slow_hosts for host in each.hosts}
    order = sorted(range(len(hosts)), key=lambda host: (rack_of[host], group_of[host], host in slow, host))
    return [hosts[host] for host in order]


def _pairs(
    turn: _Turn, what: str, tournament: list[tuple[tuple[int, int], ...]], budget_s: float, shared: bool = False
) -> list[list[float]]:
    """`shared`: the pairs of a round share a path."""
    ask = partial(measure_pairs, turn.peers, what, tournament, budget_s, shared)
    found = turn(what, ask, {"pairs": [], "dead": {}})
    _note_dead(turn.seen, found["dead"])
    rows: list[list[float]] = found["pairs"]
    if not found.get("again"):
        return rows
    left = [tuple(pair for pair in pairs if set(pair) <= set(turn.peers.ranks)) for pairs in tournament]
    what += " again"
    found = turn(what, partial(measure_pairs, turn.peers, what, left, budget_s, shared), {"pairs": [], "dead": {}})
    _note_dead(turn.seen, found["dead"])
    newer = {tuple(row[:2]) for row in found["pairs"]}
    return [*(row for row in rows if tuple(row[:2]) not in newer), *found["pairs"]]


def _note_dead(seen: Seen, dead: dict[str, str]) -> None:
    for pair, why in dead.items():
        a, b = map(int, pair.split("-"))
        seen.dead.append([a, b])
        seen.notes.append(f"the link between workers {a} and {b}: {why}")


def _hosts(seen: Seen, peers: Peers) -> list[Ranks]:
    """Workers by machine, in order of rank."""
    found: dict[str, list[int]] = {}
    for rank in peers.ranks:
        found.setdefault(seen.hosts.get(str(rank), f"of worker {rank}"), []).append(rank)
    return [tuple(ranks) for ranks in found.values()]


def this_host() -> str:
    """What the workers of one machine have in common, and no others: its name, its boot, its network."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    network = Path("/proc/self/ns/net")
    parts = [platform.node()]
    parts += [boot.read_text().strip()] if boot.exists() else []
    parts += [str(network.readlink())] if network.is_symlink() else []
    return " ".join(parts)


def result(seen: Seen) -> Result:
    """As JSON, with what a line is fitted through."""
    found: dict[str, list[list[float]]] = {"rings": [], "reduce_scatter": []}
    for row in seen.rows:
        name, members, size = row["operation"], row["members"], row["bytes"]
        if row["scope"] == "inside" and name in ("all_reduce", "all_gather", "reduce_scatter"):
            place = "reduce_scatter" if name == "reduce_scatter" else "rings"
            found[place].append([steps(name, members), moved_bytes(name, members, size), row["seconds"]])
    return asdict(seen) | found

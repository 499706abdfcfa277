"""Scenario: a small cluster with something wrong with it, and what a profile must find."""

from __future__ import annotations

from dataclasses import dataclass, replace

BYTES_PER_MBIT = 1e6 / 8


@dataclass(frozen=True, slots=True)
class Scenario:
    """Hosts with one card each, by rack. Rates in Mbit/s, one direction."""

    name: str
    cards_mbit: tuple[float, ...]
    racks: tuple[tuple[int, ...], ...]
    uplink_mbit: float = 0.0  # between racks, shared by all that crosses
    slow_link: tuple[int, int] | None = None
    slow_mbit: float = 0.0
    groups: tuple[tuple[int, ...], ...] = ()  # of equal cards, where there are several
    slow_host: int | None = None
    pins: tuple[str, ...] = ()  # of the mesh, so that all scenarios together have both kinds of traffic
    widths: tuple[int, int] = (256, 704)  # of hidden states and feed-forward: 3.1 MiB of gradients a layer

    @property
    def hosts(self) -> int:
        return len(self.cards_mbit)

    def faster(self, times: float) -> Scenario:
        """The same with all rates so many times as high."""
        cards = tuple(times * rate for rate in self.cards_mbit)
        uplink, slow = times * self.uplink_mbit, times * self.slow_mbit
        return replace(self, cards_mbit=cards, uplink_mbit=uplink, slow_mbit=slow)

    def slow_to(self, host: int) -> dict[int, float]:
        """Rates to other hosts that are not what the cards give."""
        if self.slow_link is None or host not in self.slow_link:
            return {}
        return {other: self.slow_mbit for other in self.slow_link if other != host}

    def bytes_per_s(self, a: int, b: int) -> float:
        """What one host has to another while all that can cross an uplink do: for the tier that emulates."""
        rate = min(self.cards_mbit[a], self.cards_mbit[b], self.slow_to(a).get(b, float("inf")))
        here, there = (next(rack for rack in self.racks if host in rack) for host in (a, b))
        if here != there:
            rate = min(rate, self.uplink_mbit / min(len(here), len(there)))
        return rate * BYTES_PER_MBIT


def _one_rack(hosts: int) -> tuple[tuple[int, ...], ...]:
    return (tuple(range(hosts)),)


_EIGHT = (100.0, 100.0, 100.0, 25.0, 100.0, 100.0, 100.0, 100.0)
SCENARIOS: tuple[Scenario, ...] = (
    Scenario("two racks, slow cross-link", (200.0,) * 4, ((0, 2), (1, 3)), uplink_mbit=80, pins=("dp=2",)),
    Scenario("one slow host", (200, 50, 200, 200), _one_rack(4), slow_host=1),
    Scenario("one slow link", (200.0,) * 4, _one_rack(4), slow_link=(1, 2), slow_mbit=40, pins=("dp=4",)),
    Scenario(
        "one slow link, small buckets",
        (200.0,) * 4,
        _one_rack(4),
        slow_link=(1, 2),
        slow_mbit=40,
        pins=("dp=4",),
        widths=(112, 256),
    ),
    Scenario("two groups of cards", (60, 60, 200, 200), _one_rack(4), groups=((0, 1), (2, 3)), pins=("dp=2",)),
    Scenario("eight hosts, one of them slow", _EIGHT, _one_rack(8), slow_host=3, pins=("dp=2",)),
)
"""Rates that two cores carry with little of their time: what is measured is the network, not the machine."""

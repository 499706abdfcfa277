"""Shaping: token buckets that give interfaces and paths their rates."""

from __future__ import annotations

BURST = "20k"
"""Larger ones let small messages pass free; smaller than a packet (`hosts.GSO_BYTES`) they would cut the rate."""


def bucket(device: str, rate_mbit: float, verb: str = "add") -> str:
    """An interface sends at this rate."""
    return f"tc qdisc {verb} dev {device} root tbf rate {rate_mbit:g}mbit burst {BURST} latency 400ms"


def buckets_by_peer(device: str, rate_mbit: float, slow_mbit: dict[str, float]) -> list[str]:
    """The same, with rates of their own to some addresses."""
    commands = [
        f"tc qdisc add dev {device} root handle 1: htb default 10",
        _class(device, "1:10", rate_mbit),
    ]
    for number, (address, rate) in enumerate(slow_mbit.items(), start=20):
        commands += [
            _class(device, f"1:{number}", rate),
            f"tc filter add dev {device} parent 1: protocol ip u32 match ip dst {address} flowid 1:{number}",
        ]
    return commands


def _class(device: str, name: str, rate_mbit: float) -> str:
    rate = f"{rate_mbit:g}mbit"
    return (
        f"tc class add dev {device} parent 1: classid {name} htb rate {rate} ceil {rate} burst {BURST} cburst {BURST}"
    )

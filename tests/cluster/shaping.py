"""Shaping: token buckets that give interfaces and paths their rates."""

from __future__ import annotations

BURST = "20k"
"""Larger ones let small messages pass free; smaller than a packet (`hosts.GSO_BYTES`) they would cut the rate."""
QUEUE = "64m"
"""Nothing is ever dropped: what TCP sends again would be traffic that no one asked for, a sixth of it at 60 Mbit/s with
the 0.4 s of queue that examples have."""
TCP = "sysctl -w net.ipv4.tcp_congestion_control=reno 'net.ipv4.tcp_wmem=4096 131072 262144'"
"""Buckets are handed whatever they take, by every connection as much: so these share them in equal parts. BBR, the
default of some kernels, sends at a rate that it believes in, and now and then next to nothing for 0.2 s; cubic is not
for namespaces of users. Buffers of megabytes let whoever comes first fill a bucket's queue, and the others wait."""


def bucket(device: str, rate_mbit: float, verb: str = "add") -> str:
    """An interface sends at this rate."""
    return f"tc qdisc {verb} dev {device} root tbf rate {rate_mbit:g}mbit burst {BURST} limit {QUEUE}"


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

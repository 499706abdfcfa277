"""Hosts: network namespaces on bridges, one bridge a rack, racks joined by an uplink. Torn down whatever happens."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .scenario import Scenario
from .shaping import TCP, bucket, buckets_by_peer

GSO_BYTES = 16384
NAMESPACES = Path("/var/run/netns")
_MTU = 9000


def address(host: int) -> str:
    """Of a host."""
    return f"10.77.0.{host + 1}"


@contextmanager
def network(scenario: Scenario) -> Iterator[tuple[str, ...]]:
    """The scenario's network; names of the namespaces of its hosts. Raises CalledProcessError where a command fails."""
    sweep()
    prefix = f"mw{os.getpid()}"
    names = tuple(f"{prefix}h{host}" for host in range(scenario.hosts))
    try:
        run(f"ip netns add {prefix}s")
        _racks(scenario, f"{prefix}s")
        for host, name in enumerate(names):
            _host(scenario, host, name, f"{prefix}s")
        yield names
    finally:
        for name in (*names, f"{prefix}s"):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def sweep() -> None:
    """Namespaces of testbeds that were killed and could not tear theirs down."""
    for name in (each.name for each in NAMESPACES.glob("mw*") if NAMESPACES.exists()):
        owner = re.match(r"mw(?:try)?(\d+)", name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def run(command: str, inside: str = "") -> None:
    """One command, in a namespace or in ours. Raises CalledProcessError."""
    words = [*(["ip", "netns", "exec", inside] if inside else []), *shlex.split(command)]
    subprocess.run(words, check=True, capture_output=True)


def _racks(scenario: Scenario, switch: str) -> None:
    for rack in range(len(scenario.racks)):
        run(f"ip -n {switch} link add br{rack} type bridge")
        run(f"ip -n {switch} link set br{rack} mtu {_MTU} up")
    for rack in range(1, len(scenario.racks)):
        ends = f"u{rack}", f"v{rack}"
        veth = f"gso_max_size {GSO_BYTES} mtu {_MTU}"
        run(f"ip -n {switch} link add {ends[0]} {veth} type veth peer name {ends[1]} {veth}")
        for end, bridge in zip(ends, ("br0", f"br{rack}"), strict=True):
            run(f"ip -n {switch} link set {end} gso_max_size {GSO_BYTES}")
            run(f"ip -n {switch} link set {end} master {bridge} up")
            run(bucket(end, scenario.uplink_mbit), switch)


def _host(scenario: Scenario, host: int, name: str, switch: str) -> None:
    rack = next(index for index, rack in enumerate(scenario.racks) if host in rack)
    veth = f"gso_max_size {GSO_BYTES} mtu {_MTU}"
    run(f"ip netns add {name}")
    run(f"ip -n {name} link set lo up")
    run(f"ip link add veth0 netns {name} {veth} type veth peer name p{host} netns {switch} {veth}")
    run(f"ip -n {switch} link set p{host} gso_max_size {GSO_BYTES}")
    run(f"ip -n {name} link set veth0 gso_max_size {GSO_BYTES}")
    run(f"ip -n {switch} link set p{host} master br{rack} up")
    run(f"ip -n {name} addr add {address(host)}/24 dev veth0")
    run(f"ip -n {name} link set veth0 up")
    run(TCP, name)
    rate = scenario.cards_mbit[host]
    slow = {address(other): mbit for other, mbit in scenario.slow_to(host).items()}
    for command in buckets_by_peer("veth0", rate, slow) if slow else [bucket("veth0", rate)]:
        run(command, name)
    run(bucket(f"p{host}", rate), switch)

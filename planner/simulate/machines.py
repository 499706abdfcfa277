"""Settings that change whole machines: how many devices there are, and which bundled node they stand in.

Both work on the mapping that a plan file holds, before it is checked.
"""

from __future__ import annotations

import math
from typing import Any

from ...clusters.catalogue import bundled_clusters, load_cluster
from ...clusters.devices import bundled_devices
from ...errors import did_you_mean
from ...units import parse_count

Group = dict[str, Any]


class SettingError(ValueError):
    """A value that cannot be set; `fix` is the nearest one that can."""

    def __init__(self, rule: str, fix: str):
        self.fix = fix
        super().__init__(rule)


def device_named(text: object) -> object:
    """The full name of a bundled device from the start of it (`h200`); anything else stays as it is.

    Raises SettingError where several devices begin so.
    """
    if not isinstance(text, str) or text in bundled_devices():
        return text
    found = [name for name in bundled_devices() if name.startswith(f"{text.lower()}-")]
    if len(found) > 1:
        raise SettingError("is the start of several bundled devices", f"one of {', '.join(found)}")
    return found[0] if found else text


def device_count(groups: list[Group], text: str) -> int:
    """The number that `devices=` gives: absolute, or relative to what the groups hold. Raises SettingError."""
    held = sum(group["nodes"] * group["devices_per_node"] for group in groups)
    try:
        factor = float(text[:-1]) if text.lower().endswith("x") else None
        count = held * factor if factor is not None else parse_count(text)
    except ValueError:
        raise SettingError("must be a number of devices", f"devices={held}") from None
    if not math.isfinite(count) or count != int(count) or count < 1:
        raise SettingError("must be a whole number of devices above 0", f"devices={held}")
    return int(count)


def resized(groups: list[Group], count: int) -> list[Group]:
    """The node groups with other numbers of nodes, `count` devices in all.

    Devices of less than one node share that node. Several groups keep their proportion. Raises SettingError
    with the nearest number of devices that makes whole nodes.
    """
    node = groups[0]["devices_per_node"]
    if len(groups) == 1 and count < node and node % count == 0:
        return [groups[0] | {"nodes": 1, "devices_per_node": count}]
    shares = math.gcd(*(group["nodes"] for group in groups))
    unit = sum(group["nodes"] * group["devices_per_node"] for group in groups) // shares
    if count % unit:
        several = f"shares of {unit} devices over the node groups"
        nodes = f"nodes of {node} devices" if len(groups) == 1 else several
        below = count // unit * unit
        nearest = below if below and count - below <= below + unit - count else below + unit
        raise SettingError(f"must make whole {nodes}", f"devices={nearest}")
    return [group | {"nodes": count // unit * group["nodes"] // shares} for group in groups]


def of_remaining(exceptions: dict[str, Any], groups: list[Group]) -> dict[str, Any]:
    """What was found of nodes that are still there; a matrix of all nodes only where there are as many."""
    names = {f"{each['name']}/{number}" for each in groups for number in range(each["nodes"])}
    matrix = exceptions["matrix"]
    return {
        "nodes": [each for each in exceptions["nodes"] if each["node"] in names],
        "paths": [each for each in exceptions["paths"] if names >= set(each["between"])],
        "matrix": matrix if matrix and len(matrix["rows"]) == len(names) else None,
    }


def in_nodes_of(groups: list[Group], name: str) -> list[Group]:
    """As many devices as before, each group's in nodes of a bundled cluster; names stay. Raises SettingError."""
    if name not in bundled_clusters():
        raise SettingError("is not a bundled cluster", did_you_mean(name, bundled_clusters()))
    described = load_cluster(name).node_groups
    if len(described) > 1:
        raise SettingError("has several kinds of nodes", "a bundled cluster with one node group")
    node = described[0].model_dump(mode="json", by_alias=True)
    return [_moved(group, node) for group in groups]


def _moved(group: Group, node: Group) -> Group:
    devices, size = group["nodes"] * group["devices_per_node"], node["devices_per_node"]
    if devices % size:
        rule = f"has nodes of {size} devices, which do not make the {devices} of {group['name']}"
        raise SettingError(rule, f"--set devices={-(-devices // size) * size} before it")
    return node | {"name": group["name"], "nodes": devices // size}

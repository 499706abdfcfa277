"""Dotted names of plan fields: which of them a name means, what they hold, and how a new value is put there.

A name is a path through the plan file (`cluster.node_groups[0].nics.rate`, a group's name may stand for
its number, `[*]` for all of them) or one of the short names below, which reach every node group.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...errors import did_you_mean
from .machines import SettingError

# The longest name that a setting starts with is replaced by every path beside it.
SHORT_NAMES: dict[str, tuple[str, ...]] = {
    "seq_len": ("job.seq_len",),
    "global_batch": ("job.global_batch",),
    "precision": ("job.precision",),
    "kernels": ("job.kernels",),
    "compress": ("job.compress",),
    "attention": ("job.attention",),
    "optimizer_states": ("job.optimizer_states",),
    "device": ("cluster.node_groups[*].device",),
    "nodes": ("cluster.node_groups[*].nodes",),
    "network": ("cluster.node_groups[*].nics.rate", "cluster.links[*].bandwidth"),
    "price": ("cluster.node_groups[*].price_per_device_hour",),
    "cluster.network.bandwidth": ("cluster.node_groups[*].nics.rate", "cluster.links[*].bandwidth"),
    "cluster.network.latency": ("cluster.node_groups[*].nics.latency", "cluster.links[*].latency"),
    "cluster.network.efficiency": ("cluster.node_groups[*].nics.efficiency",),
    "cluster.network.oversubscription": ("cluster.node_groups[*].oversubscription",),
    "cluster.fabric": ("cluster.node_groups[*].fabric",),
    "cluster.device": ("cluster.node_groups[*].device",),
    "cluster.host": ("cluster.node_groups[*].host",),
    "cluster.nodes": ("cluster.node_groups[*].nodes",),
    "cluster.devices_per_node": ("cluster.node_groups[*].devices_per_node",),
    "cluster.price": ("cluster.node_groups[*].price_per_device_hour",),
    "cluster.failures": ("cluster.node_groups[*].failures_per_device_hour",),
}
_PART = re.compile(r"\w[\w-]*|\[[^\]]+\]")
_PATH = re.compile(rf"(?:{_PART.pattern})(\.\w[\w-]*|\[[^\]]+\])*")
_EXPONENT = re.compile(r"\d+\.?\d*e[+-]?\d{1,2}", re.IGNORECASE)  # `1e9` is text to YAML
_RELATIVE = re.compile(r"(\d+\.?\d*(?:e[+-]?\d+)?|\.\d+)\s*x", re.IGNORECASE)


class Place(NamedTuple):
    """Where one value stands: a container, the key or index in it, and the path as an error report spells it."""

    container: Any
    key: Any
    path: str


class UnknownFieldError(SettingError):
    """No such field; `fix` names the nearest one."""


def places(data: dict[str, Any], name: str) -> list[Place]:
    """Where the value of a field stands in a plan's mapping, possibly in several node groups.

    Raises UnknownFieldError where nothing has that name, or where it names whole sections.
    """
    try:
        found = [place for path in _paths(name) for place in _walk(data, _split(path), data, "")]
    except UnknownFieldError as error:
        near = difflib.get_close_matches(name, SHORT_NAMES, n=1, cutoff=0.8) if _paths(name) == (name,) else []
        raise UnknownFieldError(str(error), f"did you mean {near[0]!r}" if near else error.fix) from None
    if not found:
        raise UnknownFieldError("the plan has nothing there", "a cluster with such a part")
    return found


def changed(place: Place, text: str) -> Any:
    """The value that a setting puts in a place: `0.5x` scales what is there, other text is as a file has it.

    Raises ValueError where there is no number to scale.
    """
    container, key, _ = place
    relative = _RELATIVE.fullmatch(text.strip())
    if relative is None:
        return _literal(text)
    old = container.get(key) if isinstance(container, dict) else container[key]
    if isinstance(old, bool) or not isinstance(old, int | float):
        held = "a section" if isinstance(old, dict) else repr(old)
        raise ValueError(f"holds {held}, which cannot be scaled")
    new = old * float(relative[1])
    return int(new) if isinstance(old, int) and new == int(new) else new


def _literal(text: str) -> Any:
    import yaml

    try:
        return float(text) if _EXPONENT.fullmatch(text) else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _paths(name: str) -> tuple[str, ...]:
    for short in sorted(SHORT_NAMES, key=len, reverse=True):
        if name == short or name.startswith((short + ".", short + "[")):
            return tuple(path + name[len(short) :] for path in SHORT_NAMES[short])
    return (name,)


def _split(path: str) -> list[str]:
    if not _PATH.fullmatch(path):
        raise UnknownFieldError("is not the name of a field", "job.seq_len, or cluster.node_groups[0].nics.rate")
    return _PART.findall(path)


def _walk(data: dict[str, Any], parts: list[str], at: Any, path: str) -> Iterator[Place]:
    head, rest = parts[0], parts[1:]
    for key in _keys(data, at, head, last=not rest):
        here = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}".lstrip(".")
        below = at.get(key) if isinstance(at, dict) else at[key]
        if not rest and isinstance(below, dict) and key != "device":  # a device may be given by its name
            raise UnknownFieldError("is a section", f"one of its fields: {', '.join(sorted(below))}")
        if not rest:
            yield Place(at, key, here)
        elif below is not None:  # a group without network has nothing to change
            yield from _walk(data, rest, below, here)


def _keys(data: dict[str, Any], at: Any, part: str, last: bool) -> list[Any]:
    if isinstance(at, list) and part.startswith("["):
        return _indices(at, part[1:-1])
    if isinstance(at, dict) and (part in at or (last and _is_open(data, at))):
        return [part]
    known = _known(data, at)
    fix = did_you_mean(part, known) if known else "a field that has no parts"
    raise UnknownFieldError(f"unknown field {part}", fix)


def _known(data: dict[str, Any], at: Any) -> set[str]:
    if isinstance(at, list):
        return {f"[{index}]" for index in range(len(at))} | {"[*]"}
    if not isinstance(at, dict):
        return set()
    short = {name.split(".")[1] for name in SHORT_NAMES if "." in name} if at is data.get("cluster") else set()
    return set(at) | short


def _is_open(data: dict[str, Any], at: dict[str, Any]) -> bool:
    groups = data["cluster"]["node_groups"]
    return at is data["model"]["config"] or any(at is group["device"]["peak_flops"] for group in groups)


def _indices(at: list[Any], text: str) -> list[int]:
    if text == "*":
        return list(range(len(at)))
    named = [index for index, value in enumerate(at) if isinstance(value, dict) and value.get("name") == text]
    if named:
        return named
    if text.isdigit() and int(text) < len(at):
        return [int(text)]
    names = [str(value["name"]) for value in at if isinstance(value, dict) and "name" in value]
    raise UnknownFieldError(
        f"nothing is numbered or named {text}", f"one of {', '.join(names or map(str, range(len(at))))}"
    )

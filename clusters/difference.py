"""Difference: what changed between two profiles, by how much, and whether that is more than noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from .schema import Cluster, NodeGroup

LEAST_NOISE = 0.05
"""Two profiles of one quiet machine differ by so much; their spread over workers counts where it is larger."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure, in base units, or the median of `count` figures of a table (`most`: the ratio farthest from 1)."""

    group: str
    figure: str
    before: float
    after: float
    noise: float  # relative
    count: int = 1
    most: float = 1.0

    @property
    def ratio(self) -> float:
        """After over before; infinite from nothing to something."""
        return self.after / self.before if self.before else math.inf if self.after else 1.0

    @property
    def beyond_noise(self) -> bool:
        """Whether the machine has changed, as far as the two profiles can tell."""
        return abs(math.log(self.ratio)) > math.log1p(self.noise) if 0 < self.ratio < math.inf else self.ratio != 1

    def to_json(self) -> dict[str, Any]:
        """Its fields, with what follows from them; null for an infinite ratio."""
        ratio = self.ratio if math.isfinite(self.ratio) else None
        return asdict(self) | {"ratio": ratio, "beyond_noise": self.beyond_noise}


@dataclass(frozen=True, slots=True)
class Difference:
    """Figures in the order of the file; texts (versions, names) that are not equal as (name, before, after)."""

    changes: tuple[Change, ...]
    texts: tuple[tuple[str, str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "changes": [change.to_json() for change in self.changes],
            "texts": [{"name": name, "before": before, "after": after} for name, before, after in self.texts],
            "beyond_noise": sum(change.beyond_noise for change in self.changes),
        }


def difference(before: Cluster, after: Cluster) -> Difference:
    """From one cluster to another; node groups of the same name are compared, single ones whatever they are called."""
    spreads = [dict(each.measured.spread) if each.measured else {} for each in (before, after)]
    changes = [
        change for a, b in _alike(before, after) for change in _changes(a, b, lambda figure: _noise(figure, spreads))
    ]
    return Difference(tuple(changes), tuple(_texts(before, after)))


def _alike(before: Cluster, after: Cluster) -> Iterator[tuple[NodeGroup, NodeGroup]]:
    if len(before.node_groups) == len(after.node_groups) == 1:
        yield before.node_groups[0], after.node_groups[0]
        return
    named = {group.name: group for group in after.node_groups}
    yield from ((group, named[group.name]) for group in before.node_groups if group.name in named)


def _noise(figure: str, spreads: Iterable[Mapping[str, float]]) -> float:
    """Both profiles' own, added; never less than what repeats differ by."""
    return max(LEAST_NOISE, sum(spread.get(figure, 0.0) for spread in spreads))


def _changes(a: NodeGroup, b: NodeGroup, noise: Callable[[str], float]) -> Iterator[Change]:
    before, after = dict(_figures(_numbers(a))), dict(_figures(_numbers(b)))
    for figure, numbers in before.items():
        common = [key for key in numbers if key in after.get(figure, {})]
        if not common:
            continue
        if len(numbers) == 1:
            yield Change(a.name, figure, numbers[common[0]], after[figure][common[0]], noise(figure))
            continue
        ratios = [after[figure][key] / numbers[key] for key in common if numbers[key]]
        if ratios:
            farthest = max(ratios, key=lambda ratio: abs(math.log(ratio)) if ratio > 0 else math.inf)
            yield Change(a.name, figure, 1.0, median(ratios), noise(figure), len(ratios), farthest)


def _figures(numbers: Iterable[tuple[str, str, float]]) -> Iterator[tuple[str, dict[str, float]]]:
    found: dict[str, dict[str, float]] = {}
    for figure, key, value in numbers:
        found.setdefault(figure, {})[key] = value
    yield from found.items()


_PARTS = ("device", "fabric", "nics", "host", "nvme")
_PLACES = ("flops", "bytes")  # numbers that say where in a table a row stands; other floats were measured there
_FITTED = ("errors", "regression", "reach", "thresholds", "matrix")  # from what was measured, which stands beside it
Numbers = Iterator[tuple[str, str, float]]


def _numbers(group: NodeGroup) -> Numbers:
    """(figure, place in its table, value) of everything measured."""
    data = group.model_dump(by_alias=True)
    for part in _PARTS:
        yield from _fields(data.get(part) or {}, part.removeprefix("device"))


def _fields(data: Mapping[str, Any], name: str) -> Numbers:
    """Of a mapping that is no row of a table: every field is a figure of its own."""
    for field, value in data.items():
        figure = f"{name} {field}".replace("_", " ").replace("calibration", "").strip()
        figure = " ".join(figure.split())
        if field in _FITTED or isinstance(value, bool):
            continue
        if isinstance(value, (int, float)):
            yield figure, "", float(value)
        elif isinstance(value, dict):
            yield from _fields({str(key): each for key, each in value.items()}, figure)
        elif isinstance(value, (list, tuple)):
            for row in value:
                yield from _row(row, figure)


def _row(row: Any, figure: str) -> Numbers:
    """Of a table: texts, whole numbers and places say where it stands, the other numbers are what was measured."""
    if not isinstance(row, dict):
        return
    if "points" in row:  # shapes.Operation: sizes, then the seconds of each part, then their spread
        sizes, parts = len(row["sizes"]), row["parts"]
        for point in row["points"]:
            for part, seconds in zip(parts, point[sizes:], strict=False):
                yield f"{figure} {row['name']}", f"{point[:sizes]} {part}", float(seconds)
        return
    rows = {name: value for name, value in row.items() if name not in _FITTED}
    values = {name: value for name, value in rows.items() if isinstance(value, float) and name not in _PLACES}
    nested = {name: value for name, value in rows.items() if isinstance(value, (list, tuple)) and value}
    place = ", ".join(f"{name}={value}" for name, value in rows.items() if name not in {*values, *nested})
    yield from ((figure, f"{place}: {name}", value) for name, value in values.items())
    for name, inner in nested.items():
        for each in inner:
            yield from ((f"{figure} {name}", f"{place}; {at}", value) for _, at, value in _row(each, ""))


def _texts(before: Cluster, after: Cluster) -> Iterator[tuple[str, str, str]]:
    pairs = [("device", a.device.name, b.device.name) for a, b in _alike(before, after)]
    if before.measured and after.measured:
        a, b = before.measured, after.measured
        pairs += [("date", a.date, b.date), ("host", a.host, b.host), ("workers", str(a.workers), str(b.workers))]
        names = dict.fromkeys([*a.versions, *b.versions])
        pairs += [(name, a.versions.get(name, "unknown"), b.versions.get(name, "unknown")) for name in names]
        pairs += [("notes", str(len(a.notes)), str(len(b.notes)))]
    yield from ((name, one, other) for name, one, other in pairs if one != other)

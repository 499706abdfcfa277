"""What was measured of layers, data parallelism and the rest of a step, looked up for a configuration.

A layer of the same sizes under the same sharding, of the same sequences: as measured. Between two microbatches that
were measured: in proportion. Else what is computed by formula, times measured over formula of the nearest microbatch of
such a layer alone on its device. Layers that nobody measured cost what the formulas say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from operator import attrgetter
from statistics import median
from typing import TypeVar

from ...clusters.layer_times import Kind as Kind
from ...clusters.layer_times import LayerTime, LayerTimes, Size, TailTime, UnitTime
from .sharding import Sharding

Row = TypeVar("Row", UnitTime, TailTime)


def sizes_of(of: object, prefix: str = "") -> dict[str, Size]:
    """What describes a layer, or anything made of frozen dataclasses and plain values; what is unset is left out."""
    found: dict[str, Size] = {}
    assert is_dataclass(of)
    for field in fields(of):
        value = getattr(of, field.name)
        if is_dataclass(value):
            found |= sizes_of(value, f"{prefix}{field.name}.")
        elif value is not None and value is not False:
            found[prefix + field.name] = value
    return found


def head_sizes(hidden: int, vocab: int) -> dict[str, Size]:
    """What describes an end of a model: embedding, or norm, projection and loss."""
    return {"hidden": hidden, "vocab": vocab}


def sharding_sizes(sharding: Sharding) -> dict[str, Size]:
    """A sharding as a file names it: what is not as on one device, the microbatch apart."""
    plain = Sharding(microbatch=sharding.microbatch)
    names = (field.name for field in fields(Sharding))
    return {name: getattr(sharding, name) for name in names if getattr(sharding, name) != getattr(plain, name)}


@dataclass(frozen=True, slots=True)
class Leg:
    """Seconds of one layer and microbatch as measured; `split_s` is what splitting a backward adds to it."""

    forward_s: float
    backward_s: float
    weight_s: float
    split_s: float
    recompute_s: float
    kept_bytes: float
    recompute_kept_bytes: float

    def __add__(self, other: Leg) -> Leg:
        return Leg(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Leg)))

    def times(self, factor: float) -> Leg:
        return Leg(*(getattr(self, each.name) * factor for each in fields(Leg)))


def split_share(rows: Iterable[LayerTime]) -> float:
    """What splitting a backward adds, over the whole: the median of the microbatches of a layer, as each is the
    difference of two noisy times."""
    shares = [(row.input_s + row.weight_s) / row.backward_s - 1 for row in rows if row.input_s]
    return max(0.0, median(shares)) if shares else 0.0


def _leg(row: LayerTime, share: float) -> Leg:
    split_s = share * row.backward_s if row.input_s else 0.0
    times = row.forward_s, row.backward_s, row.weight_s, split_s, row.recompute_s
    return Leg(*times, row.kept_bytes, row.recompute_kept_bytes)


@dataclass(frozen=True, eq=False)
class Measured:
    """LayerTimes of a device, for one number format."""

    times: LayerTimes
    dtype: str

    def leg(self, kind: Kind, sizes: dict[str, Size], sharding: Sharding, seq_len: int) -> Leg | None:
        """As measured, or between two that were; None where there is nothing of the sort."""
        own = sharding_sizes(sharding)
        rows = [row for row in self._rows(kind, sizes) if row.sharding == own and row.seq_len == seq_len]
        rows.sort(key=lambda row: row.microbatch)
        added = split_share(rows)
        for row in rows:
            if row.microbatch == sharding.microbatch:
                return _leg(row, added)
        for low, high in pairwise(rows):
            if low.microbatch < sharding.microbatch < high.microbatch:
                share = (sharding.microbatch - low.microbatch) / (high.microbatch - low.microbatch)
                return _leg(low, added).times(1 - share) + _leg(high, added).times(share)
        return None

    def nearest(self, kind: Kind, sizes: dict[str, Size], tokens: float) -> LayerTime | None:
        """Of such a layer alone on its device the row with the most similar number of tokens."""
        rows = [row for row in self._rows(kind, sizes) if not row.sharding]
        return min(rows, key=lambda row: abs(row.microbatch * row.seq_len - tokens), default=None)

    def added_by_splitting(self, kind: Kind, sizes: dict[str, Size], row: LayerTime) -> float:
        """Of a row and its like with other microbatches."""
        alike = (each for each in self._rows(kind, sizes) if each.sharding == row.sharding)
        return split_share(each for each in alike if each.seq_len == row.seq_len)

    def _rows(self, kind: Kind, sizes: dict[str, Size]) -> list[LayerTime]:
        rows = self.times.layers
        return [row for row in rows if row.kind == kind and row.dtype == self.dtype and row.sizes == sizes]

    def unit(self, zero: int, ranks: int, parameters: float) -> UnitTime | None:
        """What data parallelism adds to a unit of so many parameters: on the line through the two nearest sizes."""
        rows = [row for row in self.times.units if row.zero == zero and row.ranks == ranks]
        if not rows:
            return None
        names = ("forward_s", "first_s", "backward_s", "last_s")
        at = {name: _line(rows, parameters, attrgetter(name)) for name in names}
        return rows[0].model_copy(update={"parameters": round(parameters), **at})

    def tail_s(self, sharded: bool, parameters: float) -> float | None:
        """Clipping, optimizer and what is fixed of a step."""
        rows = [row for row in self.times.tails if row.sharded == sharded] or list(self.times.tails)
        if not rows:
            return None
        fixed_s = sum(row.step_s for row in rows) / len(rows)
        return fixed_s + max(0.0, _line(rows, parameters, attrgetter("seconds")))

    def pace(self, busy: int, world: int) -> float:
        """Of a worker while so many of all workers compute over that while all do; 1 where nothing was measured. Fewer
        than were measured together are no faster than these."""
        known = self.times.pace
        return known[_count(known, busy)] if known and max(known) == world else 1.0

    def wake_s(self, busy: int, world: int) -> float:
        """Until a worker has begun with what another has sent, while so many compute; 0 where nothing was measured."""
        known = self.times.wake_s
        return known[_count(known, busy)] if known and max(known) == world else 0.0


def _count(known: Iterable[int], busy: int) -> int:
    """Of the numbers of workers that were measured the next one that is as large."""
    return min(count for count in known if count >= busy)


def _line(rows: Iterable[Row], parameters: float, of: Callable[[Row], float]) -> float:
    """Linear between sizes that were measured; beyond, along the line of the two outermost, in proportion where there
    is but one."""
    known = sorted({row.parameters: row for row in rows}.values(), key=lambda row: row.parameters)
    if len(known) == 1:
        return of(known[0]) * parameters / max(1, known[0].parameters)
    low, high = _around(known, parameters)
    share = (parameters - low.parameters) / (high.parameters - low.parameters)
    return of(low) + share * (of(high) - of(low))


def _around(known: Sequence[Row], parameters: float) -> tuple[Row, Row]:
    pairs = list(pairwise(known))
    return next((pair for pair in pairs if parameters <= pair[1].parameters), pairs[-1])

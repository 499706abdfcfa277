"""Small and random instances, and a solver that tries everything."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import strategies as st

from meshwright.planner.lengths.instance import Instance


def instance(
    lengths: list[int],
    lanes: int = 4,
    capacity: int = 64,
    linear: tuple[float, float] = (1.0, 0.25),
    quadratic: float = 0.02,
    exchange: float = 0.5,
    floor_s: float = 0.0,
    bend: float = 0.0,
) -> Instance:
    """Attention grows with the square of a length and is shared out; a group of several lanes pays for its exchange.
    `bend` makes the cost of tokens concave in its middle."""
    degrees = tuple(1 << power for power in range(lanes.bit_length()) if lanes % (1 << power) == 0)
    sizes = np.array(lengths, dtype=np.int64)
    knots = np.array([1.0, capacity / 2, float(capacity)])
    heights = linear[0] + linear[1] * knots + np.array([0.0, bend, 0.0])
    return Instance(
        lanes=lanes,
        degrees=degrees,
        capacity=np.full(len(degrees), capacity, dtype=np.int64),
        tokens=np.stack([-(-sizes // degree) for degree in degrees], axis=1),
        core_s=np.stack(
            [quadratic * sizes.astype(float) ** 2 / d + exchange * (d - 1) * (1 + 0.01 * sizes / d) for d in degrees], 1
        ),
        knots=knots,
        linear_s=np.maximum.accumulate(heights),
        floor_s=floor_s,
    )


@st.composite
def instances(draw: st.DrawFn, most: int = 24) -> Instance:
    """Of up to `most` sequences, short ones more often."""
    lanes = draw(st.sampled_from([1, 2, 4, 6, 8]))
    widest = max(1 << power for power in range(4) if lanes % (1 << power) == 0)
    capacity = draw(st.sampled_from([16, 64]))
    short, long = st.integers(1, capacity // 4), st.integers(1, capacity * widest)
    return instance(
        draw(st.lists(st.one_of(short, short, long), max_size=most)),
        lanes,
        capacity,
        (draw(st.floats(0, 3)), draw(st.floats(0.01, 1))),
        draw(st.floats(0, 0.1)),
        draw(st.floats(0, 3)),
        draw(st.sampled_from([0.0, 2.0])),
        draw(st.sampled_from([0.0, 1.0])),
    )


def by_trying_everything(one: Instance) -> float:
    """Seconds of the best assignment: every partition of the sequences into rounds, of each round into groups, and
    every degree of each group."""
    return min(
        (sum(_round_s(one, part) for part in partition) for partition in _partitions(list(range(one.count)))),
        default=0.0,
    )


def _round_s(one: Instance, members: list[int]) -> float:
    return min(_groups_s(one, partition, one.lanes) for partition in _partitions(members))


def _groups_s(one: Instance, groups: list[list[int]], lanes: int) -> float:
    """The best degrees for given groups."""
    if not groups:
        return 0.0
    found = [float("inf")]
    for place, degree in enumerate(one.degrees):
        tokens = one.tokens[groups[0], place].sum()
        if degree <= lanes and tokens <= one.capacity[place]:
            seconds = float(one.seconds(tokens, one.core_s[groups[0], place].sum()))
            found.append(max(seconds, _groups_s(one, groups[1:], lanes - degree)))
    return min(found)


def _partitions(members: list[int]) -> Iterator[list[list[int]]]:
    """All set partitions."""
    if not members:
        yield []
        return
    first, rest = members[0], members[1:]
    for partition in _partitions(rest):
        yield [[first], *partition]
        for place in range(len(partition)):
            yield [*partition[:place], [first, *partition[place]], *partition[place + 1 :]]

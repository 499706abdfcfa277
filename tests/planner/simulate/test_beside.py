"""Collectives beside compute in one action: closed forms against an event-by-event play of every piece."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.simulate.beside import (
    gathered_and_reduced,
    gathered_before,
    gathered_beside,
    reduced_beside,
    slowed,
)

seconds = st.floats(0.01, 5.0)
CASE = {
    "begin": st.floats(0, 8),
    "data": st.floats(0, 12),
    "pieces": st.integers(1, 6),
    "layer": seconds,
    "gather": seconds,
    "reduce": seconds,
    "steal": st.sampled_from([0.0, 0.1, 0.5, 0.9]),
}


@dataclass
class Piece:
    """Work on one of the two streams; it starts when `after` have ended and `beside` have started."""

    name: str
    work: float
    after: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    released: float = 0.0


@dataclass
class Play:
    """Two queues, each in order, one piece at a time; compute goes at 1 - steal while data is busy."""

    compute: list[Piece]
    data: list[Piece]
    steal: float
    started: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)

    def run(self) -> dict[str, float]:
        queues, left, now = [self.compute, self.data], [0.0, 0.0], 0.0
        running: list[Piece | None] = [None, None]
        while any(queues) or any(running):
            while any(self._start(queues[i], running, left, i, now) for i in (0, 1)):
                pass
            rates = [1 - self.steal if running[1] else 1.0, 1.0]
            finish = [now + left[i] / rates[i] if running[i] else float("inf") for i in (0, 1)]
            releases = [queue[0].released for queue in queues if queue and queue[0].released > now]
            later = min(*finish, *releases)
            for i in (0, 1):
                if running[i] and finish[i] == later:
                    self.ended[running[i].name] = later  # type: ignore[union-attr]
                    running[i] = None
                elif running[i]:
                    left[i] -= (later - now) * rates[i]
            now = later
        return self.ended

    def _start(self, queue: list[Piece], running: list[Piece | None], left: list[float], i: int, now: float) -> bool:
        if running[i] or not queue or queue[0].released > now:
            return False
        if not (set(queue[0].after) <= set(self.ended) and set(queue[0].beside) <= set(self.started)):
            return False
        running[i] = piece = queue.pop(0)
        left[i], self.started[piece.name] = piece.work, now
        return True


def layers(case, after=None) -> list[Piece]:
    """c1 .. cn, each after what `after` names."""
    return [
        Piece(f"c{k}", case["layer"], (after(k),) if after and after(k) else (), (), case["begin"])
        for k in range(1, case["pieces"] + 1)
    ]


def earlier(case) -> list[Piece]:
    """What the stream is still busy with."""
    return [Piece("earlier", case["data"])] if case["data"] else []


def close(value: float) -> object:
    return pytest.approx(value, rel=1e-9)


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(CASE))
def test_reductions_follow_their_layers(case):
    count = case["pieces"]
    reductions = [Piece(f"r{k}", case["reduce"], (f"c{k}",)) for k in range(1, count + 1)]
    ended = Play(layers(case), earlier(case) + reductions, case["steal"]).run()
    ran = reduced_beside(
        case["begin"], count * case["layer"], count, count * case["reduce"], case["data"], case["steal"]
    )
    assert (ran.end_s, ran.data_end_s) == (close(ended[f"c{count}"]), close(ended[f"r{count}"]))


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(CASE), st.floats(0, 6))
def test_gathers_of_the_steps_start_run_ahead(case, others):
    """Earlier stages gather before it, later ones after it."""
    count, data = case["pieces"], case["data"]
    gathers = [Piece(f"g{k}", case["gather"]) for k in range(1, count + 1)]
    ended = Play(layers(case, lambda k: f"g{k}"), [*earlier(case), *gathers, Piece("others", others)], case["steal"])
    whole = data + count * case["gather"]
    _, end = gathered_before(
        case["begin"],
        count * case["layer"],
        count,
        data + case["gather"],
        whole,
        whole + others,
        case["steal"],
    )
    assert end == close(ended.run()[f"c{count}"])


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(CASE))
def test_forwards_gather_one_layer_ahead(case):
    count = case["pieces"]
    gathers = [
        Piece(f"g{k}", case["gather"], (), (f"c{k - 1}",) if k > 1 else (), case["begin"]) for k in range(1, count + 1)
    ]
    ended = Play(layers(case, lambda k: f"g{k}"), earlier(case) + gathers, case["steal"]).run()
    ran = gathered_beside(
        case["begin"], count * case["layer"], count, count * case["gather"], case["data"], case["steal"]
    )
    assert (ran.end_s, ran.data_end_s) == (close(ended[f"c{count}"]), close(ended[f"g{count}"]))


@settings(max_examples=150, deadline=None)
@given(st.fixed_dictionaries(CASE))
def test_backwards_gather_ahead_and_reduce(case):
    """g1 g2 r1 g3 r2 ... gn r(n-1) rn; the first layer needs no gather."""
    count = case["pieces"]
    stream = [Piece("g1", case["gather"], (), (), case["begin"])]
    for k in range(1, count + 1):
        if k < count:
            stream.append(Piece(f"g{k + 1}", case["gather"], (), (f"c{k}",)))
        stream.append(Piece(f"r{k}", case["reduce"], (f"c{k}",)))
    compute = layers(case, lambda k: f"g{k}" if k > 1 else None)
    ended = Play(compute, earlier(case) + stream, case["steal"]).run()
    whole = [count * case[name] for name in ("layer", "gather", "reduce")]
    ran = gathered_and_reduced(case["begin"], whole[0], count, whole[1], whole[2], case["data"], case["steal"])
    assert (ran.end_s, ran.data_end_s) == (close(ended[f"c{count}"]), close(ended[f"r{count}"]))


def test_a_collective_in_flight_slows_compute():
    assert slowed(2.0, 3.0, 1.0, 0.5) == 5.0
    assert slowed(2.0, 3.0, 4.0, 0.5) == 6.0  # two seconds at half pace do one
    assert slowed(2.0, 3.0, 99.0, 0.5) == 8.0
    assert slowed(2.0, 3.0, 99.0, 0.0) == 5.0

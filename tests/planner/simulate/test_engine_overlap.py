"""A whole step with its collectives against the longest path over every layer's piece, and against closed forms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.schedule import Action, Schedule, gpipe, interleaved, make, one_forward_one_backward
from meshwright.planner.simulate.engine import makespan, run, step_time
from meshwright.planner.simulate.work import Slowness, Work

seconds = st.floats(0.01, 5.0)


@dataclass
class Pieces:
    """The graph of a step: nodes are pieces of actions and collectives, transfers; an edge weighs what it leaves."""

    work: Work
    graph: networkx.DiGraph = field(default_factory=networkx.DiGraph)
    seconds: dict[object, float] = field(default_factory=dict)
    stream: dict[int, object] = field(default_factory=dict)  # last on each data stream
    computed: dict[int, object] = field(default_factory=dict)  # last that each rank computes
    links: dict[tuple[int, str], object] = field(default_factory=dict)

    def add(self, node: object, seconds: float, after: Iterable[object]) -> object:
        self.seconds[node] = seconds
        self.graph.add_edge("start", node, weight=0.0)
        for each in after:
            if each is not None:
                self.graph.add_edge(each, node, weight=self.seconds[each])
        return node

    def on_stream(self, rank: int, node: object, seconds: float, after: Iterable[object]) -> object:
        self.stream[rank] = self.add(node, seconds, [*after, self.stream.get(rank)])
        return node

    def longest_s(self) -> float:
        for node, seconds in self.seconds.items():
            self.graph.add_edge(node, "end", weight=seconds)
        return float(networkx.dag_longest_path_length(self.graph))


def reduced_by_pieces(schedule: Schedule, work: Work) -> float:
    """When the last gradient is reduced."""
    pieces = Pieces(work)
    firsts, lasts = first_and_last(schedule)
    if work.zero < 3:
        for stage in range(schedule.stages):
            for k in range(work.pieces[stage]):
                each = work.gather_s[stage] / work.pieces[stage]
                pieces.on_stream(stage % schedule.ranks, ("gather", stage, k), each, ())
    for action in schedule.order:
        rank = action.stage % schedule.ranks
        ahead = action.stage + (-1 if action.kind == "F" else 1)
        inputs = ("send", action.kind, ahead, action.microbatch)
        ready = ("ready", *action)
        pieces.add(ready, 0.0, [pieces.computed.get(rank), inputs if inputs in pieces.seconds else None])
        collect = action in firsts if action.kind == "F" else action in lasts or work.zero >= 2
        compute_pieces(pieces, rank, action, ready, collect)
        target = action.stage + (1 if action.kind == "F" else -1)
        if 0 <= target < schedule.stages:
            send, link = ("send", *action), (rank, action.kind)
            hop_s = work.transfer_s if schedule.ranks > 1 else 0.0
            pieces.links[link] = pieces.add(send, hop_s, [pieces.computed[rank], pieces.links.get(link)])
    return pieces.longest_s()


def first_and_last(schedule: Schedule) -> tuple[set[Action], set[Action]]:
    """The first forward and the last backward of every stage."""
    forwards = {action.stage: action for row in schedule.actions for action in reversed(row) if action.kind == "F"}
    backwards = {action.stage: action for row in schedule.actions for action in row if action.kind == "B"}
    return set(forwards.values()), set(backwards.values())


def compute_pieces(pieces: Pieces, rank: int, action: Action, ready: object, collect: bool) -> None:
    """The pieces of one action, with its collectives in the order that they take on the stream."""
    work, count = pieces.work, pieces.work.pieces[action.stage]
    times = work.forward_s if action.kind == "F" else work.backward_s
    gather, reduce = work.gather_s[action.stage] / count, work.reduce_s[action.stage] / count
    always = work.zero == 3

    def gathered(k: int, after: object) -> None:
        if always and k < count:
            pieces.on_stream(rank, ("gather", *action, k), gather, [after])

    gathered(0, ready)
    for k in range(count):
        needs = [ready, pieces.computed.get(rank)]
        if always and (action.kind == "F" or k):
            needs.append(("gather", *action, k))
        elif action.kind == "F" and collect and not always:
            needs.append(("gather", action.stage, k))
        begun = pieces.add(("begun", *action, k), 0.0, needs)
        gathered(k + 1, begun)
        pieces.computed[rank] = pieces.add(("compute", *action, k), times[action.stage] / count, [begun])
        if action.kind == "B" and collect:
            pieces.on_stream(rank, ("reduce", *action, k), reduce, [pieces.computed[rank]])


@st.composite
def steps(draw: st.DrawFn) -> tuple[Schedule, Work]:
    name = draw(st.sampled_from(["gpipe", "1f1b", "interleaved"]))
    ranks, groups = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    schedule = make(name, ranks, groups * ranks, draw(st.integers(2, 3)) if name == "interleaved" else 1)
    each = st.lists(seconds, min_size=schedule.stages, max_size=schedule.stages).map(tuple)
    layers = st.lists(st.integers(1, 4), min_size=schedule.stages, max_size=schedule.stages).map(tuple)
    return schedule, Work(
        draw(each),
        draw(each),
        draw(st.floats(0, 3)),
        gather_s=draw(each),
        reduce_s=draw(each),
        pieces=draw(layers),
        zero=draw(st.integers(0, 3)),
    )


@settings(max_examples=150, deadline=None)
@given(steps())
def test_a_step_is_the_longest_path_through_its_pieces(step: tuple[Schedule, Work]) -> None:
    schedule, work = step
    found, timeline = step_time(schedule, work), run(schedule, work)
    assert timeline.reduced_s == pytest.approx(reduced_by_pieces(schedule, work), rel=1e-9)
    assert found.pipeline_s + found.exposed_s == pytest.approx(timeline.reduced_s, rel=1e-9)
    assert found.pipeline_s == pytest.approx(makespan(schedule, replace(work, gather_s=(), reduce_s=())), rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(steps(), st.sampled_from([0.1, 0.5]), st.booleans())
def test_streams_do_one_thing_at_a_time_and_spans_end_with_the_step(
    step: tuple[Schedule, Work], steal: float, hides: bool
) -> None:
    schedule, work = step
    ranks = schedule.ranks
    work = replace(work, steal=steal, hides=hides, tied_s=0.3, optimizer_s=(0.2,) * ranks, offload_s=(0.1,) * ranks)
    timeline = run(schedule, work)
    assert timeline.step_s == pytest.approx(step_time(schedule, work).total_s, rel=1e-9)
    assert max(span.end_s for span in timeline.spans) == pytest.approx(timeline.step_s, rel=1e-12)
    lanes: dict[object, float] = {}
    for span in timeline.spans:
        lane = span.rank, span.stream, span.stream == "pipeline" and span.action and span.action.kind
        assert span.start_s >= lanes.get(lane, 0.0) - 1e-9
        assert span.end_s >= span.start_s
        lanes[lane] = span.end_s


@settings(max_examples=60, deadline=None)
@given(steps(), st.floats(0.05, 0.9))
def test_what_overlap_steals_is_bounded_by_what_is_in_flight(step: tuple[Schedule, Work], steal: float) -> None:
    """Alone, a rank loses at most the share that overlap takes, and never gains."""
    schedule, work = step
    free, slowed = step_time(schedule, work), step_time(schedule, replace(work, steal=steal))
    assert free.total_s <= slowed.total_s * (1 + 1e-12)
    assert slowed.total_s <= free.total_s / (1 - steal) * (1 + 1e-12)


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(1, 6), count=st.integers(1, 12), layers=st.integers(1, 8), hidden=st.floats(0, 1))
def test_with_equal_stages_one_layer_is_exposed_at_each_end(ranks: int, count: int, layers: int, hidden: float) -> None:
    """(m + p - 1)(f + b), and the first gather and the last reduction of rank 0, where each fits beside a layer."""
    forward, backward = 2.0, 4.0
    gather, reduce = hidden * forward, hidden * backward
    for name in ("gpipe", "1f1b"):
        schedule = make(name, ranks, count)
        stages = [(each,) * ranks for each in (forward, backward, gather, reduce)]
        work = Work(stages[0], stages[1], 0.0, stages[2], stages[3], (layers,) * ranks)
        closed = (count + ranks - 1) * (forward + backward)
        found = step_time(schedule, work)
        assert found.pipeline_s == pytest.approx(closed, rel=1e-9)
        assert found.exposed_s == pytest.approx((gather + reduce) / layers, rel=1e-9, abs=1e-9)


def test_reductions_of_interleaved_stages_hide_behind_the_stages_after_them() -> None:
    """Only the last stage's reduction is left over, of one layer; in 1F1B as much work reduces all at once."""
    exposed = []
    for schedule in (one_forward_one_backward(4, 8), interleaved(4, 8, 4)):
        stages = schedule.stages
        work = Work((16 / stages,) * stages, (32 / stages,) * stages, reduce_s=(48 / stages,) * stages, zero=0)
        exposed.append(step_time(schedule, work).exposed_s)
    assert exposed == pytest.approx([12.0, 3.0])


def test_zero_three_by_hand() -> None:
    """Two layers of forward 4 and backward 6, gathers of 1, reductions of 2, two microbatches."""
    work = Work((8.0,), (12.0,), 0.0, (2.0,), (4.0,), (2,), zero=3)
    found = step_time(one_forward_one_backward(1, 2), work)
    assert found.pipeline_s == 40.0
    assert found.exposed_s == 2 * (1.0 + 2.0)  # the first gather of each forward, the last reduction of each backward
    slower = step_time(one_forward_one_backward(1, 2), replace(work, gather_s=(20.0,)))
    # Forward: both gathers and a layer. Backward: both gathers, the second layer, its reduction.
    assert slower.exposed_s == 2 * ((20.0 + 4.0 - 8.0) + (20.0 + 6.0 + 2.0 - 12.0))


def test_what_cannot_hide_takes_its_whole_time() -> None:
    """Forward 3, backward 5, gather 2, reduce 4, three microbatches."""
    work = Work((3.0,), (5.0,), 0.0, (2.0,), (4.0,), (2,), hides=False)
    for zero, exposed in ((0, 2.0 + 4.0), (1, 2.0 + 4.0), (2, 2.0 + 3 * 4.0), (3, 3 * (2 * 2.0 + 4.0))):
        found = step_time(one_forward_one_backward(1, 3), replace(work, zero=zero))
        assert (found.pipeline_s, found.exposed_s) == (24.0, pytest.approx(exposed))


def test_the_norm_of_the_gradients_is_a_barrier() -> None:
    """The slowest optimizer and its offload follow the last gradient, whichever rank made it."""
    work = Work((1.0, 1.0), (1.0, 1.0), tied_s=0.5, optimizer_s=(0.1, 0.3), offload_s=(0.9, 0.2))
    timeline = run(gpipe(2, 1), work)
    assert (timeline.makespan_s, timeline.reduced_s, timeline.step_s) == (4.0, 4.5, 5.5)
    found = step_time(gpipe(2, 1), work)
    assert (found.exposed_s, found.optimizer_s, found.offload_s) == pytest.approx((0.5, 0.3, 0.7))


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(2, 6), count=st.integers(1, 8), place=st.integers(0, 5), factor=st.floats(1, 4))
def test_a_slow_rank_of_gpipe(ranks: int, count: int, place: int, factor: float) -> None:
    """A line of machines of which one is slower: each microbatch passes all, and waits for the slow one."""
    slow = Slowness(ranks=tuple(factor if rank == place % ranks else 1.0 for rank in range(ranks)))
    work = Work((2.0,) * ranks, (4.0,) * ranks, optimizer_s=(1.0,) * ranks, slow=slow)
    found = step_time(gpipe(ranks, count), work)
    assert found.pipeline_s == pytest.approx((ranks - 1 + count * factor) * 6.0, rel=1e-9)
    assert found.optimizer_s == factor


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(2, 6), count=st.integers(1, 8), place=st.integers(0, 4), factor=st.floats(1, 8))
def test_a_slow_link_of_gpipe(ranks: int, count: int, place: int, factor: float) -> None:
    """Transfers cross a link one at a time: it counts as one more machine in the line, both ways."""
    place %= ranks - 1
    slow = Slowness(links=tuple(factor if rank == place else 1.0 for rank in range(ranks)))
    work = Work((2.0,) * ranks, (4.0,) * ranks, 1.0, slow=slow)
    through = ranks * 6.0 + 2 * (ranks - 2 + factor)
    closed = through + (count - 1) * (max(2.0, factor) + max(4.0, factor))
    assert makespan(gpipe(ranks, count), work) == pytest.approx(closed, rel=1e-9)


def test_a_slow_network_card_slows_its_ranks_collectives() -> None:
    work = Work((1.0, 1.0), (1.0, 1.0), reduce_s=(0.5, 0.5), zero=0)
    assert step_time(gpipe(2, 1), work).exposed_s == 0.5
    slow = Slowness(data=(1.0, 6.0))
    assert step_time(gpipe(2, 1), replace(work, slow=slow)).exposed_s == 2.0  # rank 1 began one second earlier


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gather_s": (1.0,)}, "gather_s must have one value for each of 2 stages, not 1"),
        ({"slow": Slowness(ranks=(1.0,) * 3)}, "slow.ranks must have one value for each of 2 ranks, not 3"),
        ({"steal": 1.0}, "steal must be at least 0 and below 1"),
    ],
)
def test_work_must_match_the_schedule(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(gpipe(2, 1), replace(Work((1.0, 1.0), (1.0, 1.0)), **changes))  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(1, 4), microbatches=st.integers(1, 8), reduce_s=seconds, slow=st.floats(1.0, 3.0))
def test_reductions_that_nothing_hides_follow_the_last_backward(
    ranks: int, microbatches: int, reduce_s: float, slow: float
) -> None:
    """Rank 0 ends last in 1F1B: all of its reduction is seen, and of a slower rank's what ends later."""
    schedule = one_forward_one_backward(ranks, microbatches)
    work = Work((1.0,) * ranks, (2.0,) * ranks, late_reduce_s=(reduce_s,) * ranks, optimizer_s=(0.5,) * ranks)
    assert step_time(schedule, work).exposed_s == pytest.approx(reduce_s, rel=1e-9)
    assert run(schedule, work).step_s == pytest.approx(step_time(schedule, work).total_s, rel=1e-9)
    straggler = replace(work, slow=Slowness(data=(1.0,) * (ranks - 1) + (slow,)))
    late = max(reduce_s, slow * reduce_s - 2.0 * (ranks - 1)) if ranks > 1 else slow * reduce_s
    assert step_time(schedule, straggler).exposed_s == pytest.approx(late, rel=1e-9)

"""Cards that several things want at once: small cases by hand, a plain player that looks at everything again at every
moment, and what sharing can and cannot do to any step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fluid import seconds_of
from hypothesis import given, settings
from hypothesis import strategies as st
from schedules import schedules

from meshwright.planner.schedule import Schedule, gpipe, one_forward_one_backward
from meshwright.planner.simulate.engine import makespan, play, run, step_time, total_s
from meshwright.planner.simulate.work import CardShares, Passes, Work

seconds = st.floats(0.01, 5.0)
shares = st.sampled_from([0.0, 0.3, 0.6, 1.0])


def all_of_it(ranks: int, data: float = 0.0) -> CardShares:
    return CardShares(borders=((1.0, 1.0),) * ranks, data=(data,) * ranks)


@st.composite
def steps(draw: st.DrawFn, most_ranks: int = 4, most_microbatches: int = 6) -> tuple[Schedule, Work]:
    """Any schedule, any work, any use of cards."""
    schedule = draw(schedules(most_ranks=most_ranks, most_microbatches=most_microbatches))
    stages, ranks = schedule.stages, schedule.ranks
    each = st.lists(seconds, min_size=stages, max_size=stages).map(tuple)
    zero = draw(st.integers(0, 3))
    cards = CardShares(
        borders=tuple((draw(shares), draw(shares)) for _ in range(ranks)),
        data=tuple(draw(shares) for _ in range(ranks)),
    )
    late = zero < 2 and draw(st.booleans())
    work = Work(
        draw(each),
        draw(each),
        draw(st.floats(0.01, 3)),
        gather_s=draw(each) if zero else (),
        reduce_s=() if late else draw(each),
        late_reduce_s=(1.5,) * ranks if late else (),
        pieces=(draw(st.integers(1, 4)),) * stages,
        zero=zero,
        hides=draw(st.booleans()),
        steal=draw(st.sampled_from([0.0, 0.2])),
        input_s=draw(each),
        weight_s=draw(each),
        passes=Passes(embed_s=0.1, logits_s=0.3, gradients_s=0.2, cast_s=0.2, reduce_s=0.1, exchange_s=0.05),
        cards=cards,
    )
    return schedule, work


@settings(max_examples=60, deadline=None)
@given(steps())
def test_the_plain_player_takes_as_long(step: tuple[Schedule, Work]) -> None:
    schedule, work = step
    work = replace(work, hides=False, late_reduce_s=(), passes=None)
    if not schedule.spread:
        assert max(play(schedule, work).done_s) == pytest.approx(seconds_of(schedule, work), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(steps())
def test_where_there_is_room_for_all_it_is_the_usual_interpreter(step: tuple[Schedule, Work]) -> None:
    """Two borders and a collective over one card: a fifth each."""
    schedule, work = step
    tiny = CardShares(borders=((0.2, 0.2),) * schedule.ranks, data=(0.2,) * schedule.ranks)
    roomy, usual = (play(schedule, replace(work, cards=cards)) for cards in (tiny, None))
    assert roomy.starts_s == pytest.approx(usual.starts_s, rel=1e-9)
    assert roomy.ends_s == pytest.approx(usual.ends_s, rel=1e-9)
    assert roomy.done_s == pytest.approx(usual.done_s, rel=1e-9)
    stays = [sorted((each.rank, each.start_s, each.end_s) for each in played.collectives) for played in (roomy, usual)]
    assert np.array(stays[0]) == pytest.approx(np.array(stays[1]), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(steps())
def test_sharing_makes_nothing_faster_and_no_pace_less_than_an_equal_part(step: tuple[Schedule, Work]) -> None:
    """Over one direction of a card go at most what comes over two borders, and a collective."""
    schedule, work = step
    work = replace(work, hides=False, steal=0.0)
    if len(schedule.links) > 3 * schedule.ranks:
        return
    alone, shared = (total_s(schedule, replace(work, cards=cards)) for cards in (None, work.cards))
    thrice = {
        name: tuple(3 * each for each in getattr(work, name)) for name in ("gather_s", "reduce_s", "late_reduce_s")
    }
    slow = total_s(schedule, replace(work, **thrice, transfer_s=3 * work.transfer_s, cards=None))
    assert alone * (1 - 1e-9) <= shared <= slow * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(steps())
def test_sharing_makes_nothing_faster_beside_compute(step: tuple[Schedule, Work]) -> None:
    schedule, work = step
    work = replace(work, hides=True)
    alone, shared = (play(schedule, replace(work, cards=cards)) for cards in (None, work.cards))
    assert all(a <= b * (1 + 1e-9) for a, b in zip(alone.ends_s, shared.ends_s, strict=True))
    assert all(a <= b * (1 + 1e-9) for a, b in zip(alone.done_s, shared.done_s, strict=True))


@settings(max_examples=40, deadline=None)
@given(ranks=st.integers(2, 8), microbatches=st.integers(1, 24), transfer_s=st.floats(0.001, 1.0))
def test_gpipe_with_transfers_that_never_meet(ranks: int, microbatches: int, transfer_s: float) -> None:
    work = Work((1.0,) * ranks, (2.0,) * ranks, transfer_s, cards=all_of_it(ranks))
    closed = (microbatches + ranks - 1) * 3.0 + 2 * (ranks - 1) * transfer_s
    assert step_time(gpipe(ranks, microbatches), work).pipeline_s == pytest.approx(closed, rel=1e-9)


def test_both_directions_of_a_card_are_apart() -> None:
    """Two ranks: what goes forwards never meets what comes back."""
    work = Work((1.0, 1.0), (1.0, 1.0), 0.9)
    schedule = one_forward_one_backward(2, 12)
    assert makespan(schedule, replace(work, cards=all_of_it(2))) == makespan(schedule, work)


@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize(("share", "step_s"), [(1.0, 6.5), (0.5, 6.0)])
def test_the_last_gradient_leaves_beside_the_reduction(hides: bool, share: float, step_s: float) -> None:
    """Rank 1 ends at 3.5. Its message (0.5) and its reduction (1.0) share the card until 4.5; rank 0 computes until
    5.5, and reduces until 6.5. Where there is room for both nothing waits."""
    cards = CardShares(borders=((share, share),) * 2, data=(share,) * 2)
    work = Work((1.0, 1.0), (1.0, 1.0), 0.5, reduce_s=(1.0, 1.0), pieces=(1, 1), hides=hides, cards=cards)
    found = run(gpipe(2, 1), work)
    assert found.step_s == pytest.approx(step_s)
    reduced = next(span for span in found.spans if span.name == "reduce" and span.rank == 1)
    assert (reduced.start_s, reduced.end_s) == pytest.approx((3.5, 5.0 if share == 1.0 else 4.5))


@pytest.mark.parametrize("hides", [True, False])
def test_a_late_reduction_shares_the_card_too(hides: bool) -> None:
    work = Work((1.0, 1.0), (1.0, 1.0), 0.5, late_reduce_s=(1.0, 1.0), hides=hides, cards=all_of_it(2, 1.0))
    assert total_s(gpipe(2, 1), work) == pytest.approx(6.5)


def test_weights_that_come_beside_an_activation() -> None:
    """Rank 0 computes until 1.0; from then on its message (0.5) and what rank 1 gathers (2.0) share the card of rank 1:
    the one is there at 2.0, the other at 2.5, when rank 1 begins."""
    work = Work((1.0, 1.0), (1.0, 1.0), 0.5, gather_s=(0.0, 2.0), pieces=(1, 1), cards=all_of_it(2, 1.0))
    begins = {str(span.action): span.start_s for span in run(gpipe(2, 1), work).of("compute")}
    assert begins["F s1 m0"] == pytest.approx(2.5)


def test_a_rank_in_the_middle_sends_both_ways_at_its_own_pace() -> None:
    """Ranks 0 and 2 have wider cards: a message to or from rank 1 takes a quarter of theirs, and two of them at once
    half as much each."""
    borders = ((0.25, 1.0), (1.0, 0.25), (0.25, 0.25))
    work = Work((1.0,) * 3, (1.0,) * 3, 3.0, cards=CardShares(borders=borders, data=(0.0,) * 3))
    found = run(one_forward_one_backward(3, 4), work)
    taken = [span.end_s - span.start_s for span in found.of("pipeline")]
    assert min(taken) >= 3.0 - 1e-9
    assert 3.0 + 1e-9 < max(taken) <= 6.0 + 1e-9
    assert found.makespan_s > makespan(one_forward_one_backward(3, 4), replace(work, cards=None))


def test_a_border_that_nothing_crosses() -> None:
    """Cards are taken only between the last rank and the first, where 1F1B sends nothing."""
    cards = CardShares(borders=((0.0, 0.0), (1.0, 1.0)))
    work = Work((1.0, 1.0), (1.0, 1.0), 0.5)
    assert makespan(gpipe(2, 3), replace(work, cards=cards)) == makespan(gpipe(2, 3), work)


def test_short_traffic_does_not_make_a_long_gather_look_slow_for_good() -> None:
    """Rank 1 gathers for 10 s; messages of 0.1 s cross it one behind the other, the second still on its way when the
    forward begins that waits for the weights."""
    work = Work((1.0, 1.0), (1.0, 1.0), 0.1, gather_s=(0.0, 10.0), pieces=(1, 1), cards=all_of_it(2, 1.0))
    work = replace(work, forward_s=(0.05, 1.0))
    begins = {str(span.action): span.start_s for span in run(gpipe(2, 4), work).of("compute")}
    assert 10.0 < begins["F s1 m0"] <= 10.0 + 4 * 0.1


@pytest.mark.parametrize("cards", [CardShares(borders=((1.0, 1.1),) * 2), CardShares(data=(-0.1, 0.0))])
def test_shares_are_shares(cards: CardShares) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        play(gpipe(2, 1), Work((1.0, 1.0), (1.0, 1.0), cards=cards))


def test_one_share_a_rank() -> None:
    with pytest.raises(ValueError, match=r"cards.borders must have one value for each of 2 ranks, not 1"):
        play(gpipe(2, 1), Work((1.0, 1.0), (1.0, 1.0), cards=CardShares(borders=((1.0, 1.0),))))

"""Tokens of a sequence, split over tensor-parallel ranks by what their ids foretell."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.shuffle import Forecast, Sent, aligned, fit, homes, measure, settled, split
from meshwright.planner.experts.token_homes import ANYWHERE
from meshwright.planner.experts.trace import Trace

RANK_OF = np.repeat(np.arange(4), 2)[None]  # one layer, eight experts


def of_ids(ids: np.ndarray, layers: int = 1) -> Trace:
    """A token of id i always visits the two experts of rank i."""
    both = np.stack([2 * ids, 2 * ids + 1], 1)
    return Trace(np.repeat(both[:, None], layers, 1).astype(np.uint8), 8)


def test_what_ids_decide_stays_at_home():
    ids = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 64))
    trace = of_ids(ids)
    copies = measure(trace, ids, RANK_OF, [(0, 1, 2, 3)], 256, fit(trace, ids, RANK_OF, 4))
    assert copies.homes == copies.forecast == copies.known == 0.0
    assert copies.in_order == pytest.approx(0.75, abs=0.1)
    assert copies.saved == 1.0


def test_groups_take_sequences_in_turn():
    """Two groups of two ranks: of the tokens of a sequence half visit ranks of the other group, and are sent there."""
    ids = np.tile(np.arange(4), 64)
    trace = of_ids(ids)
    copies = measure(trace, ids, RANK_OF, [(0, 1), (2, 3)], 128, fit(trace, ids, RANK_OF, 4))
    assert (copies.in_order, copies.homes, copies.forecast, copies.known) == (0.75, 0.5, 0.5, 0.5)


def test_an_id_that_was_never_seen_is_as_the_mean_token():
    ids = np.array([0, 0, 1, 3])
    by = fit(of_ids(ids), ids, RANK_OF, 4)
    mean = np.array([2, 1, 0, 1]) / 4
    np.testing.assert_allclose(by.of(np.array([2, 9])), [mean, mean])
    np.testing.assert_allclose(by.of(np.array([0])), [(np.array([2, 0, 0, 0]) + mean) / 3])


@settings(deadline=None)
@given(st.integers(1, 4), st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=12))
def test_parts_are_equal_and_a_repetition_is_too(parts, rows):
    share = np.array(rows)[:, :parts]
    part = split(share)
    counts = np.bincount(part, minlength=parts)
    assert counts.max() - counts.min() <= 1
    assert np.array_equal(part, split(share))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=2, max_size=6).filter(
        lambda r: len(r) % 2 == 0
    )
)
def test_two_parts_are_split_as_well_as_by_any_split(rows):
    """Who has most to lose chooses first: of two parts that is the best there is, by trying all."""
    share = np.array(rows) / 100
    each = len(rows) // 2
    whole = {tuple(order) for order in permutations([0] * each + [1] * each)}
    best = max(sum(share[token, part] for token, part in enumerate(parts)) for parts in whole)
    assert share[np.arange(len(rows)), split(share)].sum() == pytest.approx(best)


def test_aligned_ranks_hold_what_they_held_and_more_stays():
    """Every layer names the ranks of a group anew; their tokens are found again."""
    trace = generate(4096, 4, 16, 3, seed=1)
    ids = np.random.default_rng(0).integers(0, 400, trace.tokens)
    told = np.where(np.arange(trace.tokens) % 2 == 0, trace.experts[:, 0, 0], ids)  # half of the ids tell something
    rank_of = np.repeat(np.arange(4), 4)[None].repeat(4, 0)
    groups = [(0, 1), (2, 3)]
    found = aligned(trace, told, rank_of, groups)
    for layer in range(4):
        names = {(int(old), int(new)) for old, new in zip(rank_of[layer], found[layer], strict=True)}
        assert len(names) == 4
        assert all(old // 2 == new // 2 for old, new in names)
    before, after = (measure(trace, told, each, groups, 512, fit(trace, told, each, 4)) for each in (rank_of, found))
    assert after.forecast < before.forecast
    assert after.homes < before.homes


def test_where_nothing_is_sent_nothing_is_saved():
    assert Sent(0.0, 0.0, 0.0, 0.0).saved == 0.0
    assert Sent(1.0, 1.25, 1.0, 1.0).saved == -0.25
    assert Sent(1.0, 0.75, 0.5, 0.5).saved == 0.25


def test_homes_are_where_more_stays_than_of_the_mean_token():
    share = np.array([[0.9, 0.3, 0.0, 0.0], [0.6, 0.3, 0.0, 0.9], [0.6, 0.2, 0.1, 0.1], [0.6, 0.2, 0.1, 0.1]])
    found = homes(Forecast(share), [(0, 1), (2, 3)])
    assert [each.tolist() for each in found] == [[0, 1, ANYWHERE], [ANYWHERE, 1, ANYWHERE]]


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_the_first_at_home_stay_and_parts_are_equal(parts, each, data):
    drawn = st.lists(st.sampled_from([*range(parts), ANYWHERE]), min_size=parts * each, max_size=parts * each)
    home = np.array(data.draw(drawn))
    part = settled(home, parts)
    assert np.bincount(part, minlength=parts).tolist() == [each] * parts
    for member in range(parts):
        wanting = np.flatnonzero(home == member)
        assert (part[wanting[:each]] == member).all()
    left = [token for token in range(len(home)) if part[token] != home[token]]
    assert part[left].tolist() == sorted(part[left].tolist())


def test_a_forecast_is_by_id():
    assert Forecast(np.eye(3)).of(np.array([1, 7])).tolist() == [[0, 1, 0], [0, 0, 1]]

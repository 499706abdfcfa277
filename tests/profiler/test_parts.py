"""How a budget is shared out over the parts of a profile."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from meshwright.errors import InputError
from meshwright.profiler.parts import ESSENTIAL, MEASURING, PARTS, Asked, Found, Part, allot

MODEL = Asked("llama-3.1-8b")


def part(name, share, least_s=0.0, **more):
    return Part(name, share, f"{name}:measure", least_s=least_s, **more)


@given(
    st.floats(0.1, 1e4),
    st.lists(st.tuples(st.floats(0.01, 3), st.floats(0, 60)), min_size=1, max_size=6),
    st.booleans(),
)
def test_all_time_of_measuring_is_given_out_and_nobody_gets_too_little(budget_s, wishes, with_model):
    parts = [part("always", 1.0), *(part(f"p{n}", share, least) for n, (share, least) in enumerate(wishes))]
    found = allot(budget_s, MODEL if with_model else Asked(), parts)
    assert sum(found.seconds.values()) == pytest.approx(MEASURING * budget_s)
    assert all(found.seconds[each.name] >= each.least_s for each in parts if each.name in found.seconds)
    assert {*found.seconds, *found.left_out} == {each.name for each in parts}


@given(st.floats(0.5, 100), st.floats(1.1, 10))
def test_more_budget_never_leaves_out_more(budget_s, times):
    parts = [part("a", 1.0), part("b", 0.5, 3.0), part("c", 2.0, 20.0)]
    less, more = allot(budget_s, Asked(), parts), allot(times * budget_s, Asked(), parts)
    assert set(more.left_out) <= set(less.left_out)


@given(st.floats(0.5, 100))
def test_the_budget_that_is_said_to_be_enough_is(budget_s):
    parts = [part("a", 1.0), part("b", 0.5, 3.0)]
    told = allot(budget_s, Asked(), parts).left_out
    assume(told)
    enough = float(told["b"].split(", ")[1].split()[0])
    assert not allot(enough, Asked(), parts).left_out


def test_layers_are_measured_where_a_model_is_given_and_refused_where_there_is_no_time():
    parts = [part("a", 1.0), part("layers", 1.0, 7.0, of_model=True)]
    assert allot(1.0, Asked(), parts).seconds.keys() == {"a"}
    assert allot(20.0, MODEL, parts).seconds.keys() == {"a", "layers"}
    with pytest.raises(InputError, match=r"--budget = '5s': .*layers of llama-3.1-8b.*20s"):
        allot(5.0, MODEL, parts)


def test_what_a_file_cannot_do_without_is_never_left_out():
    assert set(allot(1e-3, Asked()).seconds) >= ESSENTIAL
    assert all(each.least_s == 0 for each in PARTS if each.name in ESSENTIAL)
    assert len({each.name for each in PARTS}) == len(PARTS)


def test_results_by_rank_and_group():
    found = Found([{"a": {"x": 1}}, {}, {"a": {"x": 3}}], [[0, 1], [2]])
    assert found.of("a") == [{"x": 1}, {"x": 3}]
    assert found.of("a", 0) == [{"x": 1}]
    assert found.of("b") == []

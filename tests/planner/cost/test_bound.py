"""The lower bound of a step: below every schedule of any work, and equal to it where nothing is left to chance."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.bound import work_bound_s
from meshwright.planner.schedule import build
from meshwright.planner.simulate.engine import step_time
from meshwright.planner.simulate.work import Work

seconds = st.floats(0.01, 10.0)


@st.composite
def steps(draw: st.DrawFn) -> tuple[Configuration, Work]:
    name = draw(st.sampled_from(["gpipe", "1f1b", "interleaved"]))
    ranks = draw(st.integers(2 if name == "interleaved" else 1, 5))
    vpp = draw(st.integers(2, 3)) if name == "interleaved" else 1
    layers = draw(st.lists(st.integers(1, 4), min_size=ranks * vpp, max_size=ranks * vpp).map(tuple))
    each = st.lists(seconds, min_size=ranks * vpp, max_size=ranks * vpp).map(tuple)
    zero = draw(st.integers(0, 3))
    configuration = Configuration(
        mesh=Mesh(pp=ranks),
        stage_layers=layers,
        microbatch=1,
        microbatches=draw(st.integers(1, 6)) * ranks,
        schedule=name,
        vpp=vpp,
        zero=zero,
    )
    work = Work(
        draw(each),
        draw(each),
        draw(st.floats(0, 3)),
        gather_s=draw(each) if zero else (),
        reduce_s=draw(each),
        pieces=layers,
        zero=zero,
        hides=draw(st.booleans()),
        steal=draw(st.sampled_from([0.0, 0.1, 0.5])),
        tied_s=draw(st.sampled_from([0.0, 2.0])),
        optimizer_s=(0.3,) * ranks,
        offload_s=(0.2,) * ranks,
    )
    return configuration, work


@settings(max_examples=400, deadline=None)
@given(steps())
def test_no_step_is_below_its_bound(step: tuple[Configuration, Work]) -> None:
    configuration, work = step
    assert work_bound_s(configuration, work) <= step_time(build(configuration), work).total_s


@settings(max_examples=100, deadline=None)
@given(
    ranks=st.integers(1, 6), count=st.integers(1, 20), layers=st.integers(1, 8), share=st.floats(0, 1), data=st.data()
)
def test_with_equal_stages_the_bound_is_the_step(
    ranks: int, count: int, layers: int, share: float, data: st.DataObject
) -> None:
    """1F1B whose collectives hide but for one layer; with one rank, whatever the ZeRO stage and what overlap steals."""
    zero = data.draw(st.integers(0, 3 if ranks == 1 else 1))
    steal = data.draw(st.sampled_from([0.0, 0.2])) if ranks == 1 else 0.0
    configuration = Configuration(
        mesh=Mesh(pp=ranks), stage_layers=(layers,) * ranks, microbatch=1, microbatches=count, zero=zero
    )
    gather, reduce = (share * 2.0,) * ranks, (share * 4.0,) * ranks
    work = Work((2.0,) * ranks, (4.0,) * ranks, 0.0, gather, reduce, (layers,) * ranks, zero, steal=steal)
    if ranks > 1:
        work = replace(work, tied_s=0.25)
    assert work_bound_s(configuration, work) == pytest.approx(step_time(build(configuration), work).total_s, rel=1e-9)

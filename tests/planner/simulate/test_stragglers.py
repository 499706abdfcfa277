"""One straggler: where the answer is known without playing a schedule."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from meshwright.errors import InputError
from meshwright.planner.plan import Plan
from meshwright.planner.simulate.simulation import simulate
from meshwright.planner.simulate.straggler import StragglerModel, parse_straggler
from meshwright.planner.simulate.stragglers import stragglers


def test_without_a_pipeline_and_replicas_the_step_takes_the_factor(plan: Plan) -> None:
    simulation = simulate(plan, ["devices=2", "mesh.pp=1"])
    found = stragglers(simulation, parse_straggler("device=1,slow=1.7x"))
    assert [place.step_time_s for place in found.places] == pytest.approx([1.7 * simulation.step_time_s])
    assert found.places[0].loss == pytest.approx(0.7)


def test_many_microbatches_take_the_factor_of_the_slow_rank(plan: Plan) -> None:
    """The slow rank is the pace of a long pipeline of equal stages; the head makes the last rank's stage longer."""
    simulation = simulate(plan, ["global_batch=4096"])
    found = stragglers(simulation, parse_straggler("rank=1,slow=2x"))
    assert [place.asked for place in found.places] == [False, True]
    assert found.places[1].loss == pytest.approx(1.0, rel=0.02)
    assert 0.5 < found.places[0].loss < found.places[1].loss


def test_one_microbatch_waits_twice_for_a_slow_link(plan: Plan) -> None:
    simulation = simulate(plan, ["global_batch=2"])
    found = stragglers(simulation, parse_straggler("link=0,slow=50x"))
    wanted = simulation.step_time_s + 2 * 49 * simulation.work.transfer_s
    assert found.places[0].step_time_s == pytest.approx(wanted, rel=1e-6)


def test_a_slow_node_is_a_slow_network_to_a_ring_through_it(plan: Plan) -> None:
    """Without a pipeline every group passes through every node: one slow node is as bad as a slow network."""
    settings = ["mesh.pp=1", "mesh.tp=1", "cluster.network.latency=0"]
    found = stragglers(simulate(plan, settings), parse_straggler("node=1,slow=8x"))
    network = simulate(plan, [*settings, "network=0.125x"])
    assert found.places[0].step_time_s == pytest.approx(network.step_time_s, rel=1e-3)
    assert found.places[0].loss > 0.01


def test_a_node_reaches_only_the_ranks_that_it_holds(plan: Plan) -> None:
    found = stragglers(simulate(plan), parse_straggler("node=1,slow=4x"))
    assert [place.place for place in found.places] == ["node 0: pipeline rank 0", "node 1: pipeline rank 1"]
    shared = stragglers(simulate(plan, ["devices=16"]), parse_straggler("node=3,slow=4x"))
    assert [(place.place, place.asked) for place in shared.places] == [
        ("a node of 0-1: pipeline rank 0", False),
        ("a node of 2-3: pipeline rank 1", True),
    ]


@pytest.mark.parametrize("part", ["device", "rank", "link", "node"])
def test_slower_is_never_faster_and_as_fast_costs_nothing(plan: Plan, part: str) -> None:
    simulation = simulate(plan)
    losses = [
        [place.loss for place in stragglers(simulation, parse_straggler(f"{part}=0,slow={slow}x")).places]
        for slow in (1, 1.5, 3, 100)
    ]
    assert losses[0] == pytest.approx([0.0] * len(losses[0]), abs=1e-12)
    for slow, (less, more) in zip((1.5, 3, 100), pairwise(losses), strict=True):
        for before, after in zip(less, more, strict=True):
            assert before - 1e-12 <= after <= slow - 1 + 1e-9


def test_interleaved_ranks_also_send_around(plan: Plan) -> None:
    settings = ["schedule.name=interleaved", "schedule.vpp=2"]
    found = stragglers(simulate(plan, settings), parse_straggler("link=1,slow=2x"))
    assert [place.place for place in found.places] == ["link 0: ranks 0 and 1", "link 1: ranks 1 and 0"]


def test_json_and_table(plan: Plan) -> None:
    found = stragglers(simulate(plan), parse_straggler("device=5,slow=2x"))
    data = json.loads(json.dumps(found.to_json()))
    assert [place["asked"] for place in data["places"]] == [False, True]
    rows, head = found.table()
    assert {len(row) for row in rows} == {len(head)}
    assert rows[2][0] == "pipeline rank 1: devices 4-7"


def test_parsing() -> None:
    assert parse_straggler("device=3, slow=1.5x") == StragglerModel(slow=1.5, part="device", number=3)
    assert parse_straggler("probability=1e-3,slow=3,tolerate=2,window=4") == StragglerModel(
        slow=3.0, probability=0.001, tolerate=2, window=4
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must say what is slow"),
        ("rank=0", "must say how slow"),
        ("rank=0,link=0,slow=2x", "one of device, rank, link, node, or probability"),
        ("rank=0,rank=1,slow=2x", "is given twice"),
        ("rnk=0,slow=2x", "did you mean 'rank'"),
        ("rank=-1,slow=2x", "must be a number from 0"),
        ("rank=0.5,slow=2x", "must be a number from 0"),
        ("rank=0,slow=0.5x", "must be how many times longer, 1x or more. Try: slow=1.5x"),
        ("rank=0,slow=infx", "must be how many times longer"),
        ("probability=1.5,slow=2x", "must be from 0 to 1"),
        ("probability=x,slow=2x", "must be from 0 to 1"),
        ("probability=0.1,slow=2x,window=1", "must be a whole number from 2 to 6"),
        ("probability=0.1,slow=2x,tolerate=9", "must be a whole number from 1 to 8"),
        ("rank=0,slow=2x,window=3", "needs a probability"),
    ],
)
def test_mistakes(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_straggler(text)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("device=8,slow=2x", "the plan has no such device. Try: device=7"),
        ("rank=7,slow=2x", "the plan has no such rank. Try: rank=1"),
        ("link=1,slow=2x", "the plan has no such link. Try: link=0"),
        ("node=9,slow=2x", "the plan has no such node. Try: node=1"),
    ],
)
def test_places_that_are_not_there(plan: Plan, text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        stragglers(simulate(plan), parse_straggler(text))
    assert told in str(caught.value)
    with pytest.raises(InputError, match="a plan of one pipeline rank has no link"):
        stragglers(simulate(plan, ["mesh.pp=1"]), parse_straggler("link=0,slow=2x"))

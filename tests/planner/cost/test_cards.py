"""Which shares of its cards a step takes: by hand, on clusters whose links are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshwright.clusters.schema import Cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.cards import card_shares
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import bare_work_of, step_s, steps_s, work_of
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.schedule import build
from meshwright.planner.simulate.engine import total_s

FABRIC = {"kind": "nvswitch", "bandwidth": "450 GB/s", "latency": "0 us", "efficiency": 1.0}
HOST = {"memory": "1 TB", "cores": 64, "device_link": "25 GB/s"}


def group(name="a", nodes=4, devices=1, rate="100 Gbit/s", latency="0 us"):
    nics = {"kind": "infiniband", "count": 1, "rate": rate, "latency": latency, "efficiency": 1.0}
    base = {"name": name, "nodes": nodes, "devices_per_node": devices, "device": "h100-sxm-80gb"}
    return base | {"fabric": FABRIC, "nics": nics, "host": HOST}


def setting(*groups, links=(), **exceptions):
    found = Cluster.model_validate(
        {"name": "test", "node_groups": groups or [group()], "links": links, "exceptions": exceptions}
    )
    return Setting(architecture(load_model("gpt2")), found, Job(seq_len=1024, global_batch=32))


def configuration(pp, dp=1, zero=1):
    return Configuration(
        mesh=Mesh(pp=pp, dp=dp),
        stage_layers=(12 // pp,) * pp,
        microbatch=1,
        microbatches=32 // dp,
        zero=zero,
        recompute=("none",) * pp,
    )


def flat(shares):
    """Of border after border, the one end and the other."""
    return [share for border in shares.borders for share in border]


def test_alone_a_transfer_takes_all_of_a_card_but_for_latency():
    assert card_shares(setting(), configuration(4)).borders == ((1.0, 1.0),) * 4
    message_s = 1024 * 768 * 2 / 12.5e9
    (share, _), *_ = card_shares(setting(group(latency="10 us")), configuration(4)).borders
    assert share == pytest.approx(message_s / (message_s + 10e-6))


def test_inside_of_a_node_no_card_is_taken():
    assert card_shares(setting(group(nodes=1, devices=4)), configuration(4)) is None
    assert card_shares(setting(), configuration(1, 4)) is None
    assert card_shares(setting(group(nodes=2, devices=2)), configuration(2, 2)).data == (0.0, 0.0)  # dp by NVLink


def test_a_wide_card_has_room_beside_a_narrow_one():
    slow = setting(nodes=[{"node": "a/1", "network_factor": 0.25}])
    assert flat(card_shares(slow, configuration(4))) == pytest.approx([0.25, 1.0, 1.0, 0.25, 1.0, 1.0, 1.0, 1.0])
    path = setting(paths=[{"between": ["a/1", "a/2"], "factor": 0.5}])
    assert flat(card_shares(path, configuration(4)))[2:4] == pytest.approx([0.5, 0.5])


def test_node_groups_with_different_cards():
    link = {"between": ["a", "b"], "kind": "ethernet", "bandwidth": "800 Gbit/s", "latency": "0 us"}
    found = card_shares(setting(group(nodes=2), group("b", 2, rate="25 Gbit/s"), links=[link]), configuration(2, 2))
    assert flat(found) == pytest.approx([0.25, 1.0, 1.0, 0.25])
    assert found.data == pytest.approx((1.0, 1.0))


def test_the_bound_over_all_orders_shares_nothing():
    slow = setting(nodes=[{"node": "a/1", "network_factor": 0.25}])
    assert card_shares(slow.mapped(tuple(range(4)), any_order=True), configuration(4)) is None


@pytest.mark.parametrize(("pp", "dp"), [(4, 1), (2, 2), (1, 4)])
def test_what_is_tried_first_is_no_longer_than_the_step(pp, dp):
    seen, asked = setting(group(rate="1 Gbit/s")), configuration(pp, dp)
    least, *_, whole = [0.0, *steps_s(seen, asked, bare_work_of(seen, asked))]
    first = next(steps_s(seen, asked, bare_work_of(seen, asked)))
    assert least <= first <= whole == step_s(seen, asked) == total_s(build(asked), work_of(seen, asked))
    assert first == total_s(build(asked), bare_work_of(seen, asked))
    assert replace(work_of(seen, asked), cards=None) == bare_work_of(seen, asked)
    assert (first < whole) == (pp > 1)

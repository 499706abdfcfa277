"""Many nodes: where this process stands, which nodes are alike, and the cluster that comes of it."""

from __future__ import annotations

import pytest

from meshwright.clusters import Topology
from meshwright.clusters.check import check
from meshwright.errors import InputError, RunError
from meshwright.profiler.assembly import assemble
from meshwright.profiler.nodes import grouped
from meshwright.profiler.parts import Asked, Found
from meshwright.profiler.torchrun import Place, profile_nodes, under_torchrun
from meshwright.tests.cluster.ideal import results
from meshwright.tests.cluster.scenario import Scenario

from .test_measure import result


def node(rate, ranks=2, **machine):
    return [result(rate=rate, **machine) for _ in range(ranks)]


@pytest.mark.parametrize(
    ("nodes", "groups"),
    [
        ([node(50e9), node(50e9)], [[0, 1, 2, 3]]),
        ([node(50e9), node(52e9)], [[0, 1, 2, 3]]),  # what a machine does beside the job
        ([node(50e9), node(25e9), node(50e9)], [[0, 1, 4, 5], [2, 3]]),
        ([node(50e9, name="A100"), node(50e9, name="H100")], [[0, 1], [2, 3]]),
        ([node(50e9), [{}, {}]], [[0, 1, 2, 3]]),  # nothing is known of the second
    ],
)
def test_equal_nodes_are_one_group(nodes, groups):
    assert grouped([rank for ranks in nodes for rank in ranks], 2) == groups


def cluster_of(*nodes):
    results = [rank for ranks in nodes for rank in ranks]
    about = {"workers": len(results), "threads": 1, "budget_s": 1.0, "nodes": len(nodes)}
    return assemble(Found(results, grouped(results, 2)), about)


def test_equal_nodes_are_one_node_group():
    cluster = cluster_of(node(50e9), node(50e9), node(50e9))
    check(cluster, "test")
    assert [(group.name, group.nodes, group.devices_per_node) for group in cluster.node_groups] == [("nodes", 3, 2)]
    assert cluster.measured.nodes == 3
    assert "assumed" in next(note for note in cluster.measured.notes if note.what == "network cards").why
    assert Topology(cluster).group(range(6)).outer is not None


def test_a_slower_node_is_a_group_of_its_own_with_figures_of_its_own():
    cluster = cluster_of(node(50e9), node(25e9))
    check(cluster, "test")
    fast, slow = cluster.node_groups
    assert fast.device.peak_flops["fp32"] == pytest.approx(50e9, rel=0.01)
    assert slow.device.peak_flops["fp32"] == pytest.approx(25e9, rel=0.01)
    assert cluster.num_devices == 4


def test_nodes_out_of_order_are_told():
    cluster = cluster_of(node(50e9), node(25e9), node(50e9))
    assert [group.nodes for group in cluster.node_groups] == [2, 1]
    assert any("side by side" in note.why for note in cluster.measured.notes)
    assert not any("side by side" in note.why for note in cluster_of(node(50e9), node(25e9)).measured.notes)


def test_what_was_measured_between_hosts_is_kept_whatever_their_order():
    """The second host computes half as fast: three groups, with the rates of their cards."""
    scenario = Scenario("in turns", (200.0,) * 4, ((0, 1, 2, 3),))
    told = [each | {"rings": [], "reduce_scatter": []} for each in results(scenario)]
    each = [result(rate=rate) | {"links": links} for rate, links in zip((50e9, 25e9, 50e9, 50e9), told, strict=True)]
    assert grouped(each, 1) == [[0, 2, 3], [1]]
    cluster = assemble(Found(each, grouped(each, 1)), {"workers": 4, "threads": 1, "budget_s": 1.0, "nodes": 4})
    check(cluster, "test")
    assert [group.nodes for group in cluster.node_groups] == [1, 1, 2]
    assert [group.nics.rate_bytes_per_s for group in cluster.node_groups] == [pytest.approx(25e6, rel=0.02)] * 3
    assert not any(note.what in ("its figures", "node groups", "network cards") for note in cluster.measured.notes)


TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}


def test_where_torchrun_puts_this_process():
    assert under_torchrun(None, {}) is None
    place = under_torchrun(None, TORCHRUN)
    assert place == Place(5, 8, 1, 4)
    assert place.node == 1


@pytest.mark.parametrize(
    ("workers", "change", "match"),
    [
        (4, {}, "--workers = 4: torchrun has started 8"),
        (None, {"RANK": "x"}, "RANK = 'x': must be a whole number"),
        (None, {"RANK": "8"}, "every node"),
        (None, {"LOCAL_WORLD_SIZE": "3"}, "every node must have as many"),
    ],
)
def test_places_that_cannot_be(workers, change, match):
    with pytest.raises(InputError, match=match):
        under_torchrun(workers, TORCHRUN | change)


def test_a_kind_of_node_that_could_not_compute_has_the_figures_of_the_others():
    lost = [{"machine": each["machine"]} for each in node(50e9, name="another")]
    cluster = cluster_of(node(50e9), lost)
    assert [group.device.peak_flops["fp32"] for group in cluster.node_groups] == [pytest.approx(50e9, rel=0.01)] * 2


ROUNDS = {"rounds": [[1.0, 1.0, 1.5, 2.0]]}


def test_racks_take_no_other_figures_away():
    """Links make two node groups of one; what is written by the groups that were measured is in both."""
    scenario = Scenario("racks", (200.0,) * 4, ((0, 1), (2, 3)), uplink_mbit=80)
    told = [each | {"rings": [], "reduce_scatter": []} for each in results(scenario)]
    told[0]["uplinks"] = [[0, 2, 5e6, 5e6, 0], [1, 3, 5e6, 5e6, 0]]
    each = [result() | {"links": links, "overlap": ROUNDS} for links in told]
    about = {"workers": 4, "threads": 1, "budget_s": 1.0, "nodes": 4}
    cluster = assemble(Found(each, grouped(each, 1)), about)
    assert [group.name for group in cluster.node_groups] == ["rack-0", "rack-1"]
    assert [group.device.calibration.overlap.compute for group in cluster.node_groups] == [1.5, 1.5]
    assert not any(note.what == "its figures" for note in cluster.measured.notes)


def test_what_a_link_said_before_it_died_is_kept_where_its_figures_cannot_be():
    """A host that nobody reached is none that a file has words for."""
    told = [{"hosts": {str(rank): f"host {rank}" for rank in range(3)}, "rows": [], "notes": ["0 and 2: reset"],
             "pairs": [[0, 1, 1e9, 1e9, 1e-4]], "rings": [], "reduce_scatter": []}, {}, {}]  # fmt: skip
    each = [result() | {"links": links} for links in told]
    cluster = assemble(Found(each, grouped(each, 1)), {"workers": 3, "threads": 1, "budget_s": 1.0, "nodes": 3})
    notes = [(note.what, note.why) for note in cluster.measured.notes if note.part == "links"]
    assert ("what failed", "0 and 2: reset") in notes
    assert any(what == "its figures" for what, _ in notes)


def test_processes_that_do_not_meet_are_told(monkeypatch, tmp_path):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    with pytest.raises(RunError, match=r"did not meet: .*MASTER_ADDR"):
        profile_nodes(Place(0, 1, 0, 1), 1.0, lambda _, __: None, Asked(), tmp_path / "kept")

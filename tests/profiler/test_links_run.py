"""Links of real workers on this machine: what is measured, and what is left when one of them is gone."""

from __future__ import annotations

import os
from dataclasses import asdict

import pytest
import torch
from torch import distributed as dist

from meshwright.clusters.link_costs import OPERATIONS
from meshwright.profiler import links
from meshwright.profiler.links_peers import Peers
from meshwright.tests.cluster.launcher import run_ranks

LIMIT_S, SHORT_LIMIT_S = 10.0, 1.0


def seen_by(tmp_path, world, see, allow=(), limit_s=LIMIT_S):
    """What every worker has seen, by `see(peers)`."""

    def rank(number):
        torch.set_num_threads(1)
        store = dist.FileStore(str(tmp_path / "store"), world)
        return asdict(see(Peers(store, range(world), number, torch.device("cpu"), limit_s)))

    return run_ranks(rank, [None] * world, 100, allow)


def test_two_hosts_of_two_workers(tmp_path):
    seen = seen_by(tmp_path, 4, lambda peers: links.see(peers, 0.2, host=f"host {peers.rank // 2}"))
    assert [each["notes"] for each in seen] == [[]] * 4
    pairs = [tuple(map(int, row[:2])) for each in seen for row in each["pairs"]]
    assert sorted(pairs) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert sorted(tuple(map(int, row[:2])) for each in seen for row in each["nodes"]) == [(0, 2), (1, 3)]
    found = {(row["scope"], row["members"], row["operation"]) for row in seen[3]["rows"]}
    assert {name for scope, _, name in found if scope == "inside"} == set(OPERATIONS)
    assert {name for scope, _, name in found if scope == "across"} == set(OPERATIONS)
    assert {(scope, members) for scope, members, _ in found} == {("inside", 2), ("across", 2), ("mixed", 4)}
    assert all(row["seconds"] > 0 for each in seen for row in each["rows"])


@pytest.mark.parametrize("at", [pytest.param("in the second", marks=pytest.mark.slow), "in the first group"])
def test_a_worker_that_dies_takes_nothing_with_it(tmp_path, monkeypatch, at):
    measure, calls = links.measure_shape, []

    def dying(peers, shape, budget_s):
        calls.append(shape.name)
        if peers.rank == 2 and len(calls) == (1 if at == "in the first group" else 2):
            os._exit(1)
        return measure(peers, shape, budget_s)

    monkeypatch.setattr(links, "measure_shape", dying)
    seen = seen_by(tmp_path, 4, lambda peers: links.see(peers, 0.1, host="here"), [2], SHORT_LIMIT_S)
    left = [each for each in seen if each is not None]
    assert len(left) == 3
    for each in left:
        assert each["notes"]
        assert not any("stopped" in note for note in each["notes"])
        assert (2 in [len(row["ranks"]) for row in each["rows"]]) == (at == "in the second")
    later = [row for row in left[0]["rows"] if row["ranks"] == [0, 1, 3]]
    assert {row["operation"] for row in later} == set(OPERATIONS) - {"send"} if at == "in the first group" else True
    assert sum(len(each["pairs"]) for each in left) == 5  # all but the one of which the lost worker was the first


def test_a_pair_that_does_not_answer_is_a_note_and_no_more(tmp_path, monkeypatch):
    group = Peers.group

    def cut(peers, name, ranks, limit_s=None):
        if ranks == (1, 3):
            raise RuntimeError("Timed out waiting 1500ms for recv operation")
        return group(peers, name, ranks, limit_s)

    monkeypatch.setattr(Peers, "group", cut)
    seen = seen_by(tmp_path, 4, lambda peers: links.see(peers, 0.1, host="here"))
    assert [each["dead"] for each in seen] == [[], [[1, 3]], [], [[1, 3]]]
    assert "the link between workers 1 and 3: RuntimeError: Timed out" in seen[1]["notes"][0]
    assert {tuple(row["ranks"]) for row in seen[0]["rows"]} == {(0, 1), (0, 1, 2)}  # who cannot reach all stands aside
    assert "go on without this worker" in seen[3]["notes"][-1]


def test_a_pair_that_does_not_answer_holds_up_nobody_on_a_shared_path(tmp_path, monkeypatch):
    """Pairs of hosts agree on how long they are busy: also with one that never gets so far."""
    group = Peers.group

    def cut(peers, name, ranks, limit_s=None):
        if ranks == (1, 3) and "pairs of hosts" in name:
            raise RuntimeError("Timed out waiting 1500ms for recv operation")
        return group(peers, name, ranks, limit_s)

    monkeypatch.setattr(Peers, "group", cut)
    seen = seen_by(tmp_path, 4, lambda peers: links.see(peers, 0.2, host=f"host {peers.rank // 2}"))
    assert [each["dead"] for each in seen] == [[], [[1, 3]], [], [[1, 3]]]
    ((a, b, there, back, _),) = seen[0]["nodes"]
    assert (a, b) == (0, 2)
    assert min(there, back) > 0
    assert seen[1]["nodes"] == []

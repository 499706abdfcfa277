"""A link that is cut while it is measured: what could not be measured is told, everybody else goes on, and nothing that
was measured is lost."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import asdict

import pytest
import torch
from torch import distributed as dist

from meshwright.clusters.link_costs import OPERATIONS
from meshwright.profiler import links
from meshwright.profiler.links_found import read_links
from meshwright.profiler.links_peers import Peers

from .hosts import network
from .launcher import run_ranks
from .scenario import Scenario

SCENARIO = Scenario("four hosts", (200.0,) * 4, ((0, 1, 2, 3),))
LIMIT_S = 4.0
CUT = 2
"""The host whose link goes down."""


def seen_by_all(tmp_path, names, monkeypatch, during):
    """What every host has seen, where the switch's port of one goes down soon after `during` has begun."""
    switch, measure, begun = names[0].removesuffix("h0") + "s", getattr(links, during), []

    def cut():
        subprocess.run(["ip", "-n", switch, "link", "set", f"p{CUT}", "down"], check=True, capture_output=True)

    def cutting(peers, *arguments):
        if peers.rank == 0 and not begun:
            begun.append(True)
            threading.Timer(0.3, cut).start()
        return measure(peers, *arguments)

    monkeypatch.setattr(links, during, cutting)

    def rank(number):
        torch.set_num_threads(1)
        store = dist.FileStore(str(tmp_path / "store"), 4)
        peers = Peers(store, range(4), number, torch.device("cpu"), LIMIT_S)
        return asdict(links.see(peers, 4.0, host=f"host {number}"))

    return run_ranks(rank, names, 150)


@pytest.mark.slow
@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("during", ["measure_pairs", "measure_shape"])
def test_a_link_that_is_cut_in_the_middle(tmp_path, monkeypatch, during):
    with network(SCENARIO) as names:
        seen = seen_by_all(tmp_path, names, monkeypatch, during)
    left = [each for rank, each in enumerate(seen) if rank != CUT]
    assert all(each["notes"] for each in seen)
    assert not any(note.startswith("stopped") for each in left for note in each["notes"])
    assert any("without this worker" in note for note in seen[CUT]["notes"])
    pairs = {(int(row[0]), int(row[1])) for each in seen for row in each["pairs"]}
    assert {(0, 1), (0, 3), (1, 3)} <= pairs
    if during == "measure_shape":
        assert len(pairs) == 6  # measured before
    later = {row["operation"] for each in left for row in each["rows"] if set(row["ranks"]) == {0, 1, 3}}
    assert later == set(OPERATIONS) - {"send"}
    assert read_links(seen).rates.keys() >= {(0, 1), (0, 3), (1, 3)}

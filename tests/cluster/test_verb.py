"""`meshwright profile` itself, started by torchrun on hosts that are apart: its file names the slow one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from meshwright.clusters.catalogue import load_cluster

from .hosts import address, network
from .scenario import SCENARIOS

SCENARIO = next(each for each in SCENARIOS if each.name == "one slow host")


def profiled(names: tuple[str, ...], out: Path) -> list[int]:
    """Exit codes of all hosts; the first writes the file."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(names)), "--nproc-per-node", "1"]
    meet = ["--master-addr", address(0), "--master-port", "29511"]
    verb = ["-m", "meshwright", "profile", "--budget", "40s", "--out", str(out)]
    alone = os.environ | {"GLOO_SOCKET_IFNAME": "veth0", "OMP_NUM_THREADS": "1"}
    hosts = [
        subprocess.Popen(["ip", "netns", "exec", name, *torchrun, *meet, "--node-rank", str(host), *verb], env=alone)
        for host, name in enumerate(names)
    ]
    try:
        return [host.wait(timeout=300) for host in hosts]
    finally:
        for host in hosts:
            host.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("as_root")
def test_a_profile_of_many_hosts_names_the_slow_one(tmp_path):
    """50 of 200 Mbit/s; hosts that share two cores may be of several kinds, each with the rate of its card."""
    with network(SCENARIO) as names:
        assert profiled(names, tmp_path / "cluster.yaml") == [0] * SCENARIO.hosts
    cluster = load_cluster(str(tmp_path / "cluster.yaml"))
    hosts = [(f"{group.name}/{node}", group) for group in cluster.node_groups for node in range(group.nodes)]
    slow = {each.node: each.network_bytes_per_s for each in cluster.exceptions.nodes}
    rates = [slow.get(name, group.nics.rate_bytes_per_s) for name, group in hosts]
    assert rates == [pytest.approx(mbit * 1e6 / 8, rel=0.1) for mbit in SCENARIO.cards_mbit]

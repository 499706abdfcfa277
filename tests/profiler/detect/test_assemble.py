"""What was detected goes into the cluster file, and nothing measured gives way to it."""

from __future__ import annotations

import json

import pytest

from meshwright.clusters.local import one_node_mapping
from meshwright.clusters.schema import Cluster
from meshwright.profiler.detect import machine
from meshwright.profiler.detect.tree import Tree
from meshwright.profiler.parts import Found
from meshwright.schema import parse

from . import trees
from .test_machines import smi

FABRIC = {"kind": "nvlink", "bandwidth": "300 GB/s", "latency": "9 us", "efficiency": 1.0}
DEVICE = {
    "name": "a card",
    "kind": "cuda",
    "memory": "80 GiB",
    "memory_bandwidth": "3 TB/s",
    "peak_flops": {"bf16": "900 TFLOP/s"},
    "context": "1 GiB",
    "calibration": {
        "origin": "measured",
        "source": "",
        "matmul": [{"flops": 1e9, "fraction": 0.5}],
        "attention": 0.5,
        "memory": 0.5,
        "launch": "3 us",
    },
}


def group(root, execute, links=(), kind="cuda"):
    found = json.loads(json.dumps(machine._json(machine.read_machine(Tree(root), execute))))
    cluster = one_node_mapping(DEVICE | {"kind": kind}, 8, dict(FABRIC), 25e9, "")
    cluster["measured"] = {"date": "2026-01-01", "host": "", "workers": 8, "threads": 1, "budget_s": 1}
    results = [{"detect": found, "links": {"rings": list(links)}}, *({"detect": {}} for _ in range(7))]
    machine.assemble(cluster, Found(results, [range(8)]))
    return parse(Cluster, cluster, "test")


@pytest.fixture
def dgx(tmp_path):
    trees.dgx_h100(tmp_path)
    return tmp_path, smi(trees.DGX_QUERY, trees.dgx_topology(), trees.DGX_LINKS)


def test_a_dgx_without_measured_links(dgx):
    cluster = group(*dgx)
    found = cluster.node_groups[0]
    assert (found.nics.kind, found.nics.count, found.nics.rate_bytes_per_s) == ("infiniband", 8, 50e9)
    assert found.host.memory_bytes == 2113463552 * 1024
    assert found.nvme.read_bytes_per_s == pytest.approx(8 * 7.877e9, rel=1e-3)
    assert found.fabric.kind == "nvswitch"
    assert found.fabric.bandwidth_bytes_per_s == pytest.approx(18 * 26.562e9)
    assert found.device.power_w == 700
    assert cluster.measured.versions["driver"] == "550.90.07"
    assert any(note.what == "card mlx5_1" for note in cluster.measured.notes)


def test_measured_links_stay(dgx):
    fabric = group(*dgx, links=[[2, 1e6, 1e-3]]).node_groups[0].fabric
    assert (fabric.kind, fabric.bandwidth_bytes_per_s, fabric.latency_s) == ("nvswitch", 300e9, 9e-6)


def test_workers_on_processors_do_not_get_the_fabric_of_gpus(dgx):
    fabric = group(*dgx, kind="cpu").node_groups[0].fabric
    assert (fabric.kind, fabric.bandwidth_bytes_per_s) == ("nvlink", 300e9)


def test_a_box_on_pcie(tmp_path):
    trees.box_4090(tmp_path)
    found = group(tmp_path, smi(trees.BOX_QUERY, trees.BOX_TOPO)).node_groups[0]
    assert (found.fabric.kind, found.fabric.bandwidth_bytes_per_s) == ("pcie", 32e9)
    assert (found.nics.kind, found.nics.count) == ("ethernet", 1)

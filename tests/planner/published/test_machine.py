"""The machine of a row: its nodes, its network where it is stated, and what is said to be assumed."""

from __future__ import annotations

from typing import Any

import pytest

from meshwright.clusters.schema import NodeGroup
from meshwright.planner.published.machine import row_cluster
from meshwright.planner.published.row import Row
from meshwright.planner.published.shape import NotModelledError


def machine(**columns: Any) -> tuple[NodeGroup, list[str]]:
    assumptions: list[str] = []
    row = Row(**{"row_id": "R", "source": "S", "gpu": "H100-80GB", "gpus": 16, "interconnect": "NVLink + IB"} | columns)
    (group,) = row_cluster(row, assumptions).node_groups
    return group, assumptions


@pytest.mark.parametrize(
    ("columns", "nodes", "devices"),
    [
        ({"gpus": 16}, 2, 8),
        ({"gpus": 16, "gpus_per_node": 4}, 4, 4),
        ({"gpus": 2, "gpus_per_node": 8}, 1, 2),
        ({"gpus": 12}, 2, 8),
        ({"gpu": "GB200", "gpus": 256}, 64, 4),
    ],
)
def test_as_many_nodes_as_the_row_used(columns: dict[str, Any], nodes: int, devices: int) -> None:
    group, _ = machine(**columns)
    assert (group.nodes, group.devices_per_node) == (nodes, devices)


@pytest.mark.parametrize(
    ("gpu", "device"),
    [
        ("A100", "a100-sxm-80gb"), ("A100-40GB", "a100-sxm-40gb"), ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("A800", "a100-sxm-80gb"), ("H100-80GB", "h100-sxm-80gb"), ("NVIDIA H100 80GB HBM3", "h100-sxm-80gb"),
        ("H200", "h200-sxm-141gb"), ("H800", "h800-sxm-80gb"), ("B200", "b200-sxm-180gb"), ("B300", "b300-sxm-288gb"),
        ("GB200", "gb200-186gb"), ("GB300", "gb300-288gb"), ("V100-16GB", "v100-sxm-16gb"), ("MI300X", "mi300x-192gb"),
        ("RTX 4090", "rtx-4090-24gb"),
    ],
)  # fmt: skip
def test_a_gpu_has_its_machine_however_it_is_written(gpu: str, device: str) -> None:
    assert machine(gpu=gpu)[0].device.name == device


def test_the_memory_tells_two_kinds_of_a_gpu_apart() -> None:
    assert machine(gpu="A100", gpu_mem_gb=40)[0].device.name == "a100-sxm-40gb"


def test_a_stated_network_is_that_of_all_cards_together() -> None:
    nics = machine(interconnect="RoCE 1600 Gbps per node")[0].nics
    assert nics is not None
    assert (nics.kind, nics.count * nics.rate_bytes_per_s) == ("roce", 200e9)
    efa = machine(interconnect="AWS-class Ethernet/EFA")[0].nics
    assert efa is not None
    assert efa.kind == "efa"


def test_a_network_is_assumed_only_where_there_is_one_and_it_is_not_stated() -> None:
    assert machine()[1] == []
    assert machine(interconnect="")[1] == ["the network of dgx-h100"]
    assert machine(interconnect="", gpus=8)[1] == []


@pytest.mark.parametrize(
    ("columns", "told"),
    [({"gpu": "TPUv4"}, "GPU TPUv4"), ({"gpu": "H1000"}, "GPU H1000"), ({"gpus": None}, "number of GPUs")],
)
def test_what_has_no_machine_is_named(columns: dict[str, Any], told: str) -> None:
    with pytest.raises(NotModelledError, match=told):
        machine(**columns)

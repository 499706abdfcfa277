"""What is planned for the testbed: a small model on virtual devices whose links a profile has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meshwright.clusters.check import check
from meshwright.clusters.schema import Cluster, Exceptions
from meshwright.planner.configuration import Configuration
from meshwright.planner.cost.data_parallel import GRADIENT_BYTES, stage_parameters
from meshwright.planner.cost.step import step_s, work_of
from meshwright.planner.families import load_model
from meshwright.planner.job import Job
from meshwright.planner.pins import parse_pins
from meshwright.planner.plan import ModelSpec
from meshwright.planner.schedule import build
from meshwright.planner.search.request import Request
from meshwright.profiler.links_file import assemble
from meshwright.profiler.parts import Found
from meshwright.schema import parse

from .scenario import Scenario
from .step import VirtualStep

JOB = Job(seq_len=512, global_batch=8, precision="fp32")
PINS = ("tp=1", "cp=1", "vpp=1", "zero=0", "schedule=1f1b", "recompute=none", "offload=0", "spread_vocabulary=false")
"""What `step.py` knows to do: pp x dp, and all gradients of a layer in one bucket."""

DEVICE = {
    "name": "virtual",
    "kind": "cpu",
    "memory": "4 GiB",
    "memory_bandwidth": "20 GB/s",
    "peak_flops": {"fp32": "0.1 TFLOP/s"},
    "context": "0.1 GiB",
    "calibration": {
        "origin": "analytical",
        "source": "virtual: compute is a sleep",
        "matmul": [{"flops": 1e6, "fraction": 1.0}],
        "attention": 1.0,
        "memory": 1.0,
        "launch": "0 s",
    },
}


def model(scenario: Scenario) -> ModelSpec:
    """A Llama of eight layers."""
    known, (hidden, width) = load_model("byte-llama"), scenario.widths
    sizes = {"hidden_size": hidden, "intermediate_size": width, "num_attention_heads": 8, "num_key_value_heads": 8}
    config = {**known.config, **sizes, "num_hidden_layers": 8}
    return known.model_copy(update={"name": "testbed-llama", "config": config})


def measured_cluster(name: str, hosts: int, results: Sequence[Mapping[str, Any]]) -> Cluster:
    """A cluster of virtual devices and of the links that a profile has found, checked. Raises InputError."""
    fabric = {"kind": "shared-memory", "bandwidth": "1 GB/s", "latency": "0.1 ms", "efficiency": 1.0}
    group = {
        "name": "local",
        "nodes": 1,
        "devices_per_node": hosts,
        "device": DEVICE,
        "fabric": fabric,
        "host": {"memory": "16 GB", "cores": 2, "device_link": "10 GB/s"},
    }
    mapping: dict[str, Any] = {"name": name, "node_groups": [group]}
    assemble(mapping, Found([{"links": dict(result)} for result in results], [range(hosts)]))
    cluster = parse(Cluster, mapping, name)
    check(cluster, name)
    return cluster


def request(scenario: Scenario, cluster: Cluster, rank_map: tuple[int, ...] = ()) -> Request:
    """The question to the planner: the scenario's pins besides what `PINS` fixes."""
    pins = parse_pins((*PINS, *scenario.pins))
    return Request(model=model(scenario), cluster=cluster, job=JOB, pins=pins, rank_map=rank_map)


def unaware(cluster: Cluster) -> Cluster:
    """The same as somebody would write it who knows the number of hosts and their best card, and no more."""
    group = max(cluster.node_groups, key=lambda group: group.nics.rate_bytes_per_s if group.nics else 0.0)
    nodes = sum(each.nodes for each in cluster.node_groups)
    alike = group.model_copy(update={"nodes": nodes})
    return cluster.model_copy(update={"node_groups": (alike,), "links": (), "exceptions": Exceptions()})


def predicted_s(scenario: Scenario, cluster: Cluster, configuration: Configuration, rank_map: tuple[int, ...]) -> float:
    """What the simulator says of a configuration on a cluster."""
    return step_s(request(scenario, cluster, rank_map).setting(), configuration)


def virtual_step(
    scenario: Scenario, cluster: Cluster, configuration: Configuration, rank_map: tuple[int, ...]
) -> VirtualStep:
    """What the ranks of a configuration do."""
    setting = request(scenario, cluster, rank_map).setting()
    mesh, work, schedule = configuration.mesh, work_of(setting, configuration), build(configuration)
    costs = setting.costs(configuration)
    held = stage_parameters(costs, configuration, setting.architecture.tied_embeddings)
    layers = [max(1, count) for count in configuration.stage_layers]
    optimizer_s = work.optimizer_s if len(work.optimizer_s) == mesh.pp else (0.0,) * mesh.pp
    return VirtualStep(
        pp=mesh.pp,
        dp=mesh.dp,
        hosts=rank_map or tuple(range(mesh.world)),
        actions=tuple(tuple((action.kind, action.microbatch) for action in row) for row in schedule.actions),
        forward_s=tuple(work.forward_s),
        backward_s=tuple(work.backward_s),
        message_bytes=configuration.microbatch * JOB.seq_len * setting.architecture.hidden * setting.element_bytes,
        buckets_bytes=tuple(
            (round(GRADIENT_BYTES * each.dense / count),) * count for each, count in zip(held, layers, strict=True)
        ),
        optimizer_s=tuple(optimizer_s),
    )

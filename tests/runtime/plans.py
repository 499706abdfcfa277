"""Plans for tests: a configuration, and the least that a Plan carries beside it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from meshwright.clusters.schema import Cluster
from meshwright.planner.configuration import Recompute, ScheduleName
from meshwright.planner.job import Job, Precision
from meshwright.planner.plan import Breakdown, MeshDegrees, ModelSpec, Plan, Prediction, Proof, ScheduleChoice

CLUSTER: dict[str, Any] = {
    "name": "test",
    "node_groups": [
        {
            "name": "node",
            "nodes": 1,
            "devices_per_node": 8,
            "device": {
                "name": "core",
                "kind": "cpu",
                "memory": "1 GiB",
                "memory_bandwidth": "1 GB/s",
                "peak_flops": {"fp32": "1 GFLOP/s"},
                "context": "1 MiB",
                "calibration": {
                    "origin": "analytical",
                    "source": "none",
                    "matmul": [{"flops": 1, "fraction": 1}],
                    "attention": 1,
                    "memory": 1,
                    "launch": "1 us",
                },
            },
            "fabric": {"kind": "shared-memory", "bandwidth": "1 GB/s", "latency": "1 us"},
            "host": {"memory": "1 GiB", "cores": 8, "device_link": "1 GB/s"},
            "nvme": {"capacity": "1 GiB", "read": "1 GB/s", "write": "1 GB/s"},
        }
    ],
}

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


NICS: dict[str, Any] = {"nics": {"kind": "ethernet", "count": 1, "rate": "1 GB/s", "latency": "1 us"}}


@cache
def cluster(devices: int, nodes: int = 1) -> Cluster:
    """So many nodes that share so many CPU devices."""
    node = {**CLUSTER["node_groups"][0], "nodes": nodes, "devices_per_node": devices // nodes}
    return Cluster.model_validate({**CLUSTER, "node_groups": [node if nodes == 1 else {**node, **NICS}]})


@cache
def _prediction(pp: int) -> Prediction:
    """Of no plan: numbers to fill the fields."""
    return Prediction(
        step_time_s=1.0,
        step_time_interval_s=(1.0, 1.0),
        tokens_per_s_per_device=1.0,
        model_tflops_per_device=1.0,
        mfu=0.1,
        hfu=0.1,
        peak_memory_bytes=(1,) * pp,
        memory_limit_bytes=1,
        fits=True,
        memory=(),
        breakdown_s=Breakdown(),
        origin="analytical",
    )


def make_plan(
    config: dict[str, Any],
    *,
    pp: int = 1,
    dp: int = 1,
    cp: int = 1,
    tp: int = 1,
    ep: int = 1,
    etp: int = 1,
    zero: int | None = None,
    seq_len: int = 32,
    global_batch: int = 8,
    microbatch: int = 2,
    schedule: ScheduleName = "1f1b",
    vpp: int = 1,
    in_flight: tuple[int, ...] = (),
    actions: tuple[str, ...] = (),
    stage_layers: tuple[int, ...] | None = None,
    recompute: Recompute = "none",
    precision: Precision = "fp32",
    nodes: int = 1,
    optimizer: Mapping[str, Any] | None = None,
    **levers: Any,
) -> Plan:
    """A plan of `global_batch` sequences for as many devices as its mesh has, on `nodes` nodes, with layers spread
    evenly (the first stages get what is left over) and ZeRO 1 where there are replicas. `levers` as in
    configuration.LEVERS, `optimizer`: fields of the job about it."""
    stages, layers = pp * vpp, config.get("num_hidden_layers") or config["n_layer"]
    even = tuple(layers // stages + (stage < layers % stages) for stage in range(stages))
    return Plan(
        model=ModelSpec(name="test", config=config),
        cluster=cluster(pp * dp * cp * tp, nodes),
        job=Job(seq_len=seq_len, global_batch=global_batch, precision=precision, **(optimizer or {})),
        mesh=MeshDegrees(pp=pp, dp=dp, cp=cp, tp=tp, ep=ep, etp=etp),
        schedule=ScheduleChoice(
            name=schedule,
            vpp=vpp,
            microbatches=max(levers.get("shares") or [global_batch // dp // microbatch]),
            in_flight=in_flight,
            actions=actions,
        ),
        stage_layers=stage_layers or even,
        microbatch=microbatch,
        zero=zero if zero is not None else int(dp * cp > 1),
        recompute=(recompute,) * pp,
        **levers,
        predicted=_prediction(pp),
        proof=Proof(candidates=1, pruned=0, lower_bound_s=1.0, gap=0.0),
    )

"""A machine, a model and a plan in Calculon's words, and its own in ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from calculon_peer import DTYPE, Case, Json

from meshwright.clusters.schema import Cluster
from meshwright.planner.configuration import Mesh, Recompute
from meshwright.planner.plan import ModelSpec

RECOMPUTE: dict[Recompute, str] = {"none": "none", "selective": "attn_only", "full": "full"}


@dataclass(frozen=True, slots=True)
class Choice:
    """What the planner decides of an execution."""

    step_s: float
    mesh: Mesh
    vpp: int
    microbatch: int
    zero: int
    recompute: Recompute


def cluster_of(system: Json, devices: int, room: float = 1.0) -> Cluster:
    """Its system file in our words, with so many times its memory. A latency there is that of a whole collective, here
    of one step of its ring."""
    matrix, memory, (fast, slow) = system["matrix"][DTYPE], system["mem1"], system["networks"]
    node, flops = min(fast["size"], devices), matrix["tflops"] * 1e12
    points = [{"flops": max(1.0, g * 1e9), "fraction": e} for g, e in reversed(matrix["gflops_efficiency"])]
    calibration = {
        "origin": "calibrated",
        "source": "its system file",
        "matmul": points,
        "attention": points[-1]["fraction"],
    }
    device = {
        "name": "a100-of-calculon",  # of the kind that the framework was fitted on
        "kind": "cuda",
        "memory": room * memory["GiB"] * 2**30,
        "memory_bandwidth": memory["GBps"] * 1e9,
        "peak_flops": {"fp16": flops},
        "context": 1,
        "calibration": {**calibration, "memory": memory["MB_efficiency"][0][1], "launch": 0},
    }
    fabric = {"kind": "nvswitch", "latency": fast["latency"] / (fast["size"] - 1), "efficiency": fast["efficiency"]}
    nics = {"kind": "infiniband", "count": node, "latency": slow["latency"], "efficiency": slow["efficiency"]}
    group = {
        "name": "nodes",
        "nodes": devices // node,
        "devices_per_node": node,
        "device": device,
        "fabric": {**fabric, "bandwidth": fast["bandwidth"] * 1e9},
        "nics": {**nics, "rate": slow["bandwidth"] * 1e9},
        "host": {"memory": "1 TB", "cores": 64, "device_link": "32 GB/s"},
    }
    return Cluster.model_validate({"name": "of-calculon", "node_groups": [group]})


def model_of(model: Json, name: str) -> ModelSpec:
    """Its blocks with the least vocabulary that every tensor-parallel degree divides."""
    config = {
        "model_type": "gpt2",
        "n_embd": model["hidden"],
        "n_head": model["attn_heads"],
        "n_layer": model["num_blocks"],
        "n_positions": model["seq_size"],
        "n_inner": model["feedforward"],
        "vocab_size": model["attn_heads"],
    }
    return ModelSpec(name=name, config=config)


def executions(choice: Choice, case: Case, system: Json) -> Iterator[Json]:
    """The choice with everything that Calculon knows beside. Networks by size: what fits into a node stays in it."""
    mesh, recompute = choice.mesh, RECOMPUTE[choice.recompute]
    inside = system["networks"][0]["size"]
    tiers = [int(reach > inside) for reach in (mesh.tp, mesh.tp * mesh.dp, mesh.world)]
    kinds = ("rs_ag", "ar", "p2p_rs_ag") if mesh.tp > 1 else ("ar",)
    overlaps = ("none", "ring", "pipe") if mesh.tp > 1 else ("none",)
    hides = (True, False) if mesh.dp > 1 else (False,)
    for kind, overlap, hidden, again in product(kinds, overlaps, hides, (True, False)):
        if again and (kind != "rs_ag" or recompute == "full"):
            continue
        yield {
            "num_procs": mesh.world, "tensor_par": mesh.tp, "pipeline_par": mesh.pp, "data_par": mesh.dp,
            "tensor_par_net": tiers[0], "data_par_net": tiers[1], "pipeline_par_net": tiers[2],
            "batch_size": case.batch, "microbatch_size": choice.microbatch, "datatype": DTYPE, "fused_activation": True,
            "attention_type": "multihead", "activation_recompute": recompute, "pipeline_interleaving": choice.vpp,
            "optimizer_sharding": choice.zero > 0 and mesh.dp > 1, "tensor_par_comm_type": kind,
            "tensor_par_overlap": overlap, "seq_par_ag_redo": again, "data_par_overlap": hidden,
            "weight_offload": False, "activations_offload": False, "optimizer_offload": False, "training": True,
        }  # fmt: skip

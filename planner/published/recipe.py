"""What a published row says of how it ran beyond its layout: which modules it recomputes, which kernels it fuses, how
its experts are dispatched, what CUDA graphs replay, what lives on the host."""

from __future__ import annotations

import re
from typing import get_args

from ..configuration import CORE, Module
from ..frameworks.framework import Experts, Framework, Graphs
from .generation import FUSED_ATTENTION
from .row import Row

FUSED_LOSS_BYTES = 6
"""Per logit with Transformer Engine's cross-entropy: the 16-bit logits and one fp32 copy."""


NATURAL_SPREAD = 0.25
"""Of the loads of experts that no recipe forces to be equal: fits the busiest of 8, 16 and 32 ranks (1.12, 1.22 and
1.42 of their mean over 32768 tokens) in a public routing trace of DeepSeek-V2-Lite (ngavhane/moe-beyond, 26 layers of
64 experts) to 0.05."""


def recompute_modules(row: Row) -> tuple[Module, ...]:
    """What `selective` gives up in a row: the modules it lists, else the core of attention."""
    listed = re.split(r"[:,\s]+", row.recompute.lower())
    modules = tuple(module for module in get_args(Module) if module in listed)
    return modules or CORE


def as_row_ran(framework: Framework, row: Row) -> Framework:
    """The framework with what the row states of it: fused attention, a fused loss, gradients in fp32."""
    update: dict[str, object] = {}
    changed: dict[str, object]
    features = row.features.lower()
    update |= _attention(row)
    if row.framework == "Megatron-LM + DeepSpeed":
        update["checkpoints_on_host"] = True  # DeepSpeedExamples, ds_zero3_pretrain_gpt2_model_parallel.sh: PA_CPU=true
    if re.search(r"fused ce|cross.?entropy fusion", features):
        update["logit_bytes"] = FUSED_LOSS_BYTES
    if "fp32 grad" in row.precision.lower():
        update["gradient_bytes"] = 4
    changed = {"keeps": framework.keeps.model_copy(update=update)} if update else {}
    if row.experts:
        changed |= {"experts": _experts(framework.experts, row)}
    if "graph" in row.features or row.fw_version:
        changed |= {"graphs": _graphs(framework.graphs, row)}
    return framework.model_copy(update=changed) if changed else framework


def _attention(row: Row) -> dict[str, object]:
    """What is kept of attention: its scores where it is not fused. FlashAttention takes 16-bit inputs alone."""
    features = row.features.lower()
    if re.search(r"(?<!no )flash attention", features):
        return {"scores": False, "dropout": False}
    if "no flash attention" in features or row.precision.lower().startswith("fp32") or _plain_jax(row):
        return {"scores": True}
    if (row.year or FUSED_ATTENTION) < FUSED_ATTENTION:
        return {"scores": True, "dropout": True}
    return {}


def _plain_jax(row: Row) -> bool:
    """Pax leaves attention to XLA unless Transformer Engine is on (ENABLE_TE in JAX-Toolbox's README)."""
    return "pax" in row.framework.lower() and "(te)" not in row.precision.lower()


def _experts(experts: Experts, row: Row) -> Experts:
    """Dispatch as the row states it. A recipe preset that names no flexible dispatcher uses the plain all-to-all, as
    does whatever drops tokens, which flexible ones cannot, and a recipe that was not made for speed."""
    features = row.features.lower()
    update: dict[str, object] = {}
    if re.search("hybridep|deepep", features):
        update["dispatch"] = "distinct"
    elif "tokendrop" in row.notes or re.search("recipe preset|alltoall|natural routing", features):
        update["dispatch"] = "copies"
    update["synchronises"] = update.get("dispatch") == "copies" and "tokendrop" not in row.notes
    if "natural routing" in features:
        update["spread"] = NATURAL_SPREAD
    if "a2a_overlap=true" in features or ("recipe preset" not in features and _whole_step_graphs(row)):
        update["overlaps"] = True
    return experts.model_copy(update=update)


def _graphs(graphs: Graphs, row: Row) -> Graphs:
    """Host time that is left: none of what a graph of the whole step holds, half of a layer's where attention (or the
    feed-forward block) is in one, half of the experts' where the router and what prepares the dispatch are."""
    if _whole_step_graphs(row):
        return Graphs(layer=0.0, moe=0.0)
    scope = re.search(r"cuda_graph_scope=(.*?)(;|$)", row.features)
    if scope is None or re.search(r"cuda_graph_impl=none", row.features):
        return graphs
    return Graphs(
        layer=0.5 if re.search("attn|mlp", scope[1]) else 1.0,
        moe=0.5 if "moe_router" in scope[1] else 1.0,
    )


def _whole_step_graphs(row: Row) -> bool:
    """Stated; where nothing is, Megatron-Bridge's recipes of experts for NVLink racks have them from release 26.06 on
    (its verification cards are of that age)."""
    if row.features and "recipe preset" in row.features:
        return "full_iteration" in row.features and "cuda_graph_impl=none" not in row.features
    if row.gpu not in ("GB200", "GB300") or not row.experts:
        return False
    if row.features:
        return "force-balanced" in row.features and "fp8" in row.precision
    release = re.search(r"NeMo container (\d\d\.\d\d)", row.fw_version)
    return release is not None and release[1] >= "26.06"


def offload(row: Row) -> float:
    """Share of the optimizer states that a row keeps in host memory."""
    text = row.features.lower()
    share = re.search(r"optimizer offload (\d+)%", text)
    if share:
        return min(1.0, int(share[1]) / 100)
    return 1.0 if "full cpu offload" in text or "opt offload=y" in text else 0.0


def shards_optimizer(framework: Framework, row: Row) -> bool:
    """Whether ZeRO 1 is assumed where a row does not state it. BigScience trained with it throughout: its 1.3B model
    with 8 replicas fills 16 GB, less than its unsharded states alone."""
    return framework.shards_optimizer or row.source.startswith("BigScience")

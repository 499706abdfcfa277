"""What a published row says about memory beyond its layout: which modules it recomputes, which kernels it fuses."""

from __future__ import annotations

import re
from typing import get_args

from ..cost.activations import CORE, Module
from ..frameworks.framework import Framework
from .row import Row

FUSED_LOSS_BYTES = 6
"""Per logit with Transformer Engine's cross-entropy: the 16-bit logits and one fp32 copy."""


def recompute_modules(row: Row) -> tuple[Module, ...]:
    """What `selective` gives up in a row: the modules it lists, else the core of attention."""
    listed = re.split(r"[:,\s]+", row.recompute.lower())
    modules = tuple(module for module in get_args(Module) if module in listed)
    return modules or CORE


def as_row_ran(framework: Framework, row: Row) -> Framework:
    """The framework with what the row states of it: fused attention, a fused loss, gradients in fp32."""
    update: dict[str, int | bool] = {}
    if re.search(r"(?<!no )flash attention", row.features.lower()):
        update |= {"scores": False, "dropout": False}
    if row.framework == "Megatron-LM + DeepSpeed":
        update["checkpoints_on_host"] = True  # DeepSpeedExamples, ds_zero3_pretrain_gpt2_model_parallel.sh: PA_CPU=true
    if re.search(r"fused ce|cross.?entropy fusion", row.features.lower()):
        update["logit_bytes"] = FUSED_LOSS_BYTES
    if "fp32 grad" in row.precision.lower():
        update["gradient_bytes"] = 4
    if not update:
        return framework
    return framework.model_copy(update={"keeps": framework.keeps.model_copy(update=update)})


def offload(row: Row) -> float:
    """Share of the optimizer states that a row keeps in host memory."""
    text = row.features.lower()
    share = re.search(r"optimizer offload (\d+)%", text)
    if share:
        return int(share[1]) / 100
    return 1.0 if "full cpu offload" in text or "opt offload=y" in text else 0.0


def shards_optimizer(framework: Framework, row: Row) -> bool:
    """Whether ZeRO 1 is assumed where a row does not state it. BigScience trained with it throughout: its 1.3B model
    with 8 replicas fills 16 GB, less than its unsharded states alone."""
    return framework.shards_optimizer or row.source.startswith("BigScience")

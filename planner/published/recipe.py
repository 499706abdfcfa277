"""What a published row says about memory beyond its layout: which modules it recomputes, which kernels it fuses."""

from __future__ import annotations

import re
from typing import get_args

from ..cost.activations import CORE, Module
from ..frameworks.framework import Framework
from .generation import FUSED_ATTENTION
from .row import Row

FUSED_LOSS_BYTES = 6
"""Per logit with Transformer Engine's cross-entropy: the 16-bit logits and one fp32 copy."""


def recompute_modules(row: Row) -> tuple[Module, ...]:
    """What `selective` gives up in a row: the modules it lists, else the core of attention."""
    listed = re.split(r"[:,\s]+", row.recompute.lower())
    modules = tuple(module for module in get_args(Module) if module in listed)
    return modules or CORE


def offloaded(row: Row) -> float:
    """Share of the optimizer states that live in host memory."""
    return float(re.search(r"full cpu offload|opt offload=y", row.features.lower()) is not None)


def as_row_ran(framework: Framework, row: Row) -> Framework:
    """The framework with what the row states of it: fused attention, a fused loss, gradients in fp32."""
    update: dict[str, int | bool] = {}
    features = row.features.lower()
    if re.search(r"(?<!no )flash attention", features):
        update |= {"scores": False, "dropout": False}
    elif "no flash attention" in features:
        update["scores"] = True
    elif (row.year or FUSED_ATTENTION) < FUSED_ATTENTION:
        update |= {"scores": True, "dropout": True}
    if re.search(r"fused ce|cross.?entropy fusion", features):
        update["logit_bytes"] = FUSED_LOSS_BYTES
    if "fp32 grad" in row.precision.lower():
        update["gradient_bytes"] = 4
    if not update:
        return framework
    return framework.model_copy(update={"keeps": framework.keeps.model_copy(update=update)})

"""Seconds of GaLore on a rank (`kernels/galore.py`): a step in the spaces, and its share of the searches for them.

Of replicas each searches for some spaces and sends the others what it found, all of it between two steps.
"""

from __future__ import annotations

from .communication import broadcast_s
from .declared import GRADIENT_BYTES, Declared, adamw_bytes
from .projected import SEARCH_SHARE, SPACE_BYTES, Pace, Projected
from .setting import Setting


def galore_s(setting: Setting, within: Projected, owners: int, replicas: int, gathered_s: float) -> float:
    """Of a step, of the matrices that are projected. `owners` share the weights out, `replicas` the searches;
    `gathered_s` in which gradients are made whole, once more for a search."""
    assert setting.job.galore is not None
    often, pace = 1 / setting.job.galore.every, _pace(setting)
    search_s = within.search_s(pace, replicas) + _spaces_s(setting, within, replicas)
    return within.step_s(pace, owners, _small_bytes(setting)) + often * search_s + (1 + often) * gathered_s


def _pace(setting: Setting) -> Pace:
    device, rates = setting.device, setting.rates
    return Pace(
        bytes_per_s=rates.declared_bytes_per_s,
        flops_per_s=device.peak_flops.get("fp32", rates.peak_flops),
        launch_s=rates.launch_s,
        search_share=SEARCH_SHARE["cpu" if device.kind == "cpu" else "cuda"],
    )


def _small_bytes(setting: Setting) -> float:
    """Moved for an element in the space by its step of AdamW; nobody asks for its norm. On a CPU by the reference."""
    declared = setting.rates.declared or Declared("reference", "fp32")
    return adamw_bytes(declared, setting.job.optimizer_states, galore=True) - GRADIENT_BYTES


def _spaces_s(setting: Setting, within: Projected, replicas: int) -> float:
    """In which replicas send each other the spaces that they found: a message for each matrix."""
    if replicas == 1 or not within.matrices:
        return 0.0
    group, each_bytes = setting.group(1, replicas), SPACE_BYTES * within.spaces / within.matrices
    return within.matrices * broadcast_s(group, each_bytes) * setting.execution.network

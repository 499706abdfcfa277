"""Balance: what it takes to count the choices of experts for a balancing loss over the global batch.

The built-in runtime sums the counts of every layer, 8 bytes an expert, over the tensor-, context- and data-parallel
groups one after the other, in the forward of every microbatch (arXiv:2501.11873; runtime/parallel/expert/balance.py).
Routers with a bias need counts once a step, which costs nothing worth counting.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..configuration import Configuration, Mesh
from ..model import Layer, Moe
from .communication import all_reduce_s
from .setting import Setting

COUNT_BYTES = 8


def counts_s(setting: Setting, configuration: Configuration, layers: Iterable[Layer]) -> float:
    """Seconds of one microbatch through these layers that nothing hides."""
    if not setting.has_experts or not setting.framework.experts.planned:
        return 0.0
    each = {moe: _layer_s(setting, configuration.mesh, moe) for moe in {layer.moe for layer in setting.kinds} if moe}
    return sum(each[layer.moe] for layer in layers if layer.moe)


def _layer_s(setting: Setting, mesh: Mesh, moe: Moe) -> float:
    if moe.router_bias:
        return 0.0
    strides = (mesh.cp * mesh.tp, mesh.dp), (mesh.tp, mesh.cp), (1, mesh.tp)
    return sum(all_reduce_s(setting.group(stride, count), COUNT_BYTES * moe.experts) for stride, count in strides)

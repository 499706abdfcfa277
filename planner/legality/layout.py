"""How ranks fill the devices, and what tensor parallelism cuts into equal parts."""

from __future__ import annotations

from ...errors import Problem
from ..configuration import Configuration, Mesh
from ..cost.setting import Setting
from ..model import Moe
from .rule import Rule, divides, nearest_divisor


def _world(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh, devices = configuration.mesh, setting.num_devices
    fewer = not setting.every_device and mesh.world < devices
    if mesh.world == devices or (fewer and _whole_nodes(setting, mesh.world)):
        return None
    value = f"pp {mesh.pp} x dp {mesh.dp} x cp {mesh.cp} x tp {mesh.tp}"
    return Problem(
        "mesh", value, f"makes {mesh.world} devices, the cluster has {devices}", _degree_that_fits(mesh, devices)
    )


def _degree_that_fits(mesh: Mesh, devices: int) -> str:
    """The value of one degree that makes the product right, the others kept; dp if it can."""
    for name in ("dp", "pp", "cp", "tp"):
        others = mesh.world // getattr(mesh, name)
        if devices % others == 0:
            return f"{name}={devices // others}"
    for name in ("tp", "pp", "cp", "dp"):
        if devices % getattr(mesh, name):
            return f"{name}={nearest_divisor(devices, getattr(mesh, name))}"
    return "smaller degrees"


def _whole_nodes(setting: Setting, world: int) -> bool:
    node = setting.devices_per_node
    return world % node == 0 or node % world == 0


def _tp_heads(setting: Setting, configuration: Configuration) -> Problem | None:
    tp = configuration.mesh.tp
    heads = {layer.attention.heads for layer in setting.kinds}
    for count in sorted(heads):
        if problem := divides("tp", tp, count, "the attention heads"):
            return problem
    return None


def _tp_kv_heads(setting: Setting, configuration: Configuration) -> Problem | None:
    tp = configuration.mesh.tp
    for count in sorted({layer.attention.kv_heads for layer in setting.kinds}):
        if count % tp and tp % count:
            rule = f"must divide the key-value heads ({count}), or be a multiple of them (each is then replicated)"
            return Problem("--pin tp", tp, rule, f"tp={nearest_divisor(count, tp)}")
    return None


def _tp_mlp(setting: Setting, configuration: Configuration) -> Problem | None:
    for layer in setting.kinds:
        block = layer.ffn.shared if isinstance(layer.ffn, Moe) else layer.ffn
        if block and (problem := divides("tp", configuration.mesh.tp, block.width, "the feed-forward width")):
            return problem
    return None


RULES: tuple[Rule, ...] = (
    Rule("world", "ranks are devices", _world),
    Rule("tp-heads", "attention is split by heads", _tp_heads),
    Rule("tp-kv-heads", "key-value heads are split or replicated whole", _tp_kv_heads),
    Rule("tp-mlp", "feed-forward columns are split evenly", _tp_mlp),
)

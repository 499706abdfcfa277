"""Where heads may share a sequence out, and where that has a price: FlexAttention, which passes over unseen blocks."""

from __future__ import annotations

from ...errors import Problem
from ...kernels.facts.sparse import TILE
from ..attention import S2, heads_per_key
from ..configuration import Configuration
from ..cost.setting import Setting
from .rule import Rule


def _whole_sequences(setting: Setting, configuration: Configuration) -> Problem | None:
    if setting.job.sharded is None or configuration.mesh.cp == 1:
        return None
    return Problem("--pin cp", configuration.mesh.cp, "heads share out whole sequences", "cp=1, or --attention dense")


def _priced(setting: Setting, configuration: Configuration) -> Problem | None:
    """Elsewhere masks are written out, and what that takes nobody has counted."""
    s2 = setting.job.sharded
    if s2 is None:
        return None
    if not setting.framework.bundled_kernels:
        rule = "is priced with dense attention: S2 is the built-in runtime's"
        return Problem("--framework", setting.framework.name, rule, "meshwright")
    reasons = {
        "lengths: groups of several degrees read sequences in parts": setting.job.lengths is not None,
        "kernels=reference: masks are written out, which has no price": setting.job.kernels == "reference",
        "devices without FlexAttention write masks out, which has no price": setting.device.kind == "cpu",
        f"blocks of {s2.block} are no tiles of {TILE}: masks are written out, which has no price": s2.block % TILE > 0,
    }
    return next((Problem("--attention", "s2", rule, "dense") for rule, holds in reasons.items() if holds), None)


def _sparse(setting: Setting, configuration: Configuration) -> Problem | None:
    s2 = setting.job.sharded
    if s2 is None:
        return None
    kinds = [layer.attention for layer in setting.kinds]
    if any(each.capped or each.window is not None for each in kinds):
        return Problem("--attention", "s2", "layers have windows of their own, or capped scores", "dense")
    if s2.local_blocks * s2.block >= setting.job.seq_len:
        rule = f"{s2.local_blocks} blocks of {s2.block} are all of a sequence of {setting.job.seq_len}"
        return Problem("--attention", "s2", rule, "a smaller local_blocks, or dense")
    if s2.dense_every == 1:
        return Problem("--attention", "s2", "dense_every=1 makes every layer dense", "dense_every=0")
    return next((found for each in kinds if (found := _heads(s2, each.heads // heads_per_key(each)))), None)


def _heads(s2: S2, groups: int) -> Problem | None:
    if s2.dense_heads >= groups:
        return Problem("--attention", "s2", f"dense_heads={s2.dense_heads} of {groups} leaves none sparse", "dense")
    if not s2.of_heads(1).complete(groups):
        rule = f"stride={s2.stride} is more than the {groups} key-value heads: no head would see some blocks"
        return Problem("--attention", "s2", rule, f"stride={groups}, or dense_heads=1" if groups > 1 else "dense")
    return None


RULES: tuple[Rule, ...] = (
    Rule("shards-whole", "heads share out whole sequences", _whole_sequences),
    Rule("shards-priced", "what a shard costs is known of FlexAttention alone", _priced),
    Rule("shards-sparse", "a shard is less than all", _sparse),
)

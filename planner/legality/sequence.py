"""How a sequence is cut: sequence and context parallelism, and the positions that a model knows."""

from __future__ import annotations

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from .rule import Rule


def _sp(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.sp and configuration.mesh.tp == 1:
        return Problem("--pin sp", True, "sequence parallelism shares the ranks of tp, which is 1", "tp=2")
    return None


def _sequence(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh, seq_len = configuration.mesh, setting.job.seq_len
    parts = (2 * mesh.cp if mesh.cp > 1 else 1) * (mesh.tp if configuration.sp else 1)
    if seq_len % parts == 0:
        return None
    field, value = ("cp", mesh.cp) if mesh.cp > 1 else ("sp", True)
    rule = f"the sequence ({seq_len}) must split into {parts} equal parts (2 x cp for balance, x tp with sp)"
    return Problem(f"--pin {field}", value, rule, f"--seq-len {max(1, round(seq_len / parts)) * parts}")


def _ulysses(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh = configuration.mesh
    heads = min(layer.attention.kv_heads for layer in setting.kinds)
    if configuration.cp_algorithm != "ulysses" or heads % (mesh.cp * mesh.tp) == 0:
        return None
    return Problem(
        "--pin cp_algorithm", "ulysses", f"cp x tp must divide the key-value heads ({heads})", "cp_algorithm=ring"
    )


def _windows(setting: Setting, configuration: Configuration) -> Problem | None:
    if setting.architecture.learned_positions and setting.job.seq_len > setting.architecture.learned_positions:
        limit = setting.architecture.learned_positions
        return Problem(
            "--seq-len", setting.job.seq_len, f"the model has {limit} learned positions", f"--seq-len {limit}"
        )
    return None


RULES: tuple[Rule, ...] = (
    Rule("sp-tp", "sequence parallelism shards over the tp ranks", _sp),
    Rule("sequence", "shards of a sequence are equal", _sequence),
    Rule("ulysses", "all-to-all exchanges whole heads", _ulysses),
    Rule("positions", "learned positions end", _windows),
)

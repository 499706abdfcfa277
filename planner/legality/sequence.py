"""How a sequence is cut: sequence and context parallelism, and the positions that a model knows."""

from __future__ import annotations

import math

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from ..sequence import local_tokens
from .rule import Rule, divides


def _sp(setting: Setting, configuration: Configuration) -> Problem | None:
    if configuration.sp and configuration.mesh.tp == 1:
        return Problem("--pin sp", True, "sequence parallelism shares the ranks of tp, which is 1", "tp=2")
    return None


def _sequence(setting: Setting, configuration: Configuration) -> Problem | None:
    tp, seq_len = configuration.mesh.tp, setting.job.seq_len
    if not configuration.sp or configuration.mesh.cp > 1 or seq_len % tp == 0:
        return None
    rule = f"the sequence ({seq_len}) must split into {tp} equal parts"
    return Problem("--pin sp", True, rule, f"--seq-len {max(1, round(seq_len / tp)) * tp}")


def _padding(setting: Setting, configuration: Configuration) -> Problem | None:
    cp, seq_len = configuration.mesh.cp, setting.job.seq_len
    padded = cp * local_tokens(seq_len, cp, configuration.mesh.tp if configuration.sp else 1)
    if not setting.has_experts or padded == seq_len:
        return None
    rule = f"pads the sequence ({seq_len}) to {padded} tokens, and routers would count what is padded"
    return Problem("--pin cp", cp, rule, f"--seq-len {padded}")


def _heads(setting: Setting, configuration: Configuration) -> Problem | None:
    """Keys and values may be sent to several ranks, queries may not."""
    mesh = configuration.mesh
    ranks = {"ulysses": mesh.cp, "usp": configuration.cp_ulysses}.get(configuration.cp_algorithm, 1)
    heads = math.gcd(*(layer.attention.heads for layer in setting.kinds))
    if mesh.cp % ranks or heads % (ranks * mesh.tp) == 0:
        return None
    if configuration.cp_algorithm == "usp":
        rule = f"cp_ulysses x tp must divide the attention heads ({heads})"
        return Problem("--pin cp_ulysses", ranks, rule, f"cp_ulysses={math.gcd(mesh.cp, heads // mesh.tp)}")
    rule = f"cp x tp must divide the attention heads ({heads})"
    return Problem("--pin cp_algorithm", "ulysses", rule, "cp_algorithm=ring")


def _product(setting: Setting, configuration: Configuration) -> Problem | None:
    cp, ulysses = configuration.mesh.cp, configuration.cp_ulysses
    if ulysses > 1 and configuration.cp_algorithm != "usp":
        return Problem("--pin cp_ulysses", ulysses, "is the part of usp that shares out heads", "cp_algorithm=usp")
    if cp > 1 and ulysses == 1 and configuration.cp_algorithm == "usp":
        return Problem(
            "--pin cp_algorithm", "usp", "with cp_ulysses=1 shares out no heads: a ring", "cp_algorithm=ring"
        )
    return divides("cp_ulysses", ulysses, cp, "the context-parallel ranks")


def _parts(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh, sp = configuration.mesh, configuration.sp
    tokens = configuration.microbatch * local_tokens(setting.job.seq_len, mesh.cp, mesh.tp if sp else 1)
    if configuration.logits_chunks <= tokens:
        return None
    rule = f"a microbatch has {tokens} tokens on a rank, and a chunk one or more"
    return Problem("--pin logits_chunks", configuration.logits_chunks, rule, f"logits_chunks={tokens}")


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
    Rule("padding", "context parallelism pads a sequence that does not divide, and padding is no token", _padding),
    Rule("cp-heads", "all-to-all exchanges whole heads", _heads),
    Rule("cp-product", "usp is heads times rings (arXiv:2405.07719)", _product),
    Rule("chunks", "a chunk of the loss has tokens", _parts),
    Rule("positions", "learned positions end", _windows),
)

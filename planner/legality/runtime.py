"""What the built-in runtime of this version cannot run, in a configuration that is legal."""

from __future__ import annotations

from ...errors import Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from .rule import Rule, nearest_divisor


def _runtime(field: str, value: object, rule: str, fix: str) -> Problem:
    return Problem(f"--pin {field}", value, f"the built-in runtime {rule}", fix)


RUNTIME_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def _family(setting: Setting, configuration: Configuration) -> Problem | None:
    family = setting.architecture.family
    if family in RUNTIME_FAMILIES:
        return None
    return Problem("model", family, f"the built-in runtime trains {', '.join(RUNTIME_FAMILIES)}", "llama-3.1-8b")


def _window(setting: Setting, configuration: Configuration) -> Problem | None:
    windows = [layer.attention.window for layer in setting.kinds if layer.attention.window]
    if not windows or min(windows) >= setting.job.seq_len:
        return None
    rule = f"the built-in runtime has no attention in windows ({min(windows)} tokens)"
    return Problem("--seq-len", setting.job.seq_len, rule, f"--seq-len {min(windows)}")


def _degrees(setting: Setting, configuration: Configuration) -> Problem | None:
    mesh = configuration.mesh
    for field, value in (("cp", mesh.cp), ("ep", mesh.ep), ("etp", mesh.etp)):
        if value > 1:
            return _runtime(field, value, f"has no {field} yet", f"{field}=1")
    return None


_UNBUILT: dict[str, object] = {"spread_vocabulary": False}
"""Levers that the planner knows and the runtime cannot pull yet, with the value that leaves them alone."""


def _levers(setting: Setting, configuration: Configuration) -> Problem | None:
    for field, unused in _UNBUILT.items():
        value = getattr(configuration, field)
        if value != unused:
            return _runtime(field, value, f"has no {field} yet", f"{field}={unused}".lower())
    return None


def _vocabulary(setting: Setting, configuration: Configuration) -> Problem | None:
    tp, vocab = configuration.mesh.tp, setting.architecture.vocab
    if vocab % tp == 0:
        return None
    return _runtime("tp", tp, f"splits the vocabulary ({vocab}) evenly", f"tp={nearest_divisor(vocab, tp)}")


def _precision(setting: Setting, configuration: Configuration) -> Problem | None:
    precision = setting.job.precision
    if precision in ("bf16", "fp32"):
        return None
    return Problem("--precision", precision, "the built-in runtime trains in bf16 or fp32", "bf16")


RUNTIME_RULES: tuple[Rule, ...] = (
    Rule("family", "blocks exist for the llama family and its relatives", _family),
    Rule("window", "attention is full and causal", _window),
    Rule("degrees", "dp, tp and pp are implemented", _degrees),
    Rule("levers", "levers are built one after another", _levers),
    Rule("vocabulary", "the vocabulary is not padded", _vocabulary),
    Rule("precision", "no loss scaling, no fp8", _precision),
)

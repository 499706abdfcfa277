"""Declared: bytes of the bundled kernels and of their plain references, as their declarations count them.

The built-in runtime runs the kernels of `kernels/` on CUDA devices, or their references where a job says so. Their
declarations, which tests hold to the tensors and to PyTorch's operators as they run, say what both move and keep; the
prices of other frameworks, and of CPUs, whose calibration is of plain PyTorch, do not ask here.

Of a reference the declaration counts both directions together: a third is forward, as in a fused kernel, whose backward
reads the saved input and the gradient and writes a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ...kernels.facts import cross_entropy as facts
from ...kernels.kernel import ITEM_BYTES
from ...kernels.registry import kernel
from ..model import Layer, Mlp, Moe
from ..optimizer import Kernels, States
from .sharding import Sharding

FORWARD = 1 / 3
"""Of what a reference moves."""

STATE_BYTES: dict[States, int] = {"fp32": 4, "bf16": 2}
GRADIENT_BYTES = 4
COPIED_BYTES = 24
"""Of a parameter and its moments that a reference has made, to where the old ones stand."""


@dataclass(frozen=True, slots=True)
class Declared:
    """Which of both run, and the number format of activations."""

    choice: Kernels
    dtype: str

    def moved(self, name: str, **sizes: float) -> tuple[float, float]:
        """Bytes forward and backward of kernel `name`."""
        return _moved(self.choice, self.dtype, name, _whole(sizes))

    def kept(self, name: str, **sizes: float) -> float:
        """Bytes from the forward to the backward."""
        return _kept(self.choice, self.dtype, name, _whole(sizes))


def _whole(sizes: dict[str, float]) -> tuple[tuple[str, int], ...]:
    return tuple((name, round(size)) for name, size in sizes.items())


@lru_cache(maxsize=4096)
def _moved(choice: Kernels, dtype: str, name: str, given: tuple[tuple[str, int], ...]) -> tuple[float, float]:
    found, sizes = kernel(name), dict(given)
    if choice == "auto" and found.takes(sizes):
        forward = found.forward(sizes, dtype).moved_bytes
        return float(forward), float(found.trained(sizes, dtype).moved_bytes - forward)
    plain = found.plain(sizes, dtype).moved_bytes
    return (FORWARD * plain, (1 - FORWARD) * plain) if found.backward is not None else (float(plain), 0.0)


@lru_cache(maxsize=4096)
def _kept(choice: Kernels, dtype: str, name: str, given: tuple[tuple[str, int], ...]) -> float:
    found, sizes = kernel(name), dict(given)
    fast = choice == "auto" and found.takes(sizes)
    return float((found.kept_bytes if fast else found.plain_kept_bytes)(sizes, dtype))


@dataclass(frozen=True, slots=True)
class Bytes:
    """Moved by kernels of one layer, and how many elements the formula of `compute.py` counts for them, forward."""

    forward: float = 0.0
    backward: float = 0.0
    counted: float = 0.0

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.forward + other.forward, self.backward + other.backward, self.counted + other.counted)


def layer_bytes(layer: Layer, sharding: Sharding, seq_len: int, declared: Declared) -> Bytes:
    """Norms with the residual that one of them takes in, rotations, gated activations and permutations of a layer on
    one rank and microbatch."""
    total = norms_bytes(layer, sharding, seq_len, declared) + _rotary(layer, sharding, seq_len, declared)
    for tokens, width in gates(layer, sharding, seq_len):
        total += gated_bytes(tokens, width, declared)
    return total + _permutations(layer, sharding, seq_len, declared)


def norm_name(layer: Layer) -> str:
    if layer.norm_bias:
        return "layer_norm"
    return "offset_rms_norm" if layer.norm_offset else "rms_norm"


def norms_bytes(layer: Layer, sharding: Sharding, seq_len: int, declared: Declared) -> Bytes:
    """Of two norms the second takes the residual in (`runtime/blocks/transformer.py`)."""
    own, name = sharding.tokens(seq_len) / sharding.sequence_split, norm_name(layer)
    added = 1 if layer.norms == 2 else 0
    plain = declared.moved(name, rows=own, width=layer.hidden)
    both = declared.moved(f"add_{name}", rows=own, width=layer.hidden)
    forward, backward = ((layer.norms - added) * one + added * two for one, two in zip(plain, both, strict=True))
    return Bytes(forward, backward, (2 * layer.norms + 3 * added) * own * layer.hidden)


def _rotary(layer: Layer, sharding: Sharding, seq_len: int, declared: Declared) -> Bytes:
    """Of latent attention the part of heads that has positions, and one such key for all heads."""
    attention, tokens = layer.attention, sharding.tokens(seq_len)
    heads, keys = attention.heads / sharding.tp, float(sharding.kv_heads(attention.kv_heads))
    width, name = float(attention.head_dim), "rotary"
    if attention.latent is not None:
        keys, width, name = 1.0, float(attention.latent.rope_dim), "rotary_pairs"
    sizes = {"batch": 1.0, "seq_len": tokens, "heads": heads, "kv_heads": keys, "width": width, "turned": width}
    found = Bytes(*declared.moved(name, **sizes), 2 * tokens * (heads + keys) * width)
    if not attention.qk_norm_parameters or attention.latent is not None:
        return found
    rows = tokens * (heads + keys)
    return found + Bytes(*declared.moved("rms_norm", rows=rows, width=width), 2 * rows * width)


def gates(layer: Layer, sharding: Sharding, seq_len: int) -> Iterator[tuple[float, float]]:
    """Rows and width of every gated activation of a layer; those of its experts are one."""
    tokens, ffn = sharding.tokens(seq_len), layer.ffn
    dense = ffn if isinstance(ffn, Mlp) else ffn.shared
    if dense is not None and dense.gated:
        yield tokens, dense.width / sharding.tp
    if isinstance(ffn, Moe) and ffn.expert.gated:
        yield _routed(ffn, sharding, seq_len), ffn.expert.width / sharding.etp


def gated_bytes(tokens: float, width: float, declared: Declared) -> Bytes:
    """All gated activations move as many."""
    return Bytes(*declared.moved("swiglu", rows=tokens, width=width), 3 * tokens * width)


def _routed(moe: Moe, sharding: Sharding, seq_len: int) -> float:
    return sharding.tokens(seq_len) / sharding.sequence_split * moe.top_k * sharding.etp


def _permutations(layer: Layer, sharding: Sharding, seq_len: int, declared: Declared) -> Bytes:
    """Tokens to the order of their experts and back."""
    if not isinstance(layer.ffn, Moe):
        return Bytes()
    moe, routed = layer.ffn, _routed(layer.ffn, sharding, seq_len)
    sizes = {"tokens": routed / moe.top_k, "choices": moe.top_k, "experts": moe.experts}
    total = Bytes(*declared.moved("sort_by_expert", **sizes))
    for name in ("permute", "unpermute"):
        total += Bytes(*declared.moved(name, **sizes, width=layer.hidden), 2 * routed * layer.hidden)
    return total


def loss_bytes(tokens: float, columns: float, hidden: int, split: Sharding, declared: Declared) -> tuple[float, float]:
    """Of cross-entropy over so many columns of a rank, forward and backward, beside the products that make logits and
    read their gradient. By kernel logits become their gradient in the forward pass, and the gradients of both factors,
    made there too, are scaled in the backward (`kernels/linear_cross_entropy.py`). Ranks with shares of the vocabulary
    read logits twice, for what they exchange and after that; of a spread vocabulary the second is the backward."""
    sizes = {"tokens": round(tokens), "vocab": round(columns), "width": hidden}
    if split.vocabulary_split == 1:
        return _whole_loss_bytes(sizes, declared)
    auto, spread = declared.choice == "auto", split.spread > 1
    first = [facts.summarised if auto else facts.summarised_plain]
    second = [facts.sloped] if auto else [facts.sloped_plain]
    if not auto and spread:
        second.append(facts.remade_plain)
    if auto and not spread:
        first, second = first + second, [facts.scaled]
    forward, backward = (
        float(sum(each(sizes, declared.dtype).moved_bytes for each in both)) for both in (first, second)
    )
    return forward, backward


def _whole_loss_bytes(sizes: dict[str, int], declared: Declared) -> tuple[float, float]:
    dtype, logits = declared.dtype, {name: sizes[name] for name in kernel("cross_entropy").sizes}
    if declared.choice == "auto":
        forward = kernel("cross_entropy").forward(logits, dtype).moved_bytes
        return float(forward), float(facts.scaled(sizes, dtype).moved_bytes)
    plain = kernel("linear_cross_entropy").plain({**sizes, "width": 0}, dtype).moved_bytes
    moved = plain - 3 * ITEM_BYTES[dtype] * sizes["tokens"] * sizes["vocab"]
    return FORWARD * moved, (1 - FORWARD) * moved


def adamw_bytes(declared: Declared, states: States, galore: bool = False) -> float:
    """Moved for a parameter by the norm of its gradient and a step of AdamW: fused with clipping, or by torch's fused
    AdamW after the gradients were multiplied. What torch's has not (states in bfloat16, GaLore) the reference of the
    kernel does, operator by operator."""
    found, narrower = kernel("adamw"), 4 * (STATE_BYTES["fp32"] - STATE_BYTES[states])
    if declared.choice == "reference" and (galore or states != "fp32"):
        return float(GRADIENT_BYTES + found.plain({"elements": 1}, "fp32").moved_bytes + COPIED_BYTES - narrower)
    clipping = 0.0 if declared.choice == "auto" else 2.0 * GRADIENT_BYTES
    return GRADIENT_BYTES + clipping + found.forward({"elements": 1}, "fp32").moved_bytes - narrower

"""Arguments of cross-entropy, of logits and of what they are made from."""

from __future__ import annotations

from torch import Tensor

from ..kernel import Sizes
from .example import Example, Maker

_CHUNKS = 3


def logits(maker: Maker, sizes: Sizes) -> Example:
    """Of rows, some of which count nothing."""
    drawn = maker.normal(sizes["rows"], sizes["vocab"], scale=2.0)
    return Example({"logits": drawn, "targets": _targets(maker, sizes)}, ())


def projection(maker: Maker, sizes: Sizes) -> Example:
    """Hidden states and a weight in their type, as it is after its cast."""
    width = sizes["width"]
    arguments = {
        "hidden": maker.normal(sizes["rows"], width),
        "weight": maker.normal(sizes["vocab"], width, scale=width**-0.5),
        "targets": _targets(maker, sizes),
        "chunks": min(_CHUNKS, max(1, sizes["rows"])),
    }
    return Example(arguments, ("hidden", "weight"))


def _targets(maker: Maker, sizes: Sizes) -> Tensor:
    drawn = maker.integers(0, sizes["vocab"], sizes["rows"])
    return drawn.masked_fill(maker.integers(0, 6, sizes["rows"]) == 0, -100)

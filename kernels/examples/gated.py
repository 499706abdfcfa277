"""Arguments of gated activations."""

from __future__ import annotations

from ..kernel import Sizes
from .example import Example, Maker


def gated(maker: Maker, sizes: Sizes) -> Example:
    """Gates of three deviations, so that both ends of the activation occur."""
    gate = maker.normal(sizes["rows"], sizes["width"], scale=3.0)
    return Example({"gate": gate, "up": maker.normal(sizes["rows"], sizes["width"])}, ("gate", "up"))

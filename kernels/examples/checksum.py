"""Arguments of checksums."""

from __future__ import annotations

import torch

from ..kernel import Sizes
from .example import Example, Maker


def checksum(maker: Maker, sizes: Sizes) -> Example:
    """Words of 32 bits, a part of the columns of a wider tensor."""
    words = maker.integers(-(2**31), 2**31, sizes["rows"], sizes["width"]).to(torch.int32)
    return Example({"words": words, "first": 5, "width": sizes["width"], "stride": sizes["width"] + 16}, ())

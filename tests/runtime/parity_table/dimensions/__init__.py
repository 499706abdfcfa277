"""One file a dimension; a new one is added to this list."""

from __future__ import annotations

from parity_table.dimensions import (
    compilation,
    context,
    data,
    experts,
    families,
    offload,
    pipeline,
    recompute,
    tensor,
    vocabulary,
)
from parity_table.row import Dimension

DIMENSIONS: tuple[Dimension, ...] = (
    pipeline.DIMENSION,
    data.DIMENSION,
    tensor.DIMENSION,
    context.DIMENSION,
    experts.DIMENSION,
    recompute.DIMENSION,
    offload.DIMENSION,
    vocabulary.DIMENSION,
    compilation.DIMENSION,
    families.DIMENSION,
)

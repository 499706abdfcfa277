"""Replicas (ZeRO 0): the gradients that PyTorch's own data parallelism leaves, with one reduction that begins early."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import replica_ranks
import torch
from harness import run_ranks

RANKS = 2  # a mean over two rounds nothing, whether divided before or after the sum


@pytest.mark.parametrize(
    ("dtype", "oracle"),
    [(torch.float32, replica_ranks.distributed_data_parallel), (torch.bfloat16, replica_ranks.composable)],
    ids=lambda of: getattr(of, "__name__", str(of)),
)
def test_gradients_are_those_of_pytorch(dtype: torch.dtype, oracle: Callable[[], replica_ranks.Gradients]) -> None:
    expected = run_ranks(RANKS, oracle)
    for (found, together, early), theirs in zip(run_ranks(RANKS, replica_ranks.ours, dtype), expected, strict=True):
        assert found.keys() == theirs.keys()
        for name, values in found.items():
            torch.testing.assert_close(torch.tensor(values), torch.tensor(theirs[name]), rtol=1e-6, atol=1e-7)
        assert together
        assert early


def test_every_rank_has_the_same_gradients() -> None:
    """To the last bit, or clipping without a message would let them part."""
    first, *others = (found for found, *_ in run_ranks(3, replica_ranks.ours, torch.float32))
    assert all(other == first for other in others)

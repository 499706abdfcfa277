"""Replicas with their own numbers of microbatches train as one device does, and take the samples that it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parity import assert_same
from plans import LLAMA, make_plan

from meshwright.runtime.checks import problems
from meshwright.runtime.data import local_samples

SHARED: dict[str, dict[str, Any]] = {
    "zero0": {"dp": 2, "zero": 0, "shares": (3, 1)},
    "zero1": {"dp": 3, "zero": 1, "microbatch": 1, "shares": (5, 1, 2)},
    "zero1 in 2 copies": {"dp": 4, "zero": 1, "dp_replicate": 2, "microbatch": 1, "shares": (3, 1, 2, 2)},
    "pipeline": {"dp": 2, "pp": 2, "zero": 1, "microbatch": 1, "shares": (2, 6)},
    "context": {"dp": 2, "cp": 2, "zero": 1, "microbatch": 2, "shares": (1, 3)},
}


@pytest.mark.parametrize("name", SHARED)
def test_uneven_shares_equal_one_device(name: str, tmp_path: Path) -> None:
    assert_same(LLAMA, SHARED[name], 4, tmp_path)


def test_a_batch_that_replicas_do_not_divide_can_be_shared() -> None:
    assert problems(make_plan(LLAMA, dp=3, microbatch=1, global_batch=8, shares=(3, 3, 2)), 3) == []
    assert problems(make_plan(LLAMA, dp=3, microbatch=1, global_batch=8), 3) != []


@pytest.mark.parametrize("shares", [(3, 1), (1, 3), (2, 2), (1, 2, 1), (4,)])
def test_replicas_take_every_sample_once(shares: tuple[int, ...]) -> None:
    """Whatever the shares: so that a run that resumes with others neither repeats nor skips a sample."""
    plan = make_plan(LLAMA, dp=len(shares), microbatch=2, global_batch=8, shares=shares, zero=0)
    sizes = plan.configuration.local_batches
    parts = [local_samples(40, sizes, rank) for rank in range(len(shares))]
    assert [len(part) for part in parts] == [2 * share for share in shares]
    assert [index for part in parts for index in part] == list(range(40, 48))

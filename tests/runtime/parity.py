"""The proof of every mesh: the same losses, gradients and norms as one process."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import run_ranks
from oracle import Curve, train_reference
from plans import make_plan
from workers import train


@cache
def reference(config: str, steps: int, seq_len: int = 32, global_batch: int = 8) -> Curve:
    return train_reference(json.loads(config), steps=steps, seq_len=seq_len, global_batch=global_batch)


def assert_same(config: dict[str, Any], options: dict[str, Any], steps: int, folder: Path) -> None:
    plan = make_plan(config, **options)
    expected = reference(json.dumps(config), steps, plan.job.seq_len, plan.job.global_batch)
    torch.save(expected.first_gradients, folder / "gradients.pt")
    ranks = run_ranks(plan.configuration.mesh.world, train, plan, steps, folder / "gradients.pt")
    errors = {name: error for _, _, found in ranks for name, error in found.items()}
    assert errors.keys() == expected.first_gradients.keys()
    assert max(errors.values()) < 1e-5, errors
    for losses, norms, _ in ranks:
        assert losses == pytest.approx(expected.losses, rel=1e-4)
        assert norms == pytest.approx(expected.norms, rel=1e-3)

"""Embedding and output layer spread over the ranks of a pipeline: the same training as on one device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parity import assert_same
from plans import LLAMA

STEPS = 3

PIPELINES: dict[str, dict[str, Any]] = {
    "pp2 1f1b": {"pp": 2},
    "pp4 1f1b": {"pp": 4, "microbatch": 1},
}


@pytest.mark.parametrize("name", PIPELINES)
def test_spread_vocabulary_equals_one_device(name: str, tmp_path: Path) -> None:
    assert_same(LLAMA, {**PIPELINES[name], "spread_vocabulary": True}, STEPS, tmp_path)

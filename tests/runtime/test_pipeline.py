"""Every schedule trains as one device does: in pairs with stages, microbatches, data, tensor parallelism, recomputation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from parity import assert_same
from plans import LLAMA

STEPS = 3
SEVEN = {**LLAMA, "num_hidden_layers": 7}

SCHEDULES: dict[str, dict[str, Any]] = {
    "gpipe": {"schedule": "gpipe", "stage_layers": (3, 4)},
    "1f1b": {"schedule": "1f1b", "stage_layers": (6, 1)},
    "interleaved": {"schedule": "interleaved", "vpp": 2, "stage_layers": (1, 3, 1, 2)},
    "looped-bfs": {"schedule": "looped-bfs", "vpp": 3},
    "zb-h1": {"schedule": "zb-h1", "stage_layers": (5, 2)},
    "zb-v": {"schedule": "zb-v", "vpp": 2, "stage_layers": (1, 3, 1, 2)},
    "dualpipev": {"schedule": "dualpipev", "vpp": 2, "stage_layers": (2, 1, 1, 3)},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_two_ranks_with_uneven_stages(name: str, tmp_path: Path) -> None:
    assert_same(SEVEN, {"pp": 2, "microbatch": 1, **SCHEDULES[name]}, STEPS, tmp_path)

"""Every family, of odd sizes and with all its switches, trains on a mesh as its transformers model does on one device.

The parity table has every family in one mesh, for 20 steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from families import DENSE, LATENT
from parity_table.outcome import BARS
from parity_table.row import Row
from parity_table.run import run_rows

CONFIGS = DENSE | LATENT
STEPS = 2  # the second one sees what the first gradient has done

MESHES: dict[str, dict[str, Any]] = {
    "pp2 tp2 sp": {"pp": 2, "tp": 2, "sp": True, "microbatch": 4, "zero": 0},
    "tp4, more ranks than key heads, chunks": {"tp": 4, "microbatch": 8, "zero": 0, "logits_chunks": 3},
    "cp2 tp2 sp": {"cp": 2, "tp": 2, "sp": True, "microbatch": 8, "zero": 0},
}


@pytest.mark.parametrize("family", CONFIGS)
def test_family_trains_as_transformers_does(family: str, tmp_path: Path) -> None:
    rows = [Row(name, {**options, "config": CONFIGS[family]}) for name, options in MESHES.items()]
    for name, found in run_rows(rows, tmp_path, steps=STEPS, memory=False).items():
        assert not found.error, f"{name}: {found.error}"
        # Biases begin at zero, and AdamW's first steps are as long for a gradient of rounding as for any other.
        assert found.loss <= BARS["loss"], name
        assert found.first_gradient <= BARS["first_gradient"], (name, found.gradient_of)
        assert found.gradient <= BARS["gradient"], (name, found.gradient_of)

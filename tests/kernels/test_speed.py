"""The benchmark walks its road where there is no GPU, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import meshwright

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("device")
def test_tiny_sizes_give_a_row_for_each_pass(tmp_path: Path) -> None:
    search = os.pathsep.join([str(Path(next(iter(meshwright.__path__))).parent), *filter(None, sys.path)])
    env = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": search}
    command = [ROOT / "scripts/kernel-bench", "--cpu", "--only", "swiglu", "--out", tmp_path / "table.json"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert [(row["kernel"], row["backward"], row["target_percent"]) for row in rows] == [
        ("swiglu", False, 88),
        ("swiglu", True, 88),
    ]
    assert all(row["times_us"][side] > 0 for row in rows for side in ("ours", "eager", "compile"))

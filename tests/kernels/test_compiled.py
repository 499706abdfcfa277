"""Programs compiled for GPUs that are not here: no spills, and 128-bit loads and stores where a kernel streams."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import meshwright
from meshwright.kernels.registry import KERNELS

ARCHITECTURES = ("sm_80", "sm_90")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: pip install triton (Linux)"
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """In a process of its own: this one interprets programs, so it cannot compile them."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    search = os.pathsep.join([str(Path(next(iter(meshwright.__path__))).parent), *filter(None, sys.path)])
    env = {**inherited, "PYTHONPATH": search, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    command = [sys.executable, "-m", "meshwright.kernels.compiled", *ARCHITECTURES]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_programs_compile_without_spills_and_with_wide_loads(
    name: str, architecture: str, compiled: list[dict[str, Any]]
) -> None:
    own = [each for each in compiled if each["kernel"] == name and each["architecture"] == architecture]
    assert own
    assert [each for each in own if each["spills"] or each["local_bytes"] or each["stack_bytes"]] == []
    assert [each for each in own if each["narrow"]] == []

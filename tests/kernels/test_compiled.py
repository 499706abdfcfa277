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

ARCHITECTURES = ("sm_90", pytest.param("sm_80", marks=pytest.mark.slow))
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed: pip install triton (Linux)"
)


@pytest.fixture(scope="module")
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def compiled(architecture: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All programs for one architecture, in a process of its own: this one interprets programs, so it cannot compile
    them."""
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    search = os.pathsep.join([str(Path(next(iter(meshwright.__path__))).parent), *filter(None, sys.path)])
    env = {**inherited, "PYTHONPATH": search, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    command = [sys.executable, "-m", "meshwright.kernels.compiled", architecture]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("architecture", ARCHITECTURES, indirect=True)
@pytest.mark.parametrize("name", KERNELS)
def test_programs_compile_without_spills_and_with_wide_loads(name: str, compiled: list[dict[str, Any]]) -> None:
    own = [each for each in compiled if each["kernel"] == name]
    assert own
    assert [each for each in own if each["spills"] or each["local_bytes"] or each["stack_bytes"]] == []
    assert [each for each in own if each["narrow"]] == []

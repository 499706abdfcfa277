"""The device of Triton programs: tests/conftest.py has asked for the interpreter where there is no GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "runtime")]
torch.set_num_threads(1)

HAS_TRITON = importlib.util.find_spec("triton") is not None
CUDA = torch.cuda.is_available()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where Triton programs run. Skips where there is no Triton for this machine (`scripts/test` installs it)."""
    if not HAS_TRITON:
        pytest.skip("triton is not installed: pip install triton (Linux), or the extra `test`")
    if not CUDA:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    return "cuda" if CUDA else "cpu"

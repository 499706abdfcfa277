"""Triton programs run natively where a CUDA device is, else in Triton's interpreter.

Triton decides which when it is first imported, so that is done here, before a test imports it; the interpreter wants to
be asked for again whenever it runs (the fixture `device`), and other tests of the same process never ask.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "runtime")]
torch.set_num_threads(1)

ASKED = "TRITON_INTERPRET"
HAS_TRITON = importlib.util.find_spec("triton") is not None
CUDA = torch.cuda.is_available()


def _import_interpreted() -> None:
    before = os.environ.get(ASKED)
    if "triton" in sys.modules and before != "1":
        raise pytest.UsageError("triton was imported before tests/kernels: run pytest on these tests first, or alone")
    os.environ[ASKED] = "1"
    import triton.experimental.gluon  # noqa: F401, imported by the first launch

    if before is None:
        del os.environ[ASKED]


if not HAS_TRITON and os.environ.get("MESHWRIGHT_NEEDS_TRITON"):
    raise pytest.UsageError("triton is not installed, and scripts/test skips nothing: pip install -e '.[test]'")
if HAS_TRITON and not CUDA:
    _import_interpreted()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where Triton programs run. Skips where there is no Triton for this machine (`scripts/test` installs it)."""
    if not HAS_TRITON:
        pytest.skip("triton is not installed: pip install triton (Linux), or the extra `test`")
    if not CUDA:
        monkeypatch.setenv(ASKED, "1")
    return "cuda" if CUDA else "cpu"

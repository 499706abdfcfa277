"""Triton programs run natively where a CUDA device is, else in Triton's interpreter.

Triton decides which when it is first imported, and parts of PyTorch import it; so that is done here, before any test is
collected. The interpreter wants to be asked for again whenever it runs (the fixture `device` of tests/kernels).
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

ASKED = "TRITON_INTERPRET"
HAS_TRITON = importlib.util.find_spec("triton") is not None


def _import_interpreted() -> None:
    before = os.environ.get(ASKED)
    os.environ[ASKED] = "1"
    import triton.experimental.gluon  # noqa: F401, imported by the first launch

    if before is None:
        del os.environ[ASKED]


if not HAS_TRITON and os.environ.get("MESHWRIGHT_NEEDS_TRITON"):
    raise pytest.UsageError("triton is not installed, and scripts/test skips nothing: pip install -e '.[test]'")
if HAS_TRITON and not torch.cuda.is_available():
    _import_interpreted()

"""What a process holds before a model does, beside the kernel's own count."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEP = """
import torch
from meshwright.profiler import facts
from meshwright.runtime.stop import peak_resident_bytes
torch.set_num_threads(1)
if {without}:
    facts._first_step = lambda: None
context = facts._context_bytes(torch.device("cpu"))
queries = torch.randn(1, 2, 64, 32, requires_grad=True)
heads = torch.nn.functional.scaled_dot_product_attention(queries, queries, queries, is_causal=True)
weights = torch.randn(64, 256, requires_grad=True)
logits = heads.transpose(1, 2).reshape(64, 64) @ weights
torch.nn.functional.cross_entropy(logits, torch.zeros(64, dtype=torch.long)).backward()
torch.optim.AdamW([weights]).step()
print((peak_resident_bytes() - context) / 2**20)
"""

HELD = """
import subprocess, sys
own = bytearray(400 * 2**20)
asked = "from meshwright.runtime.stop import peak_resident_bytes; print(peak_resident_bytes() / 2**20)"
print(subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout)
"""


def told(script: str) -> float:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_a_small_step_brings_nothing_new() -> None:
    """Code of libraries that every training uses is not the model's. What the step itself holds is a MiB or so."""
    new, before = told(STEP.format(without=False)), told(STEP.format(without=True))
    assert new < 4 < before


@pytest.mark.skipif(sys.platform != "linux", reason="others ask getrusage(2)")
def test_what_the_parent_held_is_not_the_process_own() -> None:
    alone = told("from meshwright.runtime.stop import peak_resident_bytes; print(peak_resident_bytes() / 2**20)")
    assert told(HELD) < alone + 50

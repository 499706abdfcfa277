"""What a process holds before a model does, beside the kernel's own count."""

from __future__ import annotations

import subprocess
import sys

ASKED = """
import resource, torch
from meshwright.profiler.facts import _context_bytes
torch.set_num_threads(1)
context = _context_bytes(torch.device("cpu"))
queries = torch.randn(1, 2, 64, 32, requires_grad=True)
heads = torch.nn.functional.scaled_dot_product_attention(queries, queries, queries, is_causal=True)
weights = torch.randn(64, 256, requires_grad=True)
logits = heads.transpose(1, 2).reshape(64, 64) @ weights
torch.nn.functional.cross_entropy(logits, torch.zeros(64, dtype=torch.long)).backward()
torch.optim.AdamW([weights]).step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - context) / 2**20)
"""


def test_the_first_step_of_a_small_model_brings_nothing_new() -> None:
    """Code of libraries that every training uses is not the model's. What the step itself holds is a MiB or so."""
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=True)
    assert 0 <= float(done.stdout) < 4

"""Scores that no fused kernel computes: how many bytes, beside what PyTorch holds, and for whom they are counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from meshwright.kernels.attention import attention_backward
from meshwright.planner.cost.activations import Shape, transient_bytes
from meshwright.planner.cost.scores import are_held, held_bytes
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.families import architecture, load_model
from meshwright.planner.frameworks.framework import Keeps

GEMMA = architecture(load_model("gemma-2-9b"))
CAPPED = replace(GEMMA.layers[1].attention, heads=2, kv_heads=1)
PLAIN = replace(CAPPED, capped=False)


class Peak(TorchDispatchMode):
    """The most bytes of tensors of `elements` that operators made and somebody held."""

    def __init__(self, elements: int):
        super().__init__()
        self.elements, self.held, self.most = elements, [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() == self.elements and result._base is None:
            self.held.append(StorageWeakRef(result.untyped_storage()))
        alive = {each.cdata for each in self.held if not each.expired()}
        self.most = max(self.most, 4 * self.elements * len(alive))
        return result


@pytest.mark.parametrize("attention", [PLAIN, CAPPED], ids=["plain", "capped"])
def test_the_fullest_moment_is_that_of_the_plain_backward(attention):
    tokens, width = 96, 8
    query, key, value, output, gradient = (torch.randn(1, 2, tokens, width) for _ in range(5))
    seen, lse = torch.ones(tokens, tokens, dtype=torch.bool).tril(), torch.randn(1, 2, tokens)
    with Peak(2 * tokens * tokens) as peak:
        softcap = 50.0 if attention.capped else None
        attention_backward(gradient, query, key, value, output, lse, seen, scale=1.0, softcap=softcap)
    assert held_bytes(attention, Sharding(), tokens) == peak.most


def test_who_holds_them():
    windowed, ring = replace(PLAIN, window=64), Sharding(cp=4)
    assert are_held(CAPPED, Sharding(), on_cpu=True, fp32=False)
    assert are_held(windowed, ring, on_cpu=False, fp32=False)
    assert are_held(PLAIN, ring, on_cpu=False, fp32=True)
    assert not are_held(windowed, ring, on_cpu=True, fp32=True)
    assert not are_held(windowed, Sharding(), on_cpu=False, fp32=False)
    assert not are_held(PLAIN, ring, on_cpu=False, fp32=False)


def test_a_rank_holds_a_block():
    """4 ranks of 1024 tokens each: a ring's block, or all tokens of a quarter of the heads; windows one by one."""
    whole = 20 * 2 * 4096**2
    assert held_bytes(CAPPED, Sharding(), 4096) == whole
    assert held_bytes(CAPPED, Sharding(cp=4), 4096) == whole / 16
    assert held_bytes(CAPPED, Sharding(cp=4, cp_algorithm="ulysses"), 4096) == whole / 4
    assert held_bytes(CAPPED, Sharding(tp=2, microbatch=4), 4096) == 2 * whole
    assert held_bytes(replace(CAPPED, window=1024), Sharding(), 4096) == 20 * 2 * 1024 * 2047


def test_only_the_runtime_is_charged():
    layer, shape = GEMMA.layers[1], Shape(sharding=Sharding(), seq_len=8192, element=2, keeps=Keeps())
    assert transient_bytes(layer, shape) < 2**30
    held = transient_bytes(layer, replace(shape, keeps=Keeps(score_blocks=True)))
    assert held > 20 * layer.attention.heads * 8192**2 / 2

"""What private interfaces are given where no test has the device: on CUDA."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from harness import run_ranks
from torch import Tensor
from workers import threads_of_a_fork, threads_of_groups

from meshwright.runtime import compat


def test_the_fused_backward_gets_a_log_sum_exp_without_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's kernel reads its memory from the first element on, whatever the strides say."""
    given: list[Tensor] = []

    def kernel(*tensors: Any, **_: Any) -> list[Tensor]:
        given.extend(tensors[:6])
        return [torch.empty(0)] * 3

    monkeypatch.setattr(torch.ops.aten, "_scaled_dot_product_flash_attention_backward", kernel)
    rows = torch.randn(2, 4, 16, 8, device="meta")[:, :, 8:]
    lse = torch.randn(2, 4, 16, device="meta")[:, :, 8:]
    assert not lse.is_contiguous()
    compat.flash_backward(rows, rows, rows, rows, rows, lse, None, causal=True, scale=1.0)
    assert given[5].shape == lse.shape
    assert given[5].is_contiguous()


@pytest.mark.parametrize(("backend", "device"), [("gloo", "cpu"), ("nccl", "cuda"), ("cpu:gloo,cuda:nccl", "cuda")])
def test_a_group_with_nccl_exchanges_on_cuda(backend: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that are made in a world of two backends carry the names of both."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(dist, "get_backend", lambda group: backend)
    assert compat.device_of(dist.ProcessGroup(0, 1)).type == device


def test_idle_groups_share_the_thread_that_looks_for_news() -> None:
    """One more group has the threads of its calls alone: the kernel's count, before and after."""
    for before, after in run_ranks(2, threads_of_groups, 4):
        assert 0 < after - before <= 2 * 4


def test_a_fork_has_a_thread_of_its_own() -> None:
    """That of the device and two for calls: the device of the process that it comes from would never say anything."""
    assert run_ranks(2, threads_of_a_fork) == [3, 3]

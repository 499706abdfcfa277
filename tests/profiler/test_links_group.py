"""Messages that cross over NCCL: a stand-in for its backend, which gives no work for a call in a group of calls."""

from __future__ import annotations

import pytest
import torch

from meshwright.profiler.links_group import Group


class Work:
    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def wait(self) -> None:
        self._calls.append("wait")


class Nccl:
    """As ProcessGroupNCCL: inside of a group of calls only its end has something to wait for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._together = False

    def _start_coalescing(self) -> None:
        self._together = True

    def _end_coalescing(self) -> Work:
        self._together = False
        return Work(self.calls)

    def recv(self, tensors: list[torch.Tensor], peer: int, tag: int) -> Work | None:
        return self._call(f"recv {tensors[0].numel()} {peer}")

    def send(self, tensors: list[torch.Tensor], peer: int, tag: int) -> Work | None:
        return self._call(f"send {tensors[0].numel()} {peer}")

    def _call(self, words: str) -> Work | None:
        self.calls.append(words if self._together else f"{words}, alone")
        return None if self._together else Work(self.calls)


def test_messages_of_nccl_cross_in_one_group_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, each end would wait in its receive until the other one sends."""
    group = object.__new__(Group)
    group.place, group.device, group._buffers = 0, torch.device("cpu"), {}
    group._posts_first, group._backend = False, Nccl()
    monkeypatch.setattr(Group, "together", lambda self: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert len(group.crossing(64, 3)) == 2
    assert group._backend.calls == ["recv 16 1", "send 16 1", "wait"] * 3

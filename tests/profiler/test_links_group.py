"""Messages that cross: over NCCL, by a stand-in for its backend, which gives no work for a call in a group of calls;
and which of them count."""

from __future__ import annotations

import pytest
import torch

from meshwright.profiler.links_group import Group
from meshwright.profiler.links_pairs import _crossing, _Meeting


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


class Crossed:
    """A pair of which this is the first end, with messages that arrive so far apart."""

    place = 0

    def __init__(self, apart_s: list[float]) -> None:
        self._apart_s = apart_s

    def crossing(self, size_bytes: int, messages: int) -> list[float]:
        assert messages == len(self._apart_s)
        return self._apart_s

    def largest(self, values: list[float]) -> list[float]:
        return values


def test_what_comes_after_the_others_have_ended_does_not_count() -> None:
    """The long message was measured alone: a second per message in pairs, and half of one when the other has gone."""
    meeting = _Meeting((0, 1), Crossed([1.0] * 3 + [0.5] * 18), 0.0, 1000, 0.5)
    found = _crossing(meeting, 3.5)
    assert (found.there_bytes_per_s, found.back_bytes_per_s) == (0.0, 1000.0)

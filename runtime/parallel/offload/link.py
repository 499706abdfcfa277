"""Link: copies between the device and the host, beside what the device computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Link:
    """Copies in order on a stream of its own; on a CPU, whose memory is the host's, plain copies."""

    def __init__(self, device: torch.device):
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._device = device

    def buffer(self, elements: int) -> Tensor:
        """Host memory for float32 that copies need not be staged through."""
        return torch.empty(elements, pin_memory=self._stream is not None)

    def follow(self) -> None:
        """Copies from here on come after what the device was given to do."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def copy(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> Any:
        """Begin to copy (target, source) pairs; what to `wait` for before the host reads or overwrites them."""
        if self._stream is None:
            _copy(pairs)
            return None
        with torch.cuda.stream(self._stream):
            _copy(pairs)
            return self._stream.record_event()

    @staticmethod
    def wait(copied: Any) -> None:
        """Until a copy is done."""
        if copied is not None:
            copied.synchronize()

    def join(self) -> None:
        """What the device is given from here on comes after all copies."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)


def _copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for target, source in pairs:
        target.copy_(source, non_blocking=True)

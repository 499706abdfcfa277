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
        """Begin to copy (target, source) pairs of any precision; what to `wait` for or to `order` the device after."""
        if self._stream is None:
            for target, source in pairs:
                target.copy_(source)
            return None
        with torch.cuda.stream(self._stream):
            for target, source in pairs:
                self._copy(target, source)
            return self._stream.record_event()

    def _copy(self, target: Tensor, source: Tensor) -> None:
        """In the precision of the host, which the device converts: the host would be slow and wait for it."""
        if source.is_cuda:
            source.record_stream(self._stream)
            target.copy_(source.to(target.dtype), non_blocking=True)
        else:
            target.copy_(source.to(self._device, non_blocking=True))

    @staticmethod
    def wait(copied: Any) -> None:
        """Until a copy is done."""
        if copied is not None:
            copied.synchronize()

    def order(self, copied: Any) -> None:
        """What the device is given from here on comes after a copy."""
        if copied is not None:
            torch.cuda.current_stream(self._device).wait_event(copied)

    def join(self) -> None:
        """What the device is given from here on comes after all copies."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

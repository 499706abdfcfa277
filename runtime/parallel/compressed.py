"""Compressed: gradients summed over ranks by messages a quarter as long, with feedback of what rounding left.

Every rank quantises its gradients and sends each of the others the part that this one adds up (all-to-all); it adds up
its own part in the order of the ranks, in float32, quantises the sum and sends it to all (all-gather). What both
roundings leave is added to the gradients of the next step (arXiv:1901.09847, on both sides as in DoubleSqueeze,
arXiv:1905.05957). Every rank reads the same bytes, its own part too, so replicas stay equal to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ...kernels.facts.quantise import BLOCK
from ...kernels.quantise import blocks_of, dequantise_into, quantise_into, requantise_into
from ...planner.compression import FORMATS, Compress

_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # 2.13 renamed it
_SCALE_BYTES = 4
_ALIGNED = 4  # blocks of a part: its scales are a multiple of 16 bytes, so the next part begins at one


class Coding(Protocol):
    """How numbers become bytes and sums of them. Messages are uint8 [parts, message_bytes], residuals float32 like the
    numbers that are sent."""

    @property
    def multiple(self) -> int: ...  # of numbers in a part

    def message_bytes(self, elements: int) -> int: ...

    def encode(self, numbers: Tensor, messages: Tensor, residual: Tensor) -> None: ...

    def combine(self, messages: Tensor, message: Tensor, residual: Tensor) -> None: ...

    def decode(self, messages: Tensor, numbers: Tensor) -> None: ...


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of 8-bit numbers (`kernels.quantise`): the codes of a part, then its scales."""

    format: str
    multiple: int = _ALIGNED * BLOCK

    def message_bytes(self, elements: int) -> int:
        return elements + _SCALE_BYTES * blocks_of(elements)

    def encode(self, numbers: Tensor, messages: Tensor, residual: Tensor) -> None:
        quantise_into(numbers, *_cut(messages, numbers.shape[1]), residual, self.format)

    def combine(self, messages: Tensor, message: Tensor, residual: Tensor) -> None:
        elements = residual.shape[1]
        requantise_into(*_cut(messages, elements), *_cut(message, elements), residual, self.format)

    def decode(self, messages: Tensor, numbers: Tensor) -> None:
        dequantise_into(*_cut(messages, numbers.shape[1]), numbers, self.format)


def _cut(messages: Tensor, elements: int) -> tuple[Tensor, Tensor]:
    """Codes and scales."""
    return messages[:, :elements], messages[:, elements:].view(torch.float32)


CODINGS: dict[Compress, Coding] = {name: Blocks(format) for name, format in FORMATS.items()}


class Sum(Protocol):
    """Adds one flat float32 tensor up over a group, in place: `start`, `pass_on` and `finish`, each once a step and on
    all ranks in the same order. Nobody touches the tensor in between."""

    def padded(self, elements: int) -> int: ...

    def residuals(self) -> dict[str, Tensor]: ...

    def start(self, flat: Tensor) -> None: ...

    def pass_on(self) -> None: ...

    def finish(self) -> None: ...


class PlainSum:
    """One all-reduce."""

    def __init__(self, group: dist.ProcessGroup):
        self._group = group
        self._work: Any = None

    def padded(self, elements: int) -> int:
        """How long the tensor is, for so many numbers."""
        return elements

    def residuals(self) -> dict[str, Tensor]:
        """What is kept from step to step."""
        return {}

    def start(self, flat: Tensor) -> None:
        self._work = dist.all_reduce(flat, group=self._group, async_op=True)

    def pass_on(self) -> None:
        """Nothing: it is under way."""

    def finish(self) -> None:
        self._work.wait()
        self._work = None


class CompressedSum:
    """All-to-all and all-gather of what `coding` makes of `elements` numbers.

    Each rank keeps two residuals in float32: of all that it sends, and of the part that it adds up.
    """

    def __init__(self, group: dist.ProcessGroup, coding: Coding, elements: int, device: torch.device):
        self._group, self._coding, self._ranks = group, coding, group.size()
        each = coding.multiple * self._ranks
        self._share = -(-elements // each) * coding.multiple
        self._own = torch.zeros(self._ranks, self._share, device=device)
        self._of_sum = torch.zeros(1, self._share, device=device)
        self._flat: Tensor | None = None
        self._sent: list[Tensor] = []  # what must live until it has arrived
        self._received: Tensor | None = None
        self._work: Any = None

    def padded(self, elements: int) -> int:
        """Equal parts of whole blocks, one a rank."""
        return self._share * self._ranks

    def residuals(self) -> dict[str, Tensor]:
        """What is kept from step to step."""
        return {"own": self._own, "of_sum": self._of_sum}

    def start(self, flat: Tensor) -> None:
        """Quantise, and send each rank its part."""
        self._flat = flat
        sent = self._messages(self._ranks)
        self._coding.encode(flat.view(self._ranks, self._share), sent, self._own)
        self._received = torch.empty_like(sent)
        self._work = dist.all_to_all_single(self._received, sent, group=self._group, async_op=True)
        self._sent = [sent]

    def pass_on(self) -> None:
        """Add this rank's part up, and send the sum to all."""
        assert self._received is not None
        self._work.wait()
        found, reduced = self._received, self._messages(1)
        self._coding.combine(found, reduced, self._of_sum)
        self._received = self._sent[0]  # whose bytes have arrived
        self._work = _gather(self._received, reduced, self._group, async_op=True)
        self._sent = [reduced]

    def finish(self) -> None:
        """Read the sums of all parts."""
        assert self._flat is not None
        assert self._received is not None
        self._work.wait()
        self._coding.decode(self._received, self._flat.view(self._ranks, self._share))
        self._flat, self._received, self._work, self._sent = None, None, None, []

    def _messages(self, parts: int) -> Tensor:
        count = self._coding.message_bytes(self._share)
        return torch.empty(parts, count, dtype=torch.uint8, device=self._own.device)


def sum_over(
    group: dist.ProcessGroup, compress: Compress, elements: int, device: torch.device
) -> PlainSum | CompressedSum:
    """What adds up `elements` numbers of a unit."""
    if compress == "none":
        return PlainSum(group)
    return CompressedSum(group, CODINGS[compress], elements, device)

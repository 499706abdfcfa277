"""Memory by liveness on any device: which tensors that operators returned are still held by somebody."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class Alive(TorchDispatchMode):
    """Sees every operator. `bytes` are those held now, `peak` the most at any moment, `largest` the most elements of
    one tensor, `operators` the names of all that ran."""

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = self.largest = 0
        self.operators: list[str] = []

    @property
    def bytes(self) -> int:
        self._held = {key: each for key, each in self._held.items() if not each[0].expired()}
        return sum(size for _, size in self._held.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operators.append(str(func))
        given = {each.untyped_storage().data_ptr() for each in map(_plain, args) if isinstance(each, Tensor)}
        for each in map(_plain, result if isinstance(result, tuple | list) else (result,)):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self.largest = max(self.largest, each.numel())
                if storage.data_ptr() not in given:
                    self._held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        return result


def _plain(given: Any) -> Any:
    """Without what wraps it: a DTensor, or a collective's result that nobody has waited for."""
    return getattr(given, "elem", getattr(given, "_local_tensor", given))

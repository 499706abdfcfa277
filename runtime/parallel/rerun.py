"""Rerun: modules whose output nobody keeps for the backward pass; it is made again when first asked for.

Checkpointing a norm frees what it keeps inside, but the projections after it keep its output all the same, as their
input. Here both are forgotten: autograd is handed a note instead of the tensor (Megatron-Core's recomputation of
norms and activation functions saves the same bytes).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class Call:
    """One call of a module. Its input stays; everything else is made once more for the first note that is opened, and
    forgotten again with the last."""

    def __init__(self, forward: Callable[[Tensor], Tensor], x: Tensor):
        self._forward, self._x = forward, x.detach().requires_grad_(x.requires_grad)
        self._inside: list[Tensor] = []
        self._output: Tensor | None = None
        self._kept = self._notes = self._opened = 0

    def run(self, x: Tensor) -> Tensor:
        """The output; what autograd would save inside becomes notes."""
        with saved_tensors_hooks(self._note_inside, open_note):
            return self._forward(x)

    def _note_inside(self, tensor: Tensor) -> Note:
        self._notes, self._kept = self._notes + 1, self._kept + 1
        return Note(self, self._kept - 1)

    def note(self, view: Tensor) -> Note:
        """For the output, or a view of it, that another operation would save."""
        self._notes += 1
        return Note(self, None, tuple(view.shape), view.stride(), view.storage_offset())

    def open(self, note: Note) -> Tensor:
        """The tensor that a note stands for."""
        if self._output is None:
            self._again()
        assert self._output is not None
        output = self._output
        found = self._inside[note.index] if note.index is not None else output.as_strided(*note[2:])
        self._opened += 1
        if self._opened % self._notes == 0:  # a second backward pass would run the module once more
            self._inside, self._output = [], None
        return found

    def _again(self) -> None:
        with torch.enable_grad(), saved_tensors_hooks(self._inside.append, _never):
            self._output = self._forward(self._x).detach()


class Note(NamedTuple):
    """Stands for a saved tensor: the `index`-th that a call keeps inside, or (None) a view of its output."""

    call: Call
    index: int | None
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    offset: int = 0


class Scope:
    """A block within which outputs of some of its modules are forgotten; they are known by where they lie in memory,
    which is theirs as long as this holds them: until the block returns."""

    def __init__(self, block: nn.Module):
        self._calls: dict[int, tuple[Tensor, Call]] = {}
        block.forward = partial(self._around, block.forward)

    def forget(self, module: nn.Module) -> None:
        """Let nothing but the input of `module` stay. Its output must be a fresh tensor."""
        module.forward = partial(self._call, module.forward)

    def _around(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with saved_tensors_hooks(self._note, open_note):
            result = forward(*args, **kwargs)
        self._calls.clear()
        return result

    def _call(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(x)
        call = Call(forward, x)
        output = call.run(x)
        self._calls[output.untyped_storage().data_ptr()] = output.detach(), call
        return output

    def _note(self, tensor: Tensor) -> Tensor | Note:
        known = self._calls.get(tensor.untyped_storage().data_ptr()) if type(tensor) is Tensor else None
        return tensor if known is None else known[1].note(tensor)


def open_note(saved: Any) -> Any:
    """What autograd saved, or what its note stands for."""
    return saved.call.open(saved) if isinstance(saved, Note) else saved


def _never(nothing: Any) -> Any:
    raise AssertionError("nobody goes backward through a repetition")

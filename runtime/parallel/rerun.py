"""Rerun: modules whose output nobody keeps for the backward pass; it is made again when first asked for.

Checkpointing a norm frees what it keeps inside, but the projections after it keep its output all the same, as their
input. Here both are forgotten: autograd is handed a note instead of the tensor (Megatron-Core's recomputation of
norms and activation functions saves the same bytes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.tensor import DTensor

from .. import compat


class Call:
    """One call of a module. Its input stays, or is the output of another call; everything else is made once more for
    the first note that is opened, and forgotten again with the last."""

    def __init__(self, forward: Callable[[Tensor], Tensor], x: Tensor | Note):
        self._forward = forward
        self._x = x if isinstance(x, Note) else x.detach().requires_grad_(x.requires_grad)
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
        return Note(self, None, tuple(view.shape), view.stride(), int(view.storage_offset()))

    def open(self, note: Note) -> Tensor:
        """The tensor that a note stands for."""
        if self._output is None:
            self._again()
        assert self._output is not None
        output = self._output
        found = self._inside[note.inside] if note.inside is not None else output.as_strided(*note[2:])
        self._opened += 1
        if self._opened % self._notes == 0:  # a second backward pass would run the module once more
            self._inside, self._output = [], None
        return found

    def _again(self) -> None:
        with torch.enable_grad(), saved_tensors_hooks(self._inside.append, _never):
            self._output = compat.waited(self._forward(open_note(self._x))).detach()


class Note(NamedTuple):
    """Stands for a saved tensor: the `inside`-th that a call keeps inside, or (None) a view of its output."""

    call: Call
    inside: int | None
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

    def forget_entry(self, block: nn.Module) -> None:
        """Nor what the hooks before `block` make of its input: tokens that they gather are gathered again."""
        hooks = compat.forward_pre_hooks(block)
        if hooks:
            before: list[Tensor] = []
            block.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]), prepend=True)
            block.register_forward_pre_hook(partial(self._entered, partial(_enter, block, hooks), before))

    def _entered(
        self, enter: Callable[[Tensor], Tensor], before: list[Tensor], _: nn.Module, inputs: tuple[Any, ...]
    ) -> None:
        source = before.pop()
        if torch.is_grad_enabled():
            self._know(inputs[0], Call(enter, self._note(source)))

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
        self._know(output, call)
        return output

    def _know(self, output: Tensor, call: Call) -> None:
        output = compat.waited(output).detach()
        self._calls[output.untyped_storage().data_ptr()] = output, call

    def _note(self, tensor: Tensor) -> Tensor | Note:
        if isinstance(tensor, DTensor):
            return tensor
        plain = compat.waited(tensor)
        known = self._calls.get(plain.untyped_storage().data_ptr())
        return tensor if known is None else known[1].note(plain)


def _enter(block: nn.Module, hooks: Sequence[Callable[..., Any]], x: Tensor) -> Tensor:
    """What the hooks before `block` make of its input."""
    for hook in hooks:
        x = hook(block, (x,))[0]
    return x


def open_note(saved: Any) -> Any:
    """What autograd saved, or what its note stands for."""
    return saved.call.open(saved) if isinstance(saved, Note) else saved


def _never(nothing: Any) -> Any:
    raise AssertionError("nobody goes backward through a repetition")

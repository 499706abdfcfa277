"""Rerun: functions whose outputs nobody keeps for the backward pass; they are made again when first asked for.

Checkpointing a norm frees what it keeps inside, but the projections after it keep its output all the same, as their
input. Here both are forgotten: autograd is handed a note instead of the tensor (Megatron-Core's recomputation of
norms, activation functions and up-projections saves the same bytes).
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

Function = Callable[..., Any]
"""Takes tensors, and returns one or a tuple of them."""


class Call:
    """One call of a function. Its inputs stay, or are outputs of other calls; everything else is made once more for the
    first note that is opened, and forgotten again with the last."""

    def __init__(self, function: Function, inputs: Sequence[Tensor], saved: Sequence[Tensor | Note]):
        """`saved` stands for `inputs`: the same tensors, or notes of them."""
        self._function, self._inputs = function, [_apart(x) for x in saved]
        self._differentiable = [x.requires_grad for x in inputs]
        self._inside: list[Tensor] = []
        self._outputs: list[Tensor] = []
        self._kept = self._notes = self._opened = 0

    def run(self, inputs: Sequence[Tensor]) -> Any:
        """The result; what autograd would save inside becomes notes."""
        with saved_tensors_hooks(self._note_inside, open_note):
            return self._function(*inputs)

    def _note_inside(self, tensor: Tensor) -> Note:
        self._notes, self._kept = self._notes + 1, self._kept + 1
        return Note(self, True, self._kept - 1)

    def note(self, output: int, view: Tensor) -> Note:
        """For an output, or a view of it, that another operation would save."""
        self._notes += 1
        return Note(self, False, output, tuple(view.shape), view.stride(), int(view.storage_offset()))

    def open(self, note: Note) -> Tensor:
        """The tensor that a note stands for."""
        if not self._outputs:
            self._again()
        if note.inside:
            found = self._inside[note.number]
        else:
            found = self._outputs[note.number].as_strided(note.size, note.stride, note.offset)
        self._opened += 1
        if self._opened % self._notes == 0:  # a second backward pass would run the function once more
            self._inside, self._outputs = [], []
        return found

    def _again(self) -> None:
        pairs = zip(self._inputs, self._differentiable, strict=True)
        inputs = [open_note(saved).detach().requires_grad_(wanted) for saved, wanted in pairs]
        with torch.enable_grad(), saved_tensors_hooks(self._take_inside, _never):
            outputs = _several(self._function(*inputs))
        self._outputs = [compat.waited(output).detach() for output in outputs]

    def _take_inside(self, tensor: Tensor) -> None:
        """Without its history: this hook is held by that history, and so nothing of both would ever go."""
        self._inside.append(tensor.detach())


class Note(NamedTuple):
    """Stands for a saved tensor: the `number`-th that a call keeps inside, or a view of its `number`-th output."""

    call: Call
    inside: bool
    number: int
    size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    offset: int = 0


class Scope:
    """A block within which outputs of some functions are forgotten; they are known by where they lie in memory, which
    is theirs as long as this holds them: until the block returns."""

    def __init__(self, block: nn.Module):
        self._known: dict[int, tuple[Tensor, Call, int]] = {}
        block.forward = partial(self._around, block.forward)

    def forget(self, owner: Any, name: str = "forward") -> None:
        """Let nothing stay of a module's calls, or of another function of tensors, but their inputs."""
        setattr(owner, name, partial(self._call, getattr(owner, name)))

    def forget_entry(self, block: nn.Module) -> None:
        """Nor what the hooks before `block` make of its input: tokens that they gather are gathered again."""
        hooks = compat.forward_pre_hooks(block)
        if hooks:
            before: list[Tensor] = []
            block.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]), prepend=True)
            block.register_forward_pre_hook(partial(self._entered, partial(_enter, block, hooks), before))

    def _entered(self, enter: Function, before: list[Tensor], _: nn.Module, inputs: tuple[Any, ...]) -> None:
        source = before.pop()
        if torch.is_grad_enabled():
            self._know(inputs[0], Call(enter, [source], [self._note(source)]))

    def _around(self, forward: Function, *args: Any, **kwargs: Any) -> Any:
        with saved_tensors_hooks(self._note, open_note):
            result = forward(*args, **kwargs)
        self._known.clear()
        return result

    def _call(self, function: Function, *inputs: Tensor) -> Any:
        if not torch.is_grad_enabled():
            return function(*inputs)
        call = Call(function, inputs, [self._note(x) for x in inputs])
        result = call.run(inputs)
        self._know(result, call)
        return result

    def _know(self, result: Any, call: Call) -> None:
        for number, output in enumerate(_several(result)):
            plain = compat.waited(output).detach()
            if plain.numel():  # all empty ones lie at 0
                self._known[plain.untyped_storage().data_ptr()] = plain, call, number

    def _note(self, tensor: Tensor) -> Tensor | Note:
        if isinstance(tensor, DTensor):
            return tensor
        plain = compat.waited(tensor)
        known = self._known.get(plain.untyped_storage().data_ptr()) if plain.numel() else None
        return tensor if known is None else known[1].note(known[2], plain)


def _apart(x: Tensor | Note) -> Tensor | Note:
    """A tensor without its history, which would hold on to what made it."""
    return x if isinstance(x, Note) else x.detach()


def _several(result: Any) -> Sequence[Tensor]:
    return result if isinstance(result, tuple | list) else (result,)


def _enter(block: nn.Module, hooks: Sequence[Function], x: Tensor) -> Tensor:
    """What the hooks before `block` make of its input."""
    for hook in hooks:
        x = hook(block, (x,))[0]
    return x


def open_note(saved: Any) -> Any:
    """What autograd saved, or what its note stands for."""
    return saved.call.open(saved) if isinstance(saved, Note) else saved


def _never(nothing: Any) -> Any:
    raise AssertionError("nobody goes backward through a repetition")

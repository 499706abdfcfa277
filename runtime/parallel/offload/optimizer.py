"""AdamW (arXiv:1711.05101) with a fraction of its states on the host: it updates them, and the device the rest.

Deep Optimizer States (arXiv:2410.21316) splits the update into subgroups between host and device; ZeRO-Infinity
(arXiv:2104.07857) keeps states on NVMe drives. A subgroup's parameters and gradients come down, the host updates, the
parameters go up: 12 bytes a parameter over the link, against 16 if the states themselves went to the device and back.
The parameters on the device are the only ones that last: whoever changes them need not tell the host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from ... import compat
from ...shards import held, views
from .link import Link
from .states import States
from .subgroups import SUBGROUP_ELEMENTS, Subgroup, offloaded, on_its_own, subgroups

IN_FLIGHT = 3
"""Subgroups on their way at once: one comes down, one is updated, one goes up."""


@dataclass(slots=True)
class Slot:
    """Host buffers of one subgroup on its way."""

    parameters: Tensor
    gradients: Tensor
    copied: Any = None  # the last copy from or to it


class OffloadedAdamW(torch.optim.Optimizer):
    """AdamW over groups as torch's takes them, with fused updates on both sides: equal to it bit for bit."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        states: Callable[[list[range]], States],
        *,
        fraction: float,
        device: torch.device,
        subgroup_elements: int = SUBGROUP_ELEMENTS,
        **options: Any,
    ):
        """`states` makes room for subgroups of consecutive elements; `options` are those of torch.optim.AdamW."""
        super().__init__(groups, {**options, "fused": True})
        chosen = offloaded([p for group in self.param_groups for p in group["params"]], fraction)
        leaving = [(group, [p for p in group["params"] if p in chosen]) for group in self.param_groups]
        self._subgroups = subgroups(leaving, subgroup_elements)
        ranges = [subgroup.elements for subgroup in self._subgroups]
        self._states, self._link = states(ranges), Link(device)
        most = max(map(len, ranges), default=0)
        count = min(IN_FLIGHT, len(ranges))
        self._slots = [Slot(self._link.buffer(most), self._link.buffer(most)) for _ in range(count)]
        self._on_device = self._rest(chosen)
        self._show([parameter for _, own in leaving for parameter in own])

    def _rest(self, chosen: set[nn.Parameter]) -> list[tuple[dict[str, Any], torch.optim.AdamW]]:
        """For each group of options the optimizer of what stays on the device; it shares this one's states."""
        found = []
        for group in self.param_groups:
            stay = [p for p in group["params"] if p not in chosen]
            if stay:
                rest = torch.optim.AdamW([{**group, "params": stay}], fused=True)
                rest.state = self.state
                found.append((group, rest))
        return found

    def _show(self, parameters: list[nn.Parameter]) -> None:
        """Put the host's states where torch's optimizers have theirs, so that checkpoints see one kind."""
        sizes = [held(parameter).shape for parameter in parameters]
        moments = [[on_its_own(each) for each in views(flat, sizes)] for flat in self._states.resident()]
        for parameter, first, second in zip(parameters, *moments, strict=True):
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": compat.like_sharded(first, parameter),
                "exp_avg_sq": compat.like_sharded(second, parameter),
            }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter from its gradient. On a GPU its own part of the update is under way by the time that
        the host begins with the first subgroup."""
        for parameter in {piece.parameter for subgroup in self._subgroups for piece in subgroup.pieces}:
            _close_gaps(parameter)
        self._link.follow()
        for index in range(min(IN_FLIGHT - 1, len(self._subgroups))):
            self._down(index)
        self._step_on_device()
        for index, subgroup in enumerate(self._subgroups):
            if index + IN_FLIGHT - 1 < len(self._subgroups):
                self._down(index + IN_FLIGHT - 1)
            self._update(index, subgroup)
        self._states.settle()
        self._link.join()

    def _step_on_device(self) -> None:
        for group, rest in self._on_device:
            rest.param_groups[0].update({name: value for name, value in group.items() if name != "params"})
            rest.step()

    def _down(self, index: int) -> None:
        """Begin to bring a subgroup's parameters and gradients to the host."""
        subgroup, slot = self._subgroups[index], self._slots[index % IN_FLIGHT]
        self._states.ahead(index)
        self._link.wait(slot.copied)
        into = [*subgroup.views(slot.parameters), *subgroup.views(slot.gradients)]
        sources = [piece.of(piece.parameter) for piece in subgroup.pieces]
        sources += [piece.of(_gradient(piece.parameter)) for piece in subgroup.pieces]
        slot.copied = self._link.copy(list(zip(into, sources, strict=True)))

    def _update(self, index: int, subgroup: Subgroup) -> None:
        """On the host, then begin to send the parameters back."""
        slot, options = self._slots[index % IN_FLIGHT], subgroup.options
        first, second = (subgroup.views(flat) for flat in self._states.take(index))
        self._link.wait(slot.copied)
        parameters = subgroup.views(slot.parameters)
        adamw(
            parameters, subgroup.views(slot.gradients), first, second, [], self._steps(subgroup),
            fused=True, amsgrad=False, beta1=options["betas"][0], beta2=options["betas"][1],
            lr=options["lr"], weight_decay=options["weight_decay"], eps=options["eps"], maximize=False,
        )  # fmt: skip
        self._states.put(index)
        targets = [piece.of(piece.parameter) for piece in subgroup.pieces]
        slot.copied = self._link.copy(list(zip(targets, parameters, strict=True)))

    def _steps(self, subgroup: Subgroup) -> list[Tensor]:
        """Of the pieces: counted once a parameter, at its last piece."""
        steps = []
        for piece in subgroup.pieces:
            step = self.state[piece.parameter]["step"]
            last = piece.elements.stop == held(piece.parameter).numel()
            steps.append(step if last else step.clone())
        return steps


def _close_gaps(parameter: nn.Parameter) -> None:
    """A gradient with gaps would be copied by the device, and the link, that follows it no more, would not wait."""
    gradient = _gradient(parameter)
    if not held(gradient).is_contiguous():
        parameter.grad = compat.like_sharded(held(gradient).contiguous(), gradient)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad

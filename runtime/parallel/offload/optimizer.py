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
from .link import Link
from .states import States
from .subgroups import SUBGROUP_ELEMENTS, Subgroup, local, offloaded, on_its_own, subgroups, views

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
        states: Callable[[list[int]], States],
        *,
        fraction: float,
        device: torch.device,
        subgroup_elements: int = SUBGROUP_ELEMENTS,
        **options: Any,
    ):
        """`states` makes room for subgroups of so many elements; `options` are those of torch.optim.AdamW."""
        super().__init__(groups, {**options, "fused": True})
        chosen = offloaded([p for group in self.param_groups for p in group["params"]], fraction)
        self._subgroups = [
            subgroup
            for group in self.param_groups
            for subgroup in subgroups(group, [p for p in group["params"] if p in chosen], subgroup_elements)
        ]
        sizes = [subgroup.elements for subgroup in self._subgroups]
        self._states, self._link = states(sizes), Link(device)
        most = max(sizes, default=0)
        count = min(IN_FLIGHT, len(sizes))
        self._slots = [Slot(self._link.buffer(most), self._link.buffer(most)) for _ in range(count)]
        self._on_device = self._rest(chosen)
        for index, subgroup in enumerate(self._subgroups):
            self._show(index, subgroup)

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

    def _show(self, index: int, subgroup: Subgroup) -> None:
        """Put the host's states where torch's optimizers have theirs, so that checkpoints see one kind."""
        moments = [[on_its_own(each) for each in views(flat, subgroup.sizes)] for flat in self._states.resident(index)]
        for parameter, first, second in zip(subgroup.parameters, *moments, strict=True):
            self.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32),
                "exp_avg": compat.like_sharded(first, parameter),
                "exp_avg_sq": compat.like_sharded(second, parameter),
            }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter from its gradient. On a GPU its own part of the update is under way by the time that
        the host begins with the first subgroup."""
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
        into = [*views(slot.parameters, subgroup.sizes), *views(slot.gradients, subgroup.sizes)]
        sources = [local(p) for p in subgroup.parameters] + [local(_gradient(p)) for p in subgroup.parameters]
        slot.copied = self._link.copy(list(zip(into, sources, strict=True)))

    def _update(self, index: int, subgroup: Subgroup) -> None:
        """On the host, then begin to send the parameters back."""
        slot, sizes, options = self._slots[index % IN_FLIGHT], subgroup.sizes, subgroup.options
        first, second = (views(flat, sizes) for flat in self._states.take(index))
        self._link.wait(slot.copied)
        parameters = views(slot.parameters, sizes)
        adamw(
            parameters, views(slot.gradients, sizes), first, second, [],
            [self.state[parameter]["step"] for parameter in subgroup.parameters],
            fused=True, amsgrad=False, beta1=options["betas"][0], beta2=options["betas"][1],
            lr=options["lr"], weight_decay=options["weight_decay"], eps=options["eps"], maximize=False,
        )  # fmt: skip
        self._states.put(index)
        targets = [local(parameter) for parameter in subgroup.parameters]
        slot.copied = self._link.copy(list(zip(targets, parameters, strict=True)))


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad

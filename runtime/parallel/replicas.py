"""Replicas: parameters that every rank of a group holds whole, whose gradients are averaged once a step.

As DistributedDataParallel does it (arXiv:2006.15704): gradients of a unit add up in one flat float32 tensor that
stays; each goes there as soon as autograd has made it, and after the step `.grad` are views of it. The last gradient
of the last microbatch starts the one all-reduce of the unit (or what `compressed.py` has in its place), which runs
beside what is left of the backward pass. Where
activations are in 16 bits, a unit computes with copies of its weights in these, made once a step.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import compat
from ..components import span
from ..compression import Compress
from ..shards import local, views
from .compressed import sum_over


class Replicas(nn.Module):
    """Those of one unit: a submodule of it without parameters of its own, for whoever has the unit to find."""

    def __init__(
        self,
        unit: nn.Module,
        parameters: Iterable[nn.Parameter],
        group: dist.ProcessGroup,
        *,
        divisor: int,
        dtype: torch.dtype,
        compress: Compress = "none",
    ):
        """Gradients are sums over `group`, divided by `divisor`; `unit` computes in `dtype`."""
        super().__init__()
        self.whole = list(parameters)
        self._factor = 1.0 / divisor
        self._sizes = [local(parameter).shape for parameter in self.whole]
        self._elements = sum(size.numel() for size in self._sizes)
        self.sum = sum_over(group, compress, self._elements, local(self.whole[0]).device)
        self._copies = [] if dtype == torch.float32 else [_copy(each, dtype) for each in self.whole]
        self._users = _users(unit, self.whole) if self._copies else []
        for index, parameter in enumerate(self._copies or self.whole):
            parameter.register_post_accumulate_grad_hook(partial(self._take, index))  # type: ignore[no-untyped-call]
        self._flat: Tensor | None = None  # the gradients, from the first that arrives on
        self._views: list[Tensor] = []
        self._arrived: set[int] = set()
        self._missing: set[int] = set()
        self._started = False

    @torch.no_grad()
    def begin(self) -> None:
        """Before a step: no gradients, and weights in the precision of compute."""
        for whole in self.whole:
            whole.grad = None
        for copy, whole in zip(self._copies, self.whole, strict=False):
            local(copy).copy_(local(whole))
        self._use(self._copies)

    def expect_last(self) -> None:
        """Before the last microbatch: each parameter has its last gradient once more."""
        self._missing = set(range(len(self.whole)))

    @torch.no_grad()
    def _take(self, index: int, parameter: Tensor) -> None:
        """Add a gradient that autograd has made to those of the step."""
        assert parameter.grad is not None
        assert not self._started  # or the reduction, which is under way, would miss it
        gradient = local(parameter.grad)
        parameter.grad = None
        if self._flat is None:
            padded = self.sum.padded(self._elements)
            self._flat = torch.empty(padded, dtype=torch.float32, device=gradient.device)
            self._flat[self._elements :] = 0.0
            self._views = views(self._flat, self._sizes)
        view = self._views[index]
        if index in self._arrived:
            view.add_(gradient, alpha=self._factor)
        elif gradient.dtype == view.dtype:
            torch.mul(gradient, self._factor, out=view)
        else:  # without a copy in between: that of a head would come when most activations are there
            view.copy_(gradient).mul_(self._factor)
        self._arrived.add(index)
        if self._missing:
            self._missing.discard(index)
            if not self._missing:
                self.reduce()

    def reduce(self) -> None:
        """Start to add up what all ranks have; nothing arrives after that."""
        if self._arrived:
            assert self._flat is not None
            self.sum.start(self._flat)
            self._started = True

    @torch.no_grad()
    def pass_on(self) -> None:
        """After a step: add up what has come, and send it on."""
        if not self._started:
            self.reduce()
        if self._started:
            with span("dp"):
                self.sum.pass_on()

    @torch.no_grad()
    def end(self) -> None:
        """After that: leave the mean in `.grad` of the parameters that have one."""
        if self._started:
            with span("dp"):
                self.sum.finish()
        for index in self._arrived:
            whole = self.whole[index]
            whole.grad = compat.like_sharded(self._views[index], whole)
        if self._copies:
            self._use(self.whole)
        self._started, self._arrived, self._missing = False, set(), set()

    def _use(self, parameters: list[nn.Parameter]) -> None:
        """Let the unit compute with these."""
        for owner, name, index in self._users:
            setattr(owner, name, parameters[index])


def _copy(whole: nn.Parameter, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(compat.like_sharded(local(whole.detach()).to(dtype), whole))


def _users(unit: nn.Module, parameters: list[nn.Parameter]) -> list[tuple[nn.Module, str, int]]:
    """Every module and name by which `unit` has one of `parameters`; tied ones have several."""
    numbers = {parameter: index for index, parameter in enumerate(parameters)}
    return [
        (module, name, numbers[parameter])
        for module in unit.modules()
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False)
        if parameter in numbers
    ]


def replicate(
    unit: nn.Module,
    group: dist.ProcessGroup,
    *,
    divisor: int,
    dtype: torch.dtype,
    ignored: Iterable[nn.Parameter] = (),
    compress: Compress = "none",
) -> None:
    """Average the gradients of the parameters of `unit` that neither are `ignored` nor belong to an inner unit."""
    apart = {*ignored, *(each for inner in replicas(unit) for each in inner.whole)}
    own = [parameter for parameter in unit.parameters() if parameter not in apart]
    if own:
        unit.add_module("replicas", Replicas(unit, own, group, divisor=divisor, dtype=dtype, compress=compress))


def replicas(module: nn.Module) -> list[Replicas]:
    """Of all units in `module`."""
    return [each for each in module.modules() if isinstance(each, Replicas)]

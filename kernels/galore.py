"""GaLore (arXiv:2403.03507, algorithm 2): AdamW in the space of a gradient's largest singular vectors.

The moments of a matrix [m, n] have rank x max(m, n) elements and not m x n; the space, found anew every so many steps,
rank x min(m, n).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .adamw import Options, adamw_step
from .optimizer import MOMENTS, FusedAdamW

SPACE = "space"
DUE = "due"
"""Of a parameter whose last search found nothing."""


class GaLore(FusedAdamW):
    """AdamW in the space of the `rank` largest singular vectors of a matrix's gradient, `every` so many steps anew;
    what comes back is multiplied by `scale`. Vectors, stacks of matrices, matrices that are no larger than `rank`, and
    groups that say `projected` False step as AdamW does.

    Weight decay acts on the whole weight. Of a matrix that is spread over processes the gradient is made whole first:
    all of them hold its space and moments, and change what is theirs of the matrix. They take turns to search, and each
    sends the others what it found: decompositions on other devices, or by other numbers of threads, differ by far more
    than rounding, and replicas would drift apart.
    """

    def __init__(self, parameters: Iterable[Any], *, rank: int, every: int = 200, scale: float = 0.25, **options: Any):
        if rank < 1 or every < 1:
            raise ValueError(f"galore: rank is {rank} and every is {every}, expected at least 1 each")
        self._rank, self._every, self._scale = rank, every, scale
        super().__init__(parameters, **options)

    def projects(self, parameter: Tensor, group: dict[str, Any]) -> bool:
        """Whether a parameter steps in a space of its own."""
        return bool(group.get("projected", True)) and parameter.ndim == 2 and min(parameter.shape) > self._rank

    def begin(self, parameter: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[parameter]
        if SPACE not in state and self.projects(parameter, self._group_of(parameter)):
            short, long = min(parameter.shape), max(parameter.shape)
            device = self._layout.local(parameter.detach()).device
            state[SPACE] = torch.zeros((short, self._rank), dtype=torch.float32, device=device)
            tall = parameter.shape[0] > parameter.shape[1]
            size = (long, self._rank) if tall else (self._rank, long)
            state.update({name: torch.zeros(size, dtype=self._states, device=device) for name in MOMENTS})
        return super().begin(parameter)

    def _group_of(self, parameter: Tensor) -> dict[str, Any]:
        return next(group for group in self.param_groups if any(each is parameter for each in group["params"]))

    def _step(self, group: dict[str, Any], parameters: Sequence[Tensor], scale: Tensor | None) -> None:
        projected = [each for each in parameters if self.projects(each, group)]
        super()._step(group, [each for each in parameters if not self.projects(each, group)], scale)
        steps = [self._counted(parameter) for parameter in projected]
        self._look(list(zip(projected, steps, strict=True)), scale)
        for parameter, step in zip(projected, steps, strict=True):
            options = replace(self._options(group, step), seed=self.seed_of(parameter))
            self._project(parameter, options, scale)

    def _look(self, parameters: Sequence[tuple[Tensor, int]], scale: Tensor | None) -> None:
        """Find the spaces of those whose turn it is in their step, or that found none in the last one: process after
        process searches for one, and then all have them. A gradient that is not finite says nothing of its space: the
        old one stays, and the next step looks anew. The host waits to know, in these steps only."""
        found: list[tuple[Tensor, int]] = []
        for parameter, step in parameters:
            state = self.state[parameter]
            if (step - 1) % self._every and not _is_due(state):
                continue
            assert parameter.grad is not None
            gradient = self._layout.whole(parameter.grad).float()
            finite = gradient.isfinite().all() & (True if scale is None else scale.isfinite())
            state[DUE] = not bool(finite)
            if not state[DUE]:
                searcher = len(found) % self._layout.replicas
                if searcher == self._layout.replica:
                    state[SPACE].copy_(_space(gradient, self._rank))
                found.append((state[SPACE], searcher))
        for space, searcher in found:
            self._layout.share(space, searcher)

    def _project(self, parameter: Tensor, options: Options, scale: Tensor | None) -> None:
        """One step of one matrix."""
        assert parameter.grad is not None
        gradient, tall = self._layout.whole(parameter.grad).float(), parameter.shape[0] > parameter.shape[1]
        space: Tensor = self.state[parameter][SPACE]
        if self.state[parameter].get(DUE, False) and not bool(space.any()):
            return  # none was found yet
        small = gradient @ space if tall else space.T @ gradient
        moved = torch.zeros_like(small)  # a step from nothing is the step itself
        first, second = (self.state[parameter][name] for name in MOMENTS)
        adamw_step(moved, small, first, second, replace(options, weight_decay=0.0), scale)
        local = self._layout.local(parameter.detach())
        whole = self._layout.own(moved @ space.T if tall else space @ moved, parameter)
        finite = torch.ones((), device=local.device) if scale is None else scale
        kept = torch.where(finite.isfinite(), options.shrink, 1.0)  # nothing shrinks in a step that is left out
        wide = local.float().mul_(kept).add_(whole, alpha=self._scale)  # in place where it is in float32
        if wide.dtype != local.dtype:
            local.copy_(wide)


def _is_due(state: dict[str, Any]) -> bool:
    """Whether the last step found no space; in the first one after a resume: whether there is none."""
    if DUE not in state:
        state[DUE] = not bool(state[SPACE].any())
    return bool(state[DUE])


def _space(gradient: Tensor, rank: int) -> Tensor:
    """The `rank` largest singular vectors along the shorter side: orthonormal columns [the shorter side, rank]."""
    wide = gradient.T if gradient.shape[0] > gradient.shape[1] else gradient
    left: Tensor = torch.linalg.svd(wide, full_matrices=False)[0]
    return left[:, :rank]

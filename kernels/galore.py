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


class GaLore(FusedAdamW):
    """AdamW in the space of the `rank` largest singular vectors of a matrix's gradient, `every` so many steps anew;
    what comes back is multiplied by `scale`. Vectors, stacks of matrices, matrices that are no larger than `rank`, and
    groups that say `projected` False step as AdamW does.

    Weight decay acts on the whole weight. Of a matrix that is spread over processes the gradient is made whole first:
    all of them find the same space, hold its moments, and change what is theirs of the matrix.
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
        for parameter in projected:
            options = replace(self._options(group, self._counted(parameter)), seed=self.seed_of(parameter))
            self._project(parameter, options, scale)

    def _project(self, parameter: Tensor, options: Options, scale: Tensor | None) -> None:
        """One step of one matrix."""
        assert parameter.grad is not None
        gradient, tall = self._layout.whole(parameter.grad).float(), parameter.shape[0] > parameter.shape[1]
        space = self._space(self.state[parameter], gradient, options.step, scale)
        if space is None:
            return
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

    def _space(self, state: dict[str, Any], gradient: Tensor, step: int, scale: Tensor | None) -> Tensor | None:
        """Orthonormal columns [the shorter side, rank]; None where there is none yet. A gradient that is not finite
        says nothing of its space: the old one stays, and the next step looks anew. The host waits to know, in these
        steps only."""
        if (step - 1) % self._every == 0 or state.get("due", False):
            finite = gradient.isfinite().all() & (True if scale is None else scale.isfinite())
            state["due"] = not bool(finite)
            if not state["due"]:
                tall = gradient.shape[0] > gradient.shape[1]
                left = torch.linalg.svd(gradient.T if tall else gradient, full_matrices=False)[0]
                state[SPACE].copy_(left[:, : self._rank])
        found: Tensor = state[SPACE]
        return None if state.get("due", False) and not bool(found.any()) else found

"""Optimizers on the fused step of AdamW: states in bfloat16, and GaLore's projected update.

GaLore (arXiv:2403.03507, algorithm 2) steps in the space of a gradient's largest singular vectors, found anew every so
many steps: the moments of a matrix [m, n] have rank x max(m, n) elements and not m x n.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .adamw import Options, adamw_step

_MOMENTS = ("exp_avg", "exp_avg_sq")


class FusedAdamW(torch.optim.Optimizer):
    """AdamW whose moments are of the type `states`: float32, or bfloat16, rounded stochastically from `seed`.

    In float32 on CPU equal to torch.optim.AdamW, not fused, bit for bit. Parameters are whole tensors or flat shards,
    contiguous; each draws random bits of its own.
    """

    def __init__(
        self, parameters: Iterable[Any], *, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 1e-2, states: torch.dtype = torch.float32, seed: int = 0,
    ):  # fmt: skip
        if states not in (torch.float32, torch.bfloat16):
            raise TypeError(f"adamw: states is {states}, expected torch.float32 or torch.bfloat16")
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._states, self._seed = states, seed

    @torch.no_grad()
    def step(self, closure: None = None, *, scale: Tensor | None = None) -> None:  # type: ignore[override]
        """Update from the gradients times `scale` [] (`adamw.clip_scale`); nothing where that is not finite. The host
        does not wait to know, so such a step counts as one."""
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, place, scale)
                place += 1

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch casts states to the type of their parameter, which ours do not have."""
        super().load_state_dict(state_dict)
        numbers = (number for group in state_dict["param_groups"] for number in group["params"])
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    wanted = self._states if name in _MOMENTS else value.dtype
                    self.state[parameter][name] = value.to(parameter.device, wanted)

    def _update(self, parameter: Tensor, group: dict[str, Any], place: int, scale: Tensor | None) -> None:
        options = self._options(parameter, group, place)
        adamw_step(parameter, parameter.grad, *self._moments(parameter, parameter.shape), options, scale)  # type: ignore[arg-type]

    def _options(self, parameter: Tensor, group: dict[str, Any], place: int) -> Options:
        """Of the next step; counts it."""
        step = self.state[parameter]["step"] = self.state[parameter].get("step", 0) + 1
        named = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
        return Options(**named, step=step, seed=self._seed + 7919 * place)  # far from the next tensor's seed

    def _moments(self, parameter: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        state = self.state[parameter]
        for name in _MOMENTS:
            if name not in state:
                state[name] = torch.zeros(shape, dtype=self._states, device=parameter.device)
        return state["exp_avg"], state["exp_avg_sq"]


class GaLore(FusedAdamW):
    """AdamW in the space of the `rank` largest singular vectors of a matrix's gradient, `every` so many steps anew;
    what comes back is multiplied by `alpha`. Vectors, and matrices that are no larger than `rank`, step as AdamW does.

    `shrink` by weight decay acts on the whole weight. Matrices are whole: shards would each have a space of their own.
    """

    def __init__(self, parameters: Iterable[Any], *, rank: int, every: int = 200, alpha: float = 0.25, **options: Any):
        if rank < 1 or every < 1:
            raise ValueError(f"galore: rank is {rank} and every is {every}, expected at least 1 each")
        super().__init__(parameters, **options)
        self._rank, self._every, self._alpha = rank, every, alpha

    def _update(self, parameter: Tensor, group: dict[str, Any], place: int, scale: Tensor | None) -> None:
        if parameter.ndim != 2 or min(parameter.shape) <= self._rank:
            super()._update(parameter, group, place, scale)
            return
        assert parameter.grad is not None
        options, gradient = self._options(parameter, group, place), parameter.grad.float()
        tall = parameter.shape[0] > parameter.shape[1]
        space = self._space(parameter, gradient, options.step, tall)
        small = gradient @ space if tall else space.T @ gradient
        moved = torch.zeros_like(small)  # a step from nothing is the step itself
        first, second = self._moments(parameter, small.shape)
        adamw_step(moved, small, first, second, replace(options, weight_decay=0.0), scale)
        whole = moved @ space.T if tall else space @ moved
        finite = True if scale is None else scale.isfinite()
        wanted = (parameter.float() * options.shrink).add_(whole, alpha=self._alpha).to(parameter.dtype)
        parameter.copy_(torch.where(torch.as_tensor(finite, device=parameter.device), wanted, parameter))

    def _space(self, parameter: Tensor, gradient: Tensor, step: int, tall: bool) -> Tensor:
        """Orthonormal columns [the shorter side, rank]."""
        state = self.state[parameter]
        if "space" not in state or (step - 1) % self._every == 0:
            finite = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)  # a decomposition would not end; the step is left out
            left = torch.linalg.svd(finite.T if tall else finite, full_matrices=False)[0]
            state["space"] = left[:, : self._rank].contiguous()
        found: Tensor = state["space"]
        return found

"""AdamW as an optimizer on its fused step: one launch for all shards of a group, and states in bfloat16 if asked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .adamw import WHOLE, Options, Place, Shard, adamw_steps

MOMENTS = ("exp_avg", "exp_avg_sq")


class Layout(Protocol):
    """How parameters are spread over processes."""

    @property
    def replicas(self) -> int:
        """Processes that hold a parameter, or parts of it, and step it together."""

    @property
    def replica(self) -> int:
        """Which of them this one is."""

    def share(self, tensor: Tensor, replica: int) -> None:
        """Give all of them what `replica` has in `tensor`, to the bit. Called by all of them."""

    def local(self, tensor: Tensor) -> Tensor:
        """What this process holds of a parameter, of its gradient or of its states: the same memory."""

    def places(self, parameter: Tensor, name: str) -> Sequence[tuple[slice, Place]]:
        """Which elements of the whole parameter the flat elements of `local` are, piece by piece."""

    def whole(self, tensor: Tensor) -> Tensor:
        """All of a parameter's gradient, on every process."""

    def own(self, whole: Tensor, parameter: Tensor) -> Tensor:
        """What `local` holds of a tensor that stands where the parameter does."""


class Alone:
    """One process has everything."""

    replicas, replica = 1, 0

    def share(self, tensor: Tensor, replica: int) -> None:
        return None

    def local(self, tensor: Tensor) -> Tensor:
        return tensor

    def places(self, parameter: Tensor, name: str) -> Sequence[tuple[slice, Place]]:
        return [(slice(None), WHOLE)]

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor

    def own(self, whole: Tensor, parameter: Tensor) -> Tensor:
        return whole


class FusedAdamW(torch.optim.Optimizer):
    """AdamW whose moments are of the type `states`: float32, or bfloat16, rounded stochastically.

    In float32 on CPU equal to torch.optim.AdamW, not fused, bit for bit. Random bits follow from `seed`, the step, the
    parameter's name (where parameters come with names, as torch takes them: (name, parameter); else its number) and
    the element's number in the whole parameter.
    """

    def __init__(
        self, parameters: Iterable[Any], *, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 1e-2, states: torch.dtype = torch.float32, seed: int = 0,
        layout: Layout | None = None,
    ):  # fmt: skip
        if states not in (torch.float32, torch.bfloat16):
            raise TypeError(f"adamw: states is {states}, expected torch.float32 or torch.bfloat16")
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._states, self._seed = states, seed
        self._layout: Layout = Alone() if layout is None else layout
        named = [name for group in self.param_groups for name in _names(group)]
        all_of_them = [parameter for group in self.param_groups for parameter in group["params"]]
        self._named = {
            parameter: str(place) if name is None else name
            for place, (name, parameter) in enumerate(zip(named, all_of_them, strict=True))
        }

    @torch.no_grad()
    def step(self, closure: None = None, *, scale: Tensor | None = None) -> None:  # type: ignore[override]
        """Update from the gradients times `scale` [] (`adamw.clip_scale`); nothing where that is not finite. The host
        does not wait to know, so such a step counts as one."""
        for group in self.param_groups:
            self._step(group, [each for each in group["params"] if each.grad is not None], scale)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch casts states to the type of their parameter, which ours do not have. Counts of steps stay on the host,
        which would have to wait for a device to read them."""
        super().load_state_dict(state_dict)
        numbers = (number for group in state_dict["param_groups"] for number in group["params"])
        parameters = (parameter for group in self.param_groups for parameter in group["params"])
        for number, parameter in zip(numbers, parameters, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                if isinstance(value, Tensor):
                    place = "cpu" if name == "step" else parameter.device
                    wanted = self._states if name in MOMENTS else value.dtype
                    self.state[parameter][name] = value.to(place, wanted)

    def begin(self, parameter: Tensor) -> dict[str, Any]:
        """The states of a parameter, which are made where there are none: what a checkpoint holds of it."""
        state: dict[str, Any] = self.state[parameter]
        state.setdefault("step", torch.zeros((), dtype=torch.float32))  # on the host, as torch has it
        for name in MOMENTS:
            if name not in state:
                state[name] = self._empty(parameter)
        return state

    def _empty(self, parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter, dtype=self._states, requires_grad=False)

    def _step(self, group: dict[str, Any], parameters: Sequence[Tensor], scale: Tensor | None) -> None:
        """Of parameters that are stepped in the same way."""
        at: dict[int, list[Shard]] = {}  # by the number of the step: one, unless some had no gradient before
        for parameter in parameters:
            at.setdefault(self._counted(parameter), []).extend(self._shards(parameter))
        for step, shards in at.items():
            adamw_steps(shards, self._options(group, step), scale)

    def _options(self, group: dict[str, Any], step: int) -> Options:
        named = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
        return Options(**named, step=step)

    def _counted(self, parameter: Tensor) -> int:
        """Of this step."""
        step: Tensor = self.begin(parameter)["step"]
        step += 1
        return int(step)

    def _shards(self, parameter: Tensor) -> list[Shard]:
        """What this process steps of a parameter. Only bits that are rounded ask for the places of elements."""
        assert parameter.grad is not None
        state, local, seed = self.state[parameter], self._layout.local, self.seed_of(parameter)
        gradient = local(parameter.grad).contiguous()
        first, second = (local(state[name]) for name in MOMENTS)
        whole = Shard(local(parameter.detach()), gradient, first, second, seed)
        if self._states == torch.float32 and parameter.dtype == torch.float32:
            return [whole]
        return [_part(whole, *piece) for piece in self._layout.places(parameter, self._named[parameter])]

    def seed_of(self, parameter: Tensor) -> int:
        """Of a parameter's random bits: its name's, so that no two share them."""
        hashed = hashlib.blake2b(self._named[parameter].encode(), digest_size=8).digest()
        return self._seed ^ int.from_bytes(hashed, "little")


def _names(group: dict[str, Any]) -> list[str | None]:
    """Those that torch keeps beside the parameters of a group."""
    found: list[str | None] = group.get("param_names") or [None] * len(group["params"])
    return found


def _part(shard: Shard, at: slice, place: Place) -> Shard:
    """Of its flat elements those that stand together in the whole parameter."""
    p, g, m, v = (x.view(-1)[at] for x in (shard.parameter, shard.gradient, shard.first, shard.second))
    return Shard(p, g, m, v, shard.seed, place)

"""AdamW (arXiv:1711.05101) over flat shards, in one pass: unscaling and clipping, the step, and rounding.

In float32 the plain reference goes through the operators of torch.optim.AdamW one by one, so it is equal to it bit for
bit. States and parameters in bfloat16 are rounded stochastically: most steps are smaller than half of their last bit
and would be lost (as arXiv:2010.06192 shows). The random bits follow from the seed, the step and the number of the
element in the whole tensor, so they are the same on every mesh and in every rerun.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import expect
from .mix import MASK, mix, mixed
from .switch import runs_fast

_EXPONENT, _QUIET, _HIGH = 0x7F800000, 0x7FC00000, 0xFFFF0000


@dataclass(frozen=True, slots=True)
class Place:
    """Which elements of a whole tensor these are, for random bits: from `number` on in runs of `width` neighbours, each
    `pitch` after the one before it. Neighbours all of them, unless that is said."""

    number: int = 0
    width: int = 1 << 62
    pitch: int = 0

    @property
    def has_runs(self) -> bool:
        return self.pitch > 0


WHOLE = Place()


@dataclass(frozen=True, slots=True)
class Options:
    """Of one step, which is number `step` from 1 on. `seed`: of the random bits, of each tensor another."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    step: int
    seed: int = 0

    @property
    def shrink(self) -> float:
        """What a weight is multiplied by."""
        return 1 - self.lr * self.weight_decay

    @property
    def step_size(self) -> float:
        return float(self.lr / (1 - self.betas[0] ** self.step))

    @property
    def root(self) -> float:
        """Of the correction of the second moment."""
        return math.sqrt(1 - self.betas[1] ** self.step)

    @property
    def key(self) -> int:
        """32 bits of the seed and the step; the first moment has the next number, the second the one after it."""
        return mixed(mixed(mixed(self.seed & MASK) ^ (self.seed >> 32) & MASK) ^ self.step & MASK)


@dataclass(frozen=True, slots=True)
class Shard:
    """What one process has of a parameter: its elements, all contiguous and of one shape, and what seeds its bits."""

    parameter: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    seed: int = 0
    place: Place = WHOLE


def clip_scale(norm: Tensor, most: float, loss_scale: float = 1.0) -> Tensor:
    """What gradients of this norm are multiplied by: float32 [], on the device of `norm`. Undoes `loss_scale`, then
    clips as torch.nn.utils.clip_grad_norm_ does. NaN where the norm is not finite: such a step changes nothing."""
    unscaled = norm.detach().float() / loss_scale
    found = (most / (unscaled + 1e-6)).clamp(max=1.0) / loss_scale
    return torch.where(unscaled.isfinite(), found, torch.nan)


@torch.no_grad()
def adamw_step(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, options: Options,
    scale: Tensor | None = None, place: Place = WHOLE,
) -> None:  # fmt: skip
    """Change a parameter and its moments `first` and `second` in place; all contiguous and of one shape, float32 or
    bfloat16. `scale` as from `clip_scale`."""
    adamw_steps([Shard(parameter, gradient, first, second, options.seed, place)], options, scale)


@torch.no_grad()
def adamw_steps(shards: Sequence[Shard], options: Options, scale: Tensor | None = None) -> None:
    """The same step of many parameters on one device; by Triton one launch for all that are of the same types. Each has
    its own seed, and that of `options` is not looked at."""
    for shard in shards:
        _check(shard.parameter, shard.gradient, shard.first, shard.second)
    if not shards:
        return
    given = shards[0].parameter
    scale = torch.ones((), device=given.device) if scale is None else scale
    if runs_fast("adamw", given, elements=given.numel()):
        from .fast.adamw import step_shards

        step_shards(shards, scale, options)
        return
    for x in shards:
        own = replace(options, seed=x.seed)
        moved = stepped_reference(x.parameter, x.gradient, x.first, x.second, scale, own, x.place)
        for old, new in zip((x.parameter, x.first, x.second), moved, strict=True):
            old.copy_(new)


def stepped_reference(
    parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor, scale: Tensor, options: Options,
    place: Place = WHOLE,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Parameter and moments after a step, in plain PyTorch; computed in float32 at least."""
    wide = torch.promote_types(parameter.dtype, torch.float32)
    p, m, v = (x.to(wide, copy=True) for x in (parameter, first, second))
    g = gradient.to(wide) * scale.to(wide)
    p.mul_(options.shrink)
    m.lerp_(g, 1 - options.betas[0])
    v.mul_(options.betas[1]).addcmul_(g, g, value=1 - options.betas[1])
    p.addcdiv_(m, (v.sqrt() / options.root).add_(options.eps), value=-options.step_size)
    moved = (torch.where(scale.isfinite(), y, x.to(wide)) for x, y in ((parameter, p), (first, m), (second, v)))
    kept = (
        rounded(y, options.key + which, place) if x.dtype == torch.bfloat16 else y.to(x.dtype)
        for which, (x, y) in enumerate(zip((parameter, first, second), moved, strict=True))
    )
    one, two, three = kept
    return one, two, three


def rounded(x: Tensor, key: int, place: Place = WHOLE) -> Tensor:
    """Float32 as bfloat16, up with the probability that makes it right on average; NaN and infinity as they are."""
    at = torch.arange(x.numel(), device=x.device).view(x.shape)
    numbers = place.number + at // place.width * place.pitch + at % place.width
    drawn = mix(mix((numbers & MASK) ^ mix(numbers >> 32)) ^ (key & MASK)) & 0xFFFF
    bits = x.float().view(torch.int32).to(torch.int64) & MASK
    kept = torch.where(x.isnan(), _QUIET, bits)
    found = torch.where((bits & _EXPONENT) == _EXPONENT, kept, (bits + drawn) & _HIGH)
    return torch.where(found >= 2**31, found - 2**32, found).to(torch.int32).view(torch.float32).to(torch.bfloat16)


def _check(parameter: Tensor, gradient: Tensor, first: Tensor, second: Tensor) -> None:
    tensors = {"parameter": parameter, "gradient": gradient, "first": first, "second": second}
    for name, x in tensors.items():
        expect.shape("adamw", name, x, parameter.shape)
        expect.dtype("adamw", name, x, torch.float32, torch.bfloat16)
        if not x.is_contiguous():
            raise ValueError(f"adamw: {name} has strides {list(x.stride())}, expected a contiguous tensor")
    expect.dtype("adamw", "second", second, first.dtype)
    expect.one_device("adamw", **tensors)

"""Control: what watches and balances the experts of one rank, step after step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ...blocks.moe import Moe, Regulator
from ...blocks.moe_shape import MoeShape
from ...expert_recipe import ExpertRecipe
from ...mesh import Meshes
from .balance import BalancingLoss, RouterZLoss, Scale, move_bias
from .dispatch import Capacity, Dropless
from .load import Load, add_up
from .sharding import groups_of


class ExpertControl:
    """The experts of all layers of this rank. `step_counts` int64 [layers, experts] are the choices of the last step,
    over the global batch, of the layers `layers`."""

    def __init__(
        self,
        blocks: dict[int, Moe],
        shape: MoeShape,
        recipe: ExpertRecipe,
        meshes: Meshes,
        microbatches: int,
        device: torch.device,
    ):
        self._blocks, self._recipe, self._device = blocks, recipe, device
        self._balance = recipe.of(shape)
        self._everywhere = _groups(meshes.dp, meshes.cp, meshes.tp)
        self._microbatch = _groups(meshes.cp, meshes.tp)
        self._stages = _groups(meshes.pp)
        scale = Scale(meshes.data_size, meshes.stage_size * microbatches)
        self._losses = {layer: loss for layer in blocks if (loss := self._loss(scale)) is not None}
        self._loads = [Load(layer, shape.experts, device) for layer in blocks]
        for load, moe in zip(self._loads, blocks.values(), strict=True):
            moe.regulators = (*moe.regulators, load, *self._regulators(load.layer, scale))
            if recipe.capacity_factor is not None:
                dropless = moe.experts.dispatch
                if not isinstance(dropless, Dropless):  # all experts are here
                    dropless = Dropless(moe.experts.count, groups_of(meshes))
                moe.experts.dispatch = Capacity(dropless, recipe.capacity_factor, recipe.drop)
        self.step_counts: Tensor | None = None

    @property
    def layers(self) -> list[int]:
        """Numbers of the layers with experts on this rank."""
        return list(self._blocks)

    def _loss(self, scale: Scale) -> BalancingLoss | None:
        if self._balance not in ("global", "microbatch") or self._recipe.aux_loss == 0:
            return None
        over_all = self._balance == "global"
        groups = self._everywhere if over_all else self._microbatch
        return BalancingLoss(self._recipe.aux_loss, scale, groups, so_far=over_all)

    def _regulators(self, layer: int, scale: Scale) -> Iterator[Regulator]:
        if layer in self._losses:
            yield self._losses[layer]
        if self._recipe.z_loss:
            yield RouterZLoss(self._recipe.z_loss, scale)

    def begin(self) -> None:
        """Before the first microbatch of a step."""
        for load in self._loads:
            load.reset()
        for loss in self._losses.values():
            loss.reset()

    def finish(self) -> None:
        """After the last microbatch of a step: count the global batch, and move biases for the next step."""
        if not self._loads:
            return
        self.step_counts = add_up(self._loads, self._everywhere)
        if self._balance == "bias":
            for moe, counts in zip(self._blocks.values(), self.step_counts, strict=True):
                bias = moe.gate.e_score_correction_bias
                assert isinstance(bias, Tensor)
                move_bias(bias, counts, self._recipe.bias_rate)

    def imbalance(self) -> float:
        """The most chosen expert's share of the last step over an even share, in the worst layer of all stages.

        Called by all ranks together.
        """
        worst = torch.zeros((), device=self._device)
        if self.step_counts is not None:
            counts = self.step_counts.float()
            worst = (counts.amax(-1) / counts.mean(-1)).max()
        for group in self._stages:
            dist.all_reduce(worst, op=dist.ReduceOp.MAX, group=group)
        return float(worst)


def expert_blocks(parts: Iterable[nn.Module]) -> dict[int, Moe]:
    """The blocks of experts of a rank, by the number of their layer."""
    named = [pair for part in parts for pair in part.named_modules()]
    return {int(name.split(".")[-2]): module for name, module in named if isinstance(module, Moe)}


def _groups(*meshes: DeviceMesh | None) -> Sequence[dist.ProcessGroup]:
    return [mesh.get_group() for mesh in meshes if mesh is not None]

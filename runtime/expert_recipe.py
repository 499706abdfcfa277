"""ExpertRecipe: how the experts of a model are trained, `experts` of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from ..errors import Problem
from ..schema import Frozen
from .blocks.moe_shape import MoeShape

Balance = Literal["global", "microbatch", "bias", "none"]


class ExpertRecipe(Frozen):
    """Balance, limits and records of experts. Balancing changes gradients, never the loss that is reported."""

    balance: Balance | None = Field(
        None, description="loss over the global batch or over each microbatch, bias without loss, or none; "
        "bias where the router has one, else global",
    )  # fmt: skip
    aux_loss: float = Field(1e-3, ge=0, description="coefficient of the balancing loss of every layer")
    bias_rate: float = Field(1e-3, gt=0, description="how far a step moves the bias of an expert")
    z_loss: float = Field(0.0, ge=0, description="coefficient of the squared log-sum-exp of router logits")
    capacity_factor: float | None = Field(
        None, gt=0, description="tokens above this many times an even share of an expert are dropped; none by default"
    )
    drop: Literal["probability", "position"] = Field(
        "probability", description="which tokens stay: those of the largest weights, or the first in the sequence"
    )
    record_every: int = Field(0, ge=0, description="steps between records of all routing decisions; 0: never")

    def of(self, moe: MoeShape) -> Balance:
        """What balances the experts of a model."""
        return self.balance or ("bias" if moe.bias else "global")

    def problems(self, moe: MoeShape | None) -> Iterator[Problem]:
        """What does not fit a model."""
        if moe is None:
            yield Problem("experts", "given", "the model has no experts", "remove experts")
        elif self.balance == "bias" and not moe.bias:
            rule = "needs a router with a bias (e_score_correction_bias of deepseek_v3)"
            yield Problem("experts.balance", "bias", rule, "global")


DEFAULT = ExpertRecipe.model_validate({})
UNBALANCED = ExpertRecipe.model_validate({"balance": "none"})
"""Nothing but the loss of the tokens."""

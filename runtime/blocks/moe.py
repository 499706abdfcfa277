"""Moe: routed experts, and a shared one where the family has it, in the place of a feed-forward block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from .experts import Experts
from .linear import Linear
from .mlp import Mlp
from .router import Router, Routing
from .shape import Shape

Regulator = Callable[[Routing], Routing]
"""Sees every decision of a router: counts it, or lets a loss on it add to the gradient."""


class Moe(nn.Module):
    """[batch, seq_len, hidden] to the same (arXiv:2401.04088, section 2.1; shared experts: arXiv:2401.06066)."""

    def __init__(self, shape: Shape):
        super().__init__()
        assert shape.moe is not None
        moe = shape.moe
        self.gate: nn.Module = Router(shape.hidden, moe)
        self.experts = Experts(shape.hidden, moe, shape.activation)
        self.shared_name = moe.shared_name if moe.shared_width else None
        if self.shared_name is not None:
            shared = Mlp(replace(shape, mlp_bias=moe.shared_bias), moe.shared_width)
            self.add_module(self.shared_name, shared)
        self.shared_expert_gate: nn.Module | None = Linear(shape.hidden, 1, bias=False) if moe.shared_gate else None
        self.regulators: tuple[Regulator, ...] = ()

    @property
    def shared(self) -> Mlp | None:
        """The expert that every token visits."""
        found = None if self.shared_name is None else self.get_submodule(self.shared_name)
        assert found is None or isinstance(found, Mlp)
        return found

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        routing: Routing = self.gate(tokens)
        for regulate in self.regulators:
            routing = regulate(routing)
        routed: Tensor = self.experts(tokens, routing.weights, routing.experts)
        routed = routed.view_as(x)
        return routed if self.shared is None else routed + self._gated(x, self.shared(x))

    def _gated(self, x: Tensor, shared: Tensor) -> Tensor:
        """What counts of the shared expert's output for `x`."""
        if self.shared_expert_gate is None:
            return shared
        gated: Tensor = self.shared_expert_gate(x).sigmoid() * shared
        return gated

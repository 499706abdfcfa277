"""What ranks do in test_token_shuffle.py."""

from __future__ import annotations

import torch
from alive import Alive
from torch import Tensor
from workers import own_sequences

from meshwright.planner.plan import Plan
from meshwright.runtime.blocks.router import Routing
from meshwright.runtime.build import build_model
from meshwright.runtime.documents import documents_of
from meshwright.runtime.parallel.expert.control import expert_blocks
from meshwright.runtime.parallel.shuffle import Shuffle

CPU = torch.device("cpu")


def loss_of_documents(plan: Plan, batch: Tensor, separator: int) -> float:
    """Of a global batch whose documents are separated."""
    model = build_model(plan, CPU)
    own = own_sequences(model, batch)
    return float(model.forward_backward(own, documents_of(own[:, :-1], separator)))


def chosen(plan: Plan, batch: Tensor) -> list[list[list[int]]]:
    """Of every layer the experts [tokens, top_k] of this rank's tokens, in the order in which it has them; of a plan
    with one microbatch."""
    model, found = build_model(plan, CPU), list[Tensor]()

    def listen(routing: Routing) -> Routing:
        found.append(routing.experts.clone())
        return routing

    for moe in expert_blocks(model.parts).values():
        moe.regulators = (listen, *moe.regulators)
    model.forward_backward(own_sequences(model, batch))
    return [each.tolist() for each in found]


def kept_bytes(plan: Plan) -> tuple[int, int]:
    """Of a layer's attention, norms and residual: in order, and shuffled."""
    model = build_model(plan, CPU)
    assert plan.token_homes is not None
    layer = model.parts[0].model.layers["0"]
    layer.mlp.forward = lambda x: x
    x = torch.randn(4, 16, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    tokens = torch.randint(128, (4, 32), generator=torch.Generator().manual_seed(0))
    order = Shuffle.of(plan.token_homes, model.meshes, CPU).order(tokens)
    layer(x)  # positions are computed once and kept for all layers
    return _kept(layer, x, None), _kept(layer, x, order)


def _kept(layer: torch.nn.Module, x: Tensor, order: Tensor | None) -> int:
    with Alive() as alive:
        output = layer(x, None, None, order)
        kept = alive.bytes
        output.sum().backward()
    return kept

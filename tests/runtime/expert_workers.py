"""What ranks do in the tests of experts: found by import, run by harness.run_ranks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from workers import MAX_NORM, OPTIMIZER, WEIGHT_DECAY, batches, full, own_sequences, whole

from meshwright.planner.configuration import Mesh
from meshwright.planner.plan import Plan
from meshwright.runtime.blocks.moe import Moe
from meshwright.runtime.blocks.moe_shape import MoeShape, read_moe
from meshwright.runtime.blocks.router import Routing
from meshwright.runtime.blocks.shape import read_shape
from meshwright.runtime.build import build_model
from meshwright.runtime.checkpoint import Checkpointer, Position
from meshwright.runtime.compat import in_backward
from meshwright.runtime.expert_recipe import ExpertRecipe
from meshwright.runtime.mesh import build_meshes
from meshwright.runtime.optimizer import build_optimizer
from meshwright.runtime.parallel.expert.control import ExpertControl, expert_blocks
from meshwright.runtime.parallel.expert.sharding import shard_moe
from meshwright.runtime.parallel.expert.statistics import RoutingRecorder
from meshwright.runtime.parallel.rerun import Scope

CPU = torch.device("cpu")


def train(
    plan: Plan, steps: int, first_gradients: Path, recipe: dict[str, Any]
) -> tuple[list[float], list[float], dict[str, float]]:
    """As workers.train, with the experts balanced."""
    data = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, steps)
    model = build_model(plan, CPU, experts=ExpertRecipe.model_validate(recipe))
    optimizer = build_optimizer(model, weight_decay=WEIGHT_DECAY, **OPTIMIZER)
    expected = torch.load(first_gradients)
    losses, norms, errors = [], [], {}
    for step, batch in enumerate(data):
        losses.append(model.forward_backward(own_sequences(model, batch)).item())
        if step == 0:
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                difference = whole(model, name, parameter.grad) - expected[name]
                errors[name] = (difference.abs().max() / expected[name].abs().max()).item()
        norms.append(model.clip_grad_norm(MAX_NORM).item())
        optimizer.step()
    return losses, norms, errors


def route_with_capacity(
    folder: Path,
    block: dict[str, Any],
    config: dict[str, Any],
    x: Tensor,
    degrees: dict[str, int],
    recipe: Any,
    recompute: bool = False,
) -> None:
    """Save output and gradients, whole, of one block of experts with a capacity; every rank has its part of `x`.
    `recompute`: nothing of their activation is kept."""
    moe, meshes = Moe(read_shape(config)), build_meshes(Mesh(**degrees), CPU, tied=False)
    moe.load_state_dict(block)
    shard_moe(moe, meshes, None)
    if recompute:
        Scope(moe).forget(moe.experts, "activate")
    ExpertControl({0: moe}, expert_shape(config), ExpertRecipe.model_validate(recipe), meshes, 1, CPU)
    own = x.chunk(meshes.world_size)[meshes.rank].clone().requires_grad_()
    output = moe(own)
    output.square().sum().backward()
    assert own.grad is not None
    found = {"output": output.detach(), "x": own.grad}
    for name, parameter in moe.named_parameters():
        assert parameter.grad is not None
        found[name] = full(parameter.grad)
    torch.save(found, folder / f"{meshes.rank}.pt")


def expert_shape(config: dict[str, Any]) -> MoeShape:
    """The experts of a config that has some."""
    moe = read_moe(config)
    assert moe is not None
    return moe


def record(plan: Plan, folder: Path, every: int, steps: int, resumed: int = 0) -> list[list[int]]:
    """Steps without an optimizer, recorded; the counts of the last one."""
    model = build_model(plan, CPU)
    recorder = RoutingRecorder(model, folder, every, resumed)
    (batch,) = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)
    for step in range(resumed + 1, resumed + steps + 1):
        with recorder.step(step):
            model.forward_backward(own_sequences(model, batch))
    assert model.experts is not None
    counts = model.experts.step_counts
    return [] if counts is None else counts.tolist()  # type: ignore[no-any-return]


def choices(plan: Plan) -> tuple[dict[int, tuple[list[Any], list[Any]]], list[int]]:
    """What the routers of each layer choose in forward passes and again in backward ones; counts of the step by layer.

    Backward passes of microbatches follow their forward passes.
    """
    model = build_model(plan, CPU)
    seen: dict[int, tuple[list[Any], list[Any]]] = {}
    for layer, moe in expert_blocks(model.parts).items():
        seen[layer] = ([], [])

        def listen(routing: Routing, layer: int = layer) -> Routing:
            seen[layer][in_backward()].append(routing.experts.tolist())
            return routing

        moe.regulators = (*moe.regulators, listen)
    (batch,) = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)
    model.forward_backward(own_sequences(model, batch))
    assert model.experts is not None
    assert model.experts.step_counts is not None
    return seen, model.experts.step_counts.sum(-1).tolist()


def imbalance(plan: Plan) -> float:
    """Of one step."""
    model = build_model(plan, CPU)
    (batch,) = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)
    model.forward_backward(own_sequences(model, batch))
    assert model.experts is not None
    return model.experts.imbalance()


class Training:
    """A model, its optimizer and its checkpoints, and the losses of steps on given batches."""

    def __init__(self, plan: Plan, root: Path, recipe: dict[str, Any], seed: int = 0):
        root.mkdir(parents=True, exist_ok=True)
        self.plan = plan
        self.model = build_model(plan, CPU, seed=seed, experts=ExpertRecipe.model_validate(recipe))
        self.optimizer = build_optimizer(self.model, weight_decay=WEIGHT_DECAY, **OPTIMIZER)
        self.checkpointer = Checkpointer(
            root, self.model, self.optimizer, fingerprint="same", keep_last=2, timeout_s=30.0
        )

    def steps(self, first: int, last: int) -> list[float]:
        """Losses of some of a fixed sequence of steps."""
        job = self.plan.job
        losses = []
        for batch in batches(self.plan.model.config["vocab_size"], job.seq_len, job.global_batch, last)[first:]:
            losses.append(self.model.forward_backward(own_sequences(self.model, batch)).item())
            self.model.clip_grad_norm(MAX_NORM)
            self.optimizer.step()
        return losses


def losses(plan: Plan, steps: int, recipe: dict[str, Any]) -> list[float]:
    """Of some steps, without checkpoints."""
    with TemporaryDirectory() as folder:
        training = Training(plan, Path(folder), recipe)
        training.checkpointer.close()
        return training.steps(0, steps)


def train_and_save(plan: Plan, root: Path, recipe: dict[str, Any], first: int, last: int) -> list[float]:
    """Train some steps, save, and train on."""
    training = Training(plan, root, recipe)
    losses = training.steps(0, first)
    training.checkpointer.save(Position(first, 0))
    training.checkpointer.close()
    return losses + training.steps(first, last)


def restore_and_train(plan: Plan, root: Path, recipe: dict[str, Any], last: int) -> list[float]:
    """Train on from what another mesh has saved."""
    training = Training(plan, root, recipe, seed=99)
    position = training.checkpointer.restore().position
    training.checkpointer.close()
    return training.steps(position.step, last)

"""What ranks do in the tests of placed experts: found by import, run by harness.run_ranks."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from expert_workers import Training
from torch import Tensor
from workers import full, whole

from meshwright.errors import RunError
from meshwright.planner.plan import Plan
from meshwright.runtime.blocks.expert_names import is_stacked
from meshwright.runtime.checkpoint import Position
from meshwright.runtime.shards import held
from meshwright.runtime.slots import slots_by_expert

RECIPE = {"bias_rate": 0.05, "aux_loss": 0.0}  # biases move, where routers have some


def train_and_compare(plan: Plan, steps: int, folder: Path) -> tuple[list[str], list[float]]:
    """Names of stacked weights and states whose slots of one expert differ in any bit after some steps, and losses."""
    training = Training(plan, folder, {"balance": "none"})
    losses = training.steps(0, steps)
    named, unequal = dict(training.model.named_parameters()), []
    for name, order in training.model.orders.items():
        if name not in named:  # of another stage
            continue
        slots = [each for each in slots_by_expert(order) if len(each) > 1]
        assert slots  # or there is nothing to compare
        for tensor in (named[name].detach(), *_moments(training, name).values()):
            stacked = full(tensor)
            unequal += [name for first, *others in slots for slot in others if not stacked[first].equal(stacked[slot])]
    training.checkpointer.close()
    return unequal, losses


def _moments(training: Training, name: str) -> dict[str, Tensor]:
    state = training.optimizer.state[dict(training.model.named_parameters())[name]]
    return {key: state[key] for key in ("exp_avg", "exp_avg_sq")}


def drift(plan: Plan, folder: Path) -> list[str]:
    """What saving says after one bit has changed in a replica: of a weight, of a state, and after it is put right."""
    training = Training(plan, folder, {"balance": "none"})
    training.steps(0, 1)
    parameter = next(p for name, p in training.model.named_parameters() if is_stacked(name))
    return [_save_with(training, tensor) for tensor in (parameter, training.optimizer.state[parameter]["exp_avg_sq"])]


def _save_with(training: Training, tensor: Tensor) -> str:
    copies = training.model.copies
    assert copies is not None
    pair = copies.layers[0][0]
    bits = held(tensor)[pair.own - copies.first[pair.name]].view(torch.int32)
    spoilt = dist.get_rank() == 0
    bits[0, 0] += int(spoilt)
    said = ""
    try:
        training.checkpointer.save(Position(1, 0))
    except RunError as error:
        said = str(error)
    training.checkpointer.wait()
    bits[0, 0] -= int(spoilt)
    return said


def train_and_save(plan: Plan, root: Path, first: int, last: int, states: Path) -> list[float]:
    """Train some steps, save, and train on; what was saved is also written whole."""
    training = Training(plan, root, RECIPE)
    losses = training.steps(0, first)
    training.checkpointer.save(Position(first, 0))
    training.checkpointer.close()
    found = _in_experts(training)
    if dist.get_rank() == 0:
        torch.save(found, states)
    return losses + training.steps(first, last)


def restore_and_train(plan: Plan, root: Path, last: int, states: Path) -> tuple[dict[str, bool], list[float]]:
    """Which of this rank's states are restored bit by bit, and the losses of the steps that follow."""
    training = Training(plan, root, RECIPE, seed=99)
    position = training.checkpointer.restore().position
    training.checkpointer.close()
    expected, found = torch.load(states), _in_experts(training)
    equal = {name: torch.equal(expected[name], tensor) for name, tensor in found.items()}
    return equal, training.steps(position.step, last)


def _in_experts(training: Training) -> dict[str, Tensor]:
    """Weights, moments and buffers, stacked experts in their own order and once each."""
    found = {f"buffer.{name}": buffer.clone() for name, buffer in training.model.named_buffers()}
    for name, parameter in training.model.named_parameters():
        tensors = {name: parameter.detach(), **{f"{name}.{key}": m for key, m in _moments(training, name).items()}}
        found |= {key: whole(training.model, name, each).clone() for key, each in tensors.items()}
    return found


def seconds_of_steps(plans: list[Plan], rounds: int, steps: int) -> list[list[float]]:
    """In every round, the CPU seconds that some steps of each plan take this process, in turns; the first round is not
    among them."""
    with TemporaryDirectory() as folder:
        sides = [Training(plan, Path(folder) / str(number), {"balance": "none"}) for number, plan in enumerate(plans)]
        found = []
        for number in range(rounds + 1):
            order = range(len(sides)) if number % 2 else range(len(sides) - 1, -1, -1)
            taken = {side: _seconds(sides[side], steps) for side in order}
            found.append([taken[side] for side in range(len(sides))])
        for side in sides:
            side.checkpointer.close()
    return found[1:]


def _seconds(training: Training, steps: int) -> float:
    dist.barrier()
    started = time.process_time()
    training.steps(0, steps)
    return time.process_time() - started

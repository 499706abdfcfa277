"""What ranks do in the tests of training, checkpoints and export: found by import, run by harness.run_ranks."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from workers import batches, full, own_sequences

from meshwright.errors import UnrecoverableError
from meshwright.planner.plan import Plan
from meshwright.runtime import checkpoint
from meshwright.runtime.build import build_model
from meshwright.runtime.checkpoint import Checkpointer, Position, Restored
from meshwright.runtime.export import export
from meshwright.runtime.optimizer import build_optimizer
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.run_folder import open_run
from meshwright.runtime.shards import held
from meshwright.runtime.stop import StopWish
from meshwright.runtime.train import train

CPU = torch.device("cpu")


def run_training(folder: Path, plan: Plan, recipe: Recipe, stop_after: int | None = None) -> None:
    """Train as a worker does; the last rank is asked to stop after a step."""

    def moved(step: int) -> None:
        if step == stop_after and dist.get_rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGUSR1)

    train(open_run(folder, plan, recipe), plan, recipe, CPU, StopWish(), moved)


def crash_while_publishing(folder: Path, plan: Plan, recipe: Recipe) -> None:
    """Die by kill -9 when the second checkpoint has been written but has no manifest."""
    published = []

    def publish(temporary: Path, final: Path, manifest: object) -> None:
        if published:
            os.kill(os.getpid(), signal.SIGKILL)
        published.append(final)
        original(temporary, final, manifest)  # type: ignore[arg-type]

    original, checkpoint.publish = checkpoint.publish, publish  # type: ignore[assignment]
    run_training(folder, plan, recipe)


def save_then_change(root: Path, plan: Plan) -> bool:
    """Change weights and states as soon as save returns; what is loaded must be what was there before."""
    saved = _trained(plan, root)
    before = {name: parameter.detach().clone() for name, parameter in saved.model.named_parameters()}
    moments = {name: state.clone() for name, state in _moments(saved).items()}
    saved.checkpointer.save(Position(2, 16))
    _overwrite(saved)
    saved.checkpointer.close()
    restored = saved.checkpointer.restore()
    assert restored == Restored(Position(2, 16))
    same = [torch.equal(full(p), full(before[name])) for name, p in saved.model.named_parameters()]
    same += [torch.equal(full(state), full(moments[name])) for name, state in _moments(saved).items()]
    steps = {state["step"].item() for state in saved.optimizer.state.values()}
    return all(same) and steps == {2.0}


def save_after_a_flip(root: Path, plan: Plan) -> None:
    """Save when one bit of one weight is another on the last rank."""
    saved = _trained(plan, root)
    if dist.get_rank() == dist.get_world_size() - 1:
        _flip(saved)
    saved.checkpointer.save(Position(2, 16))
    saved.checkpointer.close()


def save_and_read(root: Path, plan: Plan) -> bool:
    """Whether replicas agree after steps: saving refuses where they do not."""
    saved = _trained(plan, root)
    saved.checkpointer.save(Position(2, 16))
    saved.checkpointer.close()
    return saved.checkpointer.restore() == Restored(Position(2, 16))


def flip_after_reading(root: Path, plan: Plan) -> str:
    """What restoring says when reading leaves one bit wrong on one rank; files are whole."""
    saved = _trained(plan, root)
    saved.checkpointer.save(Position(2, 16))
    saved.checkpointer.close()

    def read(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        if dist.get_rank() == 0:
            _flip(saved)

    original, checkpoint.load = checkpoint.load, read
    try:
        saved.checkpointer.restore()
    except UnrecoverableError as error:
        return str(error)
    finally:
        checkpoint.load = original
    return "restored"


def _flip(saved: _Saved) -> None:
    _, parameter = next(saved.model.named_parameters())
    held(parameter).view(torch.int32).view(-1)[3] ^= 1 << 9


class _Saved:
    def __init__(self, plan: Plan, root: Path):
        root.mkdir(parents=True, exist_ok=True)
        self.model = build_model(plan, CPU)
        self.optimizer = build_optimizer(self.model, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8)
        self.checkpointer = Checkpointer(
            root, self.model, self.optimizer, fingerprint=plan.fingerprint, keep_last=2, timeout_s=30.0
        )


def _trained(plan: Plan, root: Path) -> _Saved:
    saved = _Saved(plan, root)
    for batch in batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 2):
        saved.model.forward_backward(own_sequences(saved.model, batch))
        saved.optimizer.step()
    return saved


def _moments(saved: _Saved) -> dict[str, torch.Tensor]:
    named = saved.model.named_parameters()
    return {f"{n}.{key}": saved.optimizer.state[p][key] for n, p in named for key in ("exp_avg", "exp_avg_sq")}


def _overwrite(saved: _Saved) -> None:
    with torch.no_grad():
        for tensor in (*(p for _, p in saved.model.named_parameters()), *_moments(saved).values()):
            tensor.fill_(7.0)
        for state in saved.optimizer.state.values():
            state["step"].fill_(99)


def export_untrained(folder: Path, plan: Plan, shard_bytes: int) -> None:
    """Export the initial weights, which depend on names and seed alone."""
    export(build_model(plan, CPU), plan, folder, tokenizer=None, shard_bytes=shard_bytes)


def logits_of_export(folder: Path, plan: Plan, tokens: torch.Tensor) -> torch.Tensor:
    """Logits of our own model with exported weights, one process."""
    model = build_model(plan, CPU, seed=99)
    weights = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
        return model.parts[0](tokens)  # type: ignore[no-any-return]

"""What a run must satisfy before any process joins another: looked at by the launcher, and again by every worker.

Workers may be started by torchrun or srun on a run folder that nobody has checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from ..errors import InputError, Problem, gather
from ..planner.families import architecture
from ..planner.plan import Plan
from .blocks.shape import read_shape
from .checks import problems
from .manifest import complete_checkpoints
from .metadata import Reader
from .model import state_sizes
from .recipe import Recipe
from .recipe_checks import recipe_problems
from .run_folder import RunFolder
from .tokens import check_tokens, least_tokens, prepared_tokens

_SHOWN = 3  # of the tensors that differ


def admit(run: RunFolder, plan: Plan, recipe: Recipe, world_size: int) -> None:
    """Raises InputError with everything that keeps `world_size` processes from training the run's plan."""
    gather(
        lambda: _refuse(str(run.plan), problems(plan, world_size)),
        lambda: _refuse(str(run.recipe), recipe_problems(plan, recipe, run)),
        lambda: check_prepared_tokens(run, plan, recipe),
    )
    check_checkpoint(run, plan)


def check_prepared_tokens(run: RunFolder, plan: Plan, recipe: Recipe) -> None:
    """Raises InputError where tokens that are there already do not suit the model and the job."""
    tokens = prepared_tokens(recipe, run.data)
    if tokens is not None:
        vocab = architecture(plan.model).vocab
        _refuse("recipe", check_tokens(tokens, vocab, least_tokens(plan.job), plan.job.global_batch))


def check_checkpoint(run: RunFolder, plan: Plan) -> None:
    """Raises InputError where the newest checkpoint holds the weights of another model than the plan's, which the
    runtime can build. A damaged one is for restoring to judge."""
    newest = next(iter(complete_checkpoints(run.checkpoints)), None)
    if newest is None:
        return
    found = saved_sizes(newest)
    if found is not None:
        _refuse(f"checkpoint {newest}", list(_differences(state_sizes(read_shape(plan.model.config)), found)))


def saved_sizes(checkpoint: Path) -> dict[str, torch.Size] | None:
    """Sizes of the weights in a checkpoint, by name; None where its index cannot be read."""
    try:
        index = Reader(checkpoint).read_metadata().state_dict_metadata
    except Exception:  # whatever a damaged pickle raises
        return None
    return {
        name.removeprefix("model."): entry.size
        for name, entry in index.items()
        if name.startswith("model.") and isinstance(entry, TensorStorageMetadata)
    }


def _differences(expected: dict[str, torch.Size], found: dict[str, torch.Size]) -> Iterator[Problem]:
    """Of the names that differ the first few: they differ together."""
    wrong = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    for name in wrong[:_SHOWN]:
        held, needed = found.get(name), expected.get(name)
        rule = f"the plan's model has {'no such weight' if needed is None else list(needed)}"
        yield Problem(name, None if held is None else list(held), rule, "the plan of this checkpoint, or another --run")
    if len(wrong) > _SHOWN:
        yield Problem("weights", len(wrong), f"differ; the plan's model has {len(expected)}")


def _refuse(source: str, found: list[Problem]) -> None:
    if found:
        raise InputError(source, found)

"""What keeps a plan's model from being trained as a recipe says, found before any process is started."""

from __future__ import annotations

from pathlib import Path

from ..errors import Problem
from ..planner.cost.compressed import residual_bytes
from ..planner.cost.data_parallel import rank_parameters
from ..planner.cost.setting import Setting
from ..planner.families import architecture
from ..planner.plan import Plan
from ..planner.schedule.table import splits
from .blocks.moe_shape import read_moe
from .blocks.shape import read_shape
from .config_checks import dropout_problems
from .manifest import complete_checkpoints
from .recipe import Recipe
from .replica_checks import capacity_problems
from .run_folder import RunFolder


def recipe_problems(plan: Plan, recipe: Recipe, run: RunFolder) -> list[Problem]:
    """Dropout that does not run, layers that cannot be compiled, experts that are not there, and pretrained weights
    that are not those of the model; a run that has checkpoints needs these no more."""
    found = recipe.expert_problems(read_moe(plan.model.config))
    found += capacity_problems(plan, recipe)
    found += dropout_problems(plan.model.config) if recipe.dropout else []
    found += compile_problems(plan) if recipe.compile else []
    found += compress_problems(plan, recipe.compress) if recipe.compress not in (None, "none") else []
    found += attention_problems(plan, recipe)
    found += lengths_problems(plan, recipe) if plan.job.lengths is not None else []
    if recipe.init_from is None or complete_checkpoints(run.checkpoints):
        return found
    from .pretrained import check_pretrained

    return found + check_pretrained(Path(recipe.init_from), plan.model.config)


def lengths_problems(plan: Plan, recipe: Recipe) -> list[Problem]:
    """What a plan for sequences of different lengths asks of a recipe."""
    found = []
    if not recipe.separate_documents:
        rule = "a plan with lengths trains document after document"
        found.append(Problem("separate_documents", False, rule, "separate_documents=true"))
    if recipe.dropout and read_shape(plan.model.config).drops_out:
        found.append(Problem("dropout", True, "documents of different lengths drop nothing out", "dropout=false"))
    if recipe.compile:
        found.append(Problem("compile", True, "layers see another length in every round", "compile=false"))
    return found


def attention_problems(plan: Plan, recipe: Recipe) -> list[Problem]:
    """Shards of attention that the plan's model cannot have, or that nobody asked for."""
    if (sharded := recipe.sharded(plan)) is not None:
        return list(sharded.problems(plan, compiles=recipe.compile))
    if recipe.s2 is not None:
        return [Problem("s2", "given", "is of attention=s2, and attention is dense", "attention=s2, or no s2")]
    return []


def compress_problems(plan: Plan, compress: str) -> list[Problem]:
    """Where gradients of replicas are not compressed: there are none, or the memory has no room for residuals."""
    if plan.zero != 0:
        rule = f"is of the sums of whole replicas, those of zero 0, and the plan has zero {plan.zero}"
        return [Problem("compress", compress, rule, "compress=none, or a plan with --pin zero=0")]
    if plan.mesh.dp * plan.mesh.cp == 1:
        return [Problem("compress", compress, "no rank shares its gradients: dp and cp are 1", "compress=none")]
    return [] if plan.job.compress == compress else _room_problems(plan, compress)


def _room_problems(plan: Plan, compress: str) -> list[Problem]:
    """Residuals and messages are beside what the plan has priced."""
    predicted = plan.predicted
    setting = Setting(architecture(plan.model), plan.cluster, plan.job, every_device=False, rank_map=plan.rank_map)
    costs, tied = setting.at(plan.configuration, 0).costs(plan.configuration), setting.architecture.tied_embeddings
    priced = zip(predicted.memory, predicted.peak_memory_bytes, predicted.limits_bytes, strict=False)
    for rank, (_, peak, limit) in enumerate(priced):
        held = rank_parameters(costs, plan.configuration, rank, tied)
        needed = peak + residual_bytes(plan.configuration, held)
        if needed > limit:
            rule = f"needs {needed / 2**30:.1f} GiB with its residuals, the device has {limit / 2**30:.1f} GiB"
            return [Problem("compress", compress, rule, "compress=none")]
    return []


def compile_problems(plan: Plan) -> list[Problem]:
    """Where layers are not compiled: what forgets, puts off or moves things in the middle of one."""
    configuration = plan.configuration
    reasons = {
        "layers that are recomputed are not compiled": set(configuration.recompute) != {"none"},
        f"the {configuration.schedule} schedule takes the backward of a layer apart": splits(configuration),
        "layers that are swapped are not compiled": configuration.swap_layers > 0,
    }
    return [Problem("compile", True, reason, "compile=false") for reason, holds in reasons.items() if holds]

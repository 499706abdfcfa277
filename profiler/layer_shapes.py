"""Which ways to share out a layer are worth measuring: those that plans for these workers would run, likely ones first.

Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from ..planner.configuration import Configuration, CpAlgorithm, Dispatch, Mesh, Recompute
from ..planner.cost.setting import Setting
from ..planner.cost.sharding import Sharding, sharding_of
from ..planner.frameworks.framework import framework
from ..planner.legality import is_legal, runtime_problems
from ..planner.search.partition import even_split
from ..planner.search.space import divisors

MICROBATCHES = (1, 2, 4, 8, 16)


def configurations(setting: Setting) -> list[Configuration]:
    """One for every sharding of a layer that is legal on some mesh of all workers, as without a pipeline: of these a
    layer knows nothing. Small microbatches and small degrees first."""
    found: dict[Sharding, Configuration] = {}
    for mesh in _meshes(setting):
        for each in _of_mesh(setting, mesh):
            if is_legal(setting, each) and not runtime_problems(setting, each):
                found.setdefault(sharding_of(each), _flat(each))
    return sorted(found.values(), key=_rank)


def _flat(configuration: Configuration) -> Configuration:
    """The same layers without a pipeline, replicas in the place of its stages."""
    mesh = configuration.mesh
    return replace(
        configuration, mesh=replace(mesh, pp=1, dp=mesh.pp * mesh.dp),
        stage_layers=(sum(configuration.stage_layers),), recompute=("none",),
    )  # fmt: skip


def _rank(configuration: Configuration) -> tuple[int, ...]:
    mesh = configuration.mesh
    degrees = mesh.etp, mesh.ep, mesh.cp, mesh.tp
    crossed = sum(degree > 1 for degree in degrees)
    return configuration.microbatch, crossed, *degrees, not configuration.sp, configuration.dispatch != "copies"


def _meshes(setting: Setting) -> Iterator[Mesh]:
    """Replicas and stages of a pipeline fill what a sharding leaves: the fewer replicas, the larger microbatches may
    be."""
    world = setting.num_devices
    for tp in divisors(world):
        for cp in divisors(world // tp):
            for pp in divisors(world // (tp * cp)):
                for ep, etp in expert_degrees(setting, world // pp):
                    yield Mesh(pp=pp, dp=world // (tp * cp * pp), cp=cp, tp=tp, ep=ep, etp=etp)


def expert_degrees(setting: Setting, ranks: int) -> Iterator[tuple[int, int]]:
    """Every ep and etp that the experts of a model, if it has any, allow on the ranks of a pipeline stage."""
    moes = [layer.moe for layer in setting.kinds if layer.moe]
    experts = math.gcd(*(moe.experts for moe in moes)) or 1
    width = math.gcd(*(moe.expert.width for moe in moes)) or 1
    for ep in divisors(math.gcd(experts, ranks)):
        for etp in divisors(math.gcd(width, ranks // ep)):
            yield ep, etp


def _of_mesh(setting: Setting, mesh: Mesh) -> Iterator[Configuration]:
    """Every algorithm and microbatch, and what may be sent to experts."""
    algorithms: list[tuple[CpAlgorithm, int]] = (
        [(name, 1) for name in framework().context if name != "usp"] if mesh.cp > 1 else [("ring", 1)]
    )
    algorithms += [("usp", heads) for heads in range(2, mesh.cp) if mesh.cp % heads == 0]
    sizes = [size for size in MICROBATCHES if setting.job.global_batch % (size * mesh.dp) == 0]
    if mesh.pp > len(setting.architecture.layers):
        return
    layers = even_split(len(setting.architecture.layers), mesh.pp)
    plain: Recompute = "none"
    sent: tuple[Dispatch, ...] = ("copies", "ranks") if mesh.ep > 1 else ("copies",)
    for (name, heads), sp, size, each in product(algorithms, (False, True) if mesh.tp > 1 else (False,), sizes, sent):
        yield Configuration(
            mesh=mesh, stage_layers=layers, microbatch=size,
            microbatches=setting.job.global_batch // (size * mesh.dp), sp=sp, zero=0, recompute=(plain,) * mesh.pp,
            cp_algorithm=name, cp_ulysses=heads, dispatch=each,
        )  # fmt: skip

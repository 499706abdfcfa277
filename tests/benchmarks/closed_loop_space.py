"""Every legal plan of a small model on a few workers: what the closed loop runs.

The space: all meshes (tp, cp, pp, dp; of a model with experts ep and etp) of the workers, with sp on and off, every
algorithm of context parallelism, every ZeRO stage, every pipeline schedule that the planner searches with the virtual
stages that the layers allow, the microbatches and kinds of recomputation that are asked for. Legal is what the rules of
planner and runtime say. Layers are split evenly; tokens go to ep ranks as one copy a rank; hybrid sharding, offload
and chunks of the loss stay off.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from meshwright.planner.configuration import Configuration, CpAlgorithm, Mesh, Recompute
from meshwright.planner.cost.setting import Setting
from meshwright.planner.legality import is_legal, runtime_problems
from meshwright.planner.schedule.table import table
from meshwright.planner.search.partition import even_split
from meshwright.planner.search.space import divisors
from meshwright.profiler.layer_shapes import expert_degrees

ALGORITHMS: tuple[CpAlgorithm, ...] = ("ring", "ulysses", "usp", "token-ring", "allgather")


def legal_configurations(
    setting: Setting,
    microbatches: tuple[int, ...],
    recomputes: tuple[Recompute, ...],
    zeros: tuple[int, ...] = (0, 1, 2, 3),
) -> list[Configuration]:
    """All of the space, in a fixed order."""
    return [
        each
        for mesh in _meshes(setting)
        for each in _of_mesh(setting, mesh, microbatches, recomputes, zeros)
        if is_legal(setting, each) and not runtime_problems(setting, each)
    ]


def _meshes(setting: Setting) -> Iterator[Mesh]:
    world = setting.num_devices
    for tp in divisors(world):
        for cp in divisors(world // tp):
            for pp in divisors(world // (tp * cp)):
                for ep, etp in expert_degrees(setting, world // pp):
                    yield Mesh(pp=pp, dp=world // (tp * cp * pp), cp=cp, tp=tp, ep=ep, etp=etp)


def _of_mesh(
    setting: Setting,
    mesh: Mesh,
    microbatches: tuple[int, ...],
    recomputes: tuple[Recompute, ...],
    zeros: tuple[int, ...] = (0, 1, 2, 3),
) -> Iterator[Configuration]:
    layers = len(setting.architecture.layers)
    axes = product(
        _schedules(mesh, layers),
        (False, True) if mesh.tp > 1 else (False,),
        _algorithms(mesh),
        zeros if mesh.dp * mesh.cp > 1 else (0,),
        microbatches,
        recomputes,
    )
    for (schedule, vpp), sp, (algorithm, heads), zero, microbatch, recompute in axes:
        count, left = divmod(setting.job.global_batch, mesh.dp * microbatch)
        if count and not left:
            yield Configuration(
                mesh=mesh, stage_layers=even_split(layers, mesh.pp * vpp), microbatch=microbatch, microbatches=count,
                schedule=schedule, vpp=vpp, zero=zero, sp=sp, recompute=(recompute,) * mesh.pp,
                cp_algorithm=algorithm, cp_ulysses=heads, dispatch="ranks" if mesh.ep > 1 else "copies",
            )  # fmt: skip


def _algorithms(mesh: Mesh) -> Iterator[tuple[CpAlgorithm, int]]:
    """With the ranks that share out heads in usp: two of four, else none."""
    if mesh.cp == 1:
        yield "ring", 1
        return
    for name in ALGORITHMS:
        if name != "usp":
            yield name, 1
        elif mesh.cp % 4 == 0:
            yield name, 2


def _schedules(mesh: Mesh, layers: int) -> Iterator[tuple[str, int]]:
    if mesh.pp == 1:
        yield "1f1b", 1
        return
    for name, builder in table().items():
        if builder.searched:
            yield from ((name, chunks) for chunks in builder.chunks if chunks <= 2 and mesh.pp * chunks <= layers)


def told(configuration: Configuration) -> str:
    """A plan in one line: what differs from one process."""
    mesh = configuration.mesh
    degrees = [f"{axis}{size}" for axis in ("pp", "dp", "cp", "tp", "ep", "etp") if (size := getattr(mesh, axis)) > 1]
    if mesh.cp > 1:
        degrees.append(configuration.cp_algorithm)
    if mesh.pp > 1:
        degrees.append(configuration.schedule + (f" v{configuration.vpp}" if configuration.vpp > 1 else ""))
    if configuration.sp:
        degrees.append("sp")
    if mesh.dp * mesh.cp > 1:
        degrees.append(f"zero {configuration.zero}")
    degrees.append(f"mb {configuration.microbatch}")
    return " ".join([*degrees, *(["recompute"] if configuration.recompute[0] == "full" else [])])

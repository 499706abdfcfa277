"""Parts of a model as the runtime builds them, to be timed apart: embedding, layers, head, and whole small stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..clusters.local import cpu_cluster
from ..planner.configuration import Configuration, Recompute, levers
from ..planner.job import Job
from ..planner.plan import Breakdown, MeshDegrees, ModelSpec, Plan, Prediction, Proof, ScheduleChoice
from ..runtime.blocks.shape import read_shape
from ..runtime.blocks.transformer import Transformer
from ..runtime.build import Builder
from ..runtime.mesh import build_meshes
from ..runtime.parallel.batch import Batch

_NOTHING = Prediction(
    step_time_s=1.0, step_time_interval_s=(1.0, 1.0), tokens_per_s_per_device=1.0, model_tflops_per_device=1.0,
    mfu=0.0, hfu=0.0, peak_memory_bytes=(1,), memory_limit_bytes=1, fits=True, memory=(), breakdown_s=Breakdown(),
    origin="analytical",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parts:
    """The three parts that a microbatch passes, and a batch of one microbatch as this rank has it."""

    embedding: Transformer
    layers: Transformer
    head: Transformer
    batch: Batch


def as_plan(model: ModelSpec, job: Job, configuration: Configuration) -> Plan:
    """What the runtime builds from; nobody has predicted anything of it."""
    return Plan(
        model=model,
        cluster=cpu_cluster(configuration.mesh.world),  # of which the runtime reads nothing here
        job=job.model_copy(update={"global_batch": configuration.batch}),
        mesh=MeshDegrees(**{axis: getattr(configuration.mesh, axis) for axis in ("pp", "dp", "cp", "tp", "ep", "etp")}),
        schedule=ScheduleChoice(name="1f1b", vpp=1, microbatches=configuration.microbatches),
        stage_layers=configuration.stage_layers,
        microbatch=configuration.microbatch,
        **levers(configuration),
        predicted=_NOTHING,
        proof=Proof(candidates=1, pruned=0, lower_bound_s=1.0, gap=0.0),
    )


def build_parts(plan: Plan, layers: Sequence[int], device: torch.device, choice: Recompute = "none") -> Parts:
    """Embedding, `layers` (numbers that follow each other) and head, shared out as the plan says, without data
    parallelism, that of experts neither. All ranks call this."""
    before = layers[0]
    split = (before, len(layers), len(plan.stage_layers) and sum(plan.stage_layers) - before - len(layers))
    plan = plan.model_copy(update={"recompute": (choice,)})
    builder = _builder(plan, device, None)
    first = _stage(builder, range(0), first=True)
    middle = _stage(builder, range(split[0], split[0] + split[1]))
    last = _stage(builder, range(0), last=True)
    return Parts(first, middle, last, batch_of(plan, builder, device))


def build_stage(plan: Plan, layers: int, device: torch.device, data: DeviceMesh | None) -> tuple[Transformer, Batch]:
    """A whole model of some layers, whose parameters are shared out over `data` as the plan's ZeRO stage says."""
    builder = _builder(plan, device, data)
    return _stage(builder, range(layers), first=True, last=True), batch_of(plan, builder, device)


def _builder(plan: Plan, device: torch.device, data: DeviceMesh | None) -> Builder:
    configuration, shape = plan.configuration, read_shape(plan.model.config)
    meshes = build_meshes(configuration.mesh, device, cp_ulysses=configuration.cp_ulysses)
    return Builder(plan, shape, replace(meshes, data=data), device, 0, alone=True)


def _stage(builder: Builder, layers: range, *, first: bool = False, last: bool = False) -> Transformer:
    """A stage with these layers and ends: the runtime's own, of a pipeline of as many stages as it takes."""
    stages = [range(0)] * (not first) + [layers] + [range(0)] * (not last)
    counts = [len(each) for each in stages]
    if not first:
        counts[0] = layers.start
    plan = builder.plan.model_copy(update={"stage_layers": tuple(counts)})
    return replace(builder, plan=plan).part(int(not first))


def batch_of(plan: Plan, builder: Builder, device: torch.device) -> Batch:
    """Random tokens of one microbatch, as this rank has them."""
    drawn = torch.Generator().manual_seed(builder.meshes.dp_rank)
    rows = (plan.microbatch, plan.job.seq_len + 1)
    tokens = torch.randint(builder.shape.vocab, rows, generator=drawn).to(device)
    return builder.layout()(Batch(tokens[:, :-1], tokens[:, 1:], None, float(plan.microbatch * plan.job.seq_len)))


def data_mesh(device: torch.device, size: int) -> DeviceMesh | None:
    """Groups of `size` neighbours over all workers; all of them are in one."""
    world = dist.get_world_size()
    if size == 1:
        return None
    if size == world:
        return init_device_mesh(device.type, (world,), mesh_dim_names=("data",))
    return init_device_mesh(device.type, (world // size, size), mesh_dim_names=("apart", "data"))["data"]

"""Build: from a plan to this rank's part of the model, one dimension of parallelism after another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import noop_context_fn

from ..errors import InputError
from ..kernels.flexible import Masks
from ..kernels.terms import PLAIN, Terms
from ..planner.compression import Compress
from ..planner.plan import Plan
from .attention_recipe import S2Recipe
from .blocks import kept
from .blocks.core import Core
from .blocks.moe import Moe
from .blocks.shape import Shape, read_shape
from .blocks.sparse import SparseCore
from .blocks.transformer import Layer, Transformer
from .checks import problems
from .expert_recipe import UNBALANCED, ExpertRecipe
from .initialize import materialise
from .mesh import Meshes, build_meshes
from .model import Executor, Layout, ParallelModel, named
from .parallel.accumulation import Accumulation
from .parallel.chunks import chunk_loss
from .parallel.compiled import compile_layer
from .parallel.context.place import Place
from .parallel.context.rounds import Rounds
from .parallel.context.zigzag import Zigzag
from .parallel.data import shard_unit
from .parallel.expert.control import ExpertControl, expert_blocks
from .parallel.expert.replicas import spread_experts
from .parallel.expert.sharding import shard_moe
from .parallel.expert.table import slot_table
from .parallel.mixed import Mixed
from .parallel.offload.shards import set_window, swap_shards
from .parallel.offload.window import Window
from .parallel.pipeline import Pipeline, activation_tensors
from .parallel.recompute import recompute_layer, recompute_operations
from .parallel.shuffle import Shuffle
from .parallel.spread.ends import Ends
from .parallel.tensor import TensorAxis, shard_layer
from .parallel.vocabulary import shard_ends
from .placement import domain_of
from .slots import Order, layer_orders, orders_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def build_model(
    plan: Plan,
    device: torch.device,
    *,
    seed: int | None = 0,
    experts: ExpertRecipe = UNBALANCED,
    compiler: str | None = None,
    compress: Compress = "none",
    sharded: S2Recipe | None = None,
    added: Terms = PLAIN,
) -> ParallelModel:
    """Build this rank's part of the model, initialised from `seed` alike for every plan; None leaves it to be loaded.

    `experts` says how experts are balanced, if the model has any; `compiler`, a backend of torch.compile, makes layers
    compiled ones (`recipe_checks.compile_problems` says where that does not run); `compress` is how gradients of
    replicas travel (`recipe_checks.compress_problems`), `sharded` how heads share the sequence out, `added` what the
    loss has beside the cross-entropy. Several ranks need the default process group; a single one does not. Raises
    InputError for a plan that the runtime cannot execute.
    """
    found = problems(plan, dist.get_world_size() if dist.is_initialized() else 1)
    if found:
        raise InputError("plan", found)
    configuration, shape = plan.configuration, read_shape(plan.model.config)
    meshes = _meshes_of(plan, shape, device)
    mixing = rounds_of(plan, meshes, device)
    builder = Builder(plan, shape, meshes, device, seed, compiler, mixing, compress, sharded, added)
    parts = {stage: builder.part(stage) for stage in configuration.stages_of(meshes.pp_rank)}
    ends = builder.ends() if configuration.spread_vocabulary else None
    modules = [*([] if ends is None else [ends]), *parts.values()]
    model = ParallelModel(plan, shape, modules, meshes, builder.layout(), builder.executor(parts, ends))
    if builder.rounds is not None:
        model.mixed = Mixed(parts[0], builder.rounds, plan.zero)
    if shape.moe is not None:
        blocks = expert_blocks(parts.values())
        model.experts = ExpertControl(blocks, shape.moe, experts, meshes, plan.schedule.microbatches, device)
    return model


def _meshes_of(plan: Plan, shape: Shape, device: torch.device) -> Meshes:
    configuration = plan.configuration
    return build_meshes(
        configuration.mesh,
        device,
        tied=(configuration.placement[0], configuration.placement[-1]) if shape.tied_embeddings else None,
        dp_replicate=configuration.dp_replicate,
        cp_ulysses=configuration.cp_ulysses,
        ep_per_node=ep_per_node(plan),
        spread_vocabulary=configuration.spread_vocabulary,
        mixed=() if plan.mix is None else plan.mix.degrees,
        replicas=plan.expert_replicas > 0,
    )


def ep_per_node(plan: Plan) -> int:
    """Neighbours of ep in one node, of a plan that sends tokens to nodes; else 1."""
    if plan.dispatch != "nodes":
        return 1
    nodes = [domain_of(plan, rank) for rank in range(0, plan.mesh.ep * plan.mesh.etp, plan.mesh.etp)]
    return nodes.count(nodes[0])


def rounds_of(plan: Plan, meshes: Meshes, device: torch.device) -> Rounds | None:
    """The lanes of a plan whose groups change from round to round."""
    if plan.mix is None:
        return None
    multiple = plan.mesh.tp if plan.sp else 1
    return Rounds(meshes.rank // plan.mesh.tp, meshes.mixed, plan.cp_algorithm, multiple, device)


@dataclass(frozen=True, slots=True)
class Builder:
    """What all parts of this rank are built from."""

    plan: Plan
    shape: Shape
    meshes: Meshes
    device: torch.device
    seed: int | None
    compiler: str | None = None
    rounds: Rounds | None = None
    compress: Compress = "none"
    sharded: S2Recipe | None = None
    added: Terms = PLAIN
    alone: bool = False  # layers to be timed, without what replicas of their experts add

    @property
    def dtype(self) -> torch.dtype:
        """Of activations and products."""
        return DTYPES[self.plan.job.precision]

    def part(self, stage: int) -> Transformer:
        """One stage: shaped and cut on the meta device, then made real layer by layer, to hold little at a time."""
        last = stage == len(self.plan.stage_layers) - 1
        layers = self.plan.configuration.layer_range(stage)
        with torch.device("meta"):
            part = Transformer(self.shape, layers, first=stage == 0, last=last, dtype=self.dtype)
        if self.plan.spread_vocabulary:
            part.model.embed_tokens = part.lm_head = None
        if part.lm_head is not None:
            part.lm_head.added = self.added
        self._cut(part)
        names = {parameter: name for name, parameter in named([part], self.shape)}
        orders = orders_of(self.plan, self.shape)
        alone: set[nn.Parameter] = set()  # parameters that no data parallelism touches
        for unit in (*part.model.layers.values(), part):
            std, norm = self.shape.initializer_range, self.shape.unit_norm
            materialise(unit, names, self._home(unit), seed=self.seed, std=std, norm=norm, orders=orders)
            self._dress(unit, alone, root=unit is part)
        self._swap(part)
        return part

    def ends(self) -> Ends:
        """This rank's rows of embedding and head, where all ranks of a pipeline have some."""
        found = Ends(self.shape, self.meshes, sp=self.plan.sp, dtype=self.dtype)
        found.lm_head.added = self.added
        names = {parameter: name for name, parameter in named([found], self.shape)}
        materialise(found, names, self.device, seed=self.seed, std=self.shape.initializer_range)
        if self.meshes.data is not None:
            shard_unit(
                found, self.meshes.data, zero=self.plan.zero, dtype=self.dtype, root=True, compress=self.compress
            )
        return found

    def _home(self, unit: nn.Module) -> torch.device:
        """Where parameters are made: of layers that are swapped, on the host."""
        return torch.device("cpu") if isinstance(unit, Layer) and self.plan.swap_layers else self.device

    def _swap(self, part: Transformer) -> None:
        """Let layers come and go."""
        layers, size = list(part.model.layers.values()), self.plan.swap_layers
        if size and self.meshes.data is None:
            Window(layers, size, self.device, self.dtype)
        elif size:
            set_window(layers, size)

    def _cut(self, part: Transformer) -> None:
        """Share blocks out over the ranks of a stage: tensor, then context, then expert parallelism."""
        axis = None if self.meshes.tp is None else TensorAxis.of(self.meshes.tp, sp=self.plan.sp)
        if axis is not None:
            for layer in part.model.layers.values():
                assert isinstance(layer, Layer)
                shard_layer(layer, axis)
            shard_ends(part, axis)
        if self.sharded is not None:
            self._shard_attention(part, self.sharded)
        orders = layer_orders(self.plan, self.shape)
        for number, layer in part.model.layers.items():
            if isinstance(layer.mlp, Moe):
                self._spread(layer.mlp, orders.get(int(number)), axis)
        if self.rounds is not None:
            self.rounds.spread(part)
        elif self.place is not None:
            self.place.spread(part)
        if part.lm_head is not None and self.plan.logits_chunks > 1:
            chunk_loss(part.lm_head, self.plan.logits_chunks)

    def _shard_attention(self, part: Transformer, s2: S2Recipe) -> None:
        """Let heads of the sparse layers see their shards; of tensor parallelism's ranks each has the next heads."""
        heads = -(-self.shape.heads // self.meshes.tp_size)
        pattern, masks = s2.pattern(self.shape, first_head=heads * self.meshes.tp_rank), Masks()
        for number, layer in part.model.layers.items():
            if s2.sparse(int(number)):
                assert isinstance(layer, Layer)
                assert isinstance(layer.self_attn.core, Core)
                layer.self_attn.core = SparseCore(layer.self_attn.core.scoring, pattern, masks)

    def _spread(self, moe: Moe, order: Order | None, axis: TensorAxis | None) -> None:
        """Share out one block of experts, whose slots hold them in `order`."""
        if order is not None:
            assert self.meshes.ep is not None  # or there is nothing to place
            group = self.meshes.ep.get_group()
            nodes = [domain_of(self.plan, rank) for rank in dist.get_process_group_ranks(group)]
            moe.experts.to_slots = slot_table(order, nodes, group.rank(), self.device)
        shard_moe(moe, self.meshes, axis, order, sent=self.plan.dispatch, chunks=self.plan.dispatch_chunks)

    @property
    def sequence(self) -> Zigzag:
        """Which tokens of a sequence each rank has."""
        multiple = self.plan.mesh.tp if self.plan.sp else 1
        return Zigzag(seq_len=self.plan.job.seq_len, size=self.meshes.cp_size, multiple=multiple)

    @property
    def place(self) -> Place | None:
        """This rank's in its context-parallel group, if it has one."""
        if self.meshes.cp is None:
            return None
        return Place.of(self.meshes, self.sequence, self.plan.cp_algorithm)

    def _dress(self, unit: nn.Module, alone: set[nn.Parameter], *, root: bool) -> None:
        """What surrounds a layer, or what a stage has beside its layers (the root): recomputation, data parallelism."""
        choice = self.plan.recompute[self.meshes.pp_rank]
        if isinstance(unit, Layer) and self.compiler is not None:
            compile_layer(unit, self.compiler)
        if isinstance(unit, Layer) and choice == "full":
            recompute_layer(unit, kept.contexts if self.reads_apart else noop_context_fn)
        elif isinstance(unit, Layer) and choice == "selective":
            recompute_operations(unit, self.plan.recompute_operations)
        meshes, zero, dtype = self.meshes, self.plan.zero, self.dtype
        if not root and not (self.alone and meshes.expert_data is not None):
            on_host = self.plan.swap_layers > 0
            alone |= spread_experts(unit, meshes, zero=zero, dtype=dtype, on_host=on_host, compress=self.compress)
        if meshes.data is not None and isinstance(unit, Layer) and self.plan.swap_layers:
            swap_shards(unit, meshes.data, dtype=dtype)
        elif meshes.data is not None:
            shard_unit(unit, meshes.data, zero=zero, dtype=dtype, root=root, ignored=alone, compress=self.compress)

    @property
    def reads_apart(self) -> bool:
        """Whether attention asks other ranks, so that a recomputed layer had better keep what it found."""
        return self.place is not None or (self.rounds is not None and self.meshes.data_size > 1)

    def layout(self) -> Layout:
        """What this rank keeps of a batch of whole sequences, in the order that suits its experts."""
        share: Layout = (lambda batch: batch) if self.place is None else self.place.share
        if self.plan.token_homes is None:
            return share
        shuffled = Shuffle.of(self.plan.token_homes, self.meshes, self.device)
        return lambda batch: shuffled(share(batch))

    def executor(self, parts: dict[int, Transformer], ends: Ends | None) -> Executor:
        """What runs a step's microbatches, those of this replica, through the parts."""
        plan, configuration = self.plan, self.plan.configuration.of_replica(self.meshes.dp_rank)
        if self.meshes.pp is None:
            return Accumulation(parts[0], configuration.microbatches, plan.zero)
        activations = activation_tensors(
            self.shape, plan.microbatch, self.sequence.local, tp=self.meshes.tp_size, sp=plan.sp, dtype=self.dtype
        )
        return Pipeline(parts, configuration, self.meshes, activations, self.device, ends)

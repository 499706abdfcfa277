"""Footprint: bytes on the busiest device of each pipeline rank, allocated and reserved.

The fullest of four moments counts: a layer going backward, the loss, the head going backward, and the end of a backward
where a framework holds every 16-bit gradient until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..configuration import Configuration
from ..plan import StageMemory
from ..schedule import held_of
from ..schedule.table import waiting_of
from .blocks import ModelCosts
from .data_parallel import owned, rank_parameters
from .memory import Held, Recipe, logits_bytes, recipe_of
from .offload import host_bytes, of_ends, room_bytes, states_bytes
from .replica import replicas
from .setting import Setting
from .sharding import sharding_of


def in_flight(configuration: Configuration, rank: int) -> int:
    """Stage inputs that a pipeline rank holds at once; equals schedule.Schedule.in_flight."""
    return max(backward + weight for backward, weight in held_of(configuration, rank).moments)


STUCK = 0.05
"""Share of what comes and goes that the caching allocator cannot give back when the device is full: before it fails it
returns every segment without a live block (pytorch.org/docs/stable/notes/cuda.html), so that a run fits where its
tensors nearly fill the device. Of 1,755 nanotron and 380 llm-foundry runs that ran, tuned to the largest microbatch, 3
would not fit with it; of 1,396 that crashed or ran out of memory 1,148 would not."""


class Peak(NamedTuple):
    """Memory of a pipeline rank, on the device that it leaves least room on, and what that device has."""

    memory: StageMemory
    limit_bytes: int

    @property
    def room_bytes(self) -> int:
        return self.limit_bytes - self.memory.total

    @property
    def fits(self) -> bool:
        return self.room_bytes >= 0


def footprint(setting: Setting, configuration: Configuration) -> tuple[StageMemory, ...]:
    """Memory of every pipeline rank."""
    return tuple(each.memory for each in peaks(setting, configuration))


def peaks(setting: Setting, configuration: Configuration) -> tuple[Peak, ...]:
    """Of every pipeline rank."""
    return tuple(rank_peak(setting, configuration, rank) for rank in range(configuration.mesh.pp))


def rank_peak(setting: Setting, configuration: Configuration, rank: int) -> Peak:
    """Of one pipeline rank: of the replica that has least room."""
    return min(
        (_peak(seen, asked, rank) for seen, asked in replicas(setting, configuration)),
        key=lambda peak: peak.room_bytes,
    )


def _peak(setting: Setting, configuration: Configuration, rank: int) -> Peak:
    memory = rank_memory(setting, configuration, rank)
    return Peak(memory, setting.at(configuration, rank).memory_limit_bytes)


def fits_host(setting: Setting, configuration: Configuration) -> bool:
    """Whether what a node's devices offload fits into its host memory, or on its drive."""
    leaves = configuration.offload or configuration.swap_layers
    return not leaves or not any(needed > room for needed, room in _hosts(setting, configuration))


def offloaded_bytes(setting: Setting, configuration: Configuration) -> float:
    """What the device whose host has least room keeps there, or on the drive."""
    return fullest_host(setting, configuration)[0]


def fullest_host(setting: Setting, configuration: Configuration) -> tuple[float, float]:
    """The same, and what there is room for."""
    return min(_hosts(setting, configuration), key=lambda host: host[1] - host[0])


def _hosts(setting: Setting, configuration: Configuration) -> Iterator[tuple[float, float]]:
    """Of the devices of every pipeline rank: bytes that one keeps off the device, and its room for them."""
    costs, tied = setting.at(configuration, 0).costs(configuration), setting.architecture.tied_embeddings
    for rank in range(configuration.mesh.pp):
        seen, held = setting.stage_at(configuration, rank), rank_parameters(costs, configuration, rank, tied)
        if configuration.swap_layers:
            held -= of_ends(costs)
        yield host_bytes(seen, configuration, owned(held, configuration)), room_bytes(seen, configuration)


def rank_memory(setting: Setting, configuration: Configuration, rank: int) -> StageMemory:
    """Memory of one pipeline rank at its fullest moment, by cause."""
    setting = setting.at(configuration, rank)
    costs, recipe, keeps = setting.costs(configuration), _recipe(setting, configuration), setting.framework.keeps
    held = _stays(setting, configuration, costs, rank)
    moment = max(_moments(setting, configuration, costs, rank, held), key=sum)
    buffers = (
        moment.passing
        + _buffers(setting, configuration)
        + _zero_buffers(costs, configuration, recipe, owned(held, configuration))
    )
    comes_and_goes = moment.activations + moment.logits + buffers
    fragments = keeps.fragments * comes_and_goes + _late_gathers(setting, configuration)
    resident = _resident(setting, configuration, recipe, held)
    passes = Moment(round(moment.activations), round(moment.logits), round(buffers))
    room = setting.memory_limit_bytes - setting.context_bytes - sum(resident) - sum(passes)
    reserve = min(fragments, max(STUCK * comes_and_goes, room))
    weights, gradients, optimizer = resident
    return StageMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=round(passes.activations),
        logits=round(passes.logits),
        buffers=round(passes.passing),
        reserve=round(reserve),
        context=setting.context_bytes,
    )


def resident_bytes(setting: Setting, configuration: Configuration, rank: int) -> int:
    """What one pipeline rank holds at any moment: a part of `rank_memory`, sooner known."""
    setting = setting.at(configuration, rank)
    held = _stays(setting, configuration, setting.costs(configuration), rank)
    return sum(_resident(setting, configuration, _recipe(setting, configuration), held)) + setting.context_bytes


def _stays(setting: Setting, configuration: Configuration, costs: ModelCosts, rank: int) -> Held:
    """Parameters of a rank that do not come and go."""
    if configuration.swap_layers:
        return of_ends(costs)
    return rank_parameters(costs, configuration, rank, setting.architecture.tied_embeddings)


def _resident(setting: Setting, configuration: Configuration, recipe: Recipe, held: Held) -> tuple[int, int, int]:
    """Bytes of weights, gradients and optimizer states."""
    mesh, zero, shard = configuration.mesh, configuration.zero, owned(held, configuration)
    buckets = setting.framework.keeps.bucket_bytes * held.total if mesh.dp * mesh.cp > 1 and zero < 2 else 0.0
    return (
        round(recipe.weight * (held.total if zero < 3 else shard)),
        round(recipe.gradient * (held.total if zero < 2 else shard) + buckets),
        round((recipe.states - configuration.offload * states_bytes(setting)) * shard),
    )


def worst_routing_bytes(setting: Setting, configuration: Configuration) -> tuple[int, ...]:
    """What each pipeline rank would hold beyond its footprint if, in every layer and microbatch in flight, all tokens
    of the expert-parallel group visited its own experts. The footprint holds the expected, balanced routing."""
    if not setting.has_experts:
        return ()
    costs = setting.at(configuration, 0).costs(configuration)
    return tuple(_worst_of_rank(costs, configuration, rank) for rank in range(configuration.mesh.pp))


def _worst_of_rank(costs: ModelCosts, configuration: Configuration, rank: int) -> int:
    if configuration.recompute[rank] == "full":
        return round(max(block.worst_routing_bytes for block in costs.layers))
    ranges = [configuration.layer_range(stage) for stage in configuration.stages_of(rank)]
    chunk = max(sum(costs.layers[index].worst_routing_bytes for index in layers) for layers in ranges)
    return round(in_flight(configuration, rank) * chunk)


def _recipe(setting: Setting, configuration: Configuration) -> Recipe:
    return recipe_of(setting.job.precision, setting.framework.keeps, configuration.zero)


class Moment(NamedTuple):
    """Bytes at one moment: activations, logits, and what only passes."""

    activations: float
    logits: float
    passing: float


def _moments(setting: Setting, configuration: Configuration, costs: ModelCosts, rank: int, held: Held) -> list[Moment]:
    """Those of which one is the fullest of a rank."""
    moments = [_layers_backward(setting, configuration, costs, rank)]
    if configuration.holds_last_stage(rank) or configuration.spread_vocabulary:
        moments += [_loss(setting, configuration, costs, rank), _head_backward(setting, configuration, costs, rank)]
    if setting.framework.keeps.weight_gradients == "model":
        moments.append(_end_of_backward(setting, configuration, costs, rank, held))
    return moments


def _layers_backward(setting: Setting, configuration: Configuration, costs: ModelCosts, rank: int) -> Moment:
    """While the largest layer goes backward, recomputed first where that was chosen. The logits of its microbatch are
    gone by then; GPipe still holds those of the others."""
    activations = _kept(costs, configuration, rank)
    if configuration.recompute[rank] == "full":
        activations += costs.largest.activation_bytes
    others = _other_losses(configuration) if configuration.holds_last_stage(rank) else 0
    if configuration.spread_vocabulary:
        others = waiting_of(configuration)
    passing = costs.largest.transient_bytes + _weight_gradients(setting, costs)
    return Moment(activations, others * _softmax(setting, configuration), passing)


def _loss(setting: Setting, configuration: Configuration, costs: ModelCosts, rank: int) -> Moment:
    """While the cross-entropy goes backward: before any layer does."""
    others = _other_losses(configuration) * _softmax(setting, configuration)
    logits = others + _logits(setting, configuration, setting.framework.keeps.logit_bytes)
    passing = _ahead(setting, configuration) + _shape_buffers(setting, costs)
    return Moment(_kept(costs, configuration, rank), logits, passing)


def _head_backward(setting: Setting, configuration: Configuration, costs: ModelCosts, rank: int) -> Moment:
    """While the output projection goes backward: the logits' gradient and that of the projection's weight, which is
    not accumulated yet."""
    others = _other_losses(configuration) * _softmax(setting, configuration)
    ahead = _ahead(setting, configuration)
    logits = others + (0.0 if ahead else _logits(setting, configuration, setting.element_bytes))
    passing = setting.element_bytes * _projection(setting, configuration) + ahead + _shape_buffers(setting, costs)
    return Moment(_kept(costs, configuration, rank), logits, passing)


def _projection(setting: Setting, configuration: Configuration) -> float:
    """Parameters of the output projection on one rank."""
    rows = setting.architecture.vocab / sharding_of(configuration).vocabulary_split
    return rows * setting.architecture.hidden


def _ahead(setting: Setting, configuration: Configuration) -> float:
    """What a loss in chunks makes in the forward and keeps for the backward: gradients of the projection, in fp32, and
    of the hidden states (`kernels/linear_cross_entropy.py`)."""
    if configuration.logits_chunks == 1:
        return 0.0
    tokens = sharding_of(configuration).tokens(setting.job.seq_len)
    hidden = setting.element_bytes * tokens * setting.architecture.hidden
    return hidden + (0.0 if configuration.spread_vocabulary else 4 * _projection(setting, configuration))


def _end_of_backward(
    setting: Setting, configuration: Configuration, costs: ModelCosts, rank: int, held: Held
) -> Moment:
    """Every gradient in the precision of compute, beside what other microbatches keep."""
    flying = in_flight(configuration, rank)
    others = _kept(costs, configuration, rank) * (flying - 1) / flying
    return Moment(others, 0.0, setting.element_bytes * held.total)


def _weight_gradients(setting: Setting, costs: ModelCosts) -> float:
    """Bytes of gradients that a layer's backward makes before they are accumulated."""
    if setting.framework.keeps.weight_gradients == "shape":
        return _shape_buffers(setting, costs)
    return setting.element_bytes * costs.heaviest.total


def _shape_buffers(setting: Setting, costs: ModelCosts) -> float:
    """Transformer Engine, where products accumulate into the gradient themselves, hands autograd one buffer for every
    shape of weight and keeps it (transformer_engine/pytorch/module/base.py, get_dummy_wgrad)."""
    if setting.framework.keeps.weight_gradients != "shape" or setting.job.precision == "fp32":
        return 0.0
    return setting.element_bytes * max(block.gradient_buffer for block in costs.layers)


def _kept(costs: ModelCosts, configuration: Configuration, rank: int) -> float:
    """Held for the backward, and of split backwards what the weights' half waits for."""
    held = held_of(configuration, rank)
    ranges = [configuration.layer_range(stage) for stage in configuration.stages_of(rank)]
    sums, later = costs.kept[configuration.recompute[rank]], costs.put_off
    chunks = [sums[layers.stop] - sums[layers.start] for layers in ranges]
    put_off = [later[layers.stop] - later[layers.start] for layers in ranges]
    most = configuration.microbatches
    kept = max(_largest(chunks, backward, most) + _largest(put_off, weight, most) for backward, weight in held.moments)
    if costs.shares is not None:  # hidden states that have come for the output layer
        kept += waiting_of(configuration) * costs.shares[1].activation_bytes
    return kept + (held.losses * costs.head.activation_bytes if configuration.holds_last_stage(rank) else 0.0)


def _largest(stages: list[float], count: int, most: int) -> float:
    """The most that `count` passes in flight can hold on a rank with these virtual stages: those of the largest ones,
    and of each at `most` as many as there are microbatches."""
    total, left = 0.0, count
    for each in sorted(stages, reverse=True):
        total += min(left, most) * each
        left -= min(left, most)
    return total


def _other_losses(configuration: Configuration) -> int:
    """Microbatches whose logits a rank keeps while another one's go backward."""
    if configuration.spread_vocabulary:
        return waiting_of(configuration) - 1
    return held_of(configuration, configuration.placement[-1]).losses - 1


def _logits(setting: Setting, configuration: Configuration, each: int) -> float:
    whole = logits_bytes(setting.architecture.vocab, sharding_of(configuration), setting.job.seq_len, each)
    return whole / configuration.logits_chunks


def _softmax(setting: Setting, configuration: Configuration) -> float:
    """What the loss keeps of a microbatch until its backward: in fp32 unless a kernel replaced the logits."""
    if configuration.logits_chunks > 1:
        return _ahead(setting, configuration)
    if configuration.spread_vocabulary:  # logits stay as they are
        return _logits(setting, configuration, setting.element_bytes)
    return _logits(setting, configuration, min(4, setting.framework.keeps.logit_bytes))


def _buffers(setting: Setting, configuration: Configuration) -> float:
    """Gathered sequence-parallel inputs, and two receives and two sends of the pipeline; of a spread vocabulary what
    comes and goes for both of its ends."""
    sharding = sharding_of(configuration)
    activation = sharding.tokens(setting.job.seq_len) * setting.architecture.hidden * setting.element_bytes
    gathered = 2 * activation if sharding.sp else 0.0
    transfers = 4 * activation / sharding.sequence_split if configuration.mesh.pp > 1 else 0.0
    return gathered + transfers * (2 if configuration.spread_vocabulary else 1)


def _late_gathers(setting: Setting, configuration: Configuration) -> float:
    """Gathered inputs of earlier layers that are free but not yet returned to the allocator."""
    sharding = sharding_of(configuration)
    if not sharding.sp or configuration.mesh.pp > 1:
        return 0.0
    gathered = sharding.tokens(setting.job.seq_len) * setting.architecture.hidden * setting.element_bytes
    return setting.framework.keeps.late_gathers * gathered


def _zero_buffers(costs: ModelCosts, configuration: Configuration, recipe: Recipe, shard: float) -> float:
    """What FSDP2 holds whole for a while: weights of two layers (or of the window of swapped ones) and embedding and
    head (ZeRO 3), one layer's gradients (ZeRO 2, 3), and the owned shard beside gathered weights (fp32, ZeRO 1, 2)."""
    zero = configuration.zero
    layer, ends = costs.heaviest, of_ends(costs)
    if zero == 3 or configuration.swap_layers:
        gathered = (configuration.swap_layers or 2) * layer.total + ends.total
        return recipe.weight * gathered + recipe.gradient * max(layer.total, ends.total)
    if zero == 2:
        return recipe.gradient * max(layer.total, ends.total) + recipe.kept_shard * shard
    return recipe.kept_shard * shard if zero == 1 else 0.0

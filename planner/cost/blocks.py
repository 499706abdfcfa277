"""ModelCosts: time and bytes of every layer, embedding and head under one sharding, with running sums over layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from operator import methodcaller

from ...clusters.topology import GroupPaths
from ..configuration import CORE, Module, Recompute
from ..model import Architecture, Layer
from .activations import Shape, layer_input_bytes, layer_kept, transient_bytes, worst_routing_bytes
from .communication import all_gather_s
from .compute import (
    Compute,
    accumulated,
    embedding_compute,
    head_compute,
    layer_compute,
    module_s,
    norm_s,
    put_off_bytes,
)
from .exchange import EXCHANGED_BYTES, Exchange, Groups, layer_exchange, region_s
from .measured import Kind, Leg, Measured, head_sizes, sizes_of
from .memory import Held, largest_gradient, layer_parameters
from .projected import NOTHING, Projected, projected
from .rates import Rates
from .sharding import Sharding


@dataclass(frozen=True, slots=True)
class Block:
    """One layer, the embedding or the head on one rank, for one microbatch."""

    compute: Compute
    exchange: Exchange
    held: Held
    activation_bytes: float  # kept for the backward when nothing is recomputed
    selective_bytes: float = 0.0  # what is left of them under selective recomputation
    input_bytes: float = 0.0  # what is left of them under full recomputation
    transient_bytes: float = 0.0
    worst_routing_bytes: float = 0.0  # beyond them when one rank's experts receive every token
    selective_s: float = 0.0  # repeated under selective recomputation
    gradient_buffer: float = 0.0  # parameters of one buffer per shape of its weights
    attention_kept: bool = False  # by full recomputation, which does not run it again
    put_off_bytes: float = 0.0  # kept from the input gradient to the weight gradient, where backwards are split
    again_s: float | None = None  # what full recomputation adds, where that was measured
    split_s: float = 0.0  # what splitting a backward adds to its first half

    @property
    def forward_s(self) -> float:
        return self.compute.forward_s + self.exchange.forward_s

    def recompute_compute_s(self, choice: Recompute) -> float:
        """Compute repeated before the backward."""
        if choice == "full" and self.again_s is not None:
            return max(0.0, self.again_s - (self.exposed_s("full") - self.exposed_s("none")))
        return {
            "none": 0.0,
            "selective": self.selective_s,
            "full": self.compute.forward_s - self.attention_kept * self.compute.attention_forward_s,
        }[choice]

    def backward_s(self, choice: Recompute) -> float:
        """Backward with what it recomputes; full recomputation repeats the forward's collectives too."""
        return self.compute.backward_s + self.recompute_compute_s(choice) + self.exposed_s(choice)

    def exposed_s(self, choice: Recompute) -> float:
        """Communication in the backward that no compute hides, with what full recomputation repeats."""
        again = self.exchange.forward_s - self.exchange.cp_forward_s + self.cp_again_s
        return self.exchange.backward_s + (again if choice == "full" else 0.0)

    @property
    def cp_again_s(self) -> float:
        """Communication of context parallelism that full recomputation repeats."""
        return self.exchange.cp_again_s if self.attention_kept else self.exchange.cp_forward_s

    def kept_bytes(self, choice: Recompute) -> float:
        """Activations kept per microbatch in flight."""
        return {"none": self.activation_bytes, "selective": self.selective_bytes, "full": self.input_bytes}[choice]


RECOMPUTES: tuple[Recompute, ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class ModelCosts:
    """Blocks of a whole model and their running sums: `forward[j] - forward[i]` is the time of layers i..j-1."""

    layers: tuple[Block, ...]
    embedding: Block
    head: Block
    shares: tuple[Block, Block] | None = None  # of embedding and head on every rank, where these are spread

    @cached_property
    def kinds(self) -> tuple[Block, ...]:
        """Each once: equal layers are one object."""
        return tuple({id(block): block for block in self.layers}.values())

    @cached_property
    def shared(self) -> Held:
        """Parameters that every pipeline rank has of embedding and head."""
        return Held(0.0) if self.shares is None else self.shares[0].held + self.shares[1].held

    @cached_property
    def forward(self) -> list[float]:
        return self._sums(lambda block: block.forward_s)

    @cached_property
    def backward(self) -> dict[Recompute, list[float]]:
        return {choice: self._sums(methodcaller("backward_s", choice)) for choice in RECOMPUTES}

    @cached_property
    def weight(self) -> list[float]:
        """The part of `backward` that makes gradients of weights, and can be put off."""
        return self._sums(lambda block: block.compute.weight_s)

    @cached_property
    def split(self) -> list[float]:
        """What splitting backwards adds to their first halves."""
        return self._sums(lambda block: block.split_s)

    @cached_property
    def put_off(self) -> list[float]:
        """Bytes that wait for it."""
        return self._sums(lambda block: block.put_off_bytes)

    @cached_property
    def exposed_forward(self) -> list[float]:
        """The part of `forward` that is communication."""
        return self._sums(lambda block: block.exchange.forward_s)

    @cached_property
    def exposed_backward(self) -> dict[Recompute, list[float]]:
        """The part of `backward` that is communication."""
        return {choice: self._sums(methodcaller("exposed_s", choice)) for choice in RECOMPUTES}

    @cached_property
    def kept(self) -> dict[Recompute, list[float]]:
        return {choice: self._sums(methodcaller("kept_bytes", choice)) for choice in RECOMPUTES}

    @cached_property
    def dense(self) -> list[float]:
        return self._sums(lambda block: block.held.dense)

    @cached_property
    def expert(self) -> list[float]:
        return self._sums(lambda block: block.held.expert)

    @cached_property
    def projected(self) -> list[Projected] | None:
        """Of these what GaLore projects, where that is the optimizer."""
        if not self.layers or self.layers[0].held.projected is None:
            return None
        return list(accumulate((block.held.projected or NOTHING for block in self.layers), initial=NOTHING))

    @cached_property
    def largest(self) -> Block:
        """The layer with the largest working set."""
        return max(self.layers, key=lambda block: block.activation_bytes + block.transient_bytes)

    @cached_property
    def heaviest(self) -> Held:
        """Parameters of the layer that holds most."""
        return max((block.held for block in self.layers), key=lambda held: held.total)

    @cached_property
    def alone_s(self) -> dict[Recompute, float]:
        """One microbatch through everything."""
        ends = sum(block.forward_s + block.backward_s("none") for block in (self.embedding, self.head))
        return {choice: self.forward[-1] + sums[-1] + ends for choice, sums in self.backward.items()}

    @cached_property
    def leads(self) -> dict[Recompute, list[tuple[float, float]]]:
        """Forward and backward of one microbatch through the embedding and so many layers."""
        forward_s, backward_s = self.embedding.forward_s, self.embedding.backward_s("none")
        return {
            choice: [(ahead + forward_s, back + backward_s) for ahead, back in zip(self.forward, sums, strict=True)]
            for choice, sums in self.backward.items()
        }

    @cached_property
    def selective_is_idle(self) -> bool:
        """Whether selective recomputation saves nothing."""
        return all(block.selective_bytes >= block.activation_bytes for block in self.kinds)

    def _sums(self, of: Callable[[Block], float]) -> list[float]:
        values = {id(block): of(block) for block in self.kinds}
        return list(accumulate((values[id(block)] for block in self.layers), initial=0.0))


def model_costs(
    model: Architecture,
    shape: Shape,
    rates: Rates,
    groups: Groups,
    modules: tuple[Module, ...] = CORE,
    measured: Measured | None = None,
) -> ModelCosts:
    """Price a model under a sharding; each distinct layer once. `modules` are what selective recomputation gives up.
    What was `measured` costs what it took."""
    sharding, seq_len = shape.sharding, shape.seq_len
    priced = {layer: _layer_block(layer, shape, rates, groups, modules) for layer in dict.fromkeys(model.layers)}
    ends = tuple(make(model, sharding, seq_len, rates, groups) for make in (_embedding_block, _head_block))
    if measured is not None:
        balanced = replace(groups, visits=None)
        for layer, block in priced.items():
            routed = groups.visits is not None and layer.moe is not None
            even = _layer_block(layer, shape, rates, balanced, modules) if routed else block
            priced[layer] = as_measured(block, even, layer, shape, rates, measured)
        ends = ends_as_measured(ends[0], ends[1], model, shape, measured)
    embedding, head = ends if sharding.spread == 1 else _kept_ends(model, sharding, seq_len, rates)
    return ModelCosts(
        layers=tuple(priced[layer] for layer in model.layers),
        embedding=embedding,
        head=head,
        shares=None if sharding.spread == 1 else (_without(ends[0], embedding), _without(ends[1], head)),
    )


def _kept_ends(model: Architecture, sharding: Sharding, seq_len: int, rates: Rates) -> tuple[Block, Block]:
    """What stays on the first and on the last stage where embedding and head are spread over all: learned positions
    and the final norm, whose input is kept."""
    projections = 0 if model.tied_embeddings else model.vocab * model.hidden
    norm = norm_s(model.hidden, sharding, seq_len, rates)
    own = sharding.tokens(seq_len) / sharding.sequence_split * model.hidden * rates.element_bytes
    first = Block(Compute(0.0, 0.0), Exchange(), Held(float(model.learned_positions * model.hidden)), 0.0)
    return first, Block(Compute(norm, 2 * norm), Exchange(), Held(float(model.head_parameters - projections)), own)


def _without(whole: Block, kept: Block) -> Block:
    """The rest of an end block."""
    forward, backward = (
        getattr(whole.compute, each) - getattr(kept.compute, each) for each in ("forward_s", "backward_s")
    )
    held = Held(whole.held.dense - kept.held.dense)
    return replace(whole, compute=Compute(forward, backward), held=held, activation_bytes=kept.activation_bytes)


def _layer_block(layer: Layer, shape: Shape, rates: Rates, groups: Groups, modules: tuple[Module, ...]) -> Block:
    sharding, seq_len = shape.sharding, shape.seq_len
    held, kept = layer_parameters(layer, sharding), layer_kept(layer, shape)
    if shape.galore is not None:
        held = replace(held, projected=projected(layer, shape.galore))
    load = groups.visits.load if groups.visits else None
    compute = accumulated(layer_compute(layer, sharding, seq_len, rates, load), rates, held.total, held.dense)
    exchange = layer_exchange(layer, sharding, seq_len, rates, groups, compute, hides=not shape.on_cpu)
    repeated = sum(module_s(layer, sharding, seq_len, rates, module) for module in set(modules))
    return Block(
        compute=compute,
        exchange=exchange,
        held=held,
        activation_bytes=kept.total,
        selective_bytes=kept.total - kept.given_up(modules),
        selective_s=repeated + _exchanged_again_s(exchange, shape, modules),
        input_bytes=layer_input_bytes(layer, shape),
        attention_kept=shape.keeps_attention,
        transient_bytes=transient_bytes(layer, shape),
        worst_routing_bytes=worst_routing_bytes(layer, shape),
        gradient_buffer=largest_gradient(layer, held, sharding),
        put_off_bytes=put_off_bytes(layer, sharding, seq_len, rates.element_bytes),
    )


def _exchanged_again_s(exchange: Exchange, shape: Shape, modules: tuple[Module, ...]) -> float:
    """What modules communicate when they are repeated: attention over a ring, dispatch and combine; and where products
    keep their inputs gathered, the gathering of a norm's output."""
    total = exchange.cp_forward_s if "core_attn" in modules else 0.0
    if "moe" in modules:
        total += exchange.ep_forward_s
    if "layernorm" in modules and shape.sharding.sp and shape.keeps.gathered_inputs:
        total += exchange.tp_forward_s / 2
    return total


def _embedding_block(model: Architecture, sharding: Sharding, seq_len: int, rates: Rates, groups: Groups) -> Block:
    """The vocabulary is split over tp: partial rows are summed forward, gradients gathered with sp only."""
    region = region_s(groups.tp, sharding.tokens(seq_len) * model.hidden * rates.element_bytes, sharding.sp) / 2
    exchange = Exchange(
        tp_forward_s=region if sharding.sp else 2 * region, tp_backward_s=region if sharding.sp else 0.0
    )
    held = Held((model.vocab / sharding.vocabulary_split + model.learned_positions) * model.hidden)
    compute = accumulated(
        embedding_compute(model.hidden, sharding, seq_len, rates, model.vocab / sharding.vocabulary_split),
        rates,
        held.total,
    )
    return Block(compute, exchange, held, 0.0)


def _loss_exchange_s(tp: GroupPaths, sharding: Sharding, seq_len: int) -> float:
    if sharding.tp == 1 or sharding.spread > 1:
        return 0.0
    return all_gather_s(tp, sharding.tp * EXCHANGED_BYTES * sharding.tokens(seq_len))


def _head_block(model: Architecture, sharding: Sharding, seq_len: int, rates: Rates, groups: Groups) -> Block:
    """Column-parallel projection: input gathered (sp) forward, input gradient summed backward. The three numbers per
    token that a vocabulary-parallel loss exchanges are gathered once forward, as the built-in runtime does it (three
    all-reduces, as Megatron-LM does it, wait for longer); those of a spread vocabulary are priced with its passes."""
    activation = sharding.tokens(seq_len) * model.hidden * rates.element_bytes
    region = region_s(groups.tp, activation, sharding.sp) / 2
    exchange = Exchange(
        tp_forward_s=(region if sharding.sp else 0.0) + _loss_exchange_s(groups.tp, sharding, seq_len),
        tp_backward_s=region if sharding.sp else 2 * region,
    )
    projection = model.vocab * model.hidden / sharding.vocabulary_split
    norm_and_bias = model.head_parameters - (0 if model.tied_embeddings else model.vocab * model.hidden)
    return Block(
        compute=accumulated(
            head_compute(model.hidden, model.vocab, sharding, seq_len, rates, model.further_tokens), rates, projection
        ),
        exchange=exchange,
        held=Held(norm_and_bias + (0 if model.tied_embeddings else projection)),
        activation_bytes=2 * activation / sharding.sequence_split,
    )


def as_measured(block: Block, even: Block, layer: Layer, shape: Shape, rates: Rates, measured: Measured) -> Block:
    """A layer that takes what such a layer took; its parts keep their shares. Under a sharding that was not measured
    its compute is to the formula as it is for the layer alone on its device. `even`: the same with balanced routing, as
    it was while it was measured."""
    sharding, seq_len, sizes = shape.sharding, shape.seq_len, sizes_of(layer)
    leg = measured.leg("layer", sizes, sharding, seq_len)
    if leg is not None:
        return _taking(block, even, leg)
    row = measured.nearest("layer", sizes, sharding.tokens(seq_len))
    if row is None:
        return block
    alone = Sharding(microbatch=row.microbatch)
    formula = accumulated(layer_compute(layer, alone, row.seq_len, rates), rates, layer.parameters, layer.parameters)
    forward, backward = row.forward_s / formula.forward_s, row.backward_s / formula.backward_s
    compute = _scaled(block.compute, forward, backward)
    added = measured.added_by_splitting("layer", sizes, row)
    return replace(block, compute=compute, split_s=added * compute.backward_s)


def ends_as_measured(
    embedding: Block, head: Block, model: Architecture, shape: Shape, measured: Measured
) -> tuple[Block, Block]:
    """The same of embedding and head."""
    found = []
    kinds: tuple[tuple[Kind, Block], ...] = ("embedding", embedding), ("head", head)
    for kind, block in kinds:
        leg = measured.leg(kind, head_sizes(model.hidden, model.vocab), shape.sharding, shape.seq_len)
        found.append(block if leg is None else _taking(block, block, leg))
    return found[0], found[1]


def _taking(block: Block, even: Block, leg: Leg) -> Block:
    forward = leg.forward_s / even.forward_s
    backward = leg.backward_s / (even.compute.backward_s + even.exchange.backward_s)
    compute, was = _scaled(block.compute, forward, backward), block.exchange
    exchange = Exchange(
        tp_forward_s=forward * was.tp_forward_s,
        tp_backward_s=backward * was.tp_backward_s,
        cp_forward_s=forward * was.cp_forward_s,
        cp_backward_s=backward * was.cp_backward_s,
        ep_forward_s=forward * was.ep_forward_s,
        ep_backward_s=backward * was.ep_backward_s,
        cp_again_s=forward * was.cp_again_s,
    )
    compute = replace(compute, weight_s=leg.weight_s or compute.weight_s)
    again_s = leg.recompute_s or None
    taken = replace(block, compute=compute, exchange=exchange, again_s=again_s, split_s=leg.split_s)
    return _holding(taken, leg) if leg.kept_bytes else taken


def _holding(block: Block, leg: Leg) -> Block:
    """With the activations that were seen; selective recomputation keeps its share of them."""
    share = leg.kept_bytes / block.activation_bytes
    return replace(
        block,
        activation_bytes=leg.kept_bytes,
        selective_bytes=share * block.selective_bytes,
        input_bytes=leg.recompute_kept_bytes or block.input_bytes,
    )


def _scaled(compute: Compute, forward: float, backward: float) -> Compute:
    return Compute(
        forward_s=forward * compute.forward_s,
        backward_s=backward * compute.backward_s,
        attention_forward_s=forward * compute.attention_forward_s,
        attention_backward_s=backward * compute.attention_backward_s,
        weight_s=backward * compute.weight_s,
        experts_s=(forward * compute.experts_s[0], backward * compute.experts_s[1]),
    )

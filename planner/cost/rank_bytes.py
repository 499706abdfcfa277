"""RankBytes: bytes of the pipeline ranks of one recipe, for any layers and any recomputation of a rank.

The fullest of four moments counts: a layer going backward, the loss, the head going backward, and the end of a backward
where a framework holds every 16-bit gradient until then. What of these depends neither on the layers that a rank has
nor on what it recomputes is made once: the search asks about one recipe very often.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from ..configuration import Configuration, Recompute
from ..plan import StageMemory
from ..schedule import held_of
from ..schedule.builder import Held as InFlight
from ..schedule.table import waiting_of
from .compressed import residual_bytes
from .data_parallel import owned, range_parameters
from .declared import STATE_BYTES
from .loss import Loss, shared_bytes
from .memory import MOMENTS, Held, logits_bytes, recipe_of
from .offload import of_ends, states_bytes
from .setting import Setting
from .sharding import sharding_of

STUCK = 0.05
"""Share of what comes and goes that the caching allocator cannot give back when the device is full: before it fails it
returns every segment without a live block (pytorch.org/docs/stable/notes/cuda.html), so that a run fits where its
tensors nearly fill the device. Of 1,755 nanotron and 380 llm-foundry runs that ran, tuned to the largest microbatch, 3
would not fit with it; of 1,396 that crashed or ran out of memory 1,148 would not."""


class Contents(NamedTuple):
    """What one pipeline rank holds: parameters that do not come and go, bytes kept for backwards, and microbatches;
    whether it recomputes everything, and whether it has the last stage."""

    held: Held
    kept: float
    in_flight: InFlight
    full: bool
    last: bool


class Moment(NamedTuple):
    """Bytes at one moment: activations, logits, and what only passes."""

    activations: float
    logits: float
    passing: float


class RankBytes:
    """Bytes on the busiest device of each pipeline rank. Of the configuration neither the layers of its stages nor its
    recomputation are looked at; `setting` is as the devices of the ranks that are asked about see it."""

    def __init__(self, setting: Setting, configuration: Configuration):
        self.setting, self.configuration = setting, configuration
        self._costs, self._sharding, self._keeps = (
            setting.costs(configuration),
            sharding_of(configuration),
            setting.framework.keeps,
        )
        self._recipe = recipe_of(setting.job.precision, self._keeps, configuration.zero, setting.job.optimizer_states)
        self._ends = configuration.placement[0], configuration.placement[-1]
        self._spread, self._element = configuration.spread_vocabulary, setting.element_bytes

    def contents(self, rank: int, layers: Sequence[range], choice: Recompute, in_flight: InFlight) -> Contents:
        """Of a rank with these layers in its virtual stages, which it recomputes by `choice`."""
        first, last = rank == self._ends[0], rank == self._ends[1]
        kept = self._kept(layers, choice, in_flight, last)
        return Contents(self._held(layers, first, last), kept, in_flight, choice == "full", last)

    def contents_of(self, configuration: Configuration, rank: int, choice: Recompute | None = None) -> Contents:
        """Of a rank as a configuration of this recipe has it, or would if it recomputed by `choice`."""
        layers, choice = _layers_of(configuration, rank), choice or configuration.recompute[rank]
        return self.contents(rank, layers, choice, held_of(configuration, rank))

    def held_of(self, configuration: Configuration, rank: int) -> Held:
        """Parameters of a rank that do not come and go."""
        return self._held(_layers_of(configuration, rank), rank == self._ends[0], rank == self._ends[1])

    def total(self, contents: Contents) -> int:
        """Bytes that the device must have: `memory(contents).total`, sooner known."""
        return sum(self._parts(contents)) + self.setting.context_bytes

    def memory(self, contents: Contents) -> StageMemory:
        """At the fullest moment, by cause."""
        weights, gradients, optimizer, activations, logits, buffers, reserve = self._parts(contents)
        return StageMemory(
            weights=weights,
            gradients=gradients,
            optimizer=optimizer,
            activations=activations,
            logits=logits,
            buffers=buffers,
            reserve=reserve,
            context=self.setting.context_bytes,
        )

    def resident(self, held: Held) -> tuple[int, int, int]:
        """Bytes of weights, gradients and optimizer states."""
        return self._resident(held, owned(held, self.configuration))

    def _parts(self, contents: Contents) -> tuple[int, int, int, int, int, int, int]:
        """The bytes of `memory`, in its order."""
        shard = owned(contents.held, self.configuration)
        moments = self._moments(contents)
        activations, logits, passing = max(moments, key=sum) if len(moments) > 1 else moments[0]
        buffers = passing + self._buffers + self._zero_buffers(shard) + self._residuals(contents.held)
        comes_and_goes = activations + logits + buffers
        fragments = self._keeps.fragments * comes_and_goes + self._late_gathers
        resident = self._resident(contents.held, shard)
        passes = round(activations), round(logits), round(buffers)
        room = self._limit - sum(resident) - sum(passes)
        return (*resident, *passes, round(min(fragments, max(STUCK * comes_and_goes, room))))

    @cached_property
    def _limit(self) -> int:
        """Bytes of the device that the context leaves."""
        return self.setting.memory_limit_bytes - self.setting.context_bytes

    def _held(self, layers: Sequence[range], first: bool, last: bool) -> Held:
        """Parameters that do not come and go."""
        if self.configuration.swap_layers:
            return of_ends(self._costs)
        tied = self.setting.architecture.tied_embeddings
        return range_parameters(self._costs, self.configuration, layers, first, last, tied)

    def _resident(self, held: Held, shard: float) -> tuple[int, int, int]:
        recipe, zero = self._recipe, self.configuration.zero
        buckets = self._bucket_bytes * held.total if zero < 2 else 0.0
        return (
            round(recipe.weight * (held.total if zero < 3 else shard)),
            round(recipe.gradient * (held.total if zero < 2 else shard) + buckets),
            round(self._states_bytes * shard) if held.projected is None else self._galore_bytes(held, shard),
        )

    def _galore_bytes(self, held: Held, shard: float) -> int:
        """Of optimizer states where some parameters are projected: these have moments in their spaces alone."""
        assert held.projected is not None
        moments = MOMENTS * STATE_BYTES[self.setting.job.optimizer_states]
        without = owned(Held(held.projected.parameters), self.configuration)
        own = held.projected.states_bytes(self.setting.job.optimizer_states)
        return round(self._states_bytes * shard - moments * without + own)

    @cached_property
    def _bucket_bytes(self) -> float:
        mesh = self.configuration.mesh
        return self._keeps.bucket_bytes if mesh.dp * mesh.cp > 1 else 0.0

    @cached_property
    def _states_bytes(self) -> float:
        """Of the optimizer states of a parameter, on the device."""
        return self._recipe.states - self.configuration.offload * states_bytes(self.setting)

    def _moments(self, contents: Contents) -> list[Moment]:
        """Those of which one is the fullest of a rank."""
        kept, moments = contents.kept, [self._layers_backward(contents)]
        if contents.last or self._spread:
            (loss, loss_passing), (head, head_passing) = self._loss, self._head_backward
            moments += [Moment(kept, loss, loss_passing), Moment(kept, head, head_passing)]
        if self._keeps.weight_gradients == "model":  # every gradient, beside what other microbatches keep
            flying = max(backward + weight for backward, weight in contents.in_flight.moments)
            others = kept * (flying - 1) / flying
            moments.append(Moment(others, 0.0, self._element * contents.held.total))
        return moments

    def _layers_backward(self, contents: Contents) -> Moment:
        """While the largest layer goes backward, recomputed first where that was chosen. The logits of its microbatch
        are gone by then; GPipe still holds those of the others."""
        (again, passing), logits = self._layer, 0.0
        if self._spread:
            logits = self._waiting * self._softmax
        elif contents.last:
            logits = self._other_losses * self._softmax
        return Moment(contents.kept + (again if contents.full else 0.0), logits, passing)

    @cached_property
    def _layer(self) -> tuple[float, float]:
        """Activations of the largest layer, and what passes while it goes backward."""
        largest = self._costs.largest
        return largest.activation_bytes, largest.transient_bytes + self._weight_gradients

    @cached_property
    def _loss(self) -> tuple[float, float]:
        """Logits, and what passes, while the loss is made or goes backward: before any layer does."""
        kept, passing = self._other_losses * self._softmax, self._ahead + self._shape_buffers
        if self._made is not None:
            return kept + self._made.logits_bytes, passing + self._made.product_bytes
        return kept + self._logits(self._logit_bytes), passing

    @cached_property
    def _head_backward(self) -> tuple[float, float]:
        """While the output projection goes backward: the logits' gradient and that of the projection's weight, which is
        not accumulated yet."""
        own = 0.0 if self._ahead else self._logits(self._element)
        made = self._element * self._projection if self._made is None else self._made.scaled_bytes
        return self._other_losses * self._softmax + own, made + self._ahead + self._shape_buffers

    @cached_property
    def _made(self) -> Loss | None:
        """The loss of a rank that makes gradients ahead: in chunks, or by kernel."""
        if self._spread or (self.configuration.logits_chunks == 1 and not self._fuses_loss):
            return None
        return Loss(
            element=self._element,
            chunks=self.configuration.logits_chunks,
            fused=self._fuses_loss,
            logits=self._logits(1) * self.configuration.logits_chunks,
            hidden=self._tokens * self.setting.architecture.hidden,
            weight=self._projection,
        )

    @cached_property
    def _logit_bytes(self) -> int:
        """Of a logit at the fullest moment of a loss of all of them at once."""
        shared = self._sharding.vocabulary_split > 1 and not self._spread and self.setting.framework.bundled_kernels
        return shared_bytes(self._element) if shared else self._keeps.logit_bytes

    @cached_property
    def _projection(self) -> float:
        """Parameters of the output projection on one rank."""
        rows = self.setting.architecture.vocab / self._sharding.vocabulary_split
        return rows * self.setting.architecture.hidden

    @cached_property
    def _activation(self) -> float:
        """Hidden states of one microbatch."""
        return self._tokens * self.setting.architecture.hidden * self._element

    @cached_property
    def _tokens(self) -> float:
        return self._sharding.tokens(self.setting.job.seq_len)

    @cached_property
    def _ahead(self) -> float:
        """What a loss makes in the forward and keeps for the backward."""
        if self._made is not None:
            return self._made.ahead_bytes
        chunks = self.configuration.logits_chunks > 1  # of a spread vocabulary: gradients of hidden states
        return self._element * self._tokens * self.setting.architecture.hidden if chunks else 0.0

    @cached_property
    def _fuses_loss(self) -> bool:
        """Whether a kernel makes logits their own gradient, where they stand. Not where pipeline ranks share
        the vocabulary out."""
        declared = self.setting.rates.declared
        return declared is not None and declared.choice == "auto" and not self._spread

    @cached_property
    def _weight_gradients(self) -> float:
        """Bytes of gradients that a layer's backward makes before they are accumulated."""
        if self._keeps.weight_gradients == "shape":
            return self._shape_buffers
        return self._element * self._costs.heaviest.total

    @cached_property
    def _shape_buffers(self) -> float:
        """Transformer Engine, where products accumulate into the gradient themselves, hands autograd one buffer for
        every shape of weight and keeps it (transformer_engine/pytorch/module/base.py, get_dummy_wgrad)."""
        if self._keeps.weight_gradients != "shape" or self.setting.job.precision == "fp32":
            return 0.0
        return self._element * max(block.gradient_buffer for block in self._costs.kinds)

    def _kept(self, layers: Sequence[range], choice: Recompute, in_flight: InFlight, last: bool) -> float:
        """Held for the backward, and of split backwards what the weights' half waits for."""
        sums, most = self._costs.kept[choice], self.configuration.microbatches
        chunks = sorted([sums[each.stop] - sums[each.start] for each in layers], reverse=True)
        kept = max(
            [
                largest(chunks, backward, most) + (self._put_off(layers, weight) if weight else 0.0)
                for backward, weight in in_flight.moments
            ]
        )
        if self._costs.shares is not None:  # hidden states that have come for the output layer
            kept += self._waiting * self._costs.shares[1].activation_bytes
        return kept + (in_flight.losses * self._costs.head.activation_bytes if last else 0.0)

    def _put_off(self, layers: Sequence[range], weight: int) -> float:
        """Held for the weights' half of so many backwards."""
        sums, most = self._costs.put_off, self.configuration.microbatches
        return largest(sorted([sums[each.stop] - sums[each.start] for each in layers], reverse=True), weight, most)

    @cached_property
    def _waiting(self) -> int:
        """Microbatches whose logits wait, where the vocabulary is spread."""
        return waiting_of(self.configuration)

    @cached_property
    def _other_losses(self) -> int:
        """Microbatches whose logits a rank keeps while another one's go backward."""
        return (self._waiting if self._spread else held_of(self.configuration, self._ends[1]).losses) - 1

    def _logits(self, each: int) -> float:
        seq_len, vocab = self.setting.job.seq_len, self.setting.architecture.vocab
        return logits_bytes(vocab, self._sharding, seq_len, each) / self.configuration.logits_chunks

    @cached_property
    def _softmax(self) -> float:
        """What the loss keeps of a microbatch until its backward: in fp32 unless a kernel replaced the logits."""
        if self.configuration.logits_chunks > 1 or self._fuses_loss:
            return self._ahead
        if self._spread:  # logits stay as they are
            return self._logits(self._element)
        return self._logits(min(4, self._keeps.logit_bytes))

    @cached_property
    def _buffers(self) -> float:
        """Gathered sequence-parallel inputs, and two receives and two sends of the pipeline; of a spread vocabulary
        what comes and goes for both of its ends."""
        gathered = 2 * self._activation if self._sharding.sp else 0.0
        transfers = 4 * self._activation / self._sharding.sequence_split if self.configuration.mesh.pp > 1 else 0.0
        return gathered + transfers * (2 if self._spread else 1)

    @cached_property
    def _late_gathers(self) -> float:
        """Gathered inputs of earlier layers that are free but not yet returned to the allocator."""
        if not self._sharding.sp or self.configuration.mesh.pp > 1:
            return 0.0
        return self._keeps.late_gathers * self._activation

    def _zero_buffers(self, shard: float) -> float:
        """What FSDP2 holds whole for a while: weights of two layers (or of the window of swapped ones) and embedding
        and head (ZeRO 3), one layer's gradients (ZeRO 2, 3), and the owned shard beside gathered weights (fp32, ZeRO 1,
        2)."""
        if self.configuration.zero == 3 or self.configuration.swap_layers:
            return self._whole_bytes
        return self._whole_bytes + (self._recipe.kept_shard * shard if self.configuration.zero else 0.0)

    def _residuals(self, held: Held) -> int:
        """Of compressed gradients, with their messages."""
        return 0 if self.setting.job.compress == "none" else residual_bytes(self.configuration, held)

    @cached_property
    def _whole_bytes(self) -> float:
        """Of these what no split changes."""
        zero, swapped, recipe = self.configuration.zero, self.configuration.swap_layers, self._recipe
        layer, ends = self._costs.heaviest, of_ends(self._costs)
        gradients = recipe.gradient * max(layer.total, ends.total)
        if zero == 3 or swapped:
            return recipe.weight * ((swapped or 2) * layer.total + ends.total) + gradients
        return gradients if zero == 2 else 0.0


def _layers_of(configuration: Configuration, rank: int) -> list[range]:
    return [configuration.layer_range(stage) for stage in configuration.stages_of(rank)]


def largest(stages: list[float], count: int, most: int) -> float:
    """The most that `count` passes in flight can hold on a rank with these virtual stages, the largest first: those of
    the first ones, and of each at `most` as many as there are microbatches."""
    total, left = 0.0, count
    for each in stages:
        held = left if left < most else most
        total += held * each
        left -= held
    return total

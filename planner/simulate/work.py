"""Work: what one step asks of each pipeline rank, in seconds; what the event interpreter plays over a schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise

from ..schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowness:
    """Stragglers, as factors on seconds (2.0: twice as slow); an empty tuple slows nothing.

    `ranks[r]`: compute and optimizer of pipeline rank r; `links[r]`: transfers between rank r and rank r + 1 (the last
    rank's: back to rank 0), both ways; `data[r]`: data-parallel collectives of rank r. The pipeline that is played is
    the one that holds the straggler: its replicas wait for it in the collectives.
    """

    ranks: tuple[float, ...] = ()
    links: tuple[float, ...] = ()
    data: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Seconds of what every rank does for embedding and output layer where these are spread over all of them
    (`schedule/passes.py`): compute of a microbatch on one rank, and what is sent.

    `cast_s`: hidden states from one rank to all; `reduce_s`: sums of as many numbers from all ranks to one;
    `exchange_s`: three numbers a token from each to all.
    """

    embed_s: float = 0.0
    logits_s: float = 0.0
    gradients_s: float = 0.0
    scatter_s: float = 0.0
    cast_s: float = 0.0
    reduce_s: float = 0.0
    exchange_s: float = 0.0

    @property
    def compute_s(self) -> tuple[float, float, float, float]:
        """By kind: E, S, G, T."""
        return self.embed_s, self.logits_s, self.gradients_s, self.scatter_s

    @property
    def before_s(self) -> tuple[float, float, float, float]:
        """By kind: from what a rank waits for to the beginning of the pass."""
        return 0.0, self.cast_s, 0.0, self.cast_s

    @property
    def after_s(self) -> tuple[float, float, float, float]:
        """By kind: from the end of the pass to what waits for it."""
        return self.reduce_s, self.exchange_s, self.reduce_s, 0.0

    @property
    def still(self) -> Passes:
        """The same, if sending cost nothing."""
        return replace(self, cast_s=0.0, reduce_s=0.0, exchange_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardShares:
    """What traffic takes, while it is alone, of the network cards that a pipeline rank's devices have: 1.0 is all that
    they send, or receive, at once; 0.0 passes them by (NVLink).

    `borders[r]`: a transfer between rank r and rank r + 1 (the last: and rank 0), of the cards of the one and of the
    other; `data[r]`: the data-parallel collectives of rank r.
    """

    borders: tuple[tuple[float, float], ...] = ()
    data: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of one step, by virtual stage where not said otherwise; an empty tuple costs nothing.

    `gather_s`, `reduce_s`: one all-gather of the stage's weights and one reduction of its gradients, in `pieces` equal
    parts (layers, buckets). `zero` says when they happen: 0 and 1 gather once before a stage's first forward and reduce
    once beside its last backward; 2 reduces in every backward; 3 also gathers in every forward and every backward.
    `transfer_s`: one microbatch from a rank to the next, over the fastest border; `borders[r]`: how much longer it
    takes, as a factor, between rank r and rank r + 1 (the last: back to rank 0), where borders differ.
    `passes`: where the vocabulary is spread over the ranks.
    `input_s` and `weight_s` are the two halves of `backward_s`, for schedules that split it.
    `hides`: communication runs beside compute. `steal`: the fraction of compute that is lost while a collective is in
    flight on the same rank. `tied_s`: first and last rank sum the gradients of a shared embedding.
    `optimizer_s`, `offload_s`, `regather_s`, `late_reduce_s`: by rank. `regather_s` gathers updated parameters after
    the optimizer, `late_reduce_s` reduces gradients after a rank's last backward, for frameworks that do not do so
    beside compute.
    `cards`: what of this goes over network cards, and shares them where it meets; None: nothing does.
    `pace[k - 1]`: how much faster a rank computes while k ranks do, where ranks share cores, than these seconds say;
    `wake_s[k - 1]`: what it takes until an action begins whose input another rank has sent.
    """

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    transfer_s: float = 0.0
    gather_s: tuple[float, ...] = ()
    reduce_s: tuple[float, ...] = ()
    pieces: tuple[int, ...] = ()
    zero: int = 1
    hides: bool = True
    steal: float = 0.0
    tied_s: float = 0.0
    optimizer_s: tuple[float, ...] = ()
    offload_s: tuple[float, ...] = ()
    regather_s: tuple[float, ...] = ()
    late_reduce_s: tuple[float, ...] = ()
    slow: Slowness = field(default_factory=Slowness)
    input_s: tuple[float, ...] = ()
    weight_s: tuple[float, ...] = ()
    passes: Passes | None = None
    borders: tuple[float, ...] = ()
    pace: tuple[float, ...] = ()
    wake_s: tuple[float, ...] = ()
    cards: CardShares | None = None


def check(schedule: Schedule, work: Work) -> None:
    """Raise ValueError where the tuples do not match the schedule's stages and ranks, or `steal` is no fraction."""
    if not len(work.forward_s) == len(work.backward_s) == schedule.stages:
        given = f"{len(work.forward_s)} forward and {len(work.backward_s)} backward"
        raise ValueError(f"a schedule of {schedule.stages} stages needs as many times, not {given}")
    if schedule.splits and not (work.input_s and work.weight_s):
        raise ValueError(f"the {schedule.name} schedule splits backwards, and needs input_s and weight_s")
    by_stage = {"input_s": work.input_s, "weight_s": work.weight_s}
    by_stage |= {"gather_s": work.gather_s, "reduce_s": work.reduce_s, "pieces": work.pieces}
    by_rank = {"optimizer_s": work.optimizer_s, "offload_s": work.offload_s, "regather_s": work.regather_s}
    by_rank |= {"late_reduce_s": work.late_reduce_s, "borders": work.borders, "pace": work.pace}
    by_rank |= {"wake_s": work.wake_s}
    by_rank |= {"slow.ranks": work.slow.ranks, "slow.links": work.slow.links, "slow.data": work.slow.data}
    _check_lengths(by_stage, schedule.stages, "stages")
    _check_lengths(by_rank, schedule.ranks, "ranks")
    if work.cards:
        _check_lengths({"cards.borders": work.cards.borders, "cards.data": work.cards.data}, schedule.ranks, "ranks")
    if any(few < more for few, more in pairwise(work.pace)) or any(pace <= 0 for pace in work.pace):
        raise ValueError("no rank computes slower while fewer do, and none not at all")
    if any(seconds < 0 for seconds in work.wake_s):
        raise ValueError("nobody is awake before a message is there")
    if work.cards and not all(0 <= share <= 1 for share in (*work.cards.data, *chain(*work.cards.borders))):
        raise ValueError("what is taken of a card must be between 0 and 1")
    if not 0 <= work.steal < 1:
        raise ValueError(f"steal must be at least 0 and below 1, not {work.steal}")


def _check_lengths(given: Mapping[str, Sequence[object]], count: int, of: str) -> None:
    for name, values in given.items():
        if len(values) not in (0, count):
            raise ValueError(f"{name} must have one value for each of {count} {of}, not {len(values)}")

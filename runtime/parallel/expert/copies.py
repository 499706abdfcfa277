"""Copies: experts in several slots (`expert_replicas`) train as one.

Tokens of different ranks reach different slots of an expert, whose gradient is the sum over them. After data
parallelism has reduced that of each slot, the holders of an expert send theirs to one another, layer by layer, and add
them up in the order of the slots: equal sums to the last bit, and from equal states equal steps. For each of its slots
(or the part of one that ZeRO leaves it) a rank sends and receives 4 bytes an element to and from every other slot of
the expert.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ....errors import RunError
from ... import compat
from ...components import span
from ...shards import held
from ...slots import Orders, has_replicas, slots_by_expert

Box = tuple[tuple[int, ...], tuple[int, ...]]
"""Where the part of a stacked weight that a rank holds begins, and its size; slots come first."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A slot of this rank, and one of the same expert on `peer`, a rank of the group."""

    peer: int
    name: str
    own: int
    other: int


@dataclass(frozen=True, slots=True)
class Copies:
    """The slots of this rank whose experts have others, by stacked weight. All ranks of `group` have the same layers in
    the same order; `first` is the first slot that a rank has of a weight."""

    group: dist.ProcessGroup
    orders: Orders
    parameters: Mapping[str, nn.Parameter]
    first: Mapping[str, int]
    layers: tuple[tuple[Pair, ...], ...]

    @torch.no_grad()
    def add_up(self) -> None:
        """Leave in `.grad` of every slot the sum over all slots of its expert. Called by all ranks of the group."""
        for pairs in self.layers:
            own = {pair: self._slot(pair, _gradient(self.parameters[pair.name])) for pair in pairs}
            theirs = self._exchange(own, torch.float32)
            for _, same in groupby(pairs, key=lambda pair: (pair.name, pair.own)):
                _write_sum(list(same), own, theirs)

    def _slot(self, pair: Pair, stacked: Tensor) -> Tensor:
        """This rank's slot of a stacked tensor; writing to it changes the tensor."""
        return held(stacked)[pair.own - self.first[pair.name]]

    @torch.no_grad()
    def check(self, tensors: Callable[[str], Sequence[Tensor]]) -> None:
        """Raises RunError where an expert's slots differ in any of the `tensors` of a stacked weight: itself and its
        states. Called by all ranks of the group."""
        for pairs in self.layers:
            own = {pair: self._fingerprint(pair, tensors(pair.name)) for pair in pairs}
            for pair, theirs in self._exchange(own, torch.int64).items():
                if not torch.equal(own[pair].to(theirs.device), theirs):
                    expert = self.orders[pair.name][pair.own]
                    raise RunError(
                        f"replicas of expert {expert} differ in {pair.name}: slots {pair.own} and {pair.other}"
                    )

    def _fingerprint(self, pair: Pair, tensors: Sequence[Tensor]) -> Tensor:
        """int64 [2 x tensors]: sums over the bits of a slot, weighted by row and by column."""
        slots = [self._slot(pair, tensor).contiguous() for tensor in tensors]
        bits = [slot.view(torch.int16 if slot.element_size() == 2 else torch.int32) for slot in slots]
        return torch.stack([_weighted(each.sum(dim, dtype=torch.int64)) for each in bits for dim in (0, 1)])

    def counted(self) -> dict[nn.Parameter, Tensor]:
        """Which of its slots here a norm over the model counts, of each stacked weight: float32 [slots here], 1 for the
        first slot of an expert and 0 for the others."""
        found = {}
        for name, parameter in self.parameters.items():
            order, first, own = self.orders[name], self.first[name], held(parameter)
            here = range(first, first + len(own))
            found[parameter] = torch.tensor(
                [float(order.index(order[slot]) == slot) for slot in here], device=own.device
            )
        return found

    def _exchange(self, own: Mapping[Pair, Tensor], dtype: torch.dtype) -> dict[Pair, Tensor]:
        """What the other slot of each pair has, in exchange for one's own; all of `dtype`. One message a peer."""
        size, device = self.group.size(), compat.device_of(self.group)
        sent = sorted(own, key=lambda pair: (pair.peer, pair.name, pair.own, pair.other))
        received = sorted(own, key=lambda pair: (pair.peer, pair.name, pair.other, pair.own))  # as the peer sends
        parts = [sum(own[pair].numel() for pair in own if pair.peer == peer) for peer in range(size)]
        none = torch.empty(0, dtype=dtype, device=device)
        message = torch.cat([none, *(own[pair].flatten().to(device) for pair in sent)])
        answer = torch.empty_like(message)
        with span("ep"):
            dist.all_to_all_single(answer, message, parts, parts, group=self.group)
        pieces = torch.split(answer, [own[pair].numel() for pair in received])
        return {pair: piece.view(own[pair].shape) for pair, piece in zip(received, pieces, strict=True)}


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _write_sum(pairs: list[Pair], own: Mapping[Pair, Tensor], theirs: Mapping[Pair, Tensor]) -> None:
    """Of all slots of one expert, in the same order on every rank; `pairs` are those of one slot of this rank."""
    mine = own[pairs[0]]
    terms = {pair.other: theirs[pair] for pair in pairs}
    terms[pairs[0].own] = mine.to(theirs[pairs[0]].device)
    first, *others = [terms[slot] for slot in sorted(terms)]
    total = first.clone()
    for term in others:
        total += term
    mine.copy_(total)


def _weighted(sums: Tensor) -> Tensor:
    return (sums * torch.arange(1, len(sums) + 1, device=sums.device)).sum()


def copies_of(
    named: Mapping[str, nn.Parameter], orders: Orders, group: dist.ProcessGroup | None, ep: int
) -> Copies | None:
    """Of the stacked weights among the parameters of a rank; None without replicas. `group` are the ranks that have the
    same part of the width of all experts, those of one edp coordinate (`ep` of them) after another; all of them call.
    """
    parameters = {name: named[name] for name in orders if name in named and has_replicas(orders[name])}
    if group is None or not parameters:
        return None
    own: dict[str, Box] = {name: compat.own_box(parameter) for name, parameter in parameters.items()}
    boxes: list[dict[str, Box]] = [own] * group.size()
    dist.all_gather_object(boxes, own, group=group)
    first = {name: box[0][0] for name, box in own.items()}
    pairs = [pair for name in parameters for pair in _pairs(name, orders[name], boxes, group.rank(), ep)]
    layers = sorted({_layer(name) for name in parameters})
    by_layer = tuple(tuple(pair for pair in pairs if _layer(pair.name) == layer) for layer in layers)
    return Copies(group, orders, parameters, first, by_layer)


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _pairs(name: str, order: Sequence[int], boxes: list[dict[str, Box]], rank: int, ep: int) -> Iterator[Pair]:
    """All slots of this rank with those of the same experts. Where several ranks hold a slot (ZeRO 0), that one counts
    which has this rank's edp coordinate."""
    (first, *begin), (count, *size) = boxes[rank][name]
    by_expert = slots_by_expert(tuple(order))
    for slot in range(first, first + count):
        for other in by_expert[order[slot]]:
            if other != slot:
                holders = [peer for peer, box in enumerate(boxes) if _holds(box[name], other, begin, size)]
                yield Pair(min(holders, key=lambda peer: peer // ep != rank // ep), name, slot, other)


def _holds(box: Box, slot: int, begin: list[int], size: list[int]) -> bool:
    (first, *rest), (count, *lengths) = box
    return first <= slot < first + count and rest == begin and lengths == size

"""Planned: the placement of experts that a plan holds, and what it must satisfy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, model_validator

from ...errors import Problem
from ...schema import Frozen

Slots = tuple[tuple[Annotated[int, Field(ge=0)], ...], ...]

_PLAN_ANEW = "leave it out, or meshwright plan ... --routing trace.jsonl"
_MOST = 8
"""Problems of one kind that are told one by one."""


class ExpertPlacement(Frozen):
    """For each layer with experts, in order of layers, the expert in each slot: the slots of ep rank 0 first, equally
    many a rank. An expert in several slots has copies, whose gradients are summed."""

    slots: Slots = Field(min_length=1)

    @model_validator(mode="after")
    def _filled(self) -> ExpertPlacement:
        for place, layer in enumerate(self.slots):
            held = set(layer)
            missing = next(expert for expert in range(len(held) + 1) if expert not in held)
            if missing < len(held) or not held:
                raise ValueError(f"slots[{place}] has no slot for expert {missing}")
        return self


def contiguous(experts: Sequence[int]) -> ExpertPlacement:
    """What no placement means, for the number of experts of each layer that has any: expert e in slot e."""
    return ExpertPlacement(slots=tuple(tuple(range(count)) for count in experts))


def problems(placement: ExpertPlacement, experts: Sequence[int], ep: int, replicas: int) -> list[Problem]:
    """What keeps a placement from being that of `experts` of each layer that has any, on `ep` ranks which have
    `replicas` slots beyond one for each."""
    if len(placement.slots) != len(experts):
        rule = f"the model has {len(experts)} layers with experts, each of which needs its slots"
        return [Problem("placement.slots", len(placement.slots), rule, _PLAN_ANEW)]
    found = [
        problem
        for place, (slots, count) in enumerate(zip(placement.slots, experts, strict=True))
        for problem in _of_layer(f"placement.slots[{place}]", slots, count, ep, replicas)
    ]
    if len(found) <= _MOST:
        return found
    return [*found[:_MOST], Problem("placement.slots", None, f"{len(found) - _MOST} more problems of other layers")]


def _of_layer(field: str, slots: Sequence[int], experts: int, ep: int, replicas: int) -> Iterator[Problem]:
    if len(slots) != experts + replicas:
        rule = f"must have {experts + replicas} slots: {experts} experts and {replicas} expert_replicas"
        yield Problem(field, len(slots), rule, _PLAN_ANEW)
    elif sorted(set(slots)) != list(range(experts)):
        rule = f"must hold each of the experts 0 to {experts - 1} at least once, and no other"
        wrong = min(set(slots) ^ set(range(experts)))
        yield Problem(field, f"expert {wrong}", rule, _PLAN_ANEW)
    elif len(slots) % ep:
        yield Problem(field, len(slots), f"slots must be equally many on each of {ep} ep ranks", _PLAN_ANEW)
    else:
        yield from _twice(field, slots, len(slots) // ep)


def _twice(field: str, slots: Sequence[int], each: int) -> Iterator[Problem]:
    for first in range(0, len(slots), each):
        held = slots[first : first + each]
        if len(set(held)) < each:
            again = next(expert for expert in held if held.count(expert) > 1)
            rule = f"stands twice on ep rank {first // each}, which gains nothing"
            yield Problem(field, f"expert {again}", rule, _PLAN_ANEW)

"""Trace: which experts every token chose in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, Problem
from ..model import Architecture

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.floating[Any]]

_SHOWN = 20
"""Problems of a file that are listed; of the others the number is told."""


@dataclass(frozen=True, slots=True)
class Routed:
    """What a model says about its routing, as a trace must have it."""

    layers: int
    experts: int
    top_k: int
    groups: int = 1

    @classmethod
    def of(cls, model: Architecture) -> Routed:
        """Of the layers with experts of a model. Raises InputError where there are none."""
        kinds = [layer.moe for layer in model.layers if layer.moe is not None]
        if not kinds:
            raise InputError.single("model", "experts", None, "the model has no experts, so nothing is routed")
        first = kinds[0]
        return cls(len(kinds), first.experts, first.top_k, first.groups)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """`experts` [tokens, layers, top_k], in order of time; beside each token its prompt, step, rank and id (`token`)
    where known."""

    experts: Ints
    num_experts: int
    prompt: Ints | None = None
    step: Ints | None = None
    rank: Ints | None = None
    layers: tuple[int, ...] = ()  # the model's numbers of the layers; empty: 0, 1, 2, ...
    token: Ints | None = None

    @property
    def tokens(self) -> int:
        return int(self.experts.shape[0])

    @property
    def num_layers(self) -> int:
        return int(self.experts.shape[1])

    @property
    def top_k(self) -> int:
        return int(self.experts.shape[2])

    def take(self, chosen: Any) -> Trace:
        """The tokens that a mask, slice or list of indices names."""
        beside = self.prompt, self.step, self.rank, self.token
        prompt, step, rank, token = (None if each is None else each[chosen] for each in beside)
        return Trace(self.experts[chosen], self.num_experts, prompt, step, rank, self.layers, token)

    def split(self, seed: int = 0) -> tuple[Trace, Trace]:
        """Two halves of the prompts at random (of the tokens, in time, where prompts are unknown): to fit and to
        judge."""
        if self.prompt is None:
            return self.take(slice(self.tokens // 2)), self.take(slice(self.tokens // 2, None))
        names = np.unique(self.prompt)
        first = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
        inside = np.isin(self.prompt, first)
        return self.take(inside), self.take(~inside)


def smallest(num_experts: int) -> type[np.unsignedinteger[Any]]:
    """The type that holds the ids of so many experts."""
    return np.uint8 if num_experts <= 256 else np.uint16


def as_trace(trace: Trace | Ints | Any, num_experts: int) -> Trace:
    """A Trace, or an integer array [tokens, layers, top_k], checked. Raises InputError with every problem."""
    if isinstance(trace, Trace):
        experts, given = trace.experts, trace
    else:
        experts = np.asarray(trace)
        given = None
    problems = check(experts, num_experts)
    if given is not None and given.num_experts != num_experts:
        rule = f"the trace was read for {given.num_experts} experts"
        problems.insert(0, Problem("num_experts", num_experts, rule, str(given.num_experts)))
    if problems:
        raise InputError("trace", shortened(problems))
    return given or Trace(np.ascontiguousarray(experts.astype(smallest(num_experts))), num_experts)


def check(experts: Ints, num_experts: int) -> list[Problem]:
    """What is wrong with an array of choices: its shape, ids out of range, an expert twice at one token."""
    if experts.ndim != 3 or not np.issubdtype(experts.dtype, np.integer):
        shape = f"{experts.dtype} {list(experts.shape)}"
        return [Problem("trace", shape, "must be an array of integers [tokens, layers, top_k]")]
    if 0 in experts.shape:
        return [Problem("trace", str(list(experts.shape)), "has no tokens, layers or choices")]
    if experts.shape[2] > num_experts:
        return [Problem("trace", str(list(experts.shape)), f"top_k is at most the number of experts, {num_experts}")]
    if int(experts.min()) < 0 or int(experts.max()) >= num_experts:
        outside = np.argwhere((experts < 0) | (experts >= num_experts))
        rule = f"ids of experts are 0 to {num_experts - 1}"
        return [Problem(_place(at), int(experts[tuple(at)]), rule) for at in outside]
    rule = "an expert stands twice at one token"
    return [Problem(_place(at), experts[tuple(at)].tolist(), rule) for at in np.argwhere(twice(experts))]


def twice(experts: Ints) -> NDArray[np.bool_]:
    """[tokens, layers]: where an expert stands more than once in the last axis."""
    columns = [np.ascontiguousarray(experts[..., place]) for place in range(experts.shape[-1])]
    found = np.zeros(experts.shape[:-1], np.bool_)
    for left, right in combinations(columns, 2):
        found |= left == right
    return found


def _place(at: Ints) -> str:
    return f"trace[{', '.join(map(str, at.tolist()))}]"


def shortened(problems: list[Problem]) -> list[Problem]:
    """The first of them, and how many more there are."""
    if len(problems) <= _SHOWN:
        return problems
    return [*problems[:_SHOWN], Problem("and", None, f"{len(problems) - _SHOWN:,} more problems of this file or array")]

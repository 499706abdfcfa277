"""Layout: ranks on their nodes, and how many experts each of them holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from ...errors import InputError, Problem
from .trace import Ints

Split = Literal["nearest", "even"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Experts in slots of ranks on nodes. Slots are numbered rank by rank, ranks node by node."""

    experts: int
    ranks_per_node: tuple[int, ...]
    slots: tuple[int, ...]  # of each rank
    replicas: int = 0
    groups: int = 1  # group-limited routing: of experts of ascending ids, equally many each
    split: Split = "nearest"  # which replica a token takes: one on a node that it visits anyway, or each in turn

    @property
    def ranks(self) -> int:
        return len(self.slots)

    @property
    def nodes(self) -> int:
        return len(self.ranks_per_node)

    @property
    def node_of_rank(self) -> Ints:
        return np.repeat(np.arange(self.nodes), self.ranks_per_node)

    @property
    def rank_of_slot(self) -> Ints:
        return np.repeat(np.arange(self.ranks), self.slots)

    @property
    def share(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Of all ranks, and so of all tokens' homes, on each node."""
        return np.asarray(self.ranks_per_node) / self.ranks

    @property
    def contiguous(self) -> Ints:
        """Rank of each expert where ranks hold blocks of ids, as every framework does; without replicas."""
        return self.rank_of_slot[: self.experts]


def node_sizes(layout: Layout) -> Ints:
    """Experts of each node."""
    return np.bincount(layout.node_of_rank, np.asarray(layout.slots)).astype(np.intp)


def layout(
    num_experts: int,
    ranks_per_node: Sequence[int],
    replicas: int = 0,
    slots: Sequence[int] | None = None,
    n_group: int = 1,
    split: Split = "nearest",
) -> Layout:
    """A checked layout; `slots` are equal unless given. Raises InputError with every problem."""
    problems = _problems(num_experts, ranks_per_node, replicas, n_group, split)
    if problems:
        raise InputError("placement", problems)
    ranks = sum(ranks_per_node)
    if slots is None:
        if (num_experts + replicas) % ranks:
            rule = f"{num_experts} experts and {replicas} replicas do not fill {ranks} ranks equally"
            more = -num_experts % ranks
            fix = f"replicas={more + ranks * max(0, round((replicas - more) / ranks))}"
            raise InputError.single("placement", "replicas", replicas, rule, fix)
        slots = [(num_experts + replicas) // ranks] * ranks
    made = Layout(num_experts, tuple(ranks_per_node), tuple(slots), replicas, n_group, split)
    problems = [*_slot_problems(made), *_group_problems(made)]
    if problems:
        raise InputError("placement", problems)
    return made


def _problems(
    num_experts: int, ranks_per_node: Sequence[int], replicas: int, n_group: int, split: str
) -> list[Problem]:
    problems = []
    if num_experts < 1:
        problems.append(Problem("num_experts", num_experts, "must be at least 1"))
    if not ranks_per_node or min(ranks_per_node) < 1:
        problems.append(Problem("ranks_per_node", list(ranks_per_node), "needs a number of ranks, at least 1, a node"))
    if replicas < 0:
        problems.append(Problem("replicas", replicas, "must not be negative", "0"))
    if split not in ("nearest", "even"):
        problems.append(Problem("split", split, "must be nearest or even", "nearest"))
    if n_group < 1 or num_experts % max(1, n_group):
        rule = f"must divide the experts ({num_experts})"
        near = max((each for each in range(1, n_group + 1) if num_experts % each == 0), default=1)
        problems.append(Problem("n_group", n_group, rule, str(near)))
    return problems


def _slot_problems(made: Layout) -> list[Problem]:
    """Slots hold every expert once, and never more than all experts on one rank."""
    if len(made.slots) != sum(made.ranks_per_node):
        return [Problem("slots", list(made.slots), f"needs one number for each of {sum(made.ranks_per_node)} ranks")]
    if min(made.slots) < 1:
        return [Problem("slots", list(made.slots), "a rank holds at least one expert")]
    if sum(made.slots) != made.experts + made.replicas:
        rule = f"must add up to {made.experts} experts and {made.replicas} replicas"
        return [Problem("slots", sum(made.slots), rule, f"replicas={max(0, sum(made.slots) - made.experts)}")]
    if max(made.slots) > made.experts:
        rule = f"a rank has no use for more than all {made.experts} experts"
        return [Problem("slots", max(made.slots), rule, str(made.experts))]
    return []


def _group_problems(made: Layout) -> list[Problem]:
    """A group's experts lie on whole ranks (or share one), and its ranks on whole nodes (or share one)."""
    if made.groups == 1:
        return []
    if made.replicas:
        return [Problem("replicas", made.replicas, "replicas of group-limited routing are not placed", "0")]
    if len(set(made.slots)) > 1:
        return [Problem("slots", list(made.slots), f"must be equal with n_group={made.groups}")]
    size, starts = made.experts // made.groups, np.cumsum((0, *made.slots))
    nodes = starts[np.cumsum((0, *made.ranks_per_node))]
    nested = all(_nest(np.arange(0, made.experts + 1, size), ends) for ends in (starts, nodes))
    whole = size <= min(np.diff(nodes)) or len(set(made.ranks_per_node)) == 1
    if nested and whole:
        return []
    rule = f"groups of {size} experts cross the borders of ranks ({made.slots[0]} experts) or nodes"
    return [Problem("n_group", made.groups, rule, "ranks that hold whole groups, or groups that fill whole ranks")]


def _nest(left: Ints, right: Ints) -> bool:
    """Whether one list of borders is part of the other between any two borders that they share."""
    shared = np.intersect1d(left, right)
    for low, high in pairwise(shared):
        inner = [np.count_nonzero((each > low) & (each < high)) for each in (left, right)]
        if all(inner):
            return False
    return True

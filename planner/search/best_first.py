"""Best first: branch and bound over the tree of configurations, the branch with the lowest bound next.

It is over when the lowest bound left is within the gap of the best price. A branch that has been opened down to its
promising splits is left ajar: its bound still counts, since its other splits have not been looked at. Where it could
hold a plan that is better by more than the gap, and has few splits, all of them are.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator

from ..configuration import Configuration, Mesh
from ..cost.setting import Setting
from ..cost.step import step_s
from .objective import Priced, ValueOf, price_as
from .request import Progress
from .splits import MOST_SPLITS, is_bounded
from .tree import Level, Node, Tree

PRECISION = 1e-7
RUNNERS_GAP = 0.05
"""What a runner-up may be behind the best of its mesh."""
LIKELY = 24
"""Configurations that are looked at for a first price."""


class Search:
    """One search: branches that are left, by the least value that their bounds allow, and what was priced."""

    def __init__(self, setting: Setting, tree: Tree, value_of: ValueOf, gap: float, progress: Progress | None = None):
        self.priced: list[Priced] = []
        self._setting, self._tree, self._value_of, self._gap, self._progress = setting, tree, value_of, gap, progress
        self._heap: list[tuple[float, int, Node]] = []
        self._ajar: list[tuple[float, Node]] = []
        self._seen: set[Configuration] = set()
        self._best: dict[Mesh, float] = {}
        self._wanted = 1  # meshes whose best is looked for
        self._roots: list[Node] = []
        self._order = 0

    def run(self) -> None:
        """Price until the gap is proven, as far as bounds can prove it."""
        self._roots = sorted(self._tree.roots(), key=self._value)
        self._push(self._roots)
        self._dive()
        self._descend()
        while self._open_ajar():
            self._descend()

    @property
    def best(self) -> float:
        """The least value so far."""
        return min(self._best.values(), default=math.inf)

    @property
    def _least_wanted(self) -> float:
        """What a mesh must be better than to be wanted."""
        values = sorted(self._best.values())
        return values[self._wanted - 1] if len(values) >= self._wanted else math.inf

    def _to_beat(self, mesh: Mesh) -> float:
        return min(self._least_wanted, self._best.get(mesh, math.inf))

    def _cutoff(self, mesh: Mesh) -> float:
        """What is not below it could be better by the gap at most."""
        return self._to_beat(mesh) * (1 - self._gap)

    @property
    def bound(self) -> float:
        """No configuration of the space has a lower value."""
        left = [entry[0] for entry in self._heap[:1]] + [entry[0] for entry in self._ajar]
        return min([self.best, *left])

    def more_meshes(self, wanted: int) -> None:
        """Price on until the best of so many meshes are known, each to RUNNERS_GAP. The branches of the search before
        are gone then, and its bound with them."""
        if len(self._best) < wanted:
            self._wanted, self._gap, self._heap = wanted, max(self._gap, RUNNERS_GAP), []
            self._push(self._roots)
            self._descend()

    def _dive(self) -> None:
        """Price one likely configuration, so that bounds have something to be measured with: of the best ways to share
        out a microbatch, balanced, the one that takes least."""
        found, least = None, math.inf
        for looked, node in enumerate(self._roomy()):
            if self._value(node) >= least or (found is not None and looked >= LIKELY):
                break
            likely = self._tree.likely(node)
            if likely is not None and self._value(likely) < least:
                found, least = likely, self._value(likely)
        if found is not None:
            self._price(found.configuration)

    def _roomy(self) -> Iterator[Node]:
        """Ways to share out a microbatch, in the order of what they take at least with the room that there is."""
        heap = [(self._value(root), order, root) for order, root in enumerate(self._roots)]
        while heap:
            _, order, node = heapq.heappop(heap)
            if node.level == Level.ROOMY:
                yield node
                continue
            for roomy in self._tree.open(node, math.inf):
                heapq.heappush(heap, (self._value(roomy), order, roomy))

    def _descend(self) -> None:
        while self._heap and self._heap[0][0] < self._least_wanted * (1 - self._gap):
            value, _, node = heapq.heappop(self._heap)
            if value < self._cutoff(node.configuration.mesh):
                self._visit(node)

    def _visit(self, node: Node) -> None:
        """Price what is whole, open what is not."""
        if node.level == Level.WHOLE:
            self._price(node.configuration)
            return
        if node.level == Level.LIMITED and is_bounded(node.configuration):
            self._ajar.append((self._value(node), node))
        self._push(self._tree.open(node, self._limit_s(node)))

    def _limit_s(self, node: Node) -> float:
        """Seconds of a step at which the value of a branch is no longer below the cutoff: by bisection, as values only
        grow with seconds."""
        low, high = node.bound_s, 2 * node.bound_s
        cutoff = self._cutoff(node.configuration.mesh)
        if math.isinf(cutoff):
            return math.inf
        while self._value_of(node.configuration, high) < cutoff:
            low, high = high, 2 * high
        while high - low > PRECISION * high:
            middle = (low + high) / 2
            below = self._value_of(node.configuration, middle) < cutoff
            low, high = (middle, high) if below else (low, middle)
        return high

    def _push(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self._order += 1
            heapq.heappush(self._heap, (self._value(node), self._order, node))

    def _value(self, node: Node) -> float:
        return self._value_of(node.configuration, node.bound_s)

    def _price(self, configuration: Configuration) -> None:
        if configuration in self._seen:
            return
        self._seen.add(configuration)
        mesh = configuration.mesh
        if self._value_of(configuration, step_s(self._setting, configuration)) >= self._to_beat(mesh):
            return  # played once; a price plays it again for its parts
        result = price_as(self._setting, configuration, self._value_of)
        self.priced.append(result)
        self._best[mesh] = min(result.value, self._best.get(mesh, math.inf))
        if self._progress:
            self._progress(len(self.priced), len(self.priced) + len(self._heap))

    def _open_ajar(self) -> bool:
        """Open the branches that could still hold a better plan and have few splits; whether there are any."""
        open_, self._ajar = self._ajar, []
        for lower, node in open_:
            recipe = node.configuration
            if lower < self._cutoff(recipe.mesh) and self._tree.splits_of(recipe) <= MOST_SPLITS:
                self._push(self._tree.every_split(node))
            else:
                self._ajar.append((lower, node))
        return len(self._ajar) < len(open_)

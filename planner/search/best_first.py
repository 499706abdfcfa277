"""Best first: branch and bound over the tree of configurations, the branch with the lowest bound next.

It is over when the lowest bound left is within the gap of the best price. A branch that has been opened down to its
promising splits is left ajar: its bound still counts, since its other splits have not been looked at. Where it could
hold a plan that is better by more than the gap, and has few splits, all of them are.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator

from ..configuration import Configuration, Mesh
from ..cost.setting import Setting
from .objective import Priced, ValueOf, price_as
from .request import Progress
from .splits import MOST_SPLITS, is_bounded
from .tree import Level, Node, Tree

PRECISION = 1e-9
LIKELY = 24
"""Ways to share out a microbatch that are looked at for a first price, and of each mesh for a runner-up."""


class Search:
    """One search: branches that are left, by the least value that their bounds allow, and what was priced."""

    def __init__(self, setting: Setting, tree: Tree, value_of: ValueOf, gap: float, progress: Progress | None = None):
        self.priced: list[Priced] = []
        self.best = math.inf
        self._setting, self._tree, self._value_of, self._gap, self._progress = setting, tree, value_of, gap, progress
        self._heap: list[tuple[float, int, Node]] = []
        self._ajar: list[tuple[float, Node]] = []
        self._limits: dict[tuple[int, float], float] = {}
        self._seen: set[Configuration] = set()
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
    def cutoff(self) -> float:
        """What is not below it could be better by the gap at most."""
        return self.best * (1 - self._gap)

    @property
    def bound(self) -> float:
        """No configuration of the space has a lower value."""
        left = [entry[0] for entry in self._heap[:1]] + [entry[0] for entry in self._ajar]
        return min([self.best, *left])

    def more_meshes(self, wanted: int) -> None:
        """Price on until so many meshes have a price each: of every mesh that could be among the best what is likely of
        all ways to share out a microbatch that could be better than it."""
        known = {result.configuration.mesh: result.value for result in self.priced}  # the later, the better
        found, looked = dict[Mesh, Node](), Counter[Mesh]()
        for node in self._roomy():
            mesh, value = node.configuration.mesh, self._value(node)
            if len(known) >= wanted and value >= sorted(known.values())[wanted - 1]:
                break
            if value >= known.get(mesh, math.inf) or looked[mesh] == LIKELY:
                continue
            looked[mesh] += 1
            likely = self._tree.likely(node)
            if likely is not None and self._value(likely) < known.get(mesh, math.inf):
                found[mesh], known[mesh] = likely, self._value(likely)
        for node in sorted(found.values(), key=self._value)[:wanted]:
            self._price(node.configuration, always=True)

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
        while self._heap and self._heap[0][0] < self.cutoff:
            self._visit(heapq.heappop(self._heap)[2])

    def _visit(self, node: Node) -> None:
        """Price what is whole, open what is not."""
        if node.level == Level.WHOLE:
            self._price(node.configuration)
            return
        if node.level == Level.LIMITED and is_bounded(node.configuration):
            self._ajar.append((self._value(node), node))
        self._push(self._tree.open(node, self._limit_s(node)))

    def _limit_s(self, node: Node) -> float:
        """Seconds of a step at which the value of a branch is no longer below the cutoff: the same for all branches
        that use as many devices (`search.py` does not send energy here, of which that is not true)."""
        if math.isinf(self.cutoff):
            return math.inf
        key = node.configuration.mesh.world, self.cutoff
        if key not in self._limits:
            self._limits[key] = self._reaching(node)
        return self._limits[key]

    def _reaching(self, node: Node) -> float:
        """By bisection, as values only grow with seconds."""
        low, high = node.bound_s, 2 * node.bound_s
        while self._value_of(node.configuration, high) < self.cutoff:
            low, high = high, 2 * high
        while high - low > PRECISION * high:
            middle = (low + high) / 2
            below = self._value_of(node.configuration, middle) < self.cutoff
            low, high = (middle, high) if below else (low, middle)
        return high

    def _push(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self._order += 1
            heapq.heappush(self._heap, (self._value(node), self._order, node))

    def _value(self, node: Node) -> float:
        return self._value_of(node.configuration, node.bound_s)

    def _price(self, configuration: Configuration, always: bool = False) -> None:
        known = (result.configuration for result in self.priced) if always else self._seen
        if configuration in known:
            return
        self._seen.add(configuration)
        steps = () if always else self._tree.steps_s(configuration)
        if any(self._value_of(configuration, each) >= self.best for each in steps):
            return  # played once; a price plays it again for its parts
        result = price_as(self._setting, configuration, self._value_of)
        self.priced.append(result)
        self.best = min(self.best, result.value)
        if self._progress:
            self._progress(len(self.priced), len(self.priced) + len(self._heap))

    def _open_ajar(self) -> bool:
        """Open the branches that could still hold a better plan and have few splits; whether there are any."""
        open_, self._ajar = self._ajar, []
        for lower, node in open_:
            if lower < self.cutoff and self._tree.splits_of(node.configuration) <= MOST_SPLITS:
                self._push(self._tree.every_split(node))
            else:
                self._ajar.append((lower, node))
        return len(self._ajar) < len(open_)

"""Prices: from a setting and a configuration to what packs of sequences cost, and how many tokens a rank holds.

Everything but attention is priced by the cost model for so many tokens on one rank (`planner/cost/blocks.py`),
attention and its exchange for one sequence on a group of a degree (`core.py`, `context.py`). Both are functions of one
number: priced at some hundred of them, and straight between.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..configuration import Configuration
from ..cost.context import Exposed, Links, blocks_of, exposed
from ..cost.core import core_s
from ..cost.footprint import peaks
from ..cost.setting import Setting
from ..cost.sharding import sharding_of
from ..cost.stage import chunks_s, ends_of, stage_times
from ..model import Layer
from ..sequence import local_tokens
from .instance import Floats, Instance
from .integers import Integers

LENGTHS, TOKENS = 128, 48
"""How many sequence lengths, and numbers of tokens, are priced."""
MOST_TOKENS = 1 << 20
"""Of one rank in one round: more are not looked at."""
LEAST_TOKENS = 1024
"""Groups are as wide as leave each rank so many tokens of the longest sequence, or wider where memory asks for it."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Table:
    """Seconds of one microbatch, forward and backward: of so many tokens (`knots`) on a rank without attention, and of
    the attention of one sequence by degree [k, lengths], of which `waits_s` is its exchange."""

    degrees: tuple[int, ...]
    lengths: Floats
    core_s: Floats
    waits_s: Floats
    knots: Floats
    linear_s: Floats
    floor_s: float

    def waiting_s(self, lengths: Integers, degree: int) -> Floats:
        """Seconds in which attention of sequences waits for other ranks."""
        found: Floats = np.interp(lengths, self.lengths, self.waits_s[self.degrees.index(degree)])
        return found


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Prices:
    """Of one configuration with groups of any degree; `capacity` [k] is tokens of one rank in one round."""

    configuration: Configuration
    table: Table
    degrees: tuple[int, ...]
    capacity: Integers

    @property
    def lanes(self) -> int:
        return self.configuration.mesh.dp * self.configuration.mesh.cp

    def instance(self, lengths: Integers) -> Instance:
        """One step with sequences of such lengths."""
        places = [self.table.degrees.index(degree) for degree in self.degrees]
        multiple = multiple_of(self.configuration)
        tokens = [tokens_of(lengths, degree, multiple) for degree in self.degrees]
        core = [np.interp(lengths, self.table.lengths, self.table.core_s[place]) for place in places]
        return Instance(
            lanes=self.lanes,
            degrees=self.degrees,
            capacity=self.capacity,
            tokens=np.stack(tokens, axis=1),
            core_s=np.stack(core, axis=1),
            knots=self.table.knots,
            linear_s=self.table.linear_s,
            floor_s=self.table.floor_s,
        )

    def among(self, degrees: Iterable[int]) -> Prices:
        """The same with fewer degrees."""
        kept = tuple(degree for degree in self.degrees if degree in set(degrees))
        capacity = self.capacity[[self.degrees.index(degree) for degree in kept]]
        return replace(self, degrees=kept, capacity=capacity)

    def holds(self, seq_len: int) -> bool:
        """Whether some group holds the longest sequence of the job."""
        tokens = (local_tokens(seq_len, degree, multiple_of(self.configuration)) for degree in self.degrees)
        return any(each <= room for each, room in zip(tokens, self.capacity, strict=True))


def multiple_of(configuration: Configuration) -> int:
    """Sequence parallelism divides the tokens of a rank further."""
    return configuration.mesh.tp if configuration.sp else 1


def tokens_of(lengths: Integers, degree: int, multiple: int) -> Integers:
    """Tokens on each rank of a group, padded as context and sequence parallelism pad them; `local_tokens` of arrays."""
    unit = multiple if degree == 1 else int(np.lcm(2, multiple))
    return -(-lengths // (degree * unit)) * unit


def at_degree(configuration: Configuration, degree: int) -> Configuration:
    """The same ranks as groups of one degree."""
    mesh = configuration.mesh
    lanes = mesh.dp * mesh.cp
    return replace(configuration, mesh=replace(mesh, cp=degree, dp=lanes // degree), microbatch=1, microbatches=1)


def at_length(setting: Setting, seq_len: int) -> Setting:
    """The same with sequences of another length."""
    job = setting.job.model_copy(update={"seq_len": seq_len, "lengths": None})
    return replace(setting, job=job, classes={}, _whole=None, _views={}, _alike={}, _costs={})


def degrees_of(setting: Setting, configuration: Configuration) -> tuple[int, ...]:
    """Degrees of groups that are worth a try and that the algorithm has heads for: powers of two that divide the
    ranks, ascending."""
    mesh, lanes = configuration.mesh, configuration.mesh.dp * configuration.mesh.cp
    heads = math.gcd(*(layer.attention.heads for layer in setting.kinds)) // mesh.tp
    found = (1 << power for power in range((lanes & -lanes).bit_length()))
    return tuple(each for each in found if configuration.cp_algorithm != "ulysses" or heads % each == 0)


def prices_of(setting: Setting, configuration: Configuration, table: Table) -> Prices:
    """With how many tokens the devices hold; degrees that hold none, or are wider than need be, are left out."""
    seq_len, multiple, found = setting.job.seq_len, multiple_of(configuration), dict[int, int]()
    for degree in table.degrees:
        wide = degree > 1 and seq_len < degree * LEAST_TOKENS
        if wide and any(local_tokens(seq_len, each, multiple) <= room for each, room in found.items()):
            break
        near = next(reversed(found.values())) if len(found) > 1 else None
        if room := capacity_of(setting, configuration, degree, near):
            found[degree] = room
    capacity = np.array(list(found.values()), dtype=np.int64)
    return Prices(configuration=configuration, table=table, degrees=tuple(found), capacity=capacity)


def table_of(setting: Setting, configuration: Configuration, degrees: tuple[int, ...]) -> Table:
    """Price tokens and sequences for groups of each degree."""
    multiple, lengths = multiple_of(configuration), _spread(1, setting.job.seq_len, LENGTHS)
    knots, alone = _spread(multiple, MOST_TOKENS, TOKENS, multiple), at_degree(configuration, 1)
    least = stage_times(at_length(setting, knots[0]), alone)
    cores = np.array([_cores_s(setting, at_degree(configuration, degree), lengths) for degree in degrees])
    return Table(
        degrees=degrees,
        lengths=np.array(lengths, dtype=np.float64),
        core_s=cores[:, :, 0],
        waits_s=cores[:, :, 1],
        knots=np.array(knots, dtype=np.float64),
        linear_s=np.maximum.accumulate([_linear_s(setting, alone, tokens) for tokens in knots]),
        floor_s=least.forward_s[0] + least.backward_s[0],
    )


def _spread(low: int, high: int, count: int, multiple: int = 1) -> list[int]:
    """Whole numbers in about equal ratios, multiples of `multiple` but for the last."""
    found = np.geomspace(low, max(low, high), count)
    return sorted({low, high, *(int(-(-each // multiple)) * multiple for each in found if each < high)})


def _linear_s(setting: Setting, configuration: Configuration, tokens: int) -> float:
    """A microbatch of so many tokens on one rank, without attention's core; the host's time is the floor."""
    at = at_length(setting, tokens)
    costs, choice = at.costs(configuration), configuration.recompute[0]
    ends = ends_of(costs, 0, 1)
    total = costs.forward[-1] + costs.backward[choice][-1] + chunks_s(at, configuration)
    total += sum(block.forward_s + block.backward_s("none") for block in ends)
    again = choice == "full" or (choice == "selective" and "core_attn" in configuration.recompute_operations)
    attention = sum(
        (1 + again) * block.compute.attention_forward_s + block.compute.attention_backward_s for block in costs.layers
    )
    return total - attention


def _cores_s(setting: Setting, configuration: Configuration, lengths: Iterable[int]) -> list[tuple[float, float]]:
    """Attention and its exchange of one sequence of each length, all layers, with what recomputation repeats; and the
    exchange alone."""
    sharding = sharding_of(configuration)
    links, kept = setting.groups(sharding).cp, keeps_attention(setting, configuration)
    counts = Counter(setting.architecture.layers)
    found = []
    for length in lengths:
        parts = [(n, *_core_s(setting, configuration, layer, links, kept, length)) for layer, n in counts.items()]
        waits_s = sum(n * waits for n, _, waits in parts)
        found.append((sum(n * attention for n, attention, _ in parts) + waits_s, waits_s))
    return found


def keeps_attention(setting: Setting, configuration: Configuration) -> bool:
    """Whether full recomputation keeps what attention found: where there may be groups of several ranks, in all."""
    mesh = configuration.mesh
    return setting.framework.keeps.attention and mesh.dp * mesh.cp > 1


def _core_s(
    setting: Setting, configuration: Configuration, layer: Layer, links: Links, kept: bool, length: int
) -> tuple[float, float]:
    """Of one layer: attention itself, and what of its exchange nothing hides."""
    sharding, choice = sharding_of(configuration), configuration.recompute[0]
    forward, backward = core_s(layer.attention, sharding, length, setting.rates)
    waits = Exposed()
    if sharding.cp > 1:
        blocks = blocks_of(layer.attention, sharding, length, setting.element_bytes)
        waits = exposed(sharding.cp_algorithm, blocks, links, (forward, backward))
    attention, waits_s = forward + backward, waits.forward_s + waits.backward_s
    if choice == "full" and kept:
        waits_s += waits.again_s
    elif choice == "full" or (choice == "selective" and "core_attn" in configuration.recompute_operations):
        attention, waits_s = attention + forward, waits_s + waits.forward_s
    return attention, waits_s


def capacity_of(setting: Setting, configuration: Configuration, degree: int, near: int | None = None) -> int:
    """Tokens of one rank in one round that the smallest device holds in a group of a degree; 0: none. Where alone, too,
    ranks keep what attention found, they hold what pairs of ranks do. `near` is looked at first."""
    if degree == 1 and configuration.recompute[0] == "full" and keeps_attention(setting, configuration):
        degree = 2
    unit, at = int(np.lcm(2, multiple_of(configuration))), at_degree(configuration, degree)
    most = max(1, min(MOST_TOKENS, setting.job.global_batch * setting.job.seq_len) // unit)

    def holds(units: int) -> bool:
        longer = at_length(setting, units * unit * degree)
        return all(peak.fits for peak in peaks(longer, at))

    if near is not None and holds(near // unit) and (near // unit == most or not holds(near // unit + 1)):
        return near
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low * unit

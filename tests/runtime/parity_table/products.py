"""Products: rows in which values of several dimensions meet, wherever some plan of them is legal.

Two greedy covers of legal products, which are drawn with a fixed seed, so that a new value enters by itself. In the
first every value meets every other dimension in use, by some value of it; in the second, whose rows are slow, every two
values meet. The exhaustive rest, every legal product, would take days.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, islice
from typing import Any

from meshwright.planner.cost.setting import Setting
from meshwright.planner.families import architecture
from meshwright.planner.legality import problems as illegal
from meshwright.planner.legality import runtime_problems
from meshwright.planner.legality.fields import in_plan
from parity_table.dimensions import DIMENSIONS
from parity_table.row import Options, Row

MOST_RANKS = 8
ENOUGH, TRIES = 6, 60
"""Legal products of a pair of values, and products drawn before the pair counts as one that no plan has."""

Value = tuple[int, str]  # number of the dimension, name of the value
Product = tuple[Value, ...]  # one value of every dimension

PLAIN: Product = tuple((number, next(iter(dimension.values))) for number, dimension in enumerate(DIMENSIONS))


def joined(product: Sequence[Value]) -> Options:
    """Options of a plan that takes all the values; the smallest microbatch that one of them wants."""
    options = [DIMENSIONS[number].values[name] for number, name in product]
    merged = {key: value for each in options for key, value in each.items()}
    sizes = [each["microbatch"] for each in options if "microbatch" in each]
    return {**merged, "microbatch": min(sizes)} if sizes else merged


def _degrees(options: Options) -> list[int]:
    return [options.get(axis, 1) for axis in ("pp", "dp", "cp", "tp")]


def row_of(product: Sequence[Value]) -> Row:
    """Named by the values that are not the plain ones."""
    used = [name for number, name in product if (number, name) != PLAIN[number]]
    return Row(", ".join(used) or "one process", joined(product))


def product_of(*names: str) -> Product:
    """The product of these values, and of the plain ones of the other dimensions."""
    chosen = {number: (number, name) for number, each in enumerate(DIMENSIONS) for name in each.values if name in names}
    return tuple(chosen.get(number, plain) for number, plain in enumerate(PLAIN))


FOUR_AXES = tuple(
    product_of(*(name for name in ("pp2 1f1b", "dp2 zero1", "tp2 sp", "cp2 ring") if name != left))
    for left in ("pp2 1f1b", "dp2 zero1", "tp2 sp", "cp2 ring")
)
"""Pipeline, data, tensor and context: all products of three of them. All four need 16 ranks."""


@cache
def refusal(product: Product) -> str:
    """Why a product is not run; empty for one that is."""
    options = joined(product)
    world = math.prod(_degrees(options))
    if world > MOST_RANKS:  # before a plan is made: most products are refused for this
        return f"needs {world} processes"
    plan = row_of(product).plan
    setting = _setting(json.dumps(plan.model.config), world)
    found = illegal(setting, plan.configuration) + runtime_problems(setting, plan.configuration)
    return "; ".join(str(in_plan(problem)) for problem in found)


@cache
def _setting(config: str, world: int) -> Setting:
    """That of a row: read once, for thousands of products."""
    plan = Row("", {"config": json.loads(config), "dp": world, "microbatch": 1}).plan
    return Setting(architecture(plan.model), plan.cluster, plan.job)


def pairs(product: Sequence[Value]) -> set[tuple[Value, Value]]:
    return set(combinations(product, 2))


def all_pairs() -> Iterator[tuple[Value, Value]]:
    """Every two values of two dimensions."""
    values = [[(number, name) for name in dimension.values] for number, dimension in enumerate(DIMENSIONS)]
    for first, second in combinations(values, 2):
        yield from ((one, other) for one in first for other in second)


@cache
def legal_products() -> tuple[Product, ...]:
    """Legal products in which each legal pair occurs, several for most pairs."""
    generator = random.Random(0)
    found: dict[Product, None] = {}
    for one, other in all_pairs():
        drawn = (_drawn(generator, one, other) for _ in range(TRIES))
        found |= dict.fromkeys(islice((product for product in drawn if not refusal(product)), ENOUGH))
    return tuple(found)


def _drawn(generator: random.Random, one: Value, other: Value) -> Product:
    """Any product with these two values; the others are plain half of the time, or few would fit the ranks."""
    chosen = {one[0]: one, other[0]: other}
    for number, dimension in enumerate(DIMENSIONS):
        name = generator.choice(list(dimension.values))
        value = (number, name) if generator.random() < 0.5 else PLAIN[number]
        chosen.setdefault(number, value)
    return tuple(chosen[number] for number in range(len(DIMENSIONS)))


def covered_pairs() -> set[tuple[Value, Value]]:
    """Pairs that some legal product has."""
    return set().union(*(pairs(product) for product in legal_products()))


def meetings(product: Product) -> set[tuple[Value, int]]:
    """Which value meets which other dimension in use."""
    used = [value for value in product if value not in PLAIN]
    return {(value, other[0]) for value in used for other in used if other != value}


@cache
def covering() -> tuple[Product, ...]:
    """Few products with all the meetings of values and dimensions, and all of four axes that fit the ranks."""
    return _cover(meetings, FOUR_AXES)


@cache
def covering_pairs() -> tuple[Product, ...]:
    """Those, and few more with all pairs of values."""
    return _cover(pairs, covering())


def _cover(has: Callable[[Product], set[Any]], chosen: tuple[Product, ...]) -> tuple[Product, ...]:
    """Products that hold what any legal one has; of equals the one with fewer ranks, then the first."""
    ranked = sorted(legal_products(), key=lambda product: math.prod(_degrees(joined(product))))
    holds = {product: has(product) for product in ranked}
    left = set().union(*holds.values()).difference(*map(has, chosen))
    while left:
        best = max(ranked, key=lambda product: len(holds[product] & left))
        chosen = (*chosen, best)
        left -= holds[best]
    return chosen


def singles() -> Iterator[Product]:
    """Every value beside the plain ones of all other dimensions, where that is a plan."""
    yield PLAIN
    for number, dimension in enumerate(DIMENSIONS):
        for name in list(dimension.values)[1:]:
            product = (*PLAIN[:number], (number, name), *PLAIN[number + 1 :])
            if not refusal(product):
                yield product


def rows() -> list[Row]:
    """The whole table: values alone, rows of their own, products."""
    alone = [row_of(product) for product in singles()]
    own = [Row(name, options) for dimension in DIMENSIONS for name, options in dimension.rows.items()]
    together = [row_of(product) for product in covering()]
    slow = [replace(row_of(product), slow=True) for product in covering_pairs()]
    found: dict[str, Row] = {}
    for row in (*alone, *own, *together, *slow):
        found.setdefault(row.name, row)
    return list(found.values())

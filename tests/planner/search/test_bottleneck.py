"""The closed form of independent ranks against an integer program that knows nothing of thresholds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from meshwright.planner.pins import Pins
from meshwright.planner.search.bottleneck import TOLERANCE, Bottleneck
from meshwright.planner.search.polish import Option, solve
from meshwright.planner.search.ranks import Ranks
from meshwright.planner.search.space import recipes, shares

from .small import requests_of


class Alone(Bottleneck):
    """Ranks that wait for nobody: what the program minimises."""

    def _beside_s(self, rank: int, start: int) -> tuple[float, float]:
        return 0.0, 0.0

    def relaxed_s(self) -> float:
        return self.microbatches * self.ranks.least_s / self.ranks.count * (1 - 1e-9)


@pytest.mark.parametrize("memory", [0.2, 0.25, 0.3, 1.0])
@pytest.mark.parametrize("ranks", [2, 4])
def test_bisection_finds_what_the_integer_program_finds(memory: float, ranks: int) -> None:
    setting = requests_of("llama-3.1-8b", layers=9, devices=4, memory=memory).setting()
    pins = Pins(pp=ranks, tp=4 // ranks, schedule="1f1b", microbatch=1, zero=0)
    recipe = next(recipes(setting, pins, next(shares(setting, pins))))
    asked = Ranks(setting, recipe, ("none", "selective", "full"))
    count = recipe.microbatches
    options = [
        [
            Option(layers, choice, count * asked.busy_s(rank, 0, choice, layers))
            for choice in asked.choices
            for layers in range(1, asked.most + 1)
            if asked.with_room(rank, 0, layers, choice) == layers
        ]
        for rank in range(ranks)
    ]
    chosen = solve(options, asked.layers) if all(options) else None
    bottleneck = Alone(asked, limited=True)
    if chosen is None:
        assert not bottleneck.feasible(math.inf)
        return
    exact = max(option.time_s for option in chosen)
    assert bottleneck.least_s(math.inf) == pytest.approx(exact, rel=3 * TOLERANCE)
    filled = bottleneck.fill(exact * (1 + 1e-6))
    assert filled is not None
    assert sum(layers for layers, _ in filled) == asked.layers
    split = replace(recipe, stage_layers=tuple(layers for layers, _ in filled))
    assert len(split.stage_layers) == ranks

"""Balance on a mixed cluster: ranks on faster devices get more layers, as far as they have memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..configuration import Configuration, Recompute
from ..cost.blocks import Block, ModelCosts
from ..cost.footprint import rank_peak
from ..cost.setting import Setting
from .partition import balanced_split
from .shares import shared


def layers_s(costs: ModelCosts, choice: Recompute) -> list[float]:
    """Seconds of a microbatch through every layer and back."""
    times = {id(block): block.forward_s + block.backward_s(choice) for block in costs.kinds}
    return [times[id(block)] for block in costs.layers]


def end_s(block: Block) -> float:
    """Seconds of a microbatch through embedding or head, and back."""
    return block.forward_s + block.backward_s("none")


class MixedBalancer:
    """Splits layers over stages that lie on different devices; equal questions are answered once."""

    def __init__(self, setting: Setting):
        self._setting = setting
        self._known: dict[tuple[object, ...], tuple[int, ...]] = {}

    def balanced(self, configuration: Configuration) -> Configuration:
        """The configuration with its layers balanced, within the memory of each rank where that is possible, and with
        shares that suit its replicas."""
        return shared(self._setting, self._layered(configuration))

    def _layered(self, configuration: Configuration) -> Configuration:
        seen = tuple(self._setting.at(configuration, rank) for rank in configuration.placement)
        costs = [each.costs(configuration) for each in seen]
        choice = configuration.recompute[0]
        key = (*map(id, costs), choice)  # costs are kept by the setting
        if key not in self._known:
            self._known[key] = _split(costs, choice) or ()
        found = replace(configuration, stage_layers=self._known[key])
        ranks = range(configuration.mesh.pp)
        if len(set(map(id, costs))) == 1 or configuration.placement != tuple(ranks):
            return found
        if all(rank_peak(self._setting, found, rank).fits for rank in ranks):
            return found
        return replace(found, stage_layers=self._within(found, costs) or found.stage_layers)

    def _within(self, configuration: Configuration, costs: Sequence[ModelCosts]) -> tuple[int, ...] | None:
        """The best split within the memory of every rank, if there is one. What a rank holds grows about as fast as its
        layers do: where by that they are far from enough for all layers nothing is looked for."""
        layers, ranks = len(self._setting.architecture.layers), range(configuration.mesh.pp)
        guesses = [self._guess(configuration, rank) for rank in ranks]
        if sum(guesses) + len(guesses) < layers:
            return None
        most = [self._most(configuration, rank, guess) for rank, guess in zip(ranks, guesses, strict=True)]
        return _split(costs, configuration.recompute[0], most)

    def _room(self, configuration: Configuration, rank: int, layers: int) -> int:
        """Bytes that a rank of so many layers leaves free, whatever the others hold."""
        held = tuple(layers if each == rank else 0 for each in range(configuration.mesh.pp))
        return rank_peak(self._setting, replace(configuration, stage_layers=held), rank).room_bytes

    def _guess(self, configuration: Configuration, rank: int) -> int:
        """Layers that a rank with one stage has memory for, if each takes as much."""
        given = max(2, configuration.stage_layers[rank])
        one, some = self._room(configuration, rank, 1), self._room(configuration, rank, given)
        each = max(1.0, (one - some) / (given - 1))
        return max(0, min(len(self._setting.architecture.layers), 1 + math.floor(one / each)))

    def _most(self, configuration: Configuration, rank: int, guess: int) -> int:
        """The same, exactly: the guess is moved until one layer more is too much."""
        layers = len(self._setting.architecture.layers)
        while guess > 0 and self._room(configuration, rank, guess) < 0:
            guess -= 1
        while guess < layers and self._room(configuration, rank, guess + 1) >= 0:
            guess += 1
        return guess


def _split(costs: Sequence[ModelCosts], choice: Recompute, most: Sequence[int] = ()) -> tuple[int, ...] | None:
    """Layers of every stage. Where devices are alike as those of a uniform cluster are balanced."""
    ends = end_s(costs[0].embedding), end_s(costs[-1].head)
    times = {id(each): layers_s(each, choice) for each in costs}
    if len(times) == 1:
        return balanced_split(times[id(costs[0])], len(costs), *ends)
    from .uneven import uneven_split  # numpy takes a while, and few clusters need it

    return uneven_split([times[id(each)] for each in costs], *ends, most)

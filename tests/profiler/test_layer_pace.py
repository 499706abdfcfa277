"""The relay that tells how fast workers are while fewer than all compute: no more of them at once than asked for."""

from __future__ import annotations

import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "runtime"))

from harness import run_ranks

from meshwright.clusters.layer_times import LayerTimes
from meshwright.profiler.layer_pace import (
    FEWEST,
    LONG_S,
    MOST,
    TOGETHER,
    TURNS,
    _goes_on,
    _often,
    paces,
    relay,
    shared_cores,
    turns_of,
)

WORLD = 3


def relayed() -> dict[int, tuple[float, list[tuple[float, float]]]]:
    """By how many may compute at once: turns that follow each other, and from when to when this rank had its own."""
    found = {}
    for busy in range(1, WORLD + 1):
        own: list[tuple[float, float]] = []

        def turn(_: int, own: list[tuple[float, float]] = own) -> None:
            begin = time.monotonic()
            time.sleep(0.002)
            own.append((begin, time.monotonic()))

        found[busy] = relay(turn, torch.zeros(4), busy), own
    return found


def test_no_more_than_so_many_have_a_turn_at_once() -> None:
    ranks = run_ranks(WORLD, relayed)
    for busy in range(1, WORLD + 1):
        every = [span for rank in ranks for span in rank[busy][1]]
        assert [len(rank[busy][1]) for rank in ranks] == [TURNS] * WORLD
        assert ranks[0][busy][0] == TURNS * WORLD / busy
        begun = [sum(begin <= at < end for begin, end in every) for at, _ in every]
        assert max(begun) <= busy


@pytest.mark.parametrize(
    ("done", "spent", "more"),
    [(0, 100.0, True), (1, 3.9, True), (1, 4.1, False), (FEWEST, 0.9, True), (FEWEST, 1.1, False), (MOST, 0.1, False)],
)
def test_samples_end_with_the_budget_and_the_fewest_with_four_times_of_it(done: int, spent: float, more: bool) -> None:
    assert _goes_on(done, spent) is more


def often() -> tuple[int, int]:
    """Of turns that are long on the last rank alone, and of short ones."""
    slow = torch.distributed.get_rank() == WORLD - 1
    return _often(lambda _: time.sleep(0.6 * LONG_S if slow else 0.0)), _often(lambda _: None)


def test_long_turns_are_few_and_all_ranks_say_so() -> None:
    assert run_ranks(WORLD, often) == [(2, TURNS)] * WORLD


def test_a_backward_follows_its_forward() -> None:
    layer = torch.nn.Linear(3, 3)
    x = torch.ones(2, 3, requires_grad=True)
    turn = turns_of(layer, x)
    for number in range(4):
        turn(number)
    assert torch.equal(layer.bias.grad, torch.full((3,), 4.0))  # two rows, two backwards


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({TOGETHER: 4.0, "1": 2.0, "2": 4.0}, {1: 2.0, 2: 1.0}),
        ({TOGETHER: 4.0, "1": 5.0, "2": 5.0}, {1: 0.8, 2: 0.8}),  # one core each: waking up alone counts
        ({TOGETHER: 4.0, "1": 4.0, "2": 2.0, "4": 8.0}, {1: 2.0, 2: 2.0, 4: 0.5}),  # one as slow as more are is noise
        ({TOGETHER: 4.0, "1": 3.2, "2": 3.5}, {1: 1.25, 2: 1.0}),  # all faster for waiting, too
    ],
)
def test_paces(seconds: dict[str, float], expected: dict[int, float]) -> None:
    found = paces(seconds)
    assert found == expected
    assert all(few >= more for few, more in pairwise(found.values()))
    assert LayerTimes(pace=found).pace == expected


def test_waking_up_is_what_a_turn_takes_beside_its_layers() -> None:
    """Three milliseconds each time, whatever follows; alone a layer takes half of what it takes beside another."""
    turns = {"1": {TOGETHER: 4.0, "1": 5.0, "2": 7.0}, "4": {TOGETHER: 16.0, "1": 11.0, "2": 19.0}}
    assert shared_cores(turns) == {"pace": {1: 2.0, 2: 1.0}, "wake_s": {1: 3.0, 2: 3.0}}


def test_turns_of_one_size_have_waking_up_in_the_pace() -> None:
    assert shared_cores({"1": {TOGETHER: 4.0, "1": 5.0, "2": 5.0}}) == {"pace": {1: 0.8, 2: 0.8}}


def test_a_turn_of_one_layer_that_took_too_long_makes_nobody_faster_than_the_machine() -> None:
    turns = {"1": {TOGETHER: 4.0, "1": 50.0, "2": 50.0}, "4": {TOGETHER: 16.0, "1": 11.0, "2": 7.0}}
    found = shared_cores(turns)
    assert found["pace"] == {1: 2.0, 2: 1.0}
    assert found["wake_s"] == {1: 3.0, 2: 0.0}
    assert LayerTimes(**found).wake_s == found["wake_s"]

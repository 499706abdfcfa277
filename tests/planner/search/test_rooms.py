"""What ranks have room for, and how long they take, against whole configurations that are priced one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.planner.configuration import Configuration
from meshwright.planner.cost.footprint import rank_memory
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.stage import stage_times
from meshwright.planner.job import Job, Precision
from meshwright.planner.optimizer import States
from meshwright.planner.pins import Pins
from meshwright.planner.search.ranks import Ranks
from meshwright.planner.search.rooms import Rooms
from meshwright.planner.search.space import offloads, recipes, reliefs, relieved, shares
from meshwright.planner.search.waits import least, waits_of

from .small import requests_of

LAYERS = 9
CHOICES = ("none", "selective", "full")
SCHEDULES = [("1f1b", 1), ("gpipe", 1), ("zb-h1", 1), ("interleaved", 2), ("zb-v", 2)]


def _recipe(schedule: str, vpp: int, memory: float, spread: bool) -> tuple[Setting, Configuration]:
    setting = requests_of("llama-3.1-8b", layers=LAYERS, devices=4, memory=memory).setting()
    pins = Pins(pp=4, tp=1, schedule=schedule, vpp=vpp, microbatch=1, zero=0, spread_vocabulary=spread)
    return setting, next(recipes(setting, pins, next(shares(setting, pins))))


def _with(recipe: Configuration, rank: int, start: int, layers: int, choice: str) -> Configuration:
    """Of one rank so many layers from `start` on, evenly over its stages."""
    counts, stages = [0] * len(recipe.placement), recipe.stages_of(rank)
    counts[0] = start if stages[0] else 0
    few, more = divmod(layers, len(stages))
    for place, stage in enumerate(stages):
        counts[stage] = few + (place < more)
    return replace(recipe, stage_layers=tuple(counts), recompute=(choice,) * recipe.mesh.pp)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SCHEDULES), st.sampled_from([0.15, 0.25, 0.4]), st.booleans(), st.data())
def test_rooms_are_those_of_whole_configurations(
    schedule: tuple[str, int], memory: float, spread: bool, data: st.DataObject
) -> None:
    """Whatever was asked before."""
    setting, recipe = _recipe(*schedule, memory, spread)
    rooms = Rooms(setting, recipe)
    for _ in range(12):
        rank, layers = data.draw(st.integers(0, 3)), data.draw(st.integers(1, LAYERS))
        choice, needed = data.draw(st.sampled_from(CHOICES)), data.draw(st.integers(0, layers))
        fit = [
            rank_memory(setting, _with(recipe, rank, 0, each, choice), rank).total <= setting.memory_limit_bytes
            for each in range(1, layers + 1)
        ]
        most = rooms.most(rank, 0, layers, choice, needed)
        assert most == sum(fit) or (most < needed and sum(fit) < needed)
        assert rooms.fits(rank, 0, layers, choice) == fit[-1]


@settings(max_examples=40, deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    model=st.sampled_from(["llama-3.2-1b", "gemma-2-9b", "llama-3.1-8b"]),
    precision=st.sampled_from(["bf16", "fp32", "fp8"]),
    states=st.sampled_from(["fp32", "bf16"]),
    memory=st.sampled_from([0.1, 0.2, 0.4]),
    mesh=st.sampled_from([(2, 1), (2, 2), (4, 1)]),
    microbatch=st.sampled_from([1, 4, 8]),
    spread=st.booleans(),
    data=st.data(),
)
def test_recipes_together_have_the_room_and_the_waits_of_any_of_them(
    schedule: tuple[str, int],
    model: str,
    precision: Precision,
    states: States,
    memory: float,
    mesh: tuple[int, int],
    microbatch: int,
    spread: bool,
    data: st.DataObject,
) -> None:
    """What the branch of a schedule is bounded with, against its recipes one by one."""
    job = Job(seq_len=4096, global_batch=64, precision=precision, optimizer_states=states)
    setting = replace(requests_of(model, layers=LAYERS, devices=8, memory=memory), job=job).setting()
    (name, vpp), (pp, tp) = schedule, mesh
    pins = Pins(pp=pp, tp=tp, schedule=name, vpp=vpp, microbatch=microbatch, spread_vocabulary=spread or None)
    listed = list(recipes(setting, pins, next(shares(setting, pins))))
    each = data.draw(
        st.sampled_from([*listed, *(relief for recipe in listed for relief in reliefs(setting, pins, recipe))])
    )
    together, alone = Rooms(setting, *relieved(setting, pins, listed[0])), Rooms(setting, each)
    for _ in range(6):
        rank, layers = data.draw(st.integers(0, pp - 1)), data.draw(st.integers(1, LAYERS))
        choice = data.draw(st.sampled_from(CHOICES))
        assert together.fits(rank, 0, layers, choice) >= alone.fits(rank, 0, layers, choice)
        assert together.most(rank, 0, layers, choice) >= alone.most(rank, 0, layers, choice)
    waits = least(setting, listed, offloads(pins, listed[0]))
    assert all(one <= other for one, other in zip(waits, waits_of(setting, each), strict=True))


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_ranks_with_other_numbers_of_stages_say_nothing_of_each_other(order: tuple[int, int], choice: str) -> None:
    """Two ranks hold two passes at once: of one stage with all of its layers, or of two stages with half of them."""
    both = ("0F0,0F1,0B0,0B1", "1F0,1F1,1B0,1B1", "2F0,3F0,3B0,2B0,2F1,3F1,3B1,2B1", "4F0,4B0,4F1,4B1")
    rows = (both[0], *(both[rank] for rank in order), both[3])
    setting, recipe = _recipe("1f1b", 1, 0.4, False)
    recipe = replace(recipe, schedule="custom", actions=rows, vpp=2, microbatches=2, stage_layers=(0,) * 5)
    rooms = Rooms(setting, recipe)
    for rank in range(4):
        whole = (rank_memory(setting, _with(recipe, rank, 0, each, choice), rank) for each in range(1, LAYERS + 1))
        fit = sum(each.total <= setting.memory_limit_bytes for each in whole)
        assert rooms.most(rank, 0, LAYERS, choice) == fit  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
@pytest.mark.parametrize("spread", [False, True])
def test_seconds_are_those_of_whole_configurations(schedule: str, spread: bool) -> None:
    setting, recipe = _recipe(schedule, 1, 1.0, spread)
    ranks = Ranks(setting, recipe, CHOICES)
    for rank, choice in ((rank, choice) for rank in range(4) for choice in ranks.choices):
        start = 0 if rank == 0 else rank
        for layers in range(1, LAYERS - start + 1):
            counts = [0] * 4
            counts[0], counts[rank] = start, layers
            work = stage_times(setting, replace(recipe, stage_layers=tuple(counts), recompute=(choice,) * 4))
            back_s = work.backward_s[rank]
            if ranks.halves:
                back_s = min(back_s, work.input_s[rank] + work.weight_s[rank])
            whole_s = work.forward_s[rank] + back_s + ranks.passes_s
            assert ranks.busy_s(rank, start, choice, layers) == pytest.approx(whole_s, rel=1e-12)

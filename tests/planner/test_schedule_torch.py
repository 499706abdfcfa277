"""Beside PyTorch's own schedules: the same steps, the same microbatches in flight, and its own simulator finds an
end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from schedules import schedules
from torch.distributed.pipelining import schedules as torch_schedules

from meshwright.planner.schedule import Action, Kind, Schedule, make
from meshwright.planner.schedule.transfers import Transfer, with_transfers

OURS = {
    "gpipe": "GPipe",
    "interleaved": "Interleaved1F1B",
    "looped-bfs": "LoopedBFS",
    "zb-v": "ZBVZeroBubble",
    "dualpipev": "DualPipeV",
}

KINDS_BY_NAME: dict[str, Kind] = {"FORWARD": "F", "FULL_BACKWARD": "B", "BACKWARD_INPUT": "I", "BACKWARD_WEIGHT": "W"}


def _action(action: Action) -> Any:
    return torch_schedules._Action(
        action.stage, torch_schedules._ComputationType.from_str(action.kind), action.microbatch
    )


def _transfer(transfer: Transfer) -> Any:
    name = f"{'SEND' if transfer.sends else 'RECV'}_{transfer.direction}"
    kind = torch_schedules._ComputationType.from_str(name)
    return torch_schedules._Action(transfer.stage, kind, transfer.microbatch)


@settings(max_examples=80, deadline=None)
@given(schedules(most_ranks=4, most_microbatches=8))
def test_its_simulator_plays_every_row_to_the_end(schedule: Schedule) -> None:
    """With the sends and receives where we put them; it raises where a list does not progress."""
    rows = {
        rank: [_transfer(step) if isinstance(step, Transfer) else _action(step) for step in row]
        for rank, row in enumerate(with_transfers(schedule))
    }
    played = torch_schedules._simulate_comms_compute(rows, schedule.rank_of, schedule.stages)
    assert {rank: [step for step in row if step is not None] for rank, row in played.items()} == {
        rank: [_transfer(step) if isinstance(step, Transfer) else _action(step) for step in row]
        for rank, row in enumerate(with_transfers(schedule))
    }


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 4), (4, 8), (4, 12)])
def test_no_longer_and_no_fuller_than_theirs(name: str, ranks: int, microbatches: int) -> None:
    chunks = 1 if name == "gpipe" else 2
    ours, theirs = make(name, ranks, microbatches, chunks), _theirs(name, ranks, microbatches, chunks)
    assert {rank: sorted(row) for rank, row in enumerate(ours.actions)} == {
        rank: sorted(row) for rank, row in enumerate(theirs.actions)
    }
    assert _steps(ours) == _steps(theirs)
    assert [ours.in_flight(rank) for rank in range(ranks)] == [theirs.in_flight(rank) for rank in range(ranks)]


def _steps(schedule: Schedule) -> int:
    """How many steps of one action a rank PyTorch's simulator needs."""
    rows = {rank: [_action(action) for action in row] for rank, row in enumerate(schedule.actions)}
    lowered = torch_schedules._add_send_recv(rows, schedule.rank_of, schedule.stages)
    return max(map(len, torch_schedules._simulate_comms_compute(lowered, schedule.rank_of, schedule.stages).values()))


def _theirs(name: str, ranks: int, microbatches: int, chunks: int) -> Schedule:
    """The rows that PyTorch's class of that name lists, which it does without a process group where it is not run."""
    kind = torch_schedules.get_schedule_class(OURS[name])
    bare = kind.__new__(kind)
    bare.__dict__.update(
        pp_group_size=ranks, _num_stages=ranks * chunks, num_stages=ranks * chunks, n_local_stages=chunks,
        _stages=[None] * chunks, _n_microbatches=microbatches, number_of_rounds=microbatches // ranks,
        microbatches_per_round=ranks,
    )  # fmt: skip
    made: dict[int, list[Any]] | None
    if chunks == 1:
        made = bare._get_pipeline_order()
    else:
        made = {rank: bare._calculate_single_rank_operations(rank) for rank in range(ranks)}
    assert made is not None
    rows = tuple(tuple(_leaves(made[rank])) for rank in range(ranks))
    sound = make(name, ranks, microbatches, chunks)
    return Schedule(name, ranks, ranks * chunks, microbatches, rows, sound.places)


def _leaves(row: list[Any]) -> list[Action]:
    actions = [leaf for action in row if action is not None for leaf in (action.sub_actions or (action,))]
    return [
        Action(KINDS_BY_NAME[leaf.computation_type.name], leaf.stage_index, leaf.microbatch_index)
        for leaf in actions
        if leaf.computation_type.name in KINDS_BY_NAME
    ]

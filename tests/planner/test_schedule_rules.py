"""What each schedule asks of a configuration, with the nearest value that would do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.setting import Setting
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import is_legal, problems, runtime_problems
from meshwright.planner.pins import Pins
from meshwright.planner.schedule import names, table, zero_bubble_v
from meshwright.planner.schedule.csv_file import cells_of
from meshwright.planner.search.space import candidates

SETTING = Setting(
    architecture(load_model("llama-3.1-8b")), load_cluster("dgx-h100:2"), Job(seq_len=8192, global_batch=32)
)
LEGAL = Configuration(
    mesh=Mesh(pp=4, dp=4),
    stage_layers=(8,) * 4,
    microbatch=1,
    microbatches=8,
    zero=1,
    recompute=("none",) * 4,
)
VEE = replace(LEGAL, schedule="zb-v", vpp=2, stage_layers=(4,) * 8)
LISTED = tuple(",".join(row) for row in cells_of(zero_bubble_v(4, 8)))


@pytest.mark.parametrize("name", names())
def test_every_schedule_is_legal_and_runs_somewhere(name: str) -> None:
    chunks = table()[name].chunks.start
    asked = replace(LEGAL, schedule=name, vpp=chunks, stage_layers=(8 // chunks,) * 4 * chunks)
    assert problems(SETTING, asked) == runtime_problems(SETTING, asked) == []


@pytest.mark.parametrize(
    ("changed", "field", "rule", "fix"),
    [
        ({"schedule": "zb-v"}, "--pin schedule", "needs 2 virtual stages a rank", "vpp=2"),
        ({"schedule": "looped-bfs"}, "--pin schedule", "needs at least 2 virtual stages a rank", "vpp=2"),
        (
            {"schedule": "zb-v", "vpp": 3, "stage_layers": (3,) * 8 + (2,) * 4},
            "--pin vpp",
            "only interleaved, looped-bfs can have 3 virtual stages a rank, not zb-v",
            "vpp=2",
        ),
        (
            {"schedule": "zb-h1", "vpp": 2, "stage_layers": (4,) * 8},
            "--pin vpp",
            "only dualpipev, interleaved, looped-bfs, zb-v can have 2 virtual stages a rank, not zb-h1",
            "schedule=interleaved",
        ),
        (
            {"schedule": "interleaved", "vpp": 2, "stage_layers": (4,) * 8, "microbatches": 2, "microbatch": 4},
            "--pin pp",
            "microbatches (2) must be a multiple of pp in the interleaved schedule",
            "pp=2",
        ),
        (
            {
                "schedule": "zb-h1",
                "mesh": Mesh(dp=16),
                "stage_layers": (32,),
                "microbatches": 2,
                "recompute": ("none",),
            },
            "--pin schedule",
            "needs a pipeline",
            "pp=2",
        ),
        ({"in_flight": (2, 2)}, "--pin in_flight", "must hold one number, or one for each of 4 ranks", "in_flight=1"),
        (
            {**{name: getattr(VEE, name) for name in ("schedule", "vpp", "stage_layers")}, "in_flight": (2, 2, 1, 2)},
            "--pin in_flight",
            "a rank must hold a microbatch for each of its virtual stages (2)",
            "in_flight=2",
        ),
    ],
    ids=str,
)
def test_what_a_schedule_does_not_do(changed: dict[str, Any], field: str, rule: str, fix: str) -> None:
    found = problems(SETTING, replace(LEGAL, **changed))
    assert [(problem.field, problem.rule, problem.fix) for problem in found] == [(field, rule, fix)]


def test_limits_are_legal_down_to_one_microbatch_a_stage() -> None:
    assert is_legal(SETTING, replace(VEE, in_flight=(2,)))
    assert is_legal(SETTING, replace(VEE, in_flight=(8, 6, 4, 2)))


def test_a_list_is_for_its_ranks_microbatches_and_stages() -> None:
    listed = replace(VEE, schedule="custom", actions=LISTED)
    assert problems(SETTING, listed) == []
    fewer = replace(listed, microbatches=4, microbatch=2)
    assert [problem.field for problem in problems(SETTING, fewer)] == ["--global-batch"]
    assert "lists 8 microbatches" in problems(SETTING, fewer)[0].rule


def test_the_search_tries_what_is_worth_it() -> None:
    """Split backwards for frameworks that have them; schedules that never win when they are pinned alone."""
    tried = {each.schedule for each in candidates(SETTING, Pins(pp=4))}
    assert tried == {"1f1b", "interleaved", "zb-h1", "zb-v"}
    assert {each.schedule for each in candidates(SETTING, Pins(pp=1))} == {"1f1b"}
    assert {each.vpp for each in candidates(SETTING, Pins(pp=4, schedule="zb-v"))} == {2}
    assert {each.schedule for each in candidates(SETTING, Pins(pp=4, schedule="dualpipev"))} == {"dualpipev"}
    other = replace(SETTING, framework=SETTING.framework.model_copy(update={"splits_backward": False}))
    assert {each.schedule for each in candidates(other, Pins(pp=4))} == {"1f1b", "interleaved"}

"""Serve: a process that solves steps, so that the next one is solved while a step runs.

    python -m meshwright.planner.lengths.serve PLAN

reads a line of lengths, a JSON list, and writes a line with their assignment; ends when its input does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..cost.setting import Setting
from ..families import architecture
from ..frameworks.framework import framework
from ..plan import Plan, load_plan
from .assignment import Assignment, Group, Round
from .predict import prices_with
from .prices import Prices
from .solve import solve


def prices_of_plan(plan: Plan) -> Prices:
    """Prices of a plan's groups. Raises InputError where these cannot be formed."""
    assert plan.mix is not None
    setting = Setting(
        architecture(plan.model), plan.cluster, plan.job, every_device=False, framework=framework(plan.framework)
    )
    return prices_with(setting, plan.configuration, plan.mix)


def assignment_of(prices: Prices, lengths: list[int]) -> Assignment:
    """Sequences, by their place in `lengths`, to groups."""
    return solve(prices.instance(np.array(lengths, dtype=np.int64))).assignment


def to_json(assignment: Assignment) -> list[Any]:
    """Rounds of groups: degree, first lane, sequences, seconds."""
    return [
        [[group.degree, group.first, list(group.sequences), group.seconds] for group in each.groups]
        for each in assignment.rounds
    ]


def from_json(data: list[Any]) -> Assignment:
    """The opposite."""
    return Assignment(
        tuple(
            Round(tuple(Group(degree, first, tuple(chosen), seconds) for degree, first, chosen, seconds in groups))
            for groups in data
        )
    )


def main() -> None:
    """Answer line by line."""
    prices = prices_of_plan(load_plan(Path(sys.argv[1])))
    for line in sys.stdin:
        print(json.dumps(to_json(assignment_of(prices, json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()

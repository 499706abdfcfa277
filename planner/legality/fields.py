"""The fields of a plan file that rules name as options: `--pin tp` is `mesh.tp`, `--seq-len` is `job.seq_len`."""

from __future__ import annotations

import re
from dataclasses import replace

from ...errors import Problem

_IN_PLAN = {
    **{axis: f"mesh.{axis}" for axis in ("pp", "dp", "cp", "tp", "ep", "etp")},
    "vpp": "schedule.vpp",
    "schedule": "schedule.name",
    "in_flight": "schedule.in_flight",
    "--schedule-file": "schedule.actions",
    "microbatches": "schedule.microbatches",
    "--seq-len": "job.seq_len",
    "--precision": "job.precision",
    "--optimizer": "job.optimizer",
    "--attention": "job.attention",
    "--lengths": "job.lengths",
    "--global-batch": "job.global_batch",
}


def in_plan(problem: Problem) -> Problem:
    """A broken rule in the words of a plan file: `--pin tp`, fix `tp=4`, is `mesh.tp`, fix `mesh.tp=4`."""
    field = problem.field.removeprefix("--pin ")
    name, equals, value = re.sub(r"^(--[a-z-]+) ", r"\1=", problem.fix).partition("=")
    fix = f"{_IN_PLAN.get(name, name)}={value}" if equals else problem.fix
    return replace(problem, field=_IN_PLAN.get(field, field), fix=fix)

"""One rank of a real run fails, is killed or hangs: the job ends soon, and that rank is spoken of first.

The runs have a million steps and 300 s to wait for a peer: one that does not end by the failure ends by the guard.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from parity_table.models import MODELS
from plans import LLAMA, make_plan

import meshwright
from meshwright.planner.plan import Plan

HERE = Path(__file__).parent
GUARD_S = 240.0

slow = pytest.mark.slow
CONTEXT: list[dict[str, Any]] = [
    {"cp": 2},
    {"cp": 2, "cp_algorithm": "ulysses"},
    {"cp": 2, "cp_algorithm": "token-ring"},
    {"cp": 2, "cp_algorithm": "allgather"},
    {"cp": 4, "cp_algorithm": "usp", "cp_ulysses": 2},
]
EXPERTS: list[dict[str, Any]] = [{"dp": 2, "ep": 2}, {"tp": 2, "sp": True, "etp": 2, "ep": 1}]


def plan_of(options: dict[str, Any]) -> Plan:
    """With experts, where these are spread."""
    return make_plan(MODELS["mixtral"] if "ep" in options else LLAMA, **options)


def run(folder: Path, options: dict[str, Any], chaos: str, *more: str) -> subprocess.CompletedProcess[str]:
    """`meshwright launch` of a plan whose rank fails as `chaos` says (see chaos/sitecustomize.py)."""
    plan_of(options).save(folder / "plan.yaml")
    (folder / "text.txt").write_text("".join(f"{n} times {n} is {n * n}.\n" for n in range(2000)))
    path = os.pathsep.join([str(HERE / "chaos"), str(Path(meshwright.__file__).parents[1])])
    environment = {**os.environ, "CHAOS": chaos, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    arguments = ["launch", "plan.yaml", "--run", "run", "--data", "text.txt", "--steps", "1000000", *more]
    command = [sys.executable, "-m", "meshwright", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=GUARD_S)


def report(done: subprocess.CompletedProcess[str]) -> str:
    """What the command says of its failure."""
    assert done.returncode == 1, done.stderr
    return done.stderr[done.stderr.index("error: ") :]


@pytest.mark.parametrize(
    "options",
    [
        {"pp": 2},
        pytest.param({"tp": 2, "sp": True}, marks=slow),
        pytest.param({"dp": 2, "zero": 3}, marks=slow),
        pytest.param({"pp": 2, "schedule": "interleaved", "vpp": 2}, marks=slow),
        pytest.param({"pp": 2, "dp": 2, "tp": 2}, marks=slow),
        *(pytest.param(options, marks=slow) for options in (*CONTEXT, *EXPERTS)),
    ],
    ids=str,
)
def test_an_exception_is_said_in_its_own_words(options: dict[str, Any], tmp_path: Path) -> None:
    done = run(tmp_path, options, "1:4:raise", "--max-restarts", "0")
    world = plan_of(options).configuration.mesh.world
    assert report(done).startswith(f"error: ValueError: chaos as asked\n  on rank 1 of {world}; its log: ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"dp": 2}, {"pp": 2}, {"tp": 2}, CONTEXT[0], EXPERTS[0]], ids=str)
def test_a_killed_rank_is_named(options: dict[str, Any], tmp_path: Path) -> None:
    done = run(tmp_path, options, "1:4:kill", "--max-restarts", "0")
    assert report(done).startswith("error: the worker process was killed by SIGKILL")
    assert "on rank 1 of 2" in report(done)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"dp": 2}, {"pp": 2}, {"tp": 2}], ids=str)
def test_a_hanging_rank_is_named_before_the_one_that_waited(options: dict[str, Any], tmp_path: Path) -> None:
    done = run(tmp_path, options, "1:4:hang", "--max-restarts", "0", "--set", "timeout_s=5")
    assert report(done).startswith("error: rank 1 (process ")
    assert "after step 3; it stands in strike (sitecustomize.py:" in report(done)


@pytest.mark.slow
def test_an_error_that_comes_again_is_not_tried_a_third_time(tmp_path: Path) -> None:
    done = run(tmp_path, {"dp": 2}, "1:4:raise", "--max-restarts", "5")
    assert report(done).startswith("error: ValueError: chaos as asked\n  in two attempts in a row")
    assert len(list(tmp_path.glob("run/logs/*/attempt_*"))) == 2

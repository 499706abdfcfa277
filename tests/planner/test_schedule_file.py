"""Schedule files: what is written is read again, by us and by PyTorch; each fault is told with its row and column."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from schedules import schedules
from torch.distributed.pipelining.schedules import _Action

from meshwright.cli import main
from meshwright.errors import InputError
from meshwright.planner.plan import load_plan
from meshwright.planner.schedule import Schedule, build, zero_bubble_v
from meshwright.planner.schedule.csv_file import cells_of, read_cells, read_csv, write_csv

PLAN = ["plan", "llama-3.2-1b", "dgx-h100:1", "--seq-len", "2048", "--global-batch", "12"]


@settings(max_examples=60, deadline=None)
@given(schedules(most_ranks=4, most_microbatches=6))
def test_cells_say_everything(schedule: Schedule) -> None:
    again = read_cells(cells_of(schedule), "cells")
    assert (again.actions, again.places) == (schedule.actions, schedule.places)
    assert (again.ranks, again.stages, again.microbatches) == (schedule.ranks, schedule.stages, schedule.microbatches)


def test_pytorch_reads_what_is_written(tmp_path: Path) -> None:
    schedule = zero_bubble_v(2, 4)
    write_csv(schedule, tmp_path / "zb-v.csv")
    with (tmp_path / "zb-v.csv").open(newline="") as file:
        rows = [[_Action.from_str(cell) for cell in row] for row in csv.reader(file)]
    assert [[(a.computation_type.value, a.stage_index, a.microbatch_index) for a in row if a] for row in rows] == [
        [tuple(action) for action in row] for row in schedule.actions
    ]


def test_bubbles_and_long_names_are_read() -> None:
    read = read_cells([["0F0", "", " 0FULL_BACKWARD0 "], ["", "1F0", "1BACKWARD_INPUT0", "1BACKWARD_WEIGHT0"]], "cells")
    assert cells_of(read) == (("0F0", "0B0"), ("1F0", "1I0", "1W0"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0F0,nonsense,0B0\n", ["row 1, column 2 = 'nonsense': is no action"]),
        ("0F0,0X0\n1F0,1\n", ["row 1, column 2 = '0X0'", "row 2, column 2 = '1': is no action"]),
        ("0F0,,0B0,0B0\n", ["row 1, column 4 = '0B0': is listed twice"]),
        ("0F0\n", ["row 1 = '0B0': is missing"]),
        ("0B0,0F0\n", ["row 1, column 1 = '0B0': stands before its forward"]),
        ("0F0,0I0\n", ["row 1 = '0W0': is missing"]),
        ("0F0,0W0,0I0\n", ["row 1, column 2 = '0W0': stands before its input gradient"]),
        ("0F0,0B0,1B0\n1F0\n", ["row 1, column 3 = '1B0': is on the wrong rank: stage 1 is on rank 1"]),
        ("0F0,0B0\n\n2F0,2B0\n", ["row 1 = '1F0': is missing", "row 2: a pipeline rank without actions"]),
        (
            "0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n",
            ["row 1, column 2 = '0B0': waits for ever for B s1 m0", "row 2, column 2 = '1F1': waits for ever for F s0"],
        ),
        ("", ["holds no actions"]),
    ],
)
def test_faults_have_their_row_and_column(text: str, told: list[str], tmp_path: Path) -> None:
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(InputError) as wrong:
        read_csv(path)
    problems = [str(problem) for problem in wrong.value.problems]
    for words in told:
        assert any(problem.startswith(words) or words in problem for problem in problems), problems


def _run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["meshwright", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_plan_of_a_file_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan --schedule-file` keeps the actions in the plan; `simulate --schedule-out` writes them again."""
    source, plan, copy = tmp_path / "mine.csv", tmp_path / "plan.yaml", tmp_path / "copy.csv"
    write_csv(zero_bubble_v(2, 3), source)
    assert _run([*PLAN, "--schedule-file", str(source), "--out", str(plan)], monkeypatch) == 0
    loaded = load_plan(plan)
    assert (loaded.schedule.name, loaded.mesh.pp, loaded.schedule.vpp) == ("custom", 2, 2)
    assert build(loaded.configuration).actions == zero_bubble_v(2, 3).actions
    assert _run(["simulate", str(plan), "--schedule-out", str(copy)], monkeypatch) == 0
    assert copy.read_text() == source.read_text()


def test_a_file_prices_as_the_schedule_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, ours, named = (tmp_path / name for name in ("mine.csv", "ours.yaml", "named.yaml"))
    write_csv(zero_bubble_v(2, 3), source)
    pins = ["dp=4", "tp=1", "microbatch=1", "pp=2", "spread_vocabulary=false"]
    pins = [word for pin in pins for word in ("--pin", pin)]
    assert _run([*PLAN, *pins, "--schedule-file", str(source), "--out", str(ours)], monkeypatch) == 0
    assert _run([*PLAN, *pins, "--pin", "schedule=zb-v", "--out", str(named)], monkeypatch) == 0
    assert load_plan(ours).predicted == load_plan(named).predicted


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--pin", "pp=4"], "--pin pp = 4: the schedule file has 2 rows"),
        (["--global-batch", "32"], "--global-batch = 32: the schedule file lists 3 microbatches"),
        (["--pin", "schedule=1f1b"], "--pin schedule = '1f1b': the actions of a schedule file are the schedule"),
        (["--pin", "in_flight=4"], "--pin in_flight = (4,): a custom schedule says itself what ranks hold"),
        (["--pin", "vpp=3"], "--pin vpp = 3: the schedule file gives a rank 2 virtual stages at most"),
    ],
    ids=str,
)
def test_a_file_for_another_configuration(
    options: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_csv(zero_bubble_v(2, 3), tmp_path / "mine.csv")
    monkeypatch.setenv("COLUMNS", "400")
    assert _run([*PLAN, "--schedule-file", str(tmp_path / "mine.csv"), *options], monkeypatch) == 2
    assert told in capsys.readouterr().err


def test_a_plan_with_an_unsound_list_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything starts: the plan does not even load."""
    source, plan = tmp_path / "mine.csv", tmp_path / "plan.yaml"
    write_csv(zero_bubble_v(2, 3), source)
    assert _run([*PLAN, "--schedule-file", str(source), "--out", str(plan)], monkeypatch) == 0
    data = yaml.safe_load(plan.read_text())
    data["schedule"]["actions"][0] = data["schedule"]["actions"][0].replace("0F1,", "")
    plan.write_text(yaml.safe_dump(data))
    monkeypatch.setenv("COLUMNS", "600")
    assert _run(["launch", str(plan), "--steps", "1", "--run", str(tmp_path / "run")], monkeypatch) == 2
    assert "schedule.actions" in (error := capsys.readouterr().err)
    assert "0F1 is missing" in error

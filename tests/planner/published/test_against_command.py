"""`simulate --against` as a command: what it takes, what it refuses, what it writes; the predictions are given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from meshwright import cli
from meshwright.planner.published import against
from meshwright.planner.published.comparison import Comparison

from .runs import table

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Exit code, standard output and standard error of one command line."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["meshwright", "simulate", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return (code, *capsys.readouterr())

    return run


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Predictions without their work; the files that were asked for."""
    asked: list[Path] = []

    def compare(path: Path, workers: int | None, progress: Callable[[int, int], None]) -> tuple[Comparison, ...]:
        asked.append(path)
        progress(1, 1)
        return table()

    monkeypatch.setattr(against, "compare", compare)
    return asked


def test_json_for_programs(command: Command, predicted: list[Path]) -> None:
    code, out, err = command("--against", "runs.csv", "--json")
    assert (code, err, predicted) == (0, "", [Path("runs.csv")])
    data = json.loads(out)
    assert len(data["rows"]) == len(table())
    assert data["summary"]["complete"]["rows"] == 3


@pytest.mark.usefixtures("predicted")
def test_tables_picture_and_report(command: Command, tmp_path: Path) -> None:
    files = [tmp_path / "runs.png", tmp_path / "runs.html"]
    code, out, _ = command("--against", "runs.csv", "--picture", str(files[0]), "--report", str(files[1]))
    assert code == 0
    assert "regret of choosing by prediction" in out
    assert all(path.stat().st_size > 1000 for path in files)


def test_what_is_about_a_plan_is_refused_beside_it(command: Command, predicted: list[Path]) -> None:
    code, _, err = command("plan.yaml", "--against", "runs.csv", "--set", "job.seq_len=1", "--tokens", "1T")
    assert code == 2
    assert "3 problems" in err
    assert all(f"- {name}: is about one plan" in err for name in ("PLAN", "--set", "--tokens"))
    assert predicted == []


def test_one_of_both_is_needed(command: Command) -> None:
    code, _, err = command("--json")
    assert code == 2
    assert "PLAN: is required" in err
    assert "--against" in err


def test_where_to_write_is_checked_before_the_work(command: Command, predicted: list[Path], tmp_path: Path) -> None:
    nowhere = tmp_path / "no"
    code, _, err = command(
        "--against", "r.csv", "--picture", str(tmp_path / "a.bmp"), "--report", str(nowhere / "a.html")
    )
    assert code == 2
    assert "must end in .png or .svg" in err
    assert f"mkdir -p {nowhere}" in err
    assert predicted == []


def test_a_wrong_file_is_the_users_error(command: Command, tmp_path: Path) -> None:
    code, out, err = command("--against", str(tmp_path / "none.csv"), "--json")
    assert code == 2
    assert json.loads(out)["error"]["problems"][0]["field"] == "--against"
    assert "No such file" in err

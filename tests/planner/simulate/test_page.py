"""Every command that docs/simulate.md shows is run, on the plan that its first line makes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from meshwright.cli import main

PAGE = (Path(__file__).parents[3] / "docs" / "simulate.md").read_text()
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    meshwright ")]


def _run(command: str) -> int:
    sys.argv = shlex.split(command)
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the plan lies."""
    found = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found)
        patch.setattr(sys, "argv", [])
        assert _run(COMMANDS[0]) == 0
    return found


def test_the_page_makes_a_plan_first() -> None:
    assert COMMANDS[0].startswith("meshwright plan ")
    assert COMMANDS[0].endswith("--out plan.yaml")
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS[1:]))
def test_command(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [])
    assert _run(command) == 0, capsys.readouterr().err
    assert capsys.readouterr().out

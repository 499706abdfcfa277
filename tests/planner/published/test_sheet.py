"""Files of runs as people have them: what is wrong is named by line and column, all of it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshwright.errors import InputError
from meshwright.planner.published.row import REQUIRED, read_rows
from meshwright.planner.published.sheet import SHOWN, number

HEADER = "row_id,source,gpu,gpus,layers,hidden,heads,seq_len,gbs"
RUN = "a,ours,H100,8,2,64,2,128,8"


def _read(tmp_path: Path, content: str | bytes) -> str:
    """The report of a file that is refused."""
    path = tmp_path / "runs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as refused:
        read_rows(path)
    return str(refused.value)


def test_a_file_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(f'\ufeff{HEADER},step_time_s,their_notes\r\n{RUN},1.5,"two\nlines"\r\n\r\nb{RUN[1:]}\r\n'.encode())
    first, second = read_rows(path)
    assert (first.row_id, first.gpus, first.seq_len, first.step_time_s) == ("a", 8, 128, 1.5)
    assert (second.row_id, second.step_time_s, second.precision) == ("b", None, "")


def test_every_column_that_is_missing_is_named_with_the_nearest(tmp_path: Path) -> None:
    report = _read(tmp_path, f"{HEADER.replace('seq_len', 'seqlen').replace('row_id', 'id')},gpus\n{RUN},8\n")
    for wanted in ("column row_id", "column seq_len: is missing. Try: rename 'seqlen'", "column gpus: is there twice"):
        assert wanted in report


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty"),
        (HEADER, "holds no runs"),
        (b"\x89PNG\r\n\x1a\n", "is not a CSV file"),
        (f'{HEADER}\n"a{RUN}', "is not a CSV file"),
        (f"{HEADER}\n{RUN}\n".replace(",", ";"), "with commas"),
        (f"{HEADER}\n{RUN},9\n", "line 2: has cells without a column"),
        (f"{HEADER}\n\n{RUN}\na,ours,H100,eight,2,64,2,128,8\n", "line 4: gpus = 'eight': must be a number"),
        (f"{HEADER},oom\n{RUN},oon\n", "line 2: oom = 'oon': must be empty or a known outcome; did you mean 'oom'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: str | bytes, told: str) -> None:
    assert told in _read(tmp_path, content)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="--against"):
            read_rows(path)


def test_all_problems_at_once_but_not_thousands(tmp_path: Path) -> None:
    report = _read(tmp_path, f"{HEADER}\na,ours,H100,-8,inf,1.5,nan,128,8\n")
    assert [name in report for name in ("gpus", "layers", "hidden", "heads", "seq_len")] == [True] * 4 + [False]
    report = _read(tmp_path, f"{HEADER}\n" + "a,ours,H100,x,2,64,2,128,8\n" * 1000)
    assert report.count("gpus") == SHOWN
    assert f"and {1000 - SHOWN} more" in report


def test_cells_are_numbers_or_empty() -> None:
    assert number("", whole=True) is None
    assert (number("1e3", whole=True), number("0.5", whole=False)) == (1000, 0.5)
    for wrong in ("x", "nan", "inf", "-1", "1.5"):
        with pytest.raises(ValueError, match="must be"):
            number(wrong, whole=True)


def test_the_columns_that_must_be_there_are_columns() -> None:
    assert ",".join(REQUIRED) == HEADER

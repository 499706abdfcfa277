"""Every mesh trains as one process does: losses, gradients and parameters, in a table (docs/parity.md)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parity_table.document import PATH, document, read_table
from parity_table.memory import PeakMemory, highest
from parity_table.outcome import BARS, Outcome
from parity_table.products import (
    PLAIN,
    all_pairs,
    covered_pairs,
    covering,
    covering_pairs,
    meetings,
    pairs,
    row_of,
    rows,
    singles,
)
from parity_table.row import Row
from parity_table.run import STEPS, reference, run_rows

WRITE = "MESHWRIGHT_WRITE_PARITY"  # set by scripts/parity
ROWS = rows()
SLOW = (pytest.mark.slow,)
MANY, FEW = 2, 5
"""Rows of more processes than two, and products, run for five steps only, but in scripts/parity."""


def is_slow(row: Row) -> bool:
    """Not for a usual run: products of more than three dimensions that need eight processes, too, and chunks on more
    than two, which tests/runtime/test_dispatch.py has block by block."""
    chunked = row.world > MANY and row.name.endswith("in 2 chunks")
    return row.slow or chunked or (row.world > 6 and row.name.count(", ") > 2)


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Of the rows that this run of pytest has selected; those of many processes or values for few steps and without
    memory, unless the table is written."""
    own = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    selected = {item.callspec.params["row"].name for item in own if "row" in item.callspec.params}
    folder = tmp_path_factory.mktemp("parity")
    asked = [row for row in ROWS if row.name in selected]
    if os.environ.get(WRITE):
        return run_rows(asked, folder)
    alone = {row_of(product).name for product in singles()}
    small, large = (
        [row for row in asked if (row.world > MANY or row.name not in alone) == many] for many in (False, True)
    )
    return run_rows(small, folder) | run_rows(large, folder, steps=FEW, memory=False)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name, marks=SLOW[: is_slow(row)]) for row in ROWS])
def test_a_row_trains_as_one_process(row: Row, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[row.name].broken() == []


def test_the_reference_learns() -> None:
    losses = reference(Row("one process"), STEPS).curve.losses
    assert losses[-1] < losses[0] - 0.5


def test_the_written_table_has_these_rows_within_the_bars(outcomes: dict[str, Outcome]) -> None:
    """All that a usual run takes, in the order of the rows; the slow ones where somebody has run them."""
    if os.environ.get(WRITE):
        before = read_table(PATH.read_text()) if PATH.exists() else {}
        PATH.write_text(document(ROWS, outcomes, before))
    written = read_table(PATH.read_text())
    assert {row.name for row in ROWS if not is_slow(row)} <= set(written)
    assert list(written) == [row.name for row in ROWS if row.name in written]
    for cells in written.values():
        assert all(float(cells[name.replace("_", " ")]) <= bar for name, bar in BARS.items())


def test_every_legal_pair_of_values_is_in_a_product() -> None:
    run = set().union(*(pairs(product) for product in covering_pairs()))
    assert run == covered_pairs()
    assert pairs(PLAIN) <= run <= set(all_pairs())


def test_every_value_meets_every_other_dimension_where_that_is_legal() -> None:
    usual = set().union(*(meetings(product) for product in covering()))
    assert usual == set().union(*(meetings(product) for product in covering_pairs()))
    assert len(covering()) < len(covering_pairs()) / 2


@pytest.mark.parametrize(("scaled", "bar"), [("gradient", "first_gradient"), ("parameter", "parameter")])
def test_a_fault_is_seen(scaled: str, bar: str, tmp_path: Path) -> None:
    """One hundredth too much in one gradient, or in one parameter after the last step, on one of two ranks."""
    row = Row("tp2", {"tp": 2})
    found = run_rows([row], tmp_path, steps=2, memory=False, fault=scaled)[row.name]
    assert any(word.startswith(bar) for word in found.broken()), found


def test_a_row_that_fails_costs_no_other(tmp_path: Path) -> None:
    good, bad = Row("good", {"dp": 2}), Row("bad", {"dp": 2, "zero": 3, "pp": 1, "sp": True})
    found = run_rows([good, bad, replace(good, name="after")], tmp_path, steps=1, memory=False)
    assert [bool(found[name].error) for name in ("good", "bad", "after")] == [False, True, False]
    assert "sequence parallelism shares the ranks of tp" in found["bad"].error


def test_the_peak_is_what_tensors_fill() -> None:
    """A megabyte that stays, a second that goes, a third that comes after it."""
    with PeakMemory() as peak:
        kept = [torch.zeros(2**18)]
        torch.zeros(2**18)
        kept.append(torch.zeros(2**18))
    assert 2 * 2**20 <= peak.bytes < 2.1 * 2**20
    assert highest([(1, 10), (2, 5), (1, -10), (2, 7), (3, 1)]) == 15

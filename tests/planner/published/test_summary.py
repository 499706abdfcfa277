"""The figures of `simulate --against`, computed by hand on a table that is small enough for that."""

from __future__ import annotations

import json

import numpy as np
import pytest

from meshwright.planner.published.accuracy import Accuracy, accuracy
from meshwright.planner.published.contract import against_json
from meshwright.planner.published.regret import choices, kendall_tau, regret
from meshwright.planner.published.summary import summarize

from .runs import run, table


def _is(found: Accuracy, rows: int, mape: float, median: float, bias: float, coverage: float) -> None:
    assert found.rows == rows
    figures = (found.mape, found.median, found.bias, found.coverage)
    assert figures == pytest.approx((mape, median, bias, coverage))


def test_step_times_by_hand() -> None:
    summary = summarize(table())
    # errors of a1 a2 a3 b1: +10, +50, -50, -25 %; 10 s lies in 9.9 to 12.1, none of the other three in theirs
    _is(summary.all, 4, mape=1.35 / 4, median=0.375, bias=-0.15 / 4, coverage=0.25)
    _is(summary.complete, 3, mape=1.1 / 3, median=0.5, bias=0.1 / 3, coverage=1 / 3)
    _is(summary.by_source["B"], 1, mape=0.25, median=0.25, bias=-0.25, coverage=0.0)
    _is(summary.by_gpu["H100"], 3, mape=1.1 / 3, median=0.5, bias=0.1 / 3, coverage=1 / 3)
    assert set(summary.complete_by_source) == {"A"}
    assert (summary.rows, summary.duplicates) == (15, 1)


def test_memory_by_hand() -> None:
    memory = summarize(table()).memory
    figures = (memory.mape, memory.median, memory.bias, memory.within_5_percent)
    assert figures == pytest.approx((0.1125, 0.1125, -0.0875, 0.5))
    assert {source: part.rows for source, part in summarize(table()).memory_by_source.items()} == {"A": 1, "B": 1}


def test_what_is_called_fitting_by_hand() -> None:
    found = summarize(table()).out_of_memory
    assert (found.published_oom, found.called_fitting, found.called_fitting_rows) == (2, 1, ("o2",))
    assert (found.crashed_or_oom, found.crashed_called_infeasible) == (3, 1)
    # a1 a2 a3 b1 m1 m2 ran: b2 is not judged, b3 to b5 are skipped
    assert (found.ran, found.ran_called_infeasible_rows) == (6, ("a3",))
    assert found.ran_called_infeasible_share == pytest.approx(1 / 6)


def test_every_skipped_row_keeps_its_reason() -> None:
    assert summarize(table()).skipped == {"LoRA": 2, "the batch is not stated": 1}


def test_regret_by_hand() -> None:
    (choice,) = choices(table())
    assert (choice.chosen, choice.best, choice.configurations) == ("a1", "a2", 3)
    assert choice.regret == pytest.approx(10 / 8 - 1)
    assert choice.chance == pytest.approx(9 / 8 - 1)  # a1 and a2 could be chosen, a3 could not
    # predicted 11 12 10, measured 10 8 20: every one of the three pairs stands the other way round
    assert choice.kendall_tau == -1
    assert choice.throughput == pytest.approx(8 / 10)
    found = summarize(table()).regret
    assert (found.groups, found.mean, found.median, found.worst) == pytest.approx((1, 0.25, 0.25, 0.25))
    assert found.throughput == pytest.approx(0.8)


def test_regret_over_groups() -> None:
    rows = [run("1", 1.0, 5.0, group="x"), run("2", 2.0, 4.0, group="x")]  # chosen 2: twice the time
    rows += [run("3", 1.0, 1.0, group="y"), run("4", 3.0, 2.0, group="y")]  # chosen 3: the best
    rows += [run("5", 3.0, 7.0, group="z"), run("6", 2.0, 7.0, group="z")]  # a tie: the first, 1.5 of the best
    rows += [run("7", 1.0, 1.0, group="alone")]
    rows += [run(name, 1.0, 1.0, group="none", status="infeasible") for name in "89"]
    rows += [run("10", 1.0, 9.0, group="y", judged=False)]
    found = regret(choices(rows))
    assert (found.groups, found.worst) == (3, 1.0)
    assert (found.mean, found.median) == pytest.approx((0.5, 0.5))
    assert found.throughput == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)
    assert found.kendall_tau == pytest.approx((-1 + 1) / 2)  # z only ties: no order to compare


def test_the_order_of_predictions_is_a_correlation_of_signs() -> None:
    """Tau-b is the correlation of the matrices of signs of all differences (Kendall 1948, Daniels' coefficient)."""
    random = np.random.default_rng(0)
    for size in (5, 12, 40):
        first, second = random.integers(0, size, size), random.integers(0, size, size)
        x, y = (np.sign(np.subtract.outer(values, values)) for values in (first, second))
        expected = np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))
        assert kendall_tau(list(first), list(second)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "tau"),
    [
        ([1, 2, 3], [10, 20, 30], 1.0),
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),  # five pairs agree, one does not
        ([1, 1, 2], [1, 2, 3], 2 / 6**0.5),  # two agree; two pairs untied on one side, three on the other
        ([1, 1], [1, 2], None),
    ],
)
def test_the_order_of_predictions(first: list[float], second: list[float], tau: float | None) -> None:
    assert kendall_tau(first, second) == (None if tau is None else pytest.approx(tau))


def test_without_rows_there_are_no_figures() -> None:
    summary = summarize([])
    assert summary.all == Accuracy(0)
    assert (summary.memory.rows, summary.regret.groups, summary.out_of_memory.ran_called_infeasible_share) == (
        0,
        0,
        None,
    )


def test_rows_without_an_interval_are_outside_of_coverage() -> None:
    assert accuracy([0.1, -0.1], [True]).coverage == 1.0
    assert accuracy([0.1]).coverage is None


def test_json_holds_the_contract() -> None:
    data = json.loads(json.dumps(against_json(table()), allow_nan=False))
    assert set(data) == {"rows", "summary"}
    assert [row["row_id"] for row in data["rows"]] == [row.row_id for row in table()]
    assert set(data["rows"][0]) >= {
        "row_id", "source", "status", "reason", "complete", "measured_step_time_s", "predicted_step_time_s",
        "interval_s", "error", "measured_peak_memory_gb", "predicted_peak_memory_gb", "assumptions", "judged",
    }  # fmt: skip
    assert data["rows"][0]["error"] == pytest.approx(0.1)
    assert data["rows"][0]["interval_s"] == pytest.approx([9.9, 12.1])
    skipped = data["rows"][5]
    assert (skipped["status"], skipped["reason"], skipped["error"], skipped["interval_s"]) == (
        "skipped",
        "LoRA",
        None,
        None,
    )
    summary = data["summary"]
    keys = {"rows", "mape", "median", "bias", "coverage"}
    for part in (summary["all"], summary["by_source"]["A"], summary["by_gpu"]["A100"]):
        assert set(part) == keys
    assert set(summary["complete"]) == keys | {"by_source"}
    assert set(summary["memory"]) == {"rows", "mape", "median", "bias", "within_5_percent", "by_source"}
    assert summary["out_of_memory"]["called_fitting_rows"] == ["o2"]
    assert summary["regret"]["by_source"]["A"]["mean"] == pytest.approx(0.25)
    assert summary["regret"]["throughput"] == summary["regret"]["choices"][0]["throughput"] == pytest.approx(0.8)
    assert (summary["skipped"], summary["duplicates"]) == ({"LoRA": 2, "the batch is not stated": 1}, 1)

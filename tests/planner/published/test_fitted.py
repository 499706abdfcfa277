"""Fitting: costs that made the step times of made-up runs are found again, noise and stalled runs notwithstanding."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from meshwright.planner.frameworks.framework import Costs, Framework, framework
from meshwright.planner.published.fit import (
    PRIOR,
    Run,
    _fold,
    _residuals,
    fitted,
    predicted_s,
    spread_of,
    usable_runs,
)
from meshwright.planner.published.row import Row

TRUE = Costs(
    matmul=0.7,
    attention=0.8,
    elementwise=1.5,
    tensor=1.1,
    network=1.2,
    steal=0.1,
    host_layer_s=1.2e-3,
    host_microbatch_s=1e-3,
    step_s=1e-2,
)


def row(hidden: int, seq_len: int, tp: int, **changes: object) -> Row:
    """A Llama on eight H100, data parallel beside tensor parallel."""
    sizes = {"layers": 2, "hidden": hidden, "ffn_hidden": 4 * hidden, "heads": hidden // 128, "vocab": 1024}
    layout = {"tp": tp, "pp": 1, "dp": 8 // tp, "gpus": 8, "mbs": 1, "gbs": 16, "zero_stage": 1, "sp": int(tp > 1)}
    names = {"source": "S", "gpu": "H100-80GB", "framework": "Megatron-LM", "year": 2024, "mlp": "swiglu"}
    known = {"row_id": f"{hidden} {seq_len} {tp}", "seq_len": seq_len, "recompute": "none", "precision": "bf16"}
    return Row(**(sizes | layout | names | known | {"step_time_s": 1.0} | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base() -> Framework:
    return framework("megatron-core")


@pytest.fixture(scope="module")
def runs(base: Framework) -> list[Run]:
    """From host-bound to compute-bound, timed by the model itself under TRUE with two percent of noise."""
    under, noise = base.model_copy(update={"costs": TRUE, "fitted_on": "h100", "on": {}}), random.Random(1)
    shapes = product((512, 2048, 8192), (512, 2048, 8192), (1, 4), (2, 12))
    rows = [row(hidden, seq_len, tp, layers=layers) for hidden, seq_len, tp, layers in shapes]
    made = usable_runs(rows)["megatron-core"]
    return [replace(run, measured_s=predicted_s(run, under) * noise.lognormvariate(0, 0.02)) for run in made]


def test_known_costs_are_found_again(runs: list[Run], base: Framework) -> None:
    """The figures that these runs determine; the others stay near their prior, which is theirs."""
    found = fitted(runs, base)
    assert found.costs.matmul == pytest.approx(0.7, rel=0.05)
    assert found.costs.host_layer_s == pytest.approx(1.2e-3, rel=0.15)
    assert np.median(np.abs(_residuals(runs, found))) < 0.03
    assert found.on == {}
    assert found.keeps == base.keeps


def test_a_few_stalled_runs_pull_little(runs: list[Run], base: Framework) -> None:
    stalled = [replace(run, measured_s=5 * run.measured_s) if index % 8 == 3 else run for index, run in enumerate(runs)]
    assert fitted(stalled, base).costs.matmul == pytest.approx(0.7, rel=0.08)


def test_without_runs_figures_stay_at_their_prior(runs: list[Run], base: Framework) -> None:
    """One run that the prior explains exactly."""
    prior = {name: value for name, value in PRIOR.items() if name in TRUE.model_dump()}
    costs = Costs(**{**prior, "experts": 1, "dispatch": 1, "host_moe_s": 0})
    explained = base.model_copy(update={"costs": costs, "fitted_on": "h100", "on": {}})
    only = [replace(runs[0], measured_s=predicted_s(runs[0], explained))]
    assert fitted(only, base).costs.matmul == pytest.approx(PRIOR["matmul"], rel=0.01)


def test_runs_that_repeat_contradict_or_cannot_be_priced_are_left_out() -> None:
    rows = [
        row(1024, 512, 1, row_id="a", dup_group="g"),
        row(1024, 512, 1, row_id="b", dup_group="g"),
        row(1024, 512, 1, row_id="c", consistent="no"),
        row(1024, 512, 1, row_id="d", step_time_s=None),
        row(1024, 512, 1, row_id="e", gpu="TPUv4"),
        row(1024, 512, 1, row_id="f", framework="nanotron"),
    ]
    found = usable_runs(rows)
    assert {name: [run.row.row_id for run in runs] for name, runs in found.items()} == {
        "megatron-core": ["a"],
        "nanotron": ["f"],
    }


def test_sources_are_left_out_whole_and_groups_where_there_is_one_source(runs: list[Run]) -> None:
    run = runs[0]
    assert _fold(run, by_source=True) == "S"
    same = replace(run, row=replace(run.row, row_id="other", mbs=2))
    assert _fold(run, by_source=False) == _fold(same, by_source=False)
    folds = {_fold(replace(run, row=replace(run.row, gpus=gpus)), by_source=False) for gpus in range(8, 800, 8)}
    assert len(folds) == 5


def test_the_spread_holds_nine_in_ten_and_never_closes() -> None:
    residuals = np.log(np.linspace(0.5, 1.5, 1001))
    spread = spread_of(residuals)
    measured_over_predicted = np.exp(-residuals)
    inside = (measured_over_predicted >= spread.low) & (measured_over_predicted <= spread.high)
    assert inside.mean() == pytest.approx(0.9, abs=0.01)
    assert spread_of(np.zeros(10)).model_dump() == {"low": 0.95, "high": 1.05}

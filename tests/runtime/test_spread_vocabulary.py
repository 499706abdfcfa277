"""Embedding and output layer spread over the ranks of a pipeline: the same training as on one device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import workers
from families import DENSE
from harness import run_ranks
from oracle import reference_model
from parity_table.outcome import Outcome
from parity_table.row import Row
from parity_table.run import run_rows
from plans import LLAMA, make_plan
from training_ranks import export_untrained, save_then_change
from transformers import AutoModelForCausalLM

from meshwright.runtime.build import build_model

STEPS = 2
ODD = {**LLAMA, "vocab_size": 251}
FEW = {**LLAMA, "vocab_size": 10}  # over four ranks: 3, 3, 3, 1
GPT2 = DENSE["gpt2"]
GEMMA2 = {**DENSE["gemma2"], "pad_token_id": None}  # transformers keeps the row of padding as it is
IN_A_V: dict[str, Any] = {"vpp": 2, "stage_layers": (1, 1, 1, 2)}
V: dict[str, Any] = {"schedule": "zb-v", **IN_A_V}

ROWS: dict[str, dict[str, Any]] = {
    "pp2": {"pp": 2},
    "pp2 tied, uneven, microbatches of 1": {"pp": 2, "tied": True, "config": ODD, "microbatch": 1},
    "pp2 interleaved": {"pp": 2, "schedule": "interleaved", "vpp": 2, "microbatch": 1},
    "pp2 zb-h1, chunks": {"pp": 2, "schedule": "zb-h1", "microbatch": 1, "logits_chunks": 3, "config": ODD},
    "pp2 zb-v tied": {"pp": 2, "microbatch": 1, "tied": True, **V},
    "pp2 gpipe": {"pp": 2, "schedule": "gpipe"},
    "pp2 dualpipev": {"pp": 2, "microbatch": 1, "schedule": "dualpipev", **IN_A_V},
    "pp2 looped-bfs, selective": {
        "pp": 2,
        "microbatch": 1,
        "schedule": "looped-bfs",
        "vpp": 2,
        "recompute": "selective",
    },
    "pp2 offload": {"pp": 2, "offload": 1.0},
    "pp2 gpt2": {"pp": 2, "config": GPT2},
    "pp2 gemma2, fewer held": {"pp": 2, "config": GEMMA2, "microbatch": 1, "in_flight": (2,)},
    "pp3 1f1b, fewer microbatches than stages": {"pp": 3, "microbatch": 4},
    "pp4": {"pp": 4, "microbatch": 1, "config": FEW},
    "pp2 tp2": {"pp": 2, "tp": 2, "config": ODD},
    "pp2 tp2 sp tied, chunks": {"pp": 2, "tp": 2, "sp": True, "tied": True, "logits_chunks": 2},
    "pp2 tp2 sp gpt2": {"pp": 2, "tp": 2, "sp": True, "config": GPT2},
    "pp2 dp2 zero1": {"pp": 2, "dp": 2, "zero": 1, "config": ODD},
    "pp2 dp2 zero0 tied": {"pp": 2, "dp": 2, "zero": 0, "tied": True},
    "pp2 dp2 experts": {"pp": 2, "dp": 2, "ep": 2, "zero": 1, "model": "mixtral"},
    "pp2 cp2": {"pp": 2, "cp": 2, "zero": 1},
    "pp2 cp2 zb-v, recompute": {"pp": 2, "cp": 2, "zero": 0, "recompute": "full", "microbatch": 1, **V},
}


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Of the rows that this run of pytest has selected: equal worlds share their processes."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    names = [call.params["name"] for call in calls if call is not None and call.params.get("name") in ROWS]
    rows = [Row(name, {**ROWS[name], "spread_vocabulary": True}) for name in names]
    return run_rows(rows, tmp_path_factory.mktemp("spread"), steps=STEPS, memory=False)


@pytest.mark.parametrize("name", ROWS)
def test_spread_vocabulary_equals_one_device(name: str, outcomes: dict[str, Outcome]) -> None:
    assert outcomes[name].broken() == []


@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_moves_to_other_plans_and_back(tied: bool, tmp_path: Path) -> None:
    """Between plans that spread the vocabulary over two ranks or four, and others that do not."""
    config = {**ODD, "tie_word_embeddings": tied}
    plans = [
        make_plan(config, pp=2, dp=2, spread_vocabulary=True),
        make_plan(config, pp=2, tp=2),
        make_plan(config, pp=2, tp=2, sp=True, spread_vocabulary=True),
    ]
    alone = dict(build_model(make_plan(config), torch.device("cpu"), seed=3).named_parameters())
    for number, (before, after) in enumerate([(plans[0], plans[1]), (plans[1], plans[2]), (plans[2], plans[0])]):
        run_ranks(4, workers.save, before, 3, tmp_path / str(number))
        for found in run_ranks(4, workers.load, after, tmp_path / str(number)):
            for name, value in found:
                assert torch.equal(torch.tensor(value), alone[name]), name


def test_moments_are_saved_and_restored(tmp_path: Path) -> None:
    plan = make_plan(ODD, pp=2, dp=2, spread_vocabulary=True)
    assert all(run_ranks(4, save_then_change, tmp_path, plan))


@pytest.mark.parametrize("options", [{"pp": 2}, {"pp": 2, "tp": 2, "tied": True}, {"pp": 2, "dp": 2}], ids=str)
def test_an_export_is_a_whole_model(options: dict[str, Any], tmp_path: Path) -> None:
    row = Row("", {**options, "config": ODD, "spread_vocabulary": True})
    run_ranks(row.world, export_untrained, tmp_path / "final", row.plan, 40_000)
    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "final", dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    expected = dict(reference_model(row.config).named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in loaded.named_parameters())

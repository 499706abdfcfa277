"""Head and loss in chunks: the same training, and logits that never exist at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import chunk_ranks
import pytest
from harness import run_ranks
from parity import assert_same
from plans import LLAMA, make_plan

TIED = {**LLAMA, "tie_word_embeddings": True}
MESHES: dict[str, dict[str, Any]] = {
    "alone": {"logits_chunks": 4},
    "dp2 zero3": {"logits_chunks": 3, "dp": 2, "zero": 3},
    "tp2 sp": {"logits_chunks": 4, "tp": 2, "sp": True, "microbatch": 4},
    "pp2 tp2": {"logits_chunks": 4, "pp": 2, "tp": 2, "microbatch": 4},
}


@pytest.mark.parametrize("name", MESHES)
def test_chunks_equal_one_device(name: str, tmp_path: Path) -> None:
    assert_same(LLAMA, MESHES[name], 5, tmp_path)


@pytest.mark.parametrize("options", [{"tp": 2}, {"pp": 2}], ids=str)
def test_tied_chunks_equal_one_device(options: dict[str, int], tmp_path: Path) -> None:
    assert_same(TIED, {**options, "logits_chunks": 4, "microbatch": 4}, 5, tmp_path)


@pytest.mark.parametrize("tp", [1, 2])
def test_no_tensor_is_as_large_as_the_logits(tp: int) -> None:
    """A model of which nothing else comes near: 64 tokens of 8 numbers, and 4096 ids."""
    narrow = {**LLAMA, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 4096}
    options = {"tp": tp, "seq_len": 64, "microbatch": 1, "global_batch": 1}
    whole = 64 * 4096 // tp
    for largest, _ in run_ranks(tp, chunk_ranks.step, make_plan(narrow, **options)):
        assert largest == whole
    for largest, _ in run_ranks(tp, chunk_ranks.step, make_plan(narrow, **options, logits_chunks=8)):
        assert largest == max(whole // 8, 8 * 4096 // tp)


def test_the_peak_falls_as_the_planner_says() -> None:
    """By seven eighths of the logits, of which the loss holds three in fp32 at its fullest; a gradient of the weight
    stays from forward to backward."""
    config = {**LLAMA, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 2048}
    options = {"seq_len": 256, "microbatch": 2, "global_batch": 2}
    ((_, whole),) = run_ranks(1, chunk_ranks.step, make_plan(config, **options))
    ((_, chunked),) = run_ranks(1, chunk_ranks.step, make_plan(config, **options, logits_chunks=8))
    logits = 4 * 512 * 2048
    assert (whole - chunked) / logits == pytest.approx(3 * 7 / 8, rel=0.15)

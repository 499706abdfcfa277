"""Silent corruption: what hashes of files do not see, checksums of tensors do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from families import GPT2
from harness import RankError, run_ranks
from moe_families import DEEPSEEK_V3, MIXTRAL
from plans import LLAMA, make_plan
from training_ranks import flip_after_reading, save_after_a_flip, save_and_read

from meshwright.runtime.manifest import complete_checkpoints, read_manifest

REPLICATED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tp with sp": (LLAMA, {"tp": 2, "sp": True, "dp": 2, "zero": 0}),
    "tp without sp": (LLAMA, {"tp": 4, "precision": "bf16"}),
    "cp": (LLAMA, {"cp": 2, "dp": 2, "zero": 0}),
    "tied ends": (GPT2, {"pp": 2, "dp": 2, "zero": 0}),
    "experts": (MIXTRAL, {"dp": 2, "tp": 2, "sp": True, "ep": 2, "etp": 2, "zero": 0}),
    "experts with a bias": (DEEPSEEK_V3, {"tp": 2, "sp": True, "dp": 2, "ep": 4, "zero": 0}),
}


@pytest.mark.parametrize("name", REPLICATED)
def test_replicas_of_every_kind_agree_to_the_last_bit(name: str, tmp_path: Path) -> None:
    config, levers = REPLICATED[name]
    assert all(run_ranks(4, save_and_read, tmp_path, make_plan(config, **levers), timeout_s=120))


def test_replicas_that_differ_in_one_bit_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(RankError, match=r"replicas of model\..* differ: .* on ranks 0; 1; memory"):
        run_ranks(2, save_after_a_flip, tmp_path, make_plan(LLAMA, dp=2, zero=0))
    assert complete_checkpoints(tmp_path) == []


def test_what_is_read_otherwise_than_it_was_saved_is_refused(tmp_path: Path) -> None:
    found = run_ranks(2, flip_after_reading, tmp_path, make_plan(LLAMA, dp=2))
    assert all("step-00000002 was read to other values than were saved: ['model." in said for said in found), found
    (folder,) = complete_checkpoints(tmp_path)
    manifest = read_manifest(folder)
    assert len(manifest.tensors) % 3 == 0  # of every parameter itself and its two moments
    assert {name.split(".")[0] for name in manifest.tensors} == {"model", "optimizer"}


def test_replicas_that_are_read_differently_are_refused_on_all_ranks(tmp_path: Path) -> None:
    found = run_ranks(2, flip_after_reading, tmp_path, make_plan(LLAMA, dp=2, zero=0))
    assert all("other values than were saved: ['replicas of model." in said for said in found), found

"""Exported models against `transformers`: the files load, and the logits are equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import run_ranks
from moe_families import DEEPSEEK_V3
from oracle import reference_model
from plans import LLAMA, make_plan
from safetensors import safe_open
from safetensors.torch import load_file
from training_ranks import export_untrained, logits_of_export
from transformers import AutoModelForCausalLM

TIED = {**LLAMA, "tie_word_embeddings": True}
MESHES: list[dict[str, Any]] = [{"microbatch": 8}, {"dp": 2, "zero": 3}, {"pp": 2, "tp": 2, "stage_layers": (4, 1)}]


def load(folder: Path) -> Any:
    model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(report.values())
    return model


@pytest.mark.parametrize("config", [LLAMA, TIED], ids=["untied", "tied"])
@pytest.mark.parametrize("options", MESHES, ids=["one process", "dp2", "pp2 tp2"])
def test_transformers_computes_the_same_logits(tmp_path: Path, config: dict[str, Any], options: dict[str, Any]) -> None:
    plan = make_plan(config, **options)
    run_ranks(plan.configuration.mesh.world, export_untrained, tmp_path / "final", plan, 10**9)
    tokens = torch.randint(0, 256, (2, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = load(tmp_path / "final")(tokens).logits
        expected = reference_model(config)(tokens).logits
    ours = logits_of_export(tmp_path / "final", make_plan(config, microbatch=8), tokens)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("options", MESHES, ids=["one process", "dp2", "pp2 tp2"])
def test_large_models_become_numbered_files_with_an_index(tmp_path: Path, options: dict[str, Any]) -> None:
    plan, limit = make_plan(TIED, **options), 200_000
    run_ranks(plan.configuration.mesh.world, export_untrained, tmp_path / "final", plan, limit)
    index = json.loads((tmp_path / "final" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "final").glob("*.safetensors"))
    assert files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    assert len(files) > 3
    held = {name: file for file in files for name in load_file(tmp_path / "final" / file)}
    assert held == index["weight_map"]
    assert all((tmp_path / "final" / file).stat().st_size < limit + 10_000 for file in files)
    tensors = [tensor for file in files for tensor in load_file(tmp_path / "final" / file).values()]
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors)
    assert sum(tensor.numel() for tensor in tensors) == sum(p.numel() for p in load(tmp_path / "final").parameters())


def test_a_bf16_job_is_stored_in_bf16(tmp_path: Path) -> None:
    run_ranks(1, export_untrained, tmp_path / "final", make_plan(LLAMA, microbatch=8, precision="bf16"), 10**9)
    with safe_open(tmp_path / "final" / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "final").dtype == torch.bfloat16


def test_corrections_of_routers_are_stored_as_transformers_has_them(tmp_path: Path) -> None:
    plan = make_plan(DEEPSEEK_V3, microbatch=8, precision="bf16")
    run_ranks(1, export_untrained, tmp_path / "final", plan, 50_000)
    folder = tmp_path / "final"
    stored = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).state_dict()
    assert torch.float32 in {loaded[name].dtype for name in stored if name in loaded}
    assert all(stored[name].dtype == loaded[name].dtype for name in stored if name in loaded)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in stored.values())

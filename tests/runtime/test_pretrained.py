"""Weights that `transformers` saved, in any mesh and back again: equal logits, equal bits, no byte too much read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from expert_placements import placed
from families import DENSE, GPT2, LATENT, QWEN2
from harness import run_ranks
from moe_families import FAMILIES
from oracle import shake
from plans import LLAMA, make_plan
from pretrained_ranks import load_and_export, load_everywhere
from safetensors.torch import load_file, save_file
from training_ranks import run_training
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from meshwright import runs
from meshwright.errors import InputError
from meshwright.runtime.build import build_model
from meshwright.runtime.data import Samples
from meshwright.runtime.launch import check_all
from meshwright.runtime.pretrained import check_pretrained, load_pretrained
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.recipe_checks import recipe_problems
from meshwright.runtime.rendezvous import Rendezvous
from meshwright.runtime.run_folder import RunFolder, differences
from meshwright.runtime.tokens import prepare_tokens
from meshwright.runtime.weights import Weights

MOE = {name: config for name, config in FAMILIES.items() if "," not in name}
CONFIGS = DENSE | LATENT | MOE
MOE_MESHES: list[dict[str, Any]] = [
    {"tp": 2, "sp": True, "dp": 2, "ep": 2, "etp": 2, "zero": 3},
    {"pp": 2, "tp": 2, "sp": True, "ep": 2, "zero": 0, "microbatch": 4},
    {"dp": 4, "ep": 2, "zero": 1},
]
MESHES: list[dict[str, Any]] = [
    {"tp": 4, "microbatch": 8, "zero": 0},
    {"pp": 2, "tp": 2, "sp": True, "zero": 0},
    {"dp": 2, "tp": 2, "zero": 3},
]
TOKENS = torch.randint(0, 251, (2, 32), generator=torch.Generator().manual_seed(1))


def moe_meshes(config: dict[str, Any]) -> list[dict[str, Any]]:
    """And experts in other slots, where no groups forbid it some of them twice."""
    replicas = 0 if "n_group" in config else 2
    return [*MOE_MESHES, {"dp": 4, "zero": 1, **placed(config, 2, replicas)}]


def save(config: dict[str, Any], folder: Path, **options: Any) -> PreTrainedModel:
    """A random model, written by transformers."""
    settings = AutoConfig.for_model(**config, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "inv_freq" not in name and name != "model.embed_tokens.embed_scale":
                tensor.copy_(shake(name, tensor))
    model.save_pretrained(folder, **options)
    return model


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("family", CONFIGS)
def test_weights_go_into_every_mesh_and_out_again(family: str, tmp_path: Path) -> None:
    """Logits are those of transformers, a rank reads the bytes that it holds, and bits come out as they went in."""
    config, tokens, theirs = CONFIGS[family], TOKENS % CONFIGS[family]["vocab_size"], tmp_path / "theirs"
    model = save(config, theirs, max_shard_size="100KB")
    assert check_pretrained(theirs, config) == []
    with torch.no_grad():
        expected = model(tokens).logits
    plans = [make_plan(config, **options) for options in (moe_meshes(config) if family in MOE else MESHES)]
    for found in zip(*run_ranks(4, load_everywhere, plans, theirs, tokens, tmp_path), strict=True):
        for logits, read, held in found:
            assert read == held
            torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-4, atol=1e-4)
    before = tensors(theirs)
    for ours in (tmp_path / str(number) for number in range(len(plans))):
        after = tensors(ours)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "0", output_loading_info=True)
    assert not any(report.values())
    assert again.dtype == torch.float32


@pytest.mark.parametrize(
    "options",
    [
        {"pp": 2, "tp": 2, "spread_vocabulary": True, "zero": 0},
        {"dp": 4, "dp_replicate": 2, "zero": 3, "microbatch": 1},
        {"dp": 2, "tp": 2, "swap_layers": 2, "zero": 3, "microbatch": 4},
    ],
    ids=["spread vocabulary", "hybrid shards", "swapped layers"],
)
def test_wherever_a_plan_keeps_weights_they_are_loaded_and_written(options: dict[str, Any], tmp_path: Path) -> None:
    save(LLAMA, tmp_path / "theirs")
    run_ranks(4, load_and_export, make_plan(LLAMA, **options), tmp_path / "theirs", tmp_path / "ours")
    theirs, ours = tensors(tmp_path / "theirs"), tensors(tmp_path / "ours")
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_rank_reads_its_part_alone(config: dict[str, Any], tmp_path: Path) -> None:
    """Exactly the bytes that it holds; a vector that several ranks hold is read by each."""
    save(config, tmp_path)
    plans = [make_plan(config, **options) for options in MESHES]
    total = sum(tensor.nbytes for tensor in tensors(tmp_path).values())
    ranks = run_ranks(4, load_everywhere, plans, tmp_path, TOKENS)
    for rank in ranks:
        for _, read, held in rank:
            assert read == held
            assert read < 0.4 * total


def test_numbers_are_converted(tmp_path: Path) -> None:
    model = save(LLAMA, tmp_path / "half")
    model.bfloat16().save_pretrained(tmp_path / "half")
    plan = make_plan(LLAMA, zero=0)
    ((logits, read, held),) = run_ranks(1, load_everywhere, [plan], tmp_path / "half", TOKENS)[0]
    assert read == held // 2
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(logits), model.float()(TOKENS).logits, rtol=1e-4, atol=1e-4)


def test_files_of_a_model_without_its_head(tmp_path: Path) -> None:
    """OpenAI's GPT-2 files: no prefix, and the masks of an old implementation."""
    model = save(GPT2, tmp_path)
    named = {name.removeprefix("transformer."): tensor for name, tensor in tensors(tmp_path).items()}
    save_file({**named, "h.0.attn.bias": torch.ones(1, 1, 64, 64)}, tmp_path / "model.safetensors")
    assert check_pretrained(tmp_path, GPT2) == []
    ((logits, _, _),) = run_ranks(1, load_everywhere, [make_plan(GPT2, zero=0)], tmp_path, TOKENS)[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(logits), model(TOKENS).logits, rtol=1e-4, atol=1e-4)


def test_a_tied_head_in_the_files_is_left_out(tmp_path: Path) -> None:
    save(QWEN2, tmp_path)
    held = tensors(tmp_path)
    save_file({**held, "lm_head.weight": held["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors")
    assert check_pretrained(tmp_path, QWEN2) == []
    untied = {**QWEN2, "tie_word_embeddings": False}
    assert check_pretrained(tmp_path, untied) == []


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    save(LLAMA, tmp_path)
    held = tensors(tmp_path)
    missing = held.pop("model.norm.weight")
    held["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 64)
    held["model.layers.1.mlp.up_proj.weight"] = held["model.layers.1.mlp.up_proj.weight"].to(torch.float8_e4m3fn)
    held |= {f"extra.{i}": missing.clone() for i in range(7)}
    save_file(held, tmp_path / "model.safetensors")
    found = {problem.field: problem.rule for problem in check_pretrained(tmp_path, LLAMA)}
    assert "missing" in found["model.norm.weight"]
    assert "must be [128, 64]" in found["model.layers.0.mlp.up_proj.weight"]
    assert "must be float32" in found["model.layers.1.mlp.up_proj.weight"]
    assert "not in the model" in found["extra.0"]
    assert len(found) == 3 + 5 + 1  # the last says how many more there are
    recipe = Recipe(steps=1, init_from=str(tmp_path), data=str(tmp_path / "none"))
    with pytest.raises(InputError) as caught:
        check_all(make_plan(LLAMA, zero=0), recipe, tmp_path / "run", Rendezvous())
    assert {"recipe: model.norm.weight", "recipe: data"} <= {problem.field for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "init_from"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x05\x00"), "model.safetensors"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "model.safetensors.index.json"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"lm_head.weight": "gone.safetensors"}})
            ),
            "gone.safetensors",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"another": "model.safetensors"}})
            ),
            "model.safetensors",
        ),
    ],
    ids=["no file", "damaged file", "damaged index", "missing file", "wrong index"],
)
def test_files_that_are_none(damage: Any, field: str, tmp_path: Path) -> None:
    save(LLAMA, tmp_path)
    damage(tmp_path)
    (problem,) = check_pretrained(tmp_path, LLAMA)
    assert (problem.field, problem.value) == (field, str(tmp_path))


def test_training_begins_with_pretrained_weights_and_goes_on_from_checkpoints(tmp_path: Path) -> None:
    model = save(LLAMA, tmp_path / "weights")
    (tmp_path / "text.txt").write_text("one and two are three\n" * 500)
    plan = make_plan(LLAMA, tp=2, global_batch=8)
    recipe = Recipe(steps=4, data=str(tmp_path / "text.txt"), init_from=str(tmp_path / "weights"), lr=1e-2)
    run_ranks(2, run_training, tmp_path / "run", plan, recipe, 1)
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(tmp_path / "weights")
    assert recipe_problems(plan, recipe, RunFolder(tmp_path / "other")) != []
    assert recipe_problems(plan, recipe, RunFolder(tmp_path / "run")) == []
    run_ranks(2, run_training, tmp_path / "run", plan, recipe)
    again = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert again[: len(metrics)] == metrics
    assert len(again) > len(metrics)
    assert metrics[0]["loss"] == pytest.approx(_first_loss(model, tmp_path / "run", recipe), rel=1e-4)


def _first_loss(model: PreTrainedModel, run: Path, recipe: Recipe) -> float:
    samples = Samples(prepare_tokens(recipe, run / "data").open(), 32, 0)
    batch = torch.from_numpy(samples.batch(range(8)))
    with torch.no_grad():
        logits = model(batch[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).item()


def test_other_weights_are_another_run() -> None:
    plan = make_plan(LLAMA, zero=0)
    (problem,) = differences(plan, plan, Recipe(steps=1), Recipe(steps=1, init_from="weights"))
    assert problem.field == "recipe.init_from"


def test_weights_bring_their_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    given = runs.with_tokenizer({"init_from": str(tmp_path)})
    assert given["tokenizer"] == str(tmp_path / "tokenizer.json")
    assert runs.with_tokenizer({"init_from": str(tmp_path), "tokenizer": "bytes"})["tokenizer"] == "bytes"
    assert "tokenizer" not in runs.with_tokenizer({"init_from": str(tmp_path / "other")})


def test_a_slice_is_counted(tmp_path: Path) -> None:
    save_file({"a": torch.arange(12, dtype=torch.float32).view(3, 4)}, tmp_path / "model.safetensors")
    weights = Weights(tmp_path)
    assert weights.read("a", (slice(1, 3), slice(0, 2))).tolist() == [[4, 5], [8, 9]]
    assert weights.read_bytes == 16


def test_loading_another_model_says_which_tensor(tmp_path: Path) -> None:
    save(LLAMA, tmp_path)
    model = build_model(make_plan({**LLAMA, "intermediate_size": 256}, zero=0), torch.device("cpu"), seed=None)
    with pytest.raises(InputError, match=r"model\.layers\.0\.mlp\.gate_proj"):
        load_pretrained(model, tmp_path)

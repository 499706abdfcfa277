"""Documents of packed sequences: transformers with a block-diagonal mask finds the same loss and gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from context_ranks import train_on_documents, views_found
from harness import run_ranks
from oracle import reference_model, renamed
from plans import LLAMA, make_plan
from tokenizers import Tokenizer, models
from torch import Tensor
from training_ranks import run_training
from workers import batches
from worst import worst

from meshwright.errors import InputError
from meshwright.runtime.documents import documents_of
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.tokens import find_separator

SEPARATOR = 3
MESHES: dict[str, dict[str, Any]] = {
    "one process": {},
    "recompute": {"recompute": "full"},
    "pp2": {"pp": 2},
    "tp2 sp": {"tp": 2, "sp": True},
    "cp2 ring": {"cp": 2},
    "cp2 token-ring recompute": {"cp": 2, "cp_algorithm": "token-ring", "recompute": "full"},
    "cp2 allgather dp2": {"cp": 2, "dp": 2, "cp_algorithm": "allgather"},
    "cp2 ulysses pp2": {"cp": 2, "pp": 2, "cp_algorithm": "ulysses"},
    "cp4 usp": {"cp": 4, "cp_algorithm": "usp", "cp_ulysses": 2},
}


def packed(seq_len: int) -> Tensor:
    """A global batch in which every eighth token or so ends a document."""
    batch = batches(LLAMA["vocab_size"], seq_len, 8, 1)[0]
    ends = torch.rand(batch.shape, generator=torch.Generator().manual_seed(1)) < 1 / 8
    return batch.masked_fill(ends, SEPARATOR)


def reference(batch: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of transformers, given which tokens see which."""
    model = reference_model(LLAMA)
    number = torch.zeros(batch[:, :-1].shape, dtype=torch.int64)
    for row, column in (batch[:, :-1] == SEPARATOR).nonzero().tolist():
        number[row, column + 1 :] += 1
    seen = (number[:, :, None] == number[:, None]).tril().unsqueeze(1)
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    logits = model(batch[:, :-1], attention_mask=mask).logits
    loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), renamed(gradients, LLAMA)


@pytest.mark.parametrize("name", MESHES)
def test_documents_do_not_see_each_other(name: str, tmp_path: Path) -> None:
    seq_len = 30 if MESHES[name].get("cp", 1) > 1 else 32  # padded where it can be
    loss, gradients = reference(packed(seq_len))
    torch.save(gradients, tmp_path / "gradients.pt")
    plan = make_plan(LLAMA, seq_len=seq_len, **MESHES[name])
    given = (plan, packed(seq_len), SEPARATOR, tmp_path / "gradients.pt")
    for found, errors in run_ranks(plan.configuration.mesh.world, train_on_documents, *given):
        assert found == pytest.approx(loss, rel=1e-5)
        assert worst(errors.values()) < 1e-5, errors


@pytest.mark.parametrize("name", ["cp2 ring", "cp4 usp"])
def test_layers_share_what_they_find_out_of_documents(name: str) -> None:
    """Once a microbatch: every time, a device is waited for."""
    plan = make_plan(LLAMA, **MESHES[name])
    found = run_ranks(plan.configuration.mesh.world, views_found, plan, packed(32), SEPARATOR)
    assert found == [plan.schedule.microbatches] * len(found)


def test_a_separator_ends_its_document() -> None:
    tokens = torch.tensor([[5, 0, 7, 7, 0, 0, 1], [0, 1, 1, 1, 1, 1, 0]])
    assert documents_of(tokens, 0).tolist() == [[0, 0, 1, 1, 1, 2, 3], [0, 1, 1, 1, 1, 1, 1]]


def test_a_run_separates_documents(tmp_path: Path) -> None:
    """The same tokens, with and without the wish: the first losses differ, and the model is the same otherwise."""
    text = tmp_path / "text"
    text.mkdir()
    for number in range(400):
        (text / f"{number:03}.txt").write_text(f"{number} and {number + 1}\n")
    losses = []
    for wish in (False, True):
        folder = tmp_path / str(wish)
        recipe = Recipe(steps=2, data=str(text), separate_documents=wish)
        run_ranks(2, run_training, folder, make_plan(LLAMA, cp=2), recipe)
        losses.append([json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_documents_need_a_token_between_them(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.arange(9, dtype=np.uint16))
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(tmp_path / "plain.json"))
    Tokenizer(models.BPE(vocab={"a": 0, "</s>": 1}, merges=[])).save(str(tmp_path / "ending.json"))

    def separator(data: str, tokenizer: str) -> int | None:
        recipe = Recipe(steps=1, data=str(tmp_path / data), tokenizer=tokenizer, separate_documents=True)
        return find_separator(recipe, tmp_path / "data")

    with pytest.raises(InputError, match="needs the tokenizer of a token file"):
        separator("ids.npy", "bytes")
    with pytest.raises(InputError, match="has no end-of-text token"):
        separator("ids.npy", str(tmp_path / "plain.json"))
    assert separator("ids.npy", str(tmp_path / "ending.json")) == 1
    assert separator("text", "bytes") == 0
    assert find_separator(Recipe(steps=1), tmp_path / "data") is None

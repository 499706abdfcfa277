"""Label smoothing and z-loss of a recipe: the same loss and gradients on every mesh, and one collective for them."""

from __future__ import annotations

from pathlib import Path

import loss_ranks
import pytest
import torch
import torch.nn.functional as F
from harness import run_ranks
from oracle import reference_model, renamed
from plans import LLAMA, make_plan
from workers import batches

from meshwright.errors import InputError
from meshwright.kernels.terms import Terms
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.run_folder import differences
from meshwright.schema import parse

ADDED = Terms(label_smoothing=0.1, z_loss=0.01)
SEQ_LEN, BATCH, MICROBATCH = 32, 8, 4
CONFIG = {**LLAMA, "vocab_size": 251}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, Path]:
    """The loss of transformers' model by PyTorch's cross-entropy and the z-loss by its definition; gradients."""
    model = reference_model(CONFIG)
    (batch,) = batches(CONFIG["vocab_size"], SEQ_LEN, BATCH, 1)
    logits = model(batch[:, :-1]).logits.flatten(0, 1)
    loss = F.cross_entropy(logits, batch[:, 1:].flatten(), label_smoothing=0.1)
    loss = loss + 0.01 * logits.logsumexp(-1).square().mean()
    loss.backward()
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    path = tmp_path_factory.mktemp("loss") / "gradients.pt"
    torch.save(renamed(found, CONFIG), path)
    return loss.item(), path


def test_meshes_train_the_same_loss(expected: tuple[float, Path]) -> None:
    loss, gradients = expected
    common = {"seq_len": SEQ_LEN, "global_batch": BATCH, "microbatch": MICROBATCH}
    options = [{"tp": 2}, {"tp": 2, "sp": True, "logits_chunks": 3}, {"pp": 2, "spread_vocabulary": True}, {"dp": 2}]
    plans = [make_plan(CONFIG, **{**common, **each}) for each in options]  # type: ignore[arg-type]
    for rank in run_ranks(2, loss_ranks.steps, plans, ADDED, gradients):
        for found, error, _ in rank:
            assert found == pytest.approx(loss, rel=1e-5)
            assert error < 1e-4
        tp, chunks, spread, _ = (sizes for _, _, sizes in rank)
        tokens = MICROBATCH * SEQ_LEN
        assert tp == [(4, tokens)] * 2
        assert [size for size in chunks if len(size) == 2 and size[0] == 4] == [(4, 43), (4, 43), (4, 42)] * 2
        assert spread == [(4, tokens)] * 2


@pytest.mark.parametrize("chunks", [1, 3])
def test_one_process_trains_that_loss(chunks: int, expected: tuple[float, Path]) -> None:
    loss, gradients = expected
    plan = make_plan(CONFIG, seq_len=SEQ_LEN, global_batch=BATCH, microbatch=MICROBATCH, logits_chunks=chunks)
    ((found, error, _),) = loss_ranks.steps([plan], ADDED, gradients)
    assert found == pytest.approx(loss, rel=1e-5)
    assert error < 1e-4


def test_a_recipe_says_them() -> None:
    recipe = Recipe(steps=1, label_smoothing=0.1, z_loss=1e-4)
    assert recipe.added == Terms(None, 0.1, 1e-4)
    assert Recipe(steps=1).added == Terms()
    with pytest.raises(InputError) as caught:
        parse(Recipe, {"steps": 1, "label_smoothing": 1.0, "z_loss": -1}, "recipe.yaml")
    assert {problem.field for problem in caught.value.problems} == {"label_smoothing", "z_loss"}


def test_a_run_keeps_its_loss() -> None:
    plan = make_plan(CONFIG)
    found = differences(plan, plan, Recipe(steps=1), Recipe(steps=1, z_loss=1e-4))
    assert [problem.field for problem in found] == ["recipe.z_loss"]

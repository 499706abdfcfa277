"""Documents of different lengths as samples, and runs that train them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import DENSE
from harness import run_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from round_ranks import drawn
from test_rounds import plan_of
from training_ranks import run_training

from meshwright.errors import InputError, RunError
from meshwright.runtime.assign import Beside, Here
from meshwright.runtime.recipe import Recipe
from meshwright.runtime.recipe_checks import recipe_problems
from meshwright.runtime.run_folder import RunFolder
from meshwright.runtime.sequences import Documents


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=20), st.integers(2, 20), st.booleans())
def test_every_epoch_reads_every_document_once(documents: list[list[int]], seq_len: int, ended: bool) -> None:
    """Separator 0 ends each of them, but for the last where it is cut off; alone, a token can be told nothing."""
    tokens = [token for each in documents for token in (*each, 0)]
    whole = [[*each, 0] for each in documents]
    if not ended:
        tokens, whole = tokens[:-1], [*whole[:-1], documents[-1]]
    expected = Counter(tuple(each[: seq_len + 1]) for each in whole if len(each) > 1)
    if not expected:
        with pytest.raises(InputError, match="no document"):
            Documents.of(np.array(tokens, dtype=np.uint16), 0, seq_len, 3)
        return
    found = Documents.of(np.array(tokens, dtype=np.uint16), 0, seq_len, 3)
    assert found.per_epoch == expected.total()
    for epoch in range(2):
        indices = range(epoch * found.per_epoch, (epoch + 1) * found.per_epoch)
        assert Counter(tuple(each.tolist()) for each in found.sequences(indices)) == expected


def test_a_batch_does_not_depend_on_how_it_is_asked_for() -> None:
    found = Documents.of(np.array([5, 0, 6, 6, 0, 7, 7, 7, 0, 8, 8, 0] * 9, dtype=np.uint8), 0, 8, 1)
    whole = [each.tolist() for each in found.sequences(range(20, 50))]
    assert found.lengths(range(20, 50)) == [len(each) - 1 for each in whole]
    assert whole == [each.tolist() for at in range(20, 50, 5) for each in found.sequences(range(at, at + 5))]


def test_the_next_step_is_solved_beside_the_one_at_hand(tmp_path: Path) -> None:
    """The same answers as here, asked in order, out of order, and again; an end that says what happened."""
    plan = plan_of((1, 2, 4), dp=4)
    plan.save(tmp_path / "plan.yaml")
    here, beside = Here(plan), Beside(tmp_path / "plan.yaml")
    steps = [drawn(8, 48, seed) for seed in range(4)]
    order = [(0, 1), (1, 2), (3, 0), (3, 3), (3, 0)]
    for now, following in order:
        assert beside.solve(steps[now], steps[following]) == here.solve(steps[now], steps[following])
    beside.close()
    broken = Beside(tmp_path / "no.yaml")
    with pytest.raises(RunError, match="has ended"):
        broken.solve(steps[0], steps[1])
    broken.close()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(60):
        (folder / f"{number:03}.txt").write_text(f"{number} and {number + 1}, " * (1 + number % 5))
    return folder


def recipe(text: Path, **other: Any) -> Recipe:
    return Recipe(steps=6, data=str(text), separate_documents=True, checkpoint_every=3, lr=3e-3, timeout_s=60, **other)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_runs_train_alike_on_other_mixes_and_after_a_stop(text: Path, tmp_path: Path) -> None:
    """One process; four ranks, stopped in the middle and gone on with on groups of other sizes."""
    run_ranks(1, run_training, tmp_path / "one", plan_of((1,), 48), recipe(text))
    folder = tmp_path / "several"
    run_ranks(4, run_training, folder, plan_of((1, 2, 4), dp=4, zero=3), recipe(text), 3)
    run_ranks(4, run_training, folder, plan_of((1, 2), dp=2, tp=2, sp=True, zero=1), recipe(text))
    assert losses(folder) == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert losses(folder)[-1] < losses(folder)[0]


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"separate_documents": False}, "separate_documents"), ({"compile": True}, "compile"), ({}, "dropout")],
)
def test_recipes_that_do_not_suit_lengths_are_refused(changes: dict[str, Any], field: str, tmp_path: Path) -> None:
    plan = plan_of((1, 2), dp=2)
    if field == "dropout":
        drops = {**DENSE["gpt2"], "resid_pdrop": 0.1}
        plan = plan.model_copy(update={"model": plan.model.model_copy(update={"config": drops})})
    asked = Recipe.model_validate({"steps": 1, "separate_documents": True, **changes})
    found = recipe_problems(plan, asked, RunFolder(tmp_path))
    assert [problem.field for problem in found] == [field]

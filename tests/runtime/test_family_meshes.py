"""Every family in every mesh of the parity table, its weights read from files that transformers has written: logits,
loss and gradients of a step are those of its transformers model."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from parity_table.models import MODELS
from parity_table.outcome import BARS, LOGITS, Outcome
from parity_table.products import rows
from parity_table.row import Row
from parity_table.run import run_rows
from parity_table.written import EXPERTS

from meshwright.planner.cost.setting import Setting
from meshwright.planner.families import architecture
from meshwright.planner.legality import problems, runtime_problems
from meshwright.planner.plan import MeshDegrees

OF_A_MESH = (
    "pp", "dp", "cp", "tp", "sp", "ep", "etp", "cp_algorithm", "cp_ulysses", "zero", "dp_replicate", "schedule", "vpp",
    "microbatch", "stage_layers", "global_batch",
)  # fmt: skip
"""Options of a row that say where it runs; the others (recomputation, offloading, placements, ...) are left out."""


@cache
def meshes() -> dict[MeshDegrees, tuple[dict[str, Any], ...]]:
    """For each mesh of the table the ways in which its rows run it."""
    found: dict[MeshDegrees, list[dict[str, Any]]] = defaultdict(list)
    for row in rows():
        options = {name: value for name, value in row.options.items() if name in OF_A_MESH}
        for way in (options, {**options, "sp": row.plan.mesh.tp > 1}):  # experts under tp ask for sp
            if row.options.get("schedule") != "custom" and way not in found[row.plan.mesh]:
                found[row.plan.mesh].append(way)
    return {mesh: tuple(ways) for mesh, ways in found.items()}


def is_legal(row: Row) -> bool:
    plan = row.plan
    setting = Setting(architecture(plan.model), plan.cluster, plan.job)
    return not problems(setting, plan.configuration) + runtime_problems(setting, plan.configuration)


def rows_of(family: str) -> list[Row]:
    """Of the ways to run a mesh, the first that is legal; meshes that fold experts are for families with experts."""
    config = MODELS[family] | ({"num_experts": 8} if "num_experts" in MODELS[family] else {})  # on as many ranks
    dense = EXPERTS.isdisjoint(config)
    found = []
    for mesh, ways in meshes().items():
        if dense and (mesh.ep > 1 or mesh.etp > 1):
            continue
        tried = [Row(str(mesh.model_dump()), {**options, "config": config}) for options in ways]
        legal = [row for row in tried if is_legal(row)]
        assert legal, f"no way to run {family} in {mesh}"
        found.append(legal[0])
    return found


def test_the_table_has_many_meshes() -> None:
    folded = [mesh for mesh in meshes() if mesh.ep > 1 or mesh.etp > 1]
    assert len(meshes()) - len(folded) >= 25
    assert len(folded) >= 35


@pytest.mark.slow
@pytest.mark.parametrize("family", MODELS)
def test_a_family_is_itself_in_every_mesh(family: str, tmp_path: Path) -> None:
    asked = rows_of(family)
    found = run_rows(asked, tmp_path, steps=1, memory=False, written=True)
    assert list(found) == [row.name for row in sorted(asked, key=lambda row: row.world)]
    assert_same(found)


def assert_same(found: dict[str, Outcome]) -> None:
    for name, outcome in found.items():
        assert not outcome.error, f"{name}: {outcome.error}"
        assert 0 < outcome.logits <= LOGITS, name
        assert outcome.loss <= BARS["loss"], name
        assert outcome.first_gradient <= BARS["first_gradient"], (name, outcome.gradient_of)


SMALL = [row for row in rows_of("llama") if row.world <= 2]


def test_a_family_is_itself_in_small_meshes(tmp_path: Path) -> None:
    assert len(SMALL) >= 5
    assert_same(run_rows(SMALL, tmp_path, steps=1, memory=False, written=True))


def test_a_wrong_weight_is_seen_in_logits(tmp_path: Path) -> None:
    """One hundredth too large in one tensor on one of two ranks."""
    for found in run_rows(SMALL[1:], tmp_path, steps=1, memory=False, written=True, fault="weight").values():
        assert found.logits > LOGITS

"""Frameworks: the bundled ones load and are sourced, wrong names get the nearest, fitted figures survive their file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from meshwright.errors import InputError
from meshwright.planner.frameworks import framework as module
from meshwright.planner.frameworks.framework import (
    DEFAULT,
    UNKNOWN,
    Costs,
    Framework,
    Keeps,
    Overrides,
    Spread,
    framework,
    names,
    save,
)


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue of its own with two frameworks, of which the second takes the costs of the first."""
    (tmp_path / "one.yaml").write_text("name: one\ntitle: One\nsource: its code\nkeeps: {gated_copies: 4}\n")
    (tmp_path / "two.yaml").write_text("name: two\ntitle: Two\nsource: its code\nlike: one\n")
    monkeypatch.setattr(module, "_CATALOGUE", tmp_path)
    framework.cache_clear()
    yield tmp_path  # type: ignore[misc]
    framework.cache_clear()


@pytest.mark.parametrize("name", names())
def test_every_bundled_framework_is_sourced_and_can_be_priced(name: str) -> None:
    found = framework(name)
    assert found.name == name
    assert len(found.title) > 5
    assert len(found.source) > 10
    assert found.spread.low < 1 < found.spread.high
    assert 0.2 < found.costs.matmul <= 1.6
    assert found.costs.host_layer_s < 0.1


def test_the_built_in_runtime_is_the_default() -> None:
    assert DEFAULT in names()
    assert framework() == framework(DEFAULT)


@pytest.mark.parametrize(
    ("wrong", "near"), [("megatron-cor", "megatron-core"), ("Nanotron", "nanotron"), ("nem", "nemo")]
)
def test_a_wrong_name_gets_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(InputError, match=f"did you mean '{near}'") as caught:
        framework(wrong)
    (problem,) = caught.value.problems
    assert (problem.field, problem.value) == ("--framework", wrong)


def test_what_was_fitted_is_written_beside_what_was_read(catalogue: Path) -> None:
    fitted = framework("one").model_copy(
        update={
            "costs": Costs(matmul=0.8, host_layer_s=3.5e-4),
            "on": {"a100": Overrides(matmul=0.9)},
            "spread": Spread(low=0.9, high=1.2),
        }
    )
    save(fitted)
    framework.cache_clear()
    assert framework("one") == fitted
    assert framework("one").keeps == Keeps(gated_copies=4)
    assert "None" not in (catalogue / "one.yaml").read_text()


@pytest.mark.usefixtures("catalogue")
def test_a_framework_without_runs_takes_the_costs_of_another_and_keeps_what_it_keeps() -> None:
    save(framework("one").model_copy(update={"costs": Costs(matmul=0.7), "spread": Spread(low=0.8, high=1.1)}))
    framework.cache_clear()
    one, two = framework("one"), framework("two")
    assert (two.costs, two.on) == (one.costs, one.on)
    assert two.keeps == Keeps() != one.keeps


@pytest.mark.parametrize(
    "wrong", [{"costs": {"matmul": 0}}, {"costs": {"steal": 1.0}}, {"spread": {"low": 1.1, "high": 1.2}}, {"cost": {}}]
)
def test_figures_without_sense_are_refused(wrong: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValidationError):
        Framework.model_validate({"name": "x", "title": "x", "source": "x", **wrong})


def test_what_was_never_measured_has_no_narrow_interval(catalogue: Path) -> None:
    """A narrow spread of the framework that lends its costs is widened, a wide one kept."""
    save(framework("one").model_copy(update={"spread": Spread(low=0.95, high=1.05)}))
    framework.cache_clear()
    assert (framework("one").spread, framework("two").spread) == (Spread(low=0.95, high=1.05), UNKNOWN)
    save(framework("one").model_copy(update={"spread": Spread(low=0.5, high=3.0)}))
    framework.cache_clear()
    assert framework("two").spread == Spread(low=0.5, high=3.0)

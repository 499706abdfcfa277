"""How kinds of devices compare over frameworks: known parts are found, and used where a framework has no runs."""

from __future__ import annotations

import pytest

from meshwright.clusters.devices import device_mapping
from meshwright.clusters.schema import Device
from meshwright.planner.frameworks.framework import Costs, Framework, Overrides, framework, names
from meshwright.planner.frameworks.typical import compared, device_parts


def device(name: str) -> Device:
    return Device.model_validate(device_mapping(name))


def test_parts_of_devices_are_found_from_a_table_with_gaps() -> None:
    frameworks, devices = {"f": 1.0, "g": 0.8, "h": 1.2}, {"a": 0.9, "b": 0.6, "c": 0.75}
    gaps = {("f", "c"), ("h", "a")}
    shares = {(f, d): x * y for f, x in frameworks.items() for d, y in devices.items() if (f, d) not in gaps}
    parts = device_parts(shares)
    assert parts["a"] / parts["b"] == pytest.approx(0.9 / 0.6)
    assert parts["c"] / parts["b"] == pytest.approx(0.75 / 0.6)


def test_a_device_without_runs_is_scaled_as_others_scale() -> None:
    base = Framework(name="new", title="", source="", costs=Costs(matmul=0.9, elementwise=1.7), fitted_on="a100")
    parts = compared("matmul")
    costs = base.costs_on(device("b200-sxm-180gb"))
    assert costs.matmul == pytest.approx(0.9 * parts["b200"] / parts["a100"])
    assert costs.elementwise == 1.7
    assert base.costs_on(device("a100-sxm-80gb")) == base.costs
    assert base.costs_on(device("mi300x-192gb")) == base.costs  # nothing is known of it


def test_runs_of_its_own_count_more() -> None:
    own = Framework(name="new", title="", source="", fitted_on="a100", on={"b200": Overrides(matmul=0.7)})
    assert own.costs_on(device("b200-sxm-180gb")).matmul == 0.7


def test_a_kind_without_runs_has_a_wider_interval() -> None:
    found = framework("llm-foundry")
    seen, unseen = (found.spread_on(device(name)) for name in ("h100-sxm-80gb", "mi300x-192gb"))
    assert seen == found.spread
    assert unseen.low < seen.low < seen.high < unseen.high


def test_h200_computes_as_h100() -> None:
    assert framework("llm-foundry").costs_on(device("h200-sxm-141gb")) == framework("llm-foundry").costs_on(
        device("h100-sxm-80gb")
    )


def test_every_fitted_framework_says_on_what() -> None:
    for name in names():
        found = framework(name)
        assert found.fitted_on or found.costs == Costs(), name

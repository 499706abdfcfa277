"""Energy against arithmetic by hand, and against what others measured and reported."""

from __future__ import annotations

import pytest

from meshwright.clusters import load_cluster
from meshwright.errors import InputError
from meshwright.planner.plan import Plan
from meshwright.planner.simulate.energy import format_energy
from meshwright.planner.simulate.request import Request, answer
from meshwright.planner.simulate.simulation import simulate

POWER = ("cluster.device.power_w=400", "cluster.device.idle_power_w=50")
NODE = ("cluster.host.power_w=1000", "cluster.host.idle_power_w=300")


def test_by_hand(plan: Plan) -> None:
    """Eight devices: those of a pipeline rank draw 400 W while it computes and 50 W while it waits."""
    simulation = simulate(plan, [*POWER, *NODE])
    energy = simulation.energy
    assert energy is not None
    step_s, after_s = simulation.step_time_s, simulation.prediction.breakdown_s.optimizer
    busy = [busy_s + after_s for busy_s in simulation.timeline.busy_s]
    assert energy.computing_j == pytest.approx(sum(4 * 400 * each for each in busy))
    assert energy.waiting_j == pytest.approx(sum(4 * 50 * (step_s - each) for each in busy))
    assert energy.nodes_j == pytest.approx(2 * 300 * step_s + sum(700 * each for each in busy))
    assert energy.waiting_s == pytest.approx(step_s - sum(busy) / 2)


def test_between_all_idle_and_all_busy(plan: Plan) -> None:
    simulation = simulate(plan, [*POWER, *NODE])
    bill = simulation.bill()
    assert bill is not None
    assert 8 * 50 + 2 * 300 < bill.power_w < 8 * 400 + 2 * 1000


def test_what_is_unknown_is_said_and_counted_from_above(plan: Plan) -> None:
    assert simulate(plan).energy is None
    assert simulate(plan).to_json()["energy"] is None
    full = simulate(plan, ["cluster.device.power_w=400"]).bill()
    assert full is not None
    assert full.energy.step_j == pytest.approx(8 * 400 * full.step_time_s)
    assert "waiting counts at full power" in full.assumption
    assert "devices only" in full.assumption
    known = simulate(plan, [*POWER, *NODE]).bill()
    assert known is not None
    assert known.assumption == "rated power while computing, no cooling"


def test_run_and_price(plan: Plan) -> None:
    bill = simulate(plan, POWER, tokens=1e12).bill(0.12)
    assert bill is not None
    assert bill.run_kwh == pytest.approx(bill.kwh_per_million_tokens * 1e6)
    assert bill.run_kwh == pytest.approx(1e12 / (4096 * 32) * bill.energy.step_j / 3.6e6)
    assert bill.run_dollars == pytest.approx(bill.run_kwh * 0.12)
    assert dict(bill.rows())["whole run, no failures"].endswith(f"${bill.run_dollars:,.0f}")


def test_llama_2_as_its_paper_reports_it(plan: Plan) -> None:
    """arXiv:2307.09288, table 2: 1,720,320 hours of A100 80 GB at 400 W are 291.42 t CO2 at 0.423 kg per kWh, devices
    only and always busy: 688 MWh. The same figures through a run of as many device hours."""
    simulation = simulate(plan, ["cluster.device.power_w=400"])
    tokens = 1_720_320 / 8 * 3600 * simulation.tokens_per_s
    bill = simulate(plan, ["cluster.device.power_w=400"], tokens=tokens).bill()
    assert bill is not None
    assert bill.run_kwh is not None
    assert bill.run_kwh * 0.4235 / 1000 == pytest.approx(291.42, rel=0.001)


def test_rated_power_bounds_what_a_node_of_eight_h100_was_measured_to_draw() -> None:
    """arXiv:2412.08602: at most 8.4 kW in training, 18% below the rated 10.2 kW."""
    group = load_cluster("dgx-h100").node_groups[0]
    assert group.device.power_w is not None
    assert group.host.power_w is not None
    rated = 8 * group.device.power_w + group.host.power_w
    assert rated == pytest.approx(10_200)
    assert 8 * group.device.power_w < 8_400 < rated


def test_several_groups_are_billed_each_by_its_own_power(plan: Plan) -> None:
    data = plan.model_dump(mode="json", by_alias=True)
    east = data["cluster"]["node_groups"][0] | {"nodes": 1}
    data["cluster"]["node_groups"] = [east, east | {"name": "west"}]
    data["cluster"]["links"] = [
        {"between": ["east", "west"], "kind": "ethernet", "bandwidth": "25 GB/s", "latency": "5 us"}
    ]
    both = Plan.model_validate(data)
    west = ["cluster.node_groups[west].device.power_w=700", "cluster.node_groups[east].device.power_w=400"]
    simulation = simulate(both, west)
    energy = simulation.energy
    assert energy is not None
    assert energy.step_j == pytest.approx((4 * 400 + 4 * 700) * simulation.step_time_s)
    assert simulate(both, west[:1]).energy is None


@pytest.mark.parametrize("price", ["cheap", "-1", "nan", ""])
def test_a_wrong_price(plan: Plan, price: str) -> None:
    with pytest.raises(InputError, match="--electricity"):
        answer(plan, Request(electricity=price))


def test_energy_of_an_unknown_device_is_an_error(plan: Plan) -> None:
    with pytest.raises(InputError, match="the cluster file has no power of made-up"):
        answer(plan, Request(energy=True))


@pytest.mark.parametrize(
    ("joules", "text"),
    [(5.0, "5 J"), (2.7e6, "2.7 MJ (0.75 kWh)"), (3.6e12, "3.6e+03 GJ (1e+06 kWh)"), (36e3, "36 kJ (0.01 kWh)")],
)
def test_formatting(joules: float, text: str) -> None:
    assert format_energy(joules) == text

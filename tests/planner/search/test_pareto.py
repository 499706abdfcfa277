"""Clusters compared: every offer is a plan of its own, optimal ones by definition, and what goes wrong."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from meshwright.cli import app
from meshwright.clusters.catalogue import load_cluster
from meshwright.clusters.part import first_devices
from meshwright.errors import InfeasibleError, InputError
from meshwright.planner.families import load_model
from meshwright.planner.job import Job
from meshwright.planner.pins import parse_pins
from meshwright.planner.plan import load_plan
from meshwright.planner.search.pareto import Offer, Pareto, marked, pareto
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.simulate.simulation import simulate

TOKENS = 10**11
PINS = ["schedule=1f1b", "zero=1", "offload=0"]


def ask(cluster: str, model="llama-3.1-8b", **changes) -> Request:
    job = Job(seq_len=2048, global_batch=32)
    given = {"model": load_model(model), "cluster": load_cluster(cluster), "job": job, "pins": parse_pins(PINS)}
    return Request(**given | {"tokens": TOKENS} | changes)


REQUESTS = {"dgx-h100": ask("dgx-h100:4"), "dgx-a100-40g": ask("dgx-a100-40g:2")}


@pytest.fixture(scope="module")
def found() -> Pareto:
    return pareto(REQUESTS)


def test_every_power_of_two_of_nodes_of_every_cluster(found):
    assert [(offer.cluster, offer.devices) for offer in found.offers] == [
        ("dgx-h100", 8), ("dgx-h100", 16), ("dgx-h100", 32), ("dgx-a100-40g", 8), ("dgx-a100-40g", 16),
    ]  # fmt: skip


def test_each_offer_is_the_plan_of_its_part_and_costs_what_the_simulator_says(found):
    for offer in found.planned:
        request = REQUESTS[offer.cluster]
        alone = find_plan(replace(request, cluster=first_devices(request.cluster, offer.devices)))
        assert offer.plan.configuration == alone.configuration
        simulation = simulate(offer.plan, tokens=TOKENS)
        assert offer.price_per_million_tokens == pytest.approx(simulation.price_per_million_tokens)
        assert offer.plan.training.days == pytest.approx(simulation.days)
        assert offer.plan.training.price == pytest.approx(simulation.price)


def test_the_cheapest_in_time(found):
    """At each offer's own run time as the deadline, the cheapest of those that are as fast."""
    for offer in found.planned:
        run_s = offer.plan.training.days * 86_400
        requests = {name: replace(each, deadline_s=run_s * (1 + 1e-9)) for name, each in REQUESTS.items()}
        chosen = pareto(requests).chosen
        as_fast = [each for each in found.planned if each.step_time_s <= offer.step_time_s]
        best = min(as_fast, key=lambda each: each.price_per_million_tokens)
        assert (chosen.cluster, chosen.devices) == (best.cluster, best.devices)


def test_a_deadline_that_no_cluster_meets():
    requests = {name: replace(each, deadline_s=3600.0) for name, each in REQUESTS.items()}
    with pytest.raises(InfeasibleError, match="with 32 devices of dgx-h100") as caught:
        pareto(requests)
    assert caught.value.change.startswith("--deadline ")


places = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=12)


@given(places)
def test_optimal_is_what_no_other_beats(points):
    class Made(Offer):
        __slots__ = ()
        step_time_s = property(lambda self: float(self.devices))

    offers = [
        Made(cluster="c", devices=time, plan="a plan", price_per_million_tokens=float(price)) for time, price in points
    ]
    shown = marked(offers)
    for (time, price), offer in zip(points, shown, strict=True):
        better = [p for p in points if p[0] <= time and p[1] <= price and p != (time, price)]
        assert offer.optimal is (not better)
    assert any(offer.optimal for offer in shown)


def test_what_holds_nothing_keeps_its_reason():
    """70 B parameters and their states: 1.26 TB, more than 8 or 16 A100 of 40 GB have; 32 with states on the host."""
    requests = {"a": ask("dgx-a100-40g:8", "llama-3.1-70b", pins=parse_pins(["schedule=1f1b", "zero=1"]))}
    offers = pareto(requests).offers
    assert [offer.plan is None for offer in offers] == [True, True, False, False]
    assert offers[2].plan is not None
    assert offers[2].plan.offload > 0
    assert all(offer.reason for offer in offers[:2])
    assert not any(offer.optimal for offer in offers[:2])


def test_nothing_fits_anywhere():
    with pytest.raises(InfeasibleError):
        pareto({"a": ask("dgx-a100-40g:1", "llama-3.1-70b")})


def test_every_cluster_without_a_price_is_named():
    clusters = [load_cluster(name) for name in ("dgx-b300:1", "dgx-h100:1", "dgx-1-v100:1")]
    priceless = [each for each in clusters if each.node_groups[0].price_per_device_hour is None]
    assert priceless
    with pytest.raises(InputError) as caught:
        pareto({each.name: replace(ask("dgx-h100:1"), cluster=each) for each in clusters})
    assert [problem.field.split(":")[0] for problem in caught.value.problems] == [each.name for each in priceless]
    assert all("price_per_device_hour" in problem.fix for problem in caught.value.problems)


COMMAND = ["plan", "llama-3.2-1b", "--seq-len", "2048", "--global-batch", "16", "--pin", "schedule=1f1b"]
TWO = ["--clusters", "dgx-a100-80g:1,dgx-h100:1"]


def run(*arguments: str):
    return CliRunner().invoke(app, [*COMMAND, *arguments])


def test_the_command_line_prints_draws_and_writes(tmp_path):
    picture, plan = tmp_path / "pareto.svg", tmp_path / "plan.yaml"
    shown = run(*TWO, "--tokens", "10B", "--deadline", "20d", "--picture", str(picture), "--out", str(plan))
    assert shown.exit_code == 0, shown.output
    assert "cheapest within 20.0 d: 8 devices of" in " ".join(shown.output.split())
    text = "".join(ET.fromstring(picture.read_text()).itertext())
    assert "dgx-h100" in picture.read_text()
    assert text
    assert load_plan(plan).cluster.name in ("dgx-a100-80g", "dgx-h100")
    first = picture.read_bytes()
    run(*TWO, "--tokens", "10B", "--deadline", "20d", "--picture", str(picture))
    assert picture.read_bytes() == first


def test_json_of_compared_clusters():
    found = json.loads(run(*TWO, "--json").output)
    assert found.keys() == {"points", "fastest", "cheapest", "chosen"}
    assert [point["cluster"] for point in found["points"]] == ["dgx-a100-80g", "dgx-h100"]
    assert found["points"][found["fastest"]]["optimal"]
    assert found["points"][found["cheapest"]]["optimal"]
    assert found["chosen"] is None
    assert found["points"][0]["plan"]["devices"] == 8


def fields_of(*arguments: str) -> set[str]:
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(app, [*COMMAND, *arguments], catch_exceptions=False)
    return {problem.field for problem in caught.value.problems}


def test_one_cluster_or_several():
    assert fields_of() == {"CLUSTER"}
    assert fields_of("dgx-h100:1", *TWO) == {"CLUSTER"}
    assert fields_of("dgx-h100:1", "--picture", "a.png") == {"--picture"}
    assert fields_of(*TWO, "--objective", "cost", "--out", "plan.yaml") == {"--objective", "--out"}
    assert fields_of("--clusters", " , ") == {"--clusters"}
    assert fields_of("--clusters", "dgx-h100,dgx-h100") == {"--clusters"}
    assert fields_of(*TWO, "--picture", "a.jpeg") == {"--picture"}
    with pytest.raises(InputError) as caught:
        CliRunner().invoke(app, [*COMMAND, "--clusters", "dgx-h1000,local:x"], catch_exceptions=False)
    assert [problem.value for problem in caught.value.problems] == ["dgx-h1000", "local:x"]

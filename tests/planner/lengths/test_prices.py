"""Prices of packs against the cost model, and plans of jobs whose sequences have different lengths."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.errors import InfeasibleError, InputError
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.contract import plan_json
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.stage import stage_times
from meshwright.planner.cost.step import price
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.lengths.assignment import faults
from meshwright.planner.lengths.distribution import Histogram, Lognormal
from meshwright.planner.lengths.predict import predict
from meshwright.planner.lengths.prices import at_degree, at_length, degrees_of, prices_of, table_of, tokens_of
from meshwright.planner.pins import parse_pins
from meshwright.planner.plan import Plan, load_plan
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.planner.sequence import local_tokens
from meshwright.planner.simulate.picture import save_picture
from meshwright.planner.simulate.request import Request as Asked
from meshwright.planner.simulate.request import answer
from meshwright.planner.simulate.simulation import simulate

SEQ_LEN = 32768


def setting_of(cluster: str = "dgx-h100:1", seq_len: int = SEQ_LEN) -> Setting:
    job = Job(seq_len=seq_len, global_batch=32, lengths=Lognormal(median=900, p99=15000))
    return Setting(architecture(load_model("llama-3.2-1b")), load_cluster(cluster), job)


def configuration(tp: int = 1, recompute: str = "none", algorithm: str = "ring") -> Configuration:
    return Configuration(
        mesh=Mesh(dp=8 // tp, tp=tp), stage_layers=(16,), microbatch=1, microbatches=4, zero=1, sp=tp > 1,
        recompute=(recompute,), cp_algorithm=algorithm, logits_chunks=4,
    )  # fmt: skip


@pytest.mark.parametrize("algorithm", ["ring", "ulysses", "allgather", "token-ring"])
@pytest.mark.parametrize(("tp", "recompute"), [(1, "none"), (2, "full"), (1, "selective")])
def test_one_sequence_is_priced_as_the_cost_model_prices_its_microbatch(tp, recompute, algorithm):
    setting, chosen = setting_of(), configuration(tp, recompute, algorithm)
    prices = prices_of(setting, chosen, table_of(setting, chosen, degrees_of(setting, chosen)))
    lengths = np.array([4096, 10_000, SEQ_LEN])
    instance = prices.instance(lengths)
    for place, degree in enumerate(instance.degrees):
        if degree == 1 and recompute == "full":
            continue  # alone, too, a rank keeps what attention found where there may be groups
        for row, length in enumerate(lengths):
            alone = stage_times(at_length(setting, int(length)), at_degree(chosen, degree))
            expected = alone.forward_s[0] + alone.backward_s[0]
            found = instance.seconds(instance.tokens[row, place], instance.core_s[row, place])
            assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_tokens_are_those_of_the_ranks(multiple):
    lengths = np.arange(1, 300)
    for degree in (2, 4, 8):
        expected = [local_tokens(int(length), degree, multiple) for length in lengths]
        assert tokens_of(lengths, degree, multiple).tolist() == expected


@pytest.mark.parametrize("degree", [2, 8])
def test_a_full_rank_fits_and_a_fuller_one_does_not(degree):
    setting, chosen = setting_of(), configuration()
    prices = prices_of(setting, chosen, table_of(setting, chosen, degrees_of(setting, chosen)))
    room = int(prices.capacity[prices.degrees.index(degree)])
    at = at_degree(chosen, degree)
    assert price(at_length(setting, room * degree), at).fits
    assert not price(at_length(setting, (room + 2) * degree), at).fits


def ask(lengths=None, seq_len=SEQ_LEN, cluster="dgx-a100-40g:1", pins=(), **changes) -> Request:
    lengths = lengths or Lognormal(median=900, p99=15000)
    job = Job(seq_len=seq_len, global_batch=changes.pop("global_batch", 32), lengths=lengths)
    model = load_model(changes.pop("model", "llama-3.2-1b"))
    return Request(model=model, cluster=load_cluster(cluster), job=job, pins=parse_pins(list(pins)), **changes)


@pytest.fixture(scope="module")
def found() -> Plan:
    return find_plan(ask())


def test_the_plan_holds_groups_that_can_be_formed(found):
    mesh, mix = found.configuration.mesh, found.mix
    assert mix is not None
    assert all((mesh.dp * mesh.cp) % degree == 0 for degree in mix.degrees)
    tokens = [local_tokens(SEQ_LEN, degree, 1) for degree in mix.degrees]
    assert any(each <= room for each, room in zip(tokens, mix.capacity_tokens, strict=True))
    assert found.predicted.fits
    assert found.expected.gap < 0.2
    assert found.proof.lower_bound_s <= found.predicted.step_time_s
    assert found.expected.step_time_s == found.predicted.step_time_s
    assert sum(dict(found.predicted.breakdown_s).values()) == pytest.approx(found.predicted.step_time_s)


def test_mixing_is_never_slower_than_the_best_fixed_degree(found):
    """Up to what the solver leaves: both are judged by the same drawn steps."""
    assert found.expected.gain_over_fixed > 1 - found.expected.gap
    assert found.expected.gain_over_packed > 1 - found.expected.gap


def test_equal_requests_give_equal_plans(found, tmp_path):
    found.save(tmp_path / "a.yaml")
    find_plan(ask()).save(tmp_path / "b.yaml")
    assert (tmp_path / "a.yaml").read_bytes() == (tmp_path / "b.yaml").read_bytes()
    assert load_plan(tmp_path / "a.yaml").fingerprint == found.fingerprint


def test_simulating_a_plan_predicts_the_same(found):
    simulation = simulate(found)
    assert simulation.prediction == found.predicted
    assert simulation.timeline.step_s == pytest.approx(found.predicted.step_time_s, rel=0.05)
    for step in simulation.lengths.steps:
        assert faults(step.instance, step.solution.assignment) == []
    for key in ("mix", "expected"):
        assert json.dumps(simulation.to_json()[key]) == json.dumps(plan_json(found)[key])


def test_settings_change_the_steps(found):
    slower = simulate(found, ["device.peak_flops.bf16=0.5x"])
    assert slower.step_time_s > found.predicted.step_time_s
    shorter = simulate(found, ["job.lengths.p99=5000"])
    assert shorter.step_time_s < found.predicted.step_time_s
    with pytest.raises(InputError, match="holds"):
        simulate(found, ["seq_len=100000000"])


def test_a_step_has_a_picture(found, tmp_path):
    save_picture([simulate(found)], tmp_path / "step.svg")
    assert "groups of" in (tmp_path / "step.svg").read_text()


def test_stragglers_are_refused(found):
    with pytest.raises(InputError, match="--straggler"):
        answer(found, Asked(straggler="rank=0,slow=2x"))


def test_a_fixed_degree_can_be_pinned():
    plan = find_plan(ask(pins=["cp=4"]))
    assert plan.mix.degrees == (4,)
    assert plan.mesh.cp == 4


def test_sequences_of_one_length_need_no_mix():
    """All alike and short: no group is wider than one rank, and a step is what the cost model says of its rounds."""
    lengths = Histogram(lengths=(2048,), counts=(1,))
    request = ask(lengths, seq_len=2048, global_batch=8, pins=["tp=1", "zero=1", "recompute=none"])
    plan = find_plan(request)
    [only] = {each.degrees for step in simulate(plan).lengths.steps for each in [step.solution.assignment]}
    assert only == (1,)
    usual = find_plan(replace(request, job=request.job.model_copy(update={"lengths": None})))
    assert plan.predicted.step_time_s == pytest.approx(usual.predicted.step_time_s, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pins": ["pp=2"]}, "--pin pp"),
        ({"pins": ["microbatch=2"]}, "--pin microbatch"),
        ({"pins": ["cp_algorithm=usp"]}, "--pin cp_algorithm"),
        ({"objective": "energy"}, "--objective"),
        ({"risk": 0.9}, "--risk"),
        ({"runnable": True, "model": "olmoe-1b-7b"}, "--lengths"),
    ],
)
def test_what_lengths_have_no_room_for_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        find_plan(ask(**changes))


def test_what_fits_nowhere_is_said():
    with pytest.raises(InfeasibleError, match="holds a sequence"):
        find_plan(ask(model="llama-3.1-8b", cluster="rtx4090-ethernet:1", seq_len=1_000_000, global_batch=8))


def test_a_plan_without_lengths_is_what_it_was(found):
    """The fields of lengths are no part of a run that has none: it can be resumed."""
    plain = ask().job.model_copy(update={"lengths": None})
    plan = found.model_copy(update={"job": plain, "mix": None, "expected": None})
    parts = plan.model_dump(mode="json")
    assert parts["mix"] is None
    assert plan.fingerprint != found.fingerprint


def test_predictions_are_those_of_the_plan_found(found):
    again = predict(simulate(found).scenario.setting, found.configuration, found.mix)
    assert again.prediction.step_time_s == found.predicted.step_time_s

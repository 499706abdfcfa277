"""plan --routing --shuffle-tokens: homes by ids of a trace, what they save on its other half, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from meshwright.cli import app, main
from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.contract import plan_json
from meshwright.planner.experts.generator import generate
from meshwright.planner.experts.routing import Routing
from meshwright.planner.experts.token_homes import ANYWHERE
from meshwright.planner.experts.trace import Trace
from meshwright.planner.families import load_model
from meshwright.planner.job import Job
from meshwright.planner.pins import parse_pins
from meshwright.planner.plan import Plan, load_plan
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan
from meshwright.runtime.checks import problems

PINS = ["cp=1", "pp=1", "microbatch=1", "recompute=full", "expert_replicas=0"]
WHOLE = ["dp=1", "tp=8", "sp=true", "ep=8", "etp=1"]
IDS = 500


def told(trace: Trace) -> Trace:
    """The same, in which the id of every token is an expert that it chose in the first layer, or tells nothing."""
    ids = np.where(np.arange(trace.tokens) % 4, trace.experts[:, 0, 0], 100 + np.arange(trace.tokens) % 400)
    return Trace(trace.experts, trace.num_experts, trace.prompt, token=ids)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return told(generate(4000, 16, 64, 8, seed=3))


def ask(trace: Trace, *pins: str, shuffle: bool = True) -> Request:
    return Request(
        model=load_model("olmoe-1b-7b"),
        cluster=load_cluster("dgx-h100:1"),
        job=Job(seq_len=1024, global_batch=8),
        pins=parse_pins([*PINS, *pins]),
        routing=Routing.of(trace, "made.npz"),
        top=0,
        shuffle_tokens=shuffle,
    )


@pytest.fixture(scope="module")
def plan(trace: Trace) -> Plan:
    return find_plan(ask(trace, *WHOLE))


def test_the_plan_holds_homes_that_save_copies(trace: Trace, plan: Plan) -> None:
    assert plan.token_homes is not None
    assert plan.token_homes.saved > 0.02
    assert any("it saves" in each for each in plan.why)
    home = np.frombuffer(plan.token_homes.of_group(0), np.uint8)
    assert len(home) <= IDS
    assert set(home.tolist()) <= {*range(8), ANYWHERE}
    assert problems(plan, 8) == []


def test_ranks_are_exchanged_and_hold_what_they_held(trace: Trace, plan: Plan) -> None:
    """Another order of the ranks of a tp group in every layer, and nothing else: its price is that of the same plan
    without homes."""
    without = find_plan(ask(trace, *WHOLE, shuffle=False))
    assert without.token_homes is None
    assert plan.placement is not None
    assert without.placement is not None
    for ours, theirs in zip(plan.placement.slots, without.placement.slots, strict=True):
        held = [{tuple(layer[first : first + 8]) for first in range(0, 64, 8)} for layer in (ours, theirs)]
        assert held[0] == held[1]
    assert plan.placement != without.placement
    assert plan.predicted == without.predicted


def test_a_plan_file_keeps_homes(plan: Plan, tmp_path) -> None:
    plan.save(tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml").token_homes == plan.token_homes
    assert plan_json(plan)["token_homes"]["members"] == 8
    assert plan.fingerprint != plan.model_copy(update={"token_homes": None}).fingerprint


@pytest.mark.parametrize("pins", ["dp=8 tp=1 ep=8", "dp=1 tp=8 sp=true ep=4 etp=2", "dp=1 tp=8 sp=true ep=4 etp=1"])
def test_a_mesh_without_whole_groups_has_none(trace: Trace, pins: str) -> None:
    found = find_plan(ask(trace, *pins.split()))
    assert found.token_homes is None
    assert any("Tokens are not shuffled over tp ranks: sp, ep of whole groups" in each for each in found.why)


def test_ids_that_tell_nothing_have_no_homes(trace: Trace) -> None:
    """Every token has an id of its own."""
    alone = Trace(trace.experts, trace.num_experts, trace.prompt, token=np.arange(trace.tokens))
    found = find_plan(ask(alone, *WHOLE))
    assert found.token_homes is None
    assert any("no split by their ids saves copies" in each for each in found.why)


def test_a_tp_group_over_two_nodes_is_left_alone(trace: Trace) -> None:
    """Its ranks cannot exchange experts without changing what nodes are sent."""
    asked = ask(trace, "dp=1", "tp=16", "sp=true", "ep=16", "etp=1")
    found = find_plan(replace(asked, cluster=load_cluster("dgx-h100:2")))
    assert found.token_homes is None


@pytest.mark.parametrize("tokens", [2, 4, 9])
def test_a_tiny_trace_is_no_trouble(trace: Trace, tokens: int) -> None:
    short = Trace(trace.experts[:tokens], trace.num_experts, token=np.zeros(tokens, np.int64))
    assert find_plan(ask(short, *WHOLE)).token_homes is None


def test_a_run_that_shuffles_is_planned_anew(trace: Trace) -> None:
    """Its ranks have recorded their own tokens, one rank after another: almost every one at home."""
    order = np.argsort(trace.token, kind="stable")
    found = find_plan(ask(Trace(trace.experts[order], 64, trace.prompt[order], token=trace.token[order]), *WHOLE))
    assert found.token_homes is not None
    assert found.token_homes.saved > 0.02


def test_two_groups_have_homes_each(trace: Trace) -> None:
    found = find_plan(ask(trace, "dp=2", "tp=4", "sp=true", "ep=8", "etp=1"))
    assert found.token_homes is not None
    assert (found.token_homes.members, len(found.token_homes.homes)) == (4, 2)
    assert problems(found, 8) == []


def refused(monkeypatch, capsys, *arguments: object) -> str:
    monkeypatch.setattr("sys.argv", ["meshwright", "plan", "olmoe-1b-7b", "dgx-h100:1", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_a_trace_without_ids_is_refused(trace: Trace, monkeypatch, capsys, tmp_path) -> None:
    np.savez(tmp_path / "trace.npz", experts=trace.experts)
    given = "--seq-len", 1024, "--global-batch", 8
    for more in ((), ("--routing", tmp_path / "trace.npz")):
        assert "--shuffle-tokens" in refused(monkeypatch, capsys, *given, "--shuffle-tokens", *more)


@pytest.mark.parametrize(
    ("ids", "rule"),
    [
        (np.arange(9), "token = [9] needs one number a token"),
        (np.full(4000, -1), "ids are whole numbers below"),
        (np.full(4000, 0.5), "ids are whole numbers below"),
        (np.full(4000, 2**22), "ids are whole numbers below"),
        (np.full(4000, 60_000), "the trace has token 60000, and olmoe-1b-7b 50,304 tokens"),
    ],
)
def test_ids_that_are_none_are_refused(trace: Trace, ids, rule: str, monkeypatch, capsys, tmp_path) -> None:
    np.savez(tmp_path / "trace.npz", experts=trace.experts, token=ids)
    given = "--seq-len", 1024, "--global-batch", 8, "--routing", tmp_path / "trace.npz", "--shuffle-tokens"
    assert rule in refused(monkeypatch, capsys, *given).replace(": ", " ")


def test_plan_takes_ids_from_a_file(trace: Trace, tmp_path) -> None:
    """Of the smallest type that holds them."""
    assert trace.token is not None
    np.savez(tmp_path / "trace.npz", experts=trace.experts, token=np.minimum(trace.token, 255).astype(np.uint8))
    pins = [f"--pin={each}" for each in (*PINS, *WHOLE)]
    given = ["--seq-len", 1024, "--global-batch", 8, "--routing", tmp_path / "trace.npz", "--shuffle-tokens", "--json"]
    done = CliRunner().invoke(app, list(map(str, ["plan", "olmoe-1b-7b", "dgx-h100:1", *pins, *given])))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["token_homes"]["saved"] > 0

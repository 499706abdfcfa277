"""The trace: valid events in order, one stream never does two things at once, and the step ends when predicted."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from meshwright.planner.plan import Plan
from meshwright.planner.simulate.simulation import Simulation, simulate
from meshwright.planner.simulate.trace import BACKWARDS, COMPUTE, DATA, FORWARDS, write_trace


@pytest.fixture(scope="module")
def simulation(plan: Plan) -> Simulation:
    settings = ["mesh.pp=4", "mesh.tp=1", "schedule.name=interleaved", "schedule.vpp=2", "job.global_batch=16"]
    return simulate(plan, settings)


@pytest.fixture(scope="module")
def events(simulation: Simulation, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path: Path = tmp_path_factory.mktemp("trace") / "trace.json"
    write_trace(simulation, path)
    first = path.read_bytes()
    write_trace(simulation, path)
    assert path.read_bytes() == first
    found: list[dict[str, Any]] = json.loads(first)["traceEvents"]
    return found


def test_every_action_is_there_once(simulation: Simulation, events: list[dict[str, Any]]) -> None:
    configuration = simulation.scenario.configuration
    computed = [event["name"] for event in events if event["ph"] == "X" and event["name"][0] in "FB"]
    wanted = {f"{kind} s{s} m{m}" for kind in "FB" for s in range(8) for m in range(configuration.microbatches)}
    assert sorted(computed) == sorted(wanted)
    named = next(event for event in events if event["name"] == "F s6 m1")
    assert named["args"] == {"stage": 6, "microbatch": 1}
    assert named["pid"] == 6 % 4


def test_streams_do_one_thing_at_a_time(events: list[dict[str, Any]]) -> None:
    streams = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            streams[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert {rank for rank, thread in streams if thread == COMPUTE} == {0, 1, 2, 3}
    assert {thread for _, thread in streams} == {COMPUTE, DATA, FORWARDS, BACKWARDS}
    for spans in streams.values():
        assert spans == sorted(spans)
        assert all(later[0] >= earlier[1] - 0.01 for earlier, later in itertools.pairwise(spans))


def test_every_stage_gathers_before_its_first_forward_and_reduces_beside_its_last_backward(
    events: list[dict[str, Any]],
) -> None:
    spans = {event["name"]: event for event in events if event["ph"] == "X"}
    for stage in range(8):
        gather, forward = spans[f"gather s{stage}"], spans[f"F s{stage} m0"]
        assert gather["pid"] == forward["pid"] == stage % 4
        assert gather["ts"] + gather["dur"] < forward["ts"] + forward["dur"]
        (reduce,) = (name for name in spans if name.startswith(f"reduce B s{stage} "))
        backward = spans[reduce.removeprefix("reduce ")]
        assert backward["ts"] < spans[reduce]["ts"] <= backward["ts"] + backward["dur"] + 0.01


def test_sends_follow_what_they_send_and_precede_what_needs_them(events: list[dict[str, Any]]) -> None:
    spans = {event["name"]: event for event in events if event["ph"] == "X"}
    sends = [event for name, event in spans.items() if name.startswith("send ")]
    assert sends
    for send in sends:
        sent = spans[send["name"].removeprefix("send ")]
        kind, stage, microbatch = sent["name"][0], sent["args"]["stage"], sent["args"]["microbatch"]
        needs = spans[f"{kind} s{stage + (1 if kind == 'F' else -1)} m{microbatch}"]
        assert needs["pid"] == send["args"]["to_rank"] != send["pid"]
        assert send["ts"] == pytest.approx(sent["ts"] + sent["dur"], abs=0.01)
        assert needs["ts"] >= send["ts"] + send["dur"] - 0.01


def test_the_last_event_ends_with_the_step(simulation: Simulation, events: list[dict[str, Any]]) -> None:
    ends = [event["ts"] + event["dur"] for event in events if event["ph"] == "X"]
    assert max(ends) == pytest.approx(simulation.step_time_s * 1e6, abs=0.01)
    assert min(event["ts"] for event in events if event["ph"] == "X") == 0
    assert {event["name"] for event in events} >= {"optimizer", "process_name", "thread_name"}


def test_one_rank_sends_nothing(plan: Plan, tmp_path: Path) -> None:
    write_trace(simulate(plan, ["mesh.pp=1"]), tmp_path / "one.json")
    names = [event["name"] for event in json.loads((tmp_path / "one.json").read_text())["traceEvents"]]
    assert not [name for name in names if name.startswith("send")]

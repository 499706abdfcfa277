"""Logs and run folders: what can be fitted, what is refused and why, and a known truth that comes back."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshwright.clusters.adjustment import Adjustment
from meshwright.clusters.catalogue import load_cluster
from meshwright.clusters.save import save_cluster
from meshwright.errors import InputError
from meshwright.planner.families import load_model
from meshwright.planner.fitting.calibrated import Calibrated, calibrate, calibrated_json, calibrated_lines
from meshwright.planner.fitting.rows import Found, of_rows, read_log
from meshwright.planner.fitting.runs import read_run, read_runs
from meshwright.planner.job import Job
from meshwright.planner.pins import parse_pins
from meshwright.planner.plan import Plan, load_plan
from meshwright.planner.published.row import Row
from meshwright.planner.search.choose import choose
from meshwright.planner.search.request import Request

DAY = "2026-11-22"
TAUGHT = Adjustment(source="a world", date=DAY, compute=0.7)


def row(number: int, **changes: Any) -> Row:
    """A run of a small model on one node of H100: tp 1 to 8, batches and lengths that differ."""
    tp, pp = (1, 2, 4, 8)[number % 4], (1, 2)[number // 4 % 2]
    fields: dict[str, Any] = {
        "row_id": f"r{number}", "source": "us", "gpu": "H100-80GB", "gpus": 8 * pp, "gpus_per_node": 8,
        "framework": "nemo",
        "year": 2025, "layers": 16, "hidden": 2048, "ffn_hidden": 8192, "heads": 16, "kv_heads": 8, "vocab": 32000,
        "mlp": "swiglu", "seq_len": 2048, "gbs": 64 + 64 * (number % 3), "tp": tp, "pp": pp, "dp": 8 // tp, "mbs": 1,
        "recompute": "none", "precision": "bf16", "layout_complete": "yes",
    }  # fmt: skip
    return Row(**fields | {"step_time_s": 1.0} | changes)


def ran(rows: list[Row], taught: Adjustment | None = TAUGHT, noise: float = 0.01) -> Found:
    """As a cluster would have run them that is as `taught`, each by a little more or less."""
    found = of_rows(rows)
    measured = (
        replace(each, measured_s=each.predicted_s(taught) * (1 + noise * (-1) ** number))
        for number, each in enumerate(found.observations)
    )
    return replace(found, observations=tuple(measured))


@pytest.fixture(scope="module")
def taught() -> Calibrated:
    return calibrate(ran([row(number) for number in range(8)]), source="runs.csv", date=DAY)


def test_what_eight_runs_taught_comes_back_from_real_prices(taught: Calibrated) -> None:
    assert list(taught.moved) == ["compute"]
    assert taught.moved["compute"] == pytest.approx(0.7, abs=0.04)
    errors = taught.fit.errors
    assert errors["held_out"] < 0.03 < 0.15 < errors["before"]
    found = taught.cluster.adjustment
    assert found is not None
    assert (found.origin, found.source, found.date, found.framework) == ("calibrated", "runs.csv", DAY, "nemo")
    assert found.evidence is not None
    assert (found.evidence.rows, found.evidence.configurations) == (8, 8)


def test_what_was_found_is_told_and_saved(taught: Calibrated, tmp_path: Path) -> None:
    save_cluster(taught.cluster, tmp_path / "c.yaml")
    assert load_cluster(str(tmp_path / "c.yaml")) == taught.cluster
    told = json.loads(json.dumps(calibrated_json(taught)))
    assert told["moved"] == taught.moved
    assert [each["run"] for each in told["rows"]] == [f"r{number}" for number in range(8)]
    assert told["why_nothing_moved"] is None
    words = "\n".join(calibrated_lines(taught))
    assert "compute" in words
    assert "had not seen" in words


@pytest.mark.parametrize(("compute", "learns"), [(0.99, False), (0.95, True)])
def test_a_gain_below_what_steps_repeat_to_is_none(compute: float, learns: bool) -> None:
    """However sure it is: these runs differ by a thousandth."""
    as_it_is = Adjustment(source="a world", date=DAY, compute=compute)
    found = calibrate(ran([row(number) for number in range(8)], as_it_is, noise=0.001), source="runs.csv", date=DAY)
    assert bool(found.moved) == learns
    assert ("steps repeat to 2% only" in found.why) != learns


def test_runs_as_planned_change_nothing() -> None:
    found = calibrate(ran([row(number) for number in range(6)], None), source="runs.csv", date=DAY)
    assert (found.moved, found.cluster.adjustment) == ({}, None)
    assert found.why
    assert "nothing changed" in "\n".join(calibrated_lines(found))
    assert not found.dropped
    few = calibrate(ran([row(0), row(0), row(1)]), source="runs.csv", date=DAY)
    assert few.why == "2 configurations: at least 3 are needed to hold one out and still fit"


def test_an_earlier_adjustment_stays_until_runs_that_are_enough_say_otherwise() -> None:
    def on_taught(rows: list[Row], by: Adjustment | None) -> Calibrated:
        found = ran(rows, by)
        cluster = found.cluster.model_copy(update={"adjustment": TAUGHT})
        return calibrate(replace(found, cluster=cluster), source="runs.csv", date=DAY)

    few = on_taught([row(0), row(1)], None)
    assert (few.cluster.adjustment, few.dropped, few.moved) == (TAUGHT, False, {})
    assert "nothing changed" in "\n".join(calibrated_lines(few))
    gone = on_taught([row(number) for number in range(6)], None)
    assert (gone.cluster.adjustment, gone.dropped) == (None, True)
    assert "the earlier adjustment is left out" in "\n".join(calibrated_lines(gone))
    assert calibrated_json(gone)["earlier_adjustment_dropped"] is True


def test_rows_that_cannot_be_used_are_refused_with_the_reason() -> None:
    rows = [
        *(row(number) for number in range(3)),
        row(3, row_id="blank", step_time_s=None),
        row(3, row_id="other", gpu="A100-80GB"),
        row(3, row_id="titan", framework="torchtitan"),
        row(3, row_id="wrong", consistent="no"),
        row(1, row_id="first", dup_group="d"),
        row(1, row_id="again", dup_group="d"),
        row(2, row_id="untimed", dup_group="e", step_time_s=None),
        row(2, row_id="timed", dup_group="e"),
        row(3, row_id="lora", train_mode="lora"),
    ]
    found = of_rows(rows)
    assert [each.name for each in found.observations] == ["r0", "r1", "r2", "first", "timed"]
    assert [each.group for each in found.observations] == ["r0", "r1", "r2", "r1", "r2"]
    assert list(found.refused) == ["blank", "wrong", "again", "untimed", "lora", "other", "titan"]
    assert "fit it alone" in found.refused["other"]
    assert found.framework == "nemo"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


LINE = {"row_id": "a", "source": "us", "gpu": "H100", "gpus": 8, "layers": 4, "hidden": 512, "heads": 8, "seq_len": 512,
        "gbs": 8, "step_time_s": 1.0}  # fmt: skip


def test_every_problem_of_a_log_is_told_at_once(tmp_path: Path) -> None:
    wrong = [LINE | {"gpus": "eight"}, LINE | {"step_time_s": "-1"}, LINE | {"gbs": 1.5}]
    with pytest.raises(InputError) as error:
        read_log(write(tmp_path / "runs.csv", wrong))
    assert [problem.field for problem in error.value.problems] == ["line 2: gpus", "line 3: step_time_s", "line 4: gbs"]
    with pytest.raises(InputError, match="--from-log"):
        read_log(tmp_path / "none.csv")
    with pytest.raises(InputError, match="none of them can be used"):
        read_log(write(tmp_path / "useless.csv", [LINE | {"step_time_s": ""}]))
    with pytest.raises(InputError, match="node groups"):
        read_log(write(tmp_path / "good.csv", [LINE]), load_cluster("a100-h100"))


def test_rows_are_priced_on_the_cluster_that_is_given(tmp_path: Path) -> None:
    base = load_cluster("dgx-a100-80g").model_copy(update={"adjustment": TAUGHT})
    lines = [LINE | {"row_id": str(number), "gbs": 8 * number, "tp": 1, "pp": 1} for number in (1, 2, 3)]
    found = read_log(write(tmp_path / "runs.csv", lines), base)
    assert found.cluster == base
    devices = {each.setting.device.name for each in found.observations}
    assert devices == {base.node_groups[0].device.name}
    assert all(each.setting.cluster.adjustment is None for each in found.observations)


@pytest.fixture(scope="module")
def plan() -> Plan:
    job = Job(seq_len=512, global_batch=32)
    pins = parse_pins(["tp=1", "pp=1", "dp=8", "zero=1"])
    return choose(Request(model=load_model("byte-llama"), cluster=load_cluster("dgx-h100:1"), job=job, pins=pins))


def folder(path: Path, plan: Plan, times: list[Any], result: dict[str, Any] | None = None) -> Path:
    path.mkdir()
    plan.save(path / "plan.yaml")
    (path / "metrics.jsonl").write_text("".join(json.dumps({"step_time_s": each}) + "\n" for each in times))
    if result is not None:
        (path / "result.json").write_text(json.dumps(result))
    return path


def test_a_run_is_its_plan_its_step_time_and_its_timed_parts(plan: Plan, tmp_path: Path) -> None:
    parts = {"measured": {"compute": plan.predicted.step_time_s * 0.8, "tp": 0.0}}
    done = {"measured_step_time_s": plan.predicted.step_time_s, "components_s": parts}
    path = folder(tmp_path / "a", plan, [9.0] * 5 + [0.2] * 10, done)
    found = read_runs([path])
    assert [(each.of, each.measured_s) for each in found.observations] == [
        ("step", plan.predicted.step_time_s),
        ("compute", pytest.approx(plan.predicted.step_time_s * 0.8)),
    ]
    assert found.observations[0].predicted_s() == pytest.approx(plan.predicted.step_time_s)
    assert found.observations[1].predicted_s() == pytest.approx(plan.predicted.breakdown_s.compute)
    assert len({each.group for each in found.observations}) == 1
    assert found.cluster == plan.cluster
    alive = folder(tmp_path / "b", plan, [9.0] * 5 + [0.2] * 10)
    assert read_run(alive).measured_s == 0.2  # without the first steps
    assert len(read_runs([path, alive]).observations) == 3


def test_a_run_that_went_on_under_another_plan_is_of_that_one(plan: Plan, tmp_path: Path) -> None:
    """The new attempt has not ended yet: `result.json` and the first lines are of the plan before."""
    now, before = plan.predicted.step_time_s, 3 * plan.predicted.step_time_s
    stale = {"measured_step_time_s": 7.0, "predicted_step_time_s": before, "components_s": {"measured": {"dp": 7.0}}}
    path = folder(tmp_path / "a", plan, [], stale)
    lines = [{"step_time_s": 7.0, "predicted_step_time_s": before}] * 20
    lines += [{"step_time_s": 0.2, "predicted_step_time_s": now}] * 12
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert (read_run(path).measured_s, read_run(path).components_s) == (0.2, {})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:20]))
    with pytest.raises(InputError, match="as it is now"):
        read_run(path)
    json_of_python = folder(tmp_path / "b", plan, [0.1] * 5 + [float("inf"), float("nan"), 0.1])
    with pytest.raises(InputError) as error:
        read_run(json_of_python)
    assert [problem.field for problem in error.value.problems] == ["metrics.jsonl line 6", "metrics.jsonl line 7"]


def launched(path: Path, plan: Plan, *launches: tuple[int, list[float]], every: int = 1) -> Path:
    """A run of several launches: from which step, and seconds of each of its steps; every so many steps are a line."""
    folder(path, plan, [])
    lines, events = [], []
    for start, times in launches:
        events += [{"event": "resumed", "resumed_step": start}] if start else []
        for first in range(0, len(times), every):
            own = times[first : first + every]
            lines.append({"step": start + first + len(own), "step_time_s": sum(own) / len(own)})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"event": "tor')
    return path


def test_the_first_steps_of_every_launch_are_left_out(plan: Plan, tmp_path: Path) -> None:
    """Whatever the last one measured: it was too short to say."""
    path = launched(tmp_path / "a", plan, (0, [9.0] * 5 + [0.2] * 15), (20, [9.0, 9.0]))
    (path / "result.json").write_text(json.dumps({"steps": 22, "measured_step_time_s": 9.0}))
    assert (read_run(path).measured_s, read_run(path).steps, read_run(path).timed_steps) == (0.2, 22, 15)
    often = launched(tmp_path / "b", plan, *((start, [9.0] * 5 + [0.2] * 2) for start in (0, 7, 14)))
    assert (read_run(often).measured_s, read_run(often).timed_steps) == (0.2, 6)
    found = read_runs([path, often])
    assert found.steps == {str(path): (22, 15), str(often): (21, 6)}
    lines = calibrated_lines(calibrate(found, source="test", date="2026-11-22"))
    assert f"  {often}: 6 of 21 steps timed; the first of every launch warm up" in lines


def test_a_line_of_many_steps_counts_where_none_of_them_warmed_up(plan: Plan, tmp_path: Path) -> None:
    path = launched(tmp_path / "a", plan, (0, [9.0] * 5 + [0.2] * 15), (20, [9.0] * 5 + [0.4] * 15), every=10)
    assert (read_run(path).steps, read_run(path).timed_steps) == (40, 20)
    assert read_run(path).measured_s == pytest.approx(0.3)


def test_a_run_with_too_few_steps_is_refused(plan: Plan, tmp_path: Path) -> None:
    short = launched(tmp_path / "a", plan, (0, [0.1] * 9))
    (short / "result.json").write_text(json.dumps({"steps": 9, "measured_step_time_s": 0.1}))
    again = launched(tmp_path / "b", plan, (0, [0.1] * 6), (6, [0.1] * 6))
    with pytest.raises(InputError) as error:
        read_runs([short, again])
    told = [(each.value, each.rule.split("which ")[1]) for each in error.value.problems]
    assert told == [(9, "leaves 4"), (12, "leaves 2")]
    assert error.value.exit_code == 2


def test_runs_that_did_what_no_price_has_are_refused(plan: Plan, tmp_path: Path) -> None:
    plain, other = (folder(tmp_path / name, plan, [0.1] * 12) for name in ("plain", "other"))
    found = read_runs([plain, other], lambda path, _: "is odd" if path == other else "")
    assert found.refused == {str(other): "is odd"}
    assert list(found.steps) == [str(plain)]


def test_the_plan_of_a_folder_predicts_what_its_lines_say(plan: Plan, tmp_path: Path) -> None:
    """To the last bit: a run compares them."""
    plan.save(tmp_path / "plan.yaml")
    told = json.loads(json.dumps({"predicted_step_time_s": plan.predicted.step_time_s}))
    assert load_plan(tmp_path / "plan.yaml").predicted.step_time_s == told["predicted_step_time_s"]


def test_every_problem_of_all_run_folders_is_told_at_once(plan: Plan, tmp_path: Path) -> None:
    good = folder(tmp_path / "good", plan, [0.1] * 12)
    torn = folder(tmp_path / "torn", plan, [0.1, 0.1])
    torn.joinpath("metrics.jsonl").write_text('{"step_time_s": 0.1}\nnothing\n{"step_time_s": 0}\n{"step_time')
    bare = folder(tmp_path / "bare", plan, [])
    with pytest.raises(InputError) as error:
        read_runs([good, torn, bare, tmp_path / "gone"])
    fields = [problem.field.removeprefix(str(tmp_path)) for problem in error.value.problems]
    assert fields == [
        "/torn: metrics.jsonl line 2",
        "/torn: metrics.jsonl line 3",
        "/bare: metrics.jsonl",
        "/gone: run folder",
    ]
    assert error.value.exit_code == 2


def test_runs_of_another_cluster_or_framework_are_refused(plan: Plan, tmp_path: Path) -> None:
    other = plan.model_copy(update={"cluster": plan.cluster.model_copy(update={"name": "elsewhere"})})
    titan = plan.model_copy(update={"framework": "torchtitan"})
    again = plan.model_copy(update={"cluster": plan.cluster.model_copy(update={"adjustment": TAUGHT})})
    made = {"other": other, "titan": titan, "again": again, "last": plan}
    paths = [folder(tmp_path / name, each, [0.1] * 12) for name, each in made.items()]
    found = read_runs(paths)
    assert [Path(name).name for name in found.refused] == ["other", "titan"]
    assert "another cluster" in found.refused[str(paths[0])]
    assert [Path(each.name).name for each in found.observations] == ["again", "last"]
    assert found.cluster.adjustment is None

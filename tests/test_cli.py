"""The command line as a contract: exit codes, one report of all problems, JSON for programs."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from meshwright.cli import main
from meshwright.clusters import load_cluster, save_cluster
from meshwright.clusters.provenance import Provenance

PLAN = ["plan", "llama-3.1-8b", "dgx-h100", "--seq-len", "4096", "--global-batch", "64"]


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of one command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["meshwright", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def plan_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "plan.yaml"
    assert run([*PLAN, "--out", str(path)], monkeypatch) == 0
    capsys.readouterr()
    return path


def printed_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_plan_json_holds_the_contract(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*PLAN, "--json"], monkeypatch) == 0
    plan = printed_json(capsys)
    assert set(plan["mesh"]) == {"pp", "dp", "cp", "tp", "ep", "etp"}
    assert {"schedule", "recompute", "zero", "microbatch", "predicted", "proof", "runners_up"} <= set(plan)
    predicted = plan["predicted"]
    low, high = predicted["step_time_interval_s"]
    assert low <= predicted["step_time_s"] <= high
    assert sum(predicted["breakdown_s"].values()) == pytest.approx(predicted["step_time_s"])
    assert set(predicted["breakdown_s"]) == {
        "compute", "tp", "cp", "ep", "pp", "dp", "bubble", "optimizer", "offload"
    }  # fmt: skip
    assert len(predicted["peak_memory_bytes"]) == plan["mesh"]["pp"]
    assert predicted["fits"]
    assert predicted["origin"] in ("measured", "calibrated", "analytical")
    assert set(plan["proof"]) >= {"candidates", "pruned", "lower_bound_s", "gap", "seconds"}
    assert plan["proof"]["lower_bound_s"] <= predicted["step_time_s"]


def test_the_same_input_gives_the_same_file(tmp_path: Path, plan_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again = tmp_path / "again.yaml"
    assert run([*PLAN, "--out", str(again)], monkeypatch) == 0
    assert again.read_bytes() == plan_file.read_bytes()


def test_every_wrong_input_is_reported_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["plan", "lama-3.1-8b", "dgx-h1000", "--seq-len", "0", "--pin", "tpp=8", "--pin", "zero=9"]
    assert run(wrong, monkeypatch) == 2
    report = capsys.readouterr().err
    assert "5 problems" in report
    for hint in ("llama-3.1-8b", "dgx-h100", "--seq-len", "did you mean 'tp'", "zero"):
        assert hint in report
    assert "Traceback" not in report


def test_an_error_is_json_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "absent.json", "dgx-h100", "--json"], monkeypatch) == 2
    error = printed_json(capsys)["error"]
    assert error["exit_code"] == 2
    assert error["problems"]


def test_an_impossible_plan_names_what_binds_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pins = ["--pin", "pp=1", "--pin", "tp=8", "--pin", "zero=0"]
    assert run(["plan", "llama-3.1-70b", "dgx-h100", "--global-batch", "64", *pins], monkeypatch) == 3
    report = capsys.readouterr().err
    assert "GiB of" in report
    assert "smallest change that fits: 2 nodes instead of 1, and no pins" in report


def test_a_pinned_illegal_plan_is_the_users_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*PLAN, "--pin", "tp=3", "--pin", "pp=5"], monkeypatch) == 2
    report = capsys.readouterr().err
    assert "tp" in report
    assert "pp" in report


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["simulate", "--help"], ["launch", "--help"]])
def test_help_is_there(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments, monkeypatch) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["plan"], ["plam"], ["plan", "a", "b", "--nonsense"]])
def test_wrong_usage_exits_with_two(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(arguments, monkeypatch) == 2


def test_simulate_answers_and_writes_everything_asked_for(
    tmp_path: Path, plan_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / name for name in ("trace.json", "picture.png", "report.html")}
    arguments = ["simulate", str(plan_file), "--tokens", "1T", "--failures", "mtbf=10h", "--json"]
    arguments += [f"--{path.stem}={path}" for path in files.values()]
    assert run(arguments, monkeypatch) == 0
    result = printed_json(capsys)
    assert result["training"]["days"] > 0
    assert 0 < result["failures"]["ettr"] < 1
    assert json.loads(files["trace.json"].read_text())["traceEvents"]
    assert all(path.stat().st_size > 1000 for path in files.values())


def test_every_what_if_has_a_table_a_picture_and_json(
    tmp_path: Path, plan_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {
        "sweep": ["--sweep", "precision=bf16,fp8"],
        "scaling": ["--scaling", "strong=4,8"],
        "failures": ["--failures", "mtbf=10h"],
        "straggler": ["--straggler", "device=0,slow=2x"],
        "energy": ["--electricity", "0.12"],
    }
    for name, options in asked.items():
        picture = tmp_path / f"{name}.svg"
        command = ["simulate", str(plan_file), *options, "--picture", str(picture)]
        assert run([*command, "--json"], monkeypatch) == 0
        assert printed_json(capsys)[name]
        assert picture.stat().st_size > 1000
        assert run(command, monkeypatch) == 0
        assert name in capsys.readouterr().out


def test_a_slower_network_is_never_faster(
    plan_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["simulate", str(plan_file), "--json"]
    assert run(base, monkeypatch) == 0
    before = printed_json(capsys)["predicted"]["step_time_s"]
    assert run([*base, "--set", "cluster.fabric.bandwidth=0.1x"], monkeypatch) == 0
    assert printed_json(capsys)["predicted"]["step_time_s"] >= before


def test_a_broken_plan_file_is_refused(
    tmp_path: Path, plan_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = plan_file.read_text()
    broken = tmp_path / "broken.yaml"
    broken.write_text(text.replace("microbatch:", "microbach:", 1))
    assert run(["simulate", str(broken)], monkeypatch) == 2
    assert "did you mean 'microbatch'" in capsys.readouterr().err


def test_launch_refuses_a_plan_for_another_machine(
    plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["launch", str(plan_file), "--steps", "10", "--run", str(tmp_path / "run")]
    assert run(arguments, monkeypatch) == 2
    assert "this machine" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_launch_needs_to_know_how_long(
    plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["launch", str(plan_file), "--run", str(tmp_path / "run"), "--set", "clipp=1"], monkeypatch) == 2
    report = capsys.readouterr().err
    assert "steps" in report
    assert "did you mean 'clip'" in report


def test_a_plan_is_priced_as_the_framework_asked_for_and_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "plan.yaml")
    assert run([*PLAN, "--framework", "megatron-lm", "--out", path, "--json"], monkeypatch) == 0
    planned = printed_json(capsys)
    assert run(["simulate", path, "--json"], monkeypatch) == 0
    simulated = printed_json(capsys)
    assert planned["framework"] == simulated["framework"] == "megatron-lm"
    assert simulated["predicted"] == planned["predicted"]
    assert run(["simulate", path, "--set", "framework=meshwright", "--json"], monkeypatch) == 0
    assert printed_json(capsys)["predicted"]["memory"] != planned["predicted"]["memory"]


def test_an_unknown_framework_is_told_with_everything_else_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*PLAN, "--framework", "megatron", "--pin", "tp=x"], monkeypatch) == 2
    report = capsys.readouterr().err
    assert "--framework = 'megatron'" in report
    assert "did you mean 'megatron-" in report
    assert "--pin tp" in report


def measured_elsewhen(folder: Path) -> Path:
    """A cluster file of two workers of this machine, as an older torch measured it."""
    path, cluster = folder / "measured.yaml", load_cluster("local:2")
    known = {"date": "2026-01-01", "host": platform.node(), "workers": 2, "threads": 1, "budget_s": 20.0}
    measured = Provenance.model_validate(known | {"versions": {"torch": "1.0.0"}})
    save_cluster(cluster.model_copy(update={"measured": measured}), path)
    return path


def test_plan_and_launch_warn_of_a_cluster_that_another_torch_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, plan = measured_elsewhen(tmp_path), tmp_path / "plan.yaml"
    job = ["--seq-len", "64", "--global-batch", "4", "--precision", "fp32", "--out", str(plan), "--json"]
    assert run(["plan", "byte-llama", str(cluster), *job], monkeypatch) == 0
    planned = capsys.readouterr()
    launch = ["launch", str(plan), "--data", "python-stdlib", "--steps", "2", "--run", str(tmp_path / "run")]
    assert run([*launch, "--dry-run", "--json"], monkeypatch) == 0
    launched = capsys.readouterr()
    for told in (planned, launched):
        (words,) = json.loads(told.out)["warnings"]
        assert "torch 1.0.0" in words
        assert "profile again" in words
        assert "torch 1.0.0" in told.err

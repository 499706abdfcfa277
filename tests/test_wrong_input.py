"""Wrong input as people give it: exit code 2 (or 3) and one report with their own names and a way out.

Each case once ended in a traceback, a plan of nonsense, an endless search, or a report that named the wrong thing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from meshwright import cli

CATALOGUE = Path(cli.__file__).parent / "clusters/catalogue"
CONFIGS = Path(cli.__file__).parent / "planner/families/catalogue"
MODEL, CLUSTER = "llama-3.2-1b", "dgx-h100"

Refused = Callable[..., str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """`refused(code, *arguments)`: the report on standard error."""

    def run(code: int, *arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["meshwright", *arguments])
        monkeypatch.setenv("COLUMNS", "400")
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == code
        return capsys.readouterr().err

    return run


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.yaml"
    arguments = ["plan", MODEL, CLUSTER, "--global-batch", "64", "--out", str(path), "--json"]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    return path


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seq-len", "0"], "--seq-len = 0: should be greater than or equal to 1. Try: 1"),
        (["--global-batch", "-4"], "--global-batch = -4: "),
        (["--global-batch", "1000000000"], "more than are worth playing one by one. Try: --global-batch"),
        (["--optimizer", "sgd"], "--optimizer = 'sgd'"),
        (["--gap", "-1"], "--gap = -1.0: must be at least 0 and below 1"),
        (["--gap", "nan"], "--gap = nan"),
        (["--top", "-1"], "--top = -1: must be 0 or more"),
        (["--pin", ""], "is written name=value. Try: tp=8"),
        (["--pin", "=8"], "is written name=value. Try: tp=8"),
    ],
)
def test_options(refused: Refused, arguments: list[str], told: str) -> None:
    assert told in refused(2, "plan", MODEL, CLUSTER, *arguments)


def test_more_devices_than_sequences_asks_for_another_batch_and_not_for_a_pin(refused: Refused) -> None:
    report = refused(2, "plan", MODEL, f"{CLUSTER}:1000000")
    assert "--global-batch = 256: 8000000 devices make at least" in report
    assert "--pin" not in report


def test_a_precision_that_the_device_lacks_is_named_as_given(refused: Refused) -> None:
    report = refused(2, "plan", MODEL, "dgx-a100-80g", "--precision", "fp8")
    assert "--precision = 'fp8': a100-sxm-80gb has no fp8 rate" in report
    assert "tf32" not in report  # a rate, and no precision of a job


def test_a_pin_that_was_not_given_is_not_blamed(refused: Refused) -> None:
    report = refused(2, "plan", "mixtral-8x7b", "dgx-h100:2", "--pin", "etp=3")
    assert "--pin etp" in report
    assert "--pin ep " not in report


def test_a_sequence_too_long_for_any_plan_says_which_one_fits(refused: Refused, tmp_path: Path) -> None:
    one_node = tmp_path / "one.yaml"
    data = yaml.safe_load((CATALOGUE / "dgx-h100.yaml").read_text())
    del data["node_groups"][0]["nics"]
    one_node.write_text(yaml.safe_dump(data))
    report = refused(3, "plan", MODEL, str(one_node), "--seq-len", str(2**24), "--global-batch", "8")
    length = report.split("--seq-len ")[1].split()[0].strip(".")
    again = ["plan", MODEL, str(one_node), "--global-batch", "8", "--json", "--seq-len"]
    assert CliRunner().invoke(cli.app, [*again, length]).exit_code == 0
    assert 2 * int(length) <= 2**24


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("llama-3.1-8b", {"vocab_size": float("nan")}, "vocab_size = nan: must be a whole number"),
    ],
)
def test_models(refused: Refused, tmp_path: Path, name: str, changes: dict[str, object], told: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads((CONFIGS / f"{name}.json").read_text()) | changes))
    assert told in refused(2, "plan", str(path), CLUSTER)


def test_an_empty_model_is_not_this_folder(refused: Refused) -> None:
    assert "MODEL" in refused(2, "plan", "", CLUSTER)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"nodes": True}, "nodes = True: must not be true or false"),
        ({"nodes": "two"}, "nodes = 'two': must be a whole number"),
        ({"nodes": 1.6}, "nodes = 1.6: must be a whole number. Try: 2"),
        ({"nodes": 0}, "nodes = 0: should be greater than or equal to 1. Try: 1"),
        ({"name": ""}, "name = '': must not be empty"),
        ({"fabric": None}, "fabric: must be a mapping"),
        ({"device": "h200"}, "did you mean 'h200-sxm-141gb'"),
        ({"device": 7}, "must be the name of a bundled device"),
        ({"fabric": {"kind": "nvlnk", "bandwidth": "1 GB/s", "latency": "1 us"}}, "did you mean 'nvlink'"),
    ],
)
def test_clusters(refused: Refused, tmp_path: Path, changes: dict[str, object], told: str) -> None:
    data = yaml.safe_load((CATALOGUE / "dgx-h100.yaml").read_text())
    data["node_groups"][0] |= changes
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(data))
    assert told in refused(2, "plan", MODEL, str(path))


@pytest.mark.parametrize("groups", [[], {"a": 1}])
def test_node_groups_are_a_list_of_some(refused: Refused, tmp_path: Path, groups: object) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({"name": "none", "node_groups": groups}))
    report = refused(2, "plan", MODEL, str(path))
    assert "needs at least one entry" in report or "must be a list" in report


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--sweep", ""], "must be field=value"),
        (["--tokens", ""], "must be a count"),
        (["--failures", "mtbf=1h,mtbf=2h"], "is given twice"),
        (["--set", "devices=20"], "must make whole nodes of 8 devices. Try: devices=16"),
        (["--set", "device=a100"], "is the start of several bundled devices"),
        (["--scaling", "stong"], "did you mean 'strong'"),
        (["--scaling", "weak=3"], "must make whole nodes"),
        (["--straggler", "rank=0"], "must say how slow"),
        (["--straggler", "link=0,slow=2x"], "a plan of one pipeline rank has no link"),
        (["--electricity", "cheap"], "must be US dollars per kWh"),
        (["--energy", "--set", "cluster.device.power_w=null"], "has no power of h100-sxm-80gb"),
        (["--picture", "step.pdf"], "must end in .png or .svg"),
        (["--set", "stage_layers=[1,2]"], "must hold 16 layers in all, in 1 stage of one or more. Try: [16]"),
    ],
)
def test_simulate(refused: Refused, plan_file: Path, arguments: list[str], told: str) -> None:
    assert told in refused(2, "simulate", str(plan_file), *arguments)


def test_wrong_options_of_simulate_are_told_together(refused: Refused, plan_file: Path) -> None:
    options = ["--scaling", "x", "--straggler", "y", "--tokens", "z", "--electricity", "-1", "--failures", "mtbf=0s"]
    options += ["--set", "devices=20"]
    report = refused(2, "simulate", str(plan_file), *options)
    assert all(option in report for option in [*options[:-2:2], "devices = '20'"])


def test_a_plan_whose_nodes_are_not_joined_names_the_cluster_and_not_its_sources(
    refused: Refused, plan_file: Path
) -> None:
    plan = yaml.safe_load(plan_file.read_text())
    plan["cluster"]["node_groups"][0] |= {"nodes": 2, "nics": None}
    plan_file.write_text(yaml.safe_dump(plan))
    assert "cluster dgx-h100" in refused(2, "simulate", str(plan_file))


def test_profile_looks_at_its_output_before_it_measures(refused: Refused, tmp_path: Path) -> None:
    report = refused(2, "profile", "--out", str(tmp_path / "absent" / "x.yaml"))
    assert f"mkdir -p {tmp_path / 'absent'}" in report
    assert "is a folder" in refused(2, "profile", "--out", str(tmp_path))
    assert "--workers = 0: must be between 1 and 256" in refused(2, "profile", "--workers", "0")

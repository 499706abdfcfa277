"""The verb `profile` refuses what it cannot do before it starts anything, all problems at once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from meshwright import profiling
from meshwright.clusters import load_cluster, save_cluster
from meshwright.errors import InputError
from meshwright.profiler import records
from meshwright.profiler.measure import profile_machine


def profile(*arguments):
    command = [sys.executable, "-m", "meshwright", "profile", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_two_files_are_compared(tmp_path):
    for name in ("a", "b"):
        save_cluster(load_cluster("dgx-h100"), tmp_path / f"{name}.yaml")
    text = (tmp_path / "b.yaml").read_text()
    (tmp_path / "b.yaml").write_text(text.replace("latency: 3 us", "latency: 6 us"))
    done = profile("--diff", tmp_path / "a.yaml", tmp_path / "b.yaml", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["figure"] for each in found["changes"] if each["beyond_noise"]] == ["fabric latency"]
    shown = profile("--diff", tmp_path / "a.yaml", tmp_path / "b.yaml").stdout
    assert "+100.0%" in shown
    assert "1 of " in shown


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"--diff": ("a", "b"), "--workers": True}, ["--workers"]),
        ({"--diff": ("a", "b"), "--out": "x", "--json": True}, ["--out"]),
        ({"--diff": ("a", "b"), "--from-run": ["r"], "--from-log": "l"}, ["--from-run", "--from-log"]),
        ({"--from-run": ["r"], "--cluster": "c", "--out": "x"}, ["--cluster"]),
        ({"--from-log": "l", "--cluster": "c", "--out": "x"}, []),
        ({"--workers": True, "--model": "m"}, []),
        ({"--workers": True, "--cluster": "c"}, ["--cluster"]),
        ({"--from-run": ["a"], "RUN": ["b"]}, []),
        ({"--from-log": "l", "RUN": ["b"]}, ["RUN"]),
        ({"RUN": ["b"]}, ["RUN"]),
        ({"--diff": ("a", "b"), "--budget": "20s", "--seq-len": 4096}, ["--budget", "--seq-len"]),
        ({"--from-run": ["r"], "--global-batch": 256}, ["--global-batch"]),
        ({"--from-log": "l", "--budget": "20s"}, ["--budget"]),
        ({"--seq-len": 64, "--global-batch": 8}, ["--seq-len", "--global-batch"]),
        ({"--seq-len": 64, "--global-batch": 8, "--model": "m", "--budget": "20s"}, []),
    ],
)
def test_one_purpose_at_a_time(given, names):
    if not names:
        profiling.one_purpose(given)
        return
    with pytest.raises(InputError) as caught:
        profiling.one_purpose(given)
    assert [problem.field for problem in caught.value.problems] == names


def test_all_problems_of_a_request_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError) as caught:
        profiling.request("soon", tmp_path / "file", tmp_path / "no" / "x.yaml", "llama-9", 0, 8)
    told = str(caught.value)
    assert all(name in told for name in ("--budget", "--folder", "x.yaml", "llama-9", "--seq-len"))


@pytest.mark.parametrize("budget", ["0s", "-3s", "20 parsecs"])
def test_budgets_that_are_none(budget):
    with pytest.raises(InputError, match="--budget"):
        profiling.request(budget, None, None, None, 4096, 256)


def test_more_workers_than_cores_are_told_and_none_are_refused(monkeypatch):
    monkeypatch.setattr("meshwright.clusters.local.visible_gpus", list)
    monkeypatch.setattr("meshwright.clusters.local.usable_cores", lambda: 2)
    assert profiling.workers_of(None) == (2, [])
    count, told = profiling.workers_of(6)
    assert count == 6
    assert "share 2 cores" in told[0]
    for wrong in (0, -1, 10**6):
        with pytest.raises(InputError, match="--workers"):
            profiling.workers_of(wrong)


def test_an_unknown_gpu_is_what_profile_is_for(monkeypatch):
    monkeypatch.setattr("meshwright.clusters.local.visible_gpus", lambda: ["Brand New GPU"] * 4)
    assert profiling.workers_of(None) == (4, [])
    assert "no GPU is measured" in profiling.workers_of(5)[1][0]


def test_the_folder_of_another_machine_is_refused(tmp_path):
    records.write(tmp_path / "machine.json", {"host": "elsewhere", "devices": ["NVIDIA H200"]})
    with pytest.raises(InputError, match=r"--folder.*another machine, elsewhere \(NVIDIA H200\)"):
        profile_machine(1, 1.0, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["machine.json"]


def test_exit_codes_and_json_of_wrong_input(tmp_path):
    done = profile("--workers", 0, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["problems"][0]["field"] == "--workers"


def test_options_that_say_what_the_default_says_are_refused_too(tmp_path):
    """What counts is what stands on the command line."""
    done = profile("--from-run", tmp_path, "--budget", "20s", "--workers", 0, "--json")
    assert done.returncode == 2
    assert [each["field"] for each in json.loads(done.stdout)["error"]["problems"]] == ["--workers", "--budget"]

"""Profiles of this machine from the command line, while something goes wrong: minutes, so not in every run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from meshwright.clusters import load_cluster

pytestmark = pytest.mark.slow
LIMIT_S = 240


def start(folder, *arguments, environment=None):
    command = [sys.executable, "-m", "meshwright", "profile", "--budget", "4s", "--folder", str(folder), *arguments]
    with (folder.parent / "log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--out", f"{folder}.yaml"], stdout=log, stderr=log, env=os.environ | (environment or {})
        )


def until(condition):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def begun(folder, part):
    progress = folder / "progress"
    return progress.exists() and any(line.split("\t")[0] == part for line in progress.read_text().splitlines())


def worker(parent, rank):
    for each in Path("/proc").glob("[0-9]*"):
        try:
            words = (each / "cmdline").read_text().split("\0")
            if int((each / "stat").read_text().rpartition(")")[2].split()[1]) == parent and "worker" in " ".join(words):
                settings = next(json.loads(word) for word in words if word.startswith("{"))
                if settings["rank"] == rank:
                    return int(each.name)
        except (OSError, StopIteration):
            continue
    raise AssertionError(f"no worker {rank}")


def test_a_worker_that_is_killed_takes_nothing_away(tmp_path):
    folder = tmp_path / "kept"
    process = start(folder, "--workers", "2")
    until(lambda: begun(folder, "compute"))
    os.kill(worker(process.pid, 1), signal.SIGKILL)
    assert process.wait(LIMIT_S) == 0
    cluster = load_cluster(f"{folder}.yaml")
    assert cluster.num_devices == 2
    whys = {note.part: note.why for note in cluster.measured.notes}
    assert "worker 1 failed (killed by signal 9)" in whys["workers"]
    assert "lost" in whys["links"]
    assert "assumed" in cluster.source


def test_ctrl_c_writes_what_is_there_and_the_same_folder_goes_on(tmp_path):
    folder = tmp_path / "kept"
    process = start(folder, "--workers", "2")
    until(lambda: begun(folder, "links"))
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    first = load_cluster(f"{folder}.yaml")
    assert any(note.why.startswith("interrupted") for note in first.measured.notes)
    before = (folder / "0" / "compute.json").read_text()
    assert start(folder, "--workers", "2").wait(LIMIT_S) == 0
    second = load_cluster(f"{folder}.yaml")
    assert (folder / "0" / "compute.json").read_text() == before
    assert "assumed" not in second.source
    assert second.node_groups[0].device.peak_flops == first.node_groups[0].device.peak_flops
    assert not begun(folder, "compute")


def places(port):
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2"}
    return [address | {"RANK": str(n), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"} for n in range(2)]


def test_two_nodes_measure_together(tmp_path):
    folder = tmp_path / "kept"
    processes = [start(folder, environment=place) for place in places(29741)]
    assert [process.wait(LIMIT_S) for process in processes] == [0, 0]
    cluster = load_cluster(f"{folder}.yaml")
    assert sum(group.nodes for group in cluster.node_groups) == 2
    assert {group.devices_per_node for group in cluster.node_groups} == {1}
    assert cluster.measured.nodes == 2


def test_the_first_of_two_nodes_is_interrupted_and_both_end(tmp_path):
    folder = tmp_path / "kept"
    processes = [start(folder, environment=place) for place in places(29743)]
    until(lambda: (folder / "0" / "compute.json").exists())
    processes[0].send_signal(signal.SIGTERM)  # what torchrun does with Ctrl-C
    assert [process.wait(LIMIT_S) for process in processes] == [130, 0]
    notes = load_cluster(f"{folder}.yaml").measured.notes
    assert any(note.why == "interrupted" for note in notes)
